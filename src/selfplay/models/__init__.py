"""Models: loading, adapters, chat templates, checkpoints."""
