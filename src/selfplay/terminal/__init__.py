"""Play against a checkpoint and talk with it in the terminal: `selfplay play` and `selfplay chat`."""
