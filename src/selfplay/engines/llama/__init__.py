"""The embedded engine: our implementation of the layers of the Llama family."""
