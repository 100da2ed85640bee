"""Players: a language model, Nature, scripts."""
