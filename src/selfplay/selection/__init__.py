"""Data selection as a strategy: which questions Nature asks."""
