"""Tasks: where questions come from, and what is true of their answers."""
