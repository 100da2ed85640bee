"""All plots of the project: nothing else draws. A plot takes names and numbers, and knows no run."""
