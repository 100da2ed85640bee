"""Writes a report on one or more runs: an HTML page, and its figures as files.

python -m selfplay.report multirun/2026-01-01/12-00-00            report/report.html, of a sweep
python -m selfplay.report outputs multirun/x --out x --baseline "game=dataset reward=rm"
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfplay.commandline import run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay report",
        description="Write a self-contained HTML page on one or more runs: comparison of settings, learning curves, "
        "reward against truth, questions asked, transcripts, cross-play. Figures are also saved as files.",
    )
    add = found.add_argument
    add(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="folder of a run, or one that contains runs, such as a sweep's",
    )
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="FOLDER",
        help="where report.html and the figures are written (default: %(default)s)",
    )
    add("--baseline", metavar="SETTING", help="setting that the others are compared with (default: the first one)")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors print one line to stderr and exit with code 1."""
    args = parser().parse_args(arguments)
    run_command(lambda: report(args))


def report(args: argparse.Namespace) -> None:
    """Read the runs, write the page, and print where it is.

    Raises:
        SelfplayError: a folder contains no run, or the page cannot be written.
    """
    from selfplay.console import say
    from selfplay.plots.figure_store import Album
    from selfplay.report.page import write
    from selfplay.runs.sweep import load

    sweep = load(*args.folders)
    say(str(sweep))
    album = Album(args.out)
    page = write(sweep, args.folders, album, args.baseline)
    size, figures = page.stat().st_size / 1e6, len(album.pictures)
    say(f"written: {page} ({size:.1f} MB) and its {figures} figures as png and svg")


if __name__ == "__main__":
    main()
