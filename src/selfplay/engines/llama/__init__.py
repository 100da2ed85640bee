"""The embedded engine: the layers of the Llama family, computed here."""
