"""All plotting code of the project. Plots take names and numbers, and do not depend on runs."""

from selfplay.plots.curves import draw_curves

__all__ = ("draw_curves",)
