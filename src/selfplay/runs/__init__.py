"""Runs: what a run leaves on disk (write it, read it, resume it) and what a person sees of it."""

from selfplay.runs.folder import RunFolder

__all__ = ["RunFolder"]
