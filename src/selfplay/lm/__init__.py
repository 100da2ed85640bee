"""What a language model needs: loading, sampling, log-probabilities, adapters."""
