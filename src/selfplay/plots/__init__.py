"""All plotting code of the project. Plots take names and numbers, and do not depend on runs."""
