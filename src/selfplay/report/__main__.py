"""A report on some runs: one page, and its figures as files.

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
        description="Write a page on some runs, which needs no other file and no network: settings compared, learning "
        "curves, reward against truth, what was asked, transcripts, cross-play. Every figure is a file, too.",
    )
    add = found.add_argument
    add(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a run's folder, or one that holds runs, such as a sweep's",
    )
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="FOLDER",
        help="for report.html and the figures (%(default)s)",
    )
    add("--baseline", metavar="SETTING", help="what the others are compared with (default: the first setting)")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; ends with 1 and one line on stderr where the user has to change something."""
    args = parser().parse_args(arguments)
    run_command(lambda: report(args))


def report(args: argparse.Namespace) -> None:
    """Read the runs, write the page, and print where it is.

    Raises:
        SelfplayError: a folder holds no run, or the page cannot be written.
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
