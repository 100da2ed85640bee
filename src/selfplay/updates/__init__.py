"""Learning rules: small classes composed of pure losses, advantages and regularizers."""
