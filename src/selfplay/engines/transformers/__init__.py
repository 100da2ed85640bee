"""Generation with transformers' own modules."""
