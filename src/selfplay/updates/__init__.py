"""Learning rules: a small class each, over pure losses, advantages and regularizers."""
