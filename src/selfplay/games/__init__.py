"""Games, one per module."""
