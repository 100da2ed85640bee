"""Reading and writing with transformers' own modules."""
