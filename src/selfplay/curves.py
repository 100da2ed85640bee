"""Draws the curves of a run: those of curves.png, also while the run goes on, and as figures of a paper.

selfplay curves outputs/2026-01-01/12-00-00                                       curves.png in the run's folder
selfplay curves outputs/2026-01-01/12-00-00 --out curves.pdf --width 3.3          text of 9 points in one column
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfplay.commandline import run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay curves",
        description="Draw the curves of a run, finished or not: first the metric that it optimizes, then whatever else "
        "it logged. Text has 9 points.",
    )
    add = found.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run")
    add("--out", type=Path, metavar="FILE", help=".png, .pdf or .svg (default: RUN/curves.png)")
    add("--width", type=float, default=6.8, metavar="INCHES", help="6.8: a paper's text; 3.3: a column (%(default)s)")
    add("--panels", type=int, metavar="N", help="draw only the first N panels")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors print one line to stderr and exit with code 1."""
    args = parser().parse_args(arguments)
    run_command(lambda: curves(args))


def curves(args: argparse.Namespace) -> None:
    """Read the metrics, draw them, and print where the picture is.

    Raises:
        SelfplayError: the folder is no run or has no metrics yet, or the figure cannot be drawn or written.
    """
    from selfplay.console import say
    from selfplay.errors import SelfplayError, at_least
    from selfplay.files import to_disk
    from selfplay.plots import draw_curves
    from selfplay.runs import RunFolder

    at_least(1, panels=1 if args.panels is None else args.panels)
    if any(args.run.glob("*/config.yaml")):
        raise SelfplayError(
            f"{args.run} holds several runs; give one of them, or draw all of them with: selfplay report {args.run}"
        )
    run = RunFolder.open(args.run)
    metrics, out = run.metrics(), args.out or run.curves
    if not metrics:
        raise SelfplayError(f"{args.run}: no metric was logged yet; wait for the run's first step")
    with to_disk(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(metrics, out, str(run.config.optimized_metric or ""), args.width, args.panels)
    say(f"written: {out}")


if __name__ == "__main__":
    main()
