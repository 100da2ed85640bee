"""Opponents of the learner: itself, a fixed player, or a growing population of its snapshots."""
