"""Referees: they measure turns; the game decides what a measure is worth."""
