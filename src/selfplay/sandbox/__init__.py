"""Running what a model wrote: whole programs, and expressions that a scorer evaluates."""
