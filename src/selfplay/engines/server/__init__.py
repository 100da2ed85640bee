"""An engine in processes of its own: vLLM's server, reached over HTTP."""
