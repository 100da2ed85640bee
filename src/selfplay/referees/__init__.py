"""Referees, which score turns; the game turns scores into payoffs."""
