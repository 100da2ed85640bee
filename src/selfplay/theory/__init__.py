"""Exact game solving: equilibria, exploitability, meta-games and ratings, as small functions on arrays and trees."""
