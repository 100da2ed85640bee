"""Engines that generate and score tokens."""
