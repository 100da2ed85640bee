"""Writes a report on one or more runs: an HTML page, and its figures as files.

python -m selfplay.report multirun/mine                 report/multirun/mine/report.html, of a sweep
python -m selfplay.report multirun/mine --refresh 30    the same while it goes on
python -m selfplay.report outputs multirun/x --out x --baseline "game=dataset reward=rm"
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from selfplay.commandline import run_command
from selfplay.garbage import collected, hold_garbage


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
        metavar="FOLDER",
        help="where report.html and the figures are written (default: report/ and the name of the runs)",
    )
    add("--baseline", metavar="SETTING", help="setting that the others are compared with (default: the first one)")
    add(
        "--refresh",
        type=float,
        metavar="SECONDS",
        help="while a run goes on, write the report anew every so many seconds; an open page reloads itself",
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors print one line to stderr and exit with code 1."""
    args = parser().parse_args(arguments)
    hold_garbage()
    with collected() as loaded:
        run_command(lambda: report(args, loaded))


def report(args: argparse.Namespace, loaded: Callable[[], None]) -> None:
    """Read the runs, write the page, and print where it is; with `args.refresh` repeatedly, until no run goes on.

    Args:
        loaded: called once the runs are read.

    Raises:
        SelfplayError: a folder contains no run, the page cannot be written, or `args.refresh` is too small.
    """
    from selfplay.console import say
    from selfplay.errors import SelfplayError
    from selfplay.plots.figure_store import Album
    from selfplay.report.answers import answers
    from selfplay.report.page import write
    from selfplay.runs.standing import standings
    from selfplay.runs.sweep import load

    if args.refresh is not None and not args.refresh >= 1:
        raise SelfplayError(f"--refresh is {args.refresh:g}; use at least 1 second")
    out, first = args.out or place(args.folders), True
    while True:
        goes_on = args.refresh is not None and any(one.goes_on for one in standings(args.folders).values())
        sweep, album = load(*args.folders), Album(out)
        if first:
            len(sweep.turns)  # read at first use
            loaded()
        page = write(sweep, args.folders, album, args.baseline, args.refresh if goes_on else None)
        if first or not goes_on:
            say(str(sweep))
            for heading, sentences in answers(sweep, args.baseline).items():
                say("\n  ".join([heading, *sentences]))
            size, figures = page.stat().st_size / 1e6, len(album.pictures)
            say(f"written: {page} ({size:.1f} MB) and its {figures} figures as png and svg")
        if not goes_on:
            return
        if first:
            say(f"written again every {args.refresh:g} s until no run goes on; Ctrl-C stops this")
        first = False
        time.sleep(args.refresh)


def place(folders: Sequence[Path]) -> Path:
    """The folder of the report on these runs: a report on other runs has another one.

    For one folder it is `report/` and the path from here; several folders are named together, and told apart by a
    digest of their paths.
    """
    paths = sorted({os.path.abspath(folder) for folder in folders})
    if len(paths) == 1:
        return Path("report", *_parts(Path(paths[0])))
    shared = Path(os.path.commonpath(paths))
    names = "+".join("-".join(Path(path).relative_to(shared).parts) or "all" for path in paths)
    digest = sha256("\0".join(paths).encode()).hexdigest()[:8]
    return Path("report", *_parts(shared), f"{names[:60]}-{digest}")


def _parts(path: Path) -> tuple[str, ...]:
    """The parts of an absolute path, from the current folder if it lies below."""
    here = Path.cwd()
    return path.relative_to(here).parts if path.is_relative_to(here) else path.parts[1:]


if __name__ == "__main__":
    main()
