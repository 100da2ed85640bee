"""A model soup (Wortsman et al. 2022, arXiv 2203.05482): the average of the weights of several runs.

    python -m selfplay.soup multirun/2026-01-01/12-00-00 --out soup            the last checkpoints of a sweep's runs
    python -m selfplay.soup RUN RUN --weights 3 1 --out soup                   three quarters, one quarter
    python -m selfplay.soup RUN/checkpoints/step-000040 RUN --out soup         two checkpoints of a run
    python -m selfplay.soup SWEEP --greedy 500 --out soup                      those that help on 500 questions

The result is a player: player=hf player.path=soup.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from selfplay.commandline import run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay soup",
        description="Average the weights of several runs or checkpoints of one architecture (Wortsman et al. 2022, "
        "arXiv 2203.05482) into a folder that player=hf player.path=FOLDER loads.",
        epilog="Full models are averaged tensor by tensor. Adapters must share config and base model; their average "
        "is exact, an adapter whose rank is the sum of their ranks. Tabular players are rejected.",
    )
    add = found.add_argument
    add(
        "sources",
        nargs="+",
        metavar="RUN_OR_FOLDER",
        help="a finished run (its last checkpoint), a sweep's folder for all of its runs, or a checkpoint's folder",
    )
    add("--out", required=True, type=Path, metavar="FOLDER", help="output folder; must not exist yet")
    add("--weights", nargs="+", type=float, metavar="W", help="one per model, divided by their sum (default: equal)")
    add(
        "--greedy",
        type=int,
        metavar="N",
        help="start with the best model and add another only if accuracy on N training questions of the first run's "
        "task does not fall; equal weights",
    )
    add("--trust", nargs="*", default=[], metavar="PACKAGE", help="with --greedy: packages that the run's config calls")
    return found


def folders_of(source: str) -> list[Path]:
    """The weight folders of a source: the last checkpoint of a run or of each run of a sweep, or the folder itself.

    Raises:
        SelfplayError: it is none of these, or a run is not finished.
    """
    from selfplay.core import SelfplayError
    from selfplay.models.averages import holds_weights
    from selfplay.models.load import resolve
    from selfplay.runs.folder import RunFolder
    from selfplay.runs.players import runs_below

    place = Path(resolve(source))
    if holds_weights(place):
        return [place]
    runs = [place] if RunFolder(place).holds_run else runs_below(place)
    if not runs:
        raise SelfplayError(f"{source} is not a run, a sweep or a folder with a model or an adapter; give one")
    return [_last(run) for run in runs]


def _last(path: Path) -> Path:
    """The last checkpoint of a finished run."""
    from selfplay.core import SelfplayError
    from selfplay.runs.folder import RunFolder
    from selfplay.runs.players import last_checkpoint

    run = RunFolder.open(path)
    status = run.summary.get("status", "not written")
    if status != "finished":
        raise SelfplayError(
            f"{path} is not a finished run (status: {status}); resume it with resume={path}, or give the folder of "
            "one of its checkpoints"
        )
    return last_checkpoint(run)


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights divided by their sum, or `count` equal ones for None.

    Raises:
        SelfplayError: there are not `count` weights, one is negative or not finite, or none is positive.
    """
    from selfplay.core import SelfplayError

    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise SelfplayError(f"--weights has {len(weights)} numbers for {count} models; give one per model")
    if not all(0 <= weight < math.inf for weight in weights) or not 0 < sum(weights) < math.inf:
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise SelfplayError(f"--weights is {shown}; give numbers of at least 0, one of them above 0")
    return [weight / sum(weights) for weight in weights]


def _greedy(args: argparse.Namespace, folders: list[Path]) -> list[Path]:
    """The folders that the greedy rule chooses."""
    from selfplay.core import SelfplayError
    from selfplay.greedy_soup import ingredients
    from selfplay.models.averages import check_alike
    from selfplay.runs.folder import RunFolder
    from selfplay.runs.players import runs_below

    if args.weights is not None:
        raise SelfplayError("--greedy gives equal weights, so --weights would have no effect; remove one of them")
    if args.greedy < 1:
        raise SelfplayError(f"--greedy is {args.greedy}; give the number of validation questions, such as 500")
    source = Path(args.sources[0])
    run = source if RunFolder(source).holds_run else next(iter(runs_below(source)), None) if source.is_dir() else None
    if run is None:
        raise SelfplayError(
            f"--greedy reads player and task of a run, but {source} is not a run or a sweep; name one first"
        )
    check_alike(folders)
    return ingredients(folders, run, args.greedy, args.trust)


def soup(args: argparse.Namespace) -> None:
    """Average the weights of the sources, and write the output folder atomically.

    Raises:
        SelfplayError: the sources cannot be averaged, the weights are invalid, or the folder cannot be written.
    """
    from tempfile import TemporaryDirectory

    from selfplay import digests
    from selfplay.console import say
    from selfplay.core import SelfplayError
    from selfplay.files import as_json, to_disk
    from selfplay.models.averages import average, check_alike

    if args.out.exists():
        raise SelfplayError(f"{args.out} already exists; choose another --out")
    folders = [folder for source in args.sources for folder in folders_of(source)]
    if args.greedy is not None:
        folders = _greedy(args, folders)
    weights = normalised(args.weights, len(folders))
    for folder in folders:
        digests.check(folder, "give another checkpoint")
    check_alike(folders)
    with to_disk(args.out):
        args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".writing-", dir=args.out.absolute().parent) as unfinished:
            made = Path(unfinished) / args.out.name
            made.mkdir()
            average(folders, weights, made)
            about = {"soup": [{"folder": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)]}
            (made / "soup.json").write_text(as_json(about, made / "soup.json", indent=1) + "\n", encoding="utf-8")
            digests.write(made)
            os.replace(made, args.out)
    for folder, weight in zip(folders, weights, strict=True):
        say(f"{weight:.4g} {folder}")
    say(f"written: {args.out}, use it as player.path={args.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the local cache already

    from selfplay.openmp import fit_threads

    fit_threads()
    run_command(lambda: soup(args))


if __name__ == "__main__":
    main()
