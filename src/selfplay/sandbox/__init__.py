"""Execution of model-written code: programs, and expressions that a scorer evaluates."""
