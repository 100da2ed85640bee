"""Games solved exactly: equilibria, exploitability, meta-games, ratings. Small functions on arrays and trees."""
