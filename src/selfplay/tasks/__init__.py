"""Tasks: questions, and ground truth for their answers."""
