"""Cross-play: every checkpoint of some runs against every other one, in the runs' game.

    python -m selfplay.crossplay outputs/2026-01-01/12-00-00               the checkpoints of a run
    python -m selfplay.crossplay multirun/2026-01-01/12-00-00 --last       the final policies of a sweep's runs
    python -m selfplay.crossplay RUN RUN --exact                           by enumeration, for small games

Prints a ranking of the players, and writes crossplay.json and crossplay.png.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.commandline import run_command

if TYPE_CHECKING:
    from selfplay.opponents.round_robin import Arena
    from selfplay.theory.meta_game import Analysis, MetaGame


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay crossplay",
        description="Play every checkpoint of the given runs against every other one, in every role, and "
        "rank them: ratings, mean returns, the meta-game's Nash equilibrium, exploitability, cycles.",
        epilog="All runs must play the same game; their players may differ. Scripted players and referees come from "
        "the first run. Unless --no-base is given, the learner before the first step also plays, named 'base'.",
    )
    add = found.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, or of a sweep for all of its runs")
    add("--games", type=int, default=64, metavar="N", help="episodes per ordered pairing, rotating roles (%(default)s)")
    add("--exact", action="store_true", help="compute expectations by enumerating the game tree instead of playing")
    which = found.add_mutually_exclusive_group()
    which.add_argument(
        "--every", type=int, default=1, metavar="K", help="use every K-th step's checkpoint, and the last"
    )
    which.add_argument("--last", action="store_true", help="use only the last checkpoint of each run")
    add("--no-base", action="store_true", help="leave out the learner before the first step")
    add("--population", action="store_true", help="also play the members of populations (opponent=league, ...)")
    add("--out", type=Path, metavar="FOLDER", help="output folder (default: RUN/crossplay of the first RUN)")
    add("--trust", action="append", default=[], metavar="PACKAGE", help="another package whose code the runs may call")
    add("--seed", type=int, default=0, metavar="S", help="random seed of the games (%(default)s)")
    return found


def crossplay(args: argparse.Namespace) -> None:
    """Load the players, play, analyse, print the results and write the files.

    Raises:
        SelfplayError: a run or checkpoint is missing or corrupt, the games differ, or fewer than two players or roles.
    """
    from selfplay.building import make
    from selfplay.console import say
    from selfplay.core import SelfplayError, at_least
    from selfplay.opponents.round_robin import enumerated, played
    from selfplay.runs.crossplay_table import show
    from selfplay.runs.players import Choice, check_same_game, policies, run_folders, short_names
    from selfplay.theory.meta_game import analyse

    at_least(1, every=args.every)
    at_least(2, games=args.games)
    runs = run_folders(args.runs, args.trust)
    games = [make(run.config.game, "game") for run in runs]
    check_same_game(runs, games)
    choice = Choice(args.every, args.last, not args.no_base, args.population)
    found = [policies(run, name, choice) for run, name in zip(runs, short_names(runs), strict=True)]
    players = {name: policy for _, some in found for name, policy in some.items()}
    if len(players) < 2:
        raise SelfplayError(f"the only player is {', '.join(players)}; give a second run, or leave out --no-base")
    arena = _arena(runs[0].config, games[0], found[0][0])
    folder = _made(args.out or args.runs[0] / "crossplay")
    nash_convs: Mapping[str, float] | None = None
    if args.exact:
        say(f"enumerating the game for {len(players)} players ...")
        meta, nash_convs = enumerated(arena, players)
    else:
        say(f"playing {len(players)} players against each other, {args.games} games per ordered pairing ...")
        meta = played(arena, players, args.games, args.seed)
    analysis = analyse(meta)
    show(meta, analysis, nash_convs)
    about = {
        "runs": [str(run.path) for run in runs],
        "game": type(arena.game).__name__,
        "roles": list(arena.learner_roles),
        "seed": None if args.exact else args.seed,
    }
    _write(folder, about, meta, analysis, nash_convs)


def _arena(config: Any, game: Any, base: Any) -> Arena:
    """The first run's game, with all players and referees except the learner."""
    from omegaconf import OmegaConf

    from selfplay.building import others_of, referees_of
    from selfplay.core import SelfplayError
    from selfplay.opponents.matchmaker import LEARNER
    from selfplay.opponents.round_robin import Arena

    seated = {role: str(config.seats[role]) for role in game.roles}
    if further := OmegaConf.select(config, "learners"):
        raise SelfplayError(
            f"the first run has several learners (learner, {', '.join(further)}), which cross-play cannot tell apart; "
            "give runs with one learner"
        )
    learner_roles = tuple(role for role, name in seated.items() if name == LEARNER)
    rest = {**others_of(config), "reference": base}
    return Arena(game, seated, learner_roles, rest, referees_of(config), {LEARNER: base, "reference": base})


def _made(folder: Path) -> Path:
    """Create the output folder before anything is played."""
    from selfplay.core import SelfplayError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SelfplayError(
            f"the folder {folder} cannot be created ({error.strerror}); choose another with --out"
        ) from error
    return folder


def _write(
    folder: Path,
    about: Mapping[str, object],
    meta: MetaGame,
    analysis: Analysis,
    nash_convs: Mapping[str, float] | None,
) -> None:
    """Write crossplay.json and crossplay.png."""
    from selfplay.console import say
    from selfplay.files import as_json, replacing
    from selfplay.plots.figure_store import save
    from selfplay.plots.figures import draw_matrix
    from selfplay.theory.meta_game import record

    file, picture = folder / "crossplay.json", folder / "crossplay.png"
    text = as_json({**about, **record(meta, analysis, nash_convs)}, file, indent=1)
    with replacing(file) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    order = analysis.order
    title = f"{about['game']}: row against column, best rating first"
    names, payoffs = [meta.names[i] for i in order], meta.payoffs[order][:, order]
    save(draw_matrix(names, payoffs, title, "mean return of the row"), picture)
    say(f"written: {file}, {picture.name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model of a run is already in the local cache

    from selfplay.openmp import fit_threads

    fit_threads()
    run_command(lambda: crossplay(args))


if __name__ == "__main__":
    main()
