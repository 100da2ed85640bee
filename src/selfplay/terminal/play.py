"""Play against a checkpoint in the terminal, or watch two of them; nothing is trained.

selfplay play outputs/2026-01-01/12-00-00                       the run's game against its last checkpoint
selfplay play RUN/checkpoints/step-000040 --role second         one of its checkpoints
selfplay play asset:tiny game=taboo --role defender             any game against a model
selfplay play RUN --watch --against RUN                         two checkpoints play
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import interrupts
from selfplay.commandline import run_command

if TYPE_CHECKING:
    from selfplay.screen import Screen
    from selfplay.terminal.match import Match


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay play",
        description="Take a role of a game in the terminal against a checkpoint, or watch two checkpoints play.",
        epilog="Without game= the run's own game is played, with its referees (a model's is game=lsp); other options "
        "change it: game.answers=2. A table plays only its own game.",
    )
    add = found.add_argument
    add("source", metavar="SOURCE", help="a run (its last checkpoint), one of its checkpoints, a model's folder or id")
    add("overrides", nargs="*", default=[], metavar="OPTION", help="game=<any>, options of game, players, referees")
    add("--role", action="append", default=[], metavar="ROLE", help="yours, repeatable; with --watch, SOURCE's")
    add("--against", metavar="SOURCE", help="another checkpoint or model, in the roles that SOURCE does not play")
    add("--watch", action="store_true", help="take no role; SOURCE plays all roles, or those --against leaves")
    add("--episodes", type=int, metavar="N", help="stop after N games (default: ask; 1 with --watch)")
    add("--temperature", type=float, metavar="T", help="of the models, 0 is greedy (default: as in training)")
    add("--seed", type=int, metavar="S", help="of all random numbers (default: a new one, shown at the end)")
    add("--out", type=Path, metavar="FOLDER", help="for episodes.jsonl (default: plays/<day>/<time>)")
    add("--device", default="cpu", help='"cpu", "cuda", ... (%(default)s)')
    add("--trust", action="append", default=[], metavar="PACKAGE", help="another package whose code a run may call")
    return found


def play(args: argparse.Namespace) -> None:
    """Open the sources and play.

    Raises:
        SelfplayError: an argument is wrong, or a part cannot be built.
        Left: the person left; what was played is written.
    """
    from selfplay.core import SelfplayError, at_least
    from selfplay.screen import Screen

    if "=" in args.source and not Path(args.source).exists():
        raise SelfplayError(
            f"the first argument is '{args.source}'; name a run, a checkpoint or a model before options"
        )
    if args.episodes is not None:
        at_least(1, **{"--episodes": args.episodes})
    if args.temperature is not None and args.temperature < 0:
        raise SelfplayError(f"--temperature is {args.temperature}; give 0 for greedy replies, or more")
    screen = Screen()
    with screen.waiting(f"loading {args.source} ..."):
        from selfplay.openmp import fit_threads
        from selfplay.terminal.match import opened, rival
        from selfplay.terminal.source import Source
        from selfplay.terminal.transcript import Transcript

        fit_threads()
        transcript = Transcript(args.out or Path("plays", datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")))
        match = opened(Source.named(args.source, args.trust), args.overrides, args.device, args.temperature)
        for role in args.role:
            if role not in match.game.roles:
                raise SelfplayError(
                    f"--role is {role}, but the roles of {type(match.game).__name__} are {', '.join(match.game.roles)}"
                )
        policy = None
        if args.against is not None:
            policy = rival(Source.named(args.against, args.trust), match, args.device, args.temperature)
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    from selfplay.terminal.playing import Playing

    playing = Playing(screen, match, transcript, args.watch, seed)
    playing.seat(_roles(args, match, screen), policy, args.source, args.against)
    try:
        playing.play(args.episodes)
    finally:
        playing.close()
        if args.seed is None and transcript.written:
            screen.say(f"the same deals again: --seed {seed}", "dim")


def _roles(args: argparse.Namespace, match: Match, screen: Screen) -> list[str]:
    """The roles that --role names, or that the person chooses."""
    from selfplay.players.human import Human, Left
    from selfplay.screen import option_meant

    if args.role or args.watch:
        return list(dict.fromkeys(args.role))
    if seated := [role for role, name in match.seats.items() if isinstance(match.players[name], Human)]:
        return seated
    offered = [role for role in match.learner_roles or match.game.roles if role != "chance"]
    while len(offered) > 1:
        screen.heading(f"{type(match.game).__name__}: your role")
        screen.options(offered)
        try:
            entry = screen.read(f"role [{offered[0]}]> ")
        except EOFError:
            raise Left from None
        if entry == "/quit":
            raise Left
        if entry and (meant := option_meant(entry, offered)) is None:
            screen.say(f"'{entry}' is none of the roles; type one of them or its number", "red")
            continue
        return [meant if entry and meant else offered[0]]
    return offered


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_intermixed_args(arguments)
    run_in_terminal(lambda: play(args), args.source, args.against)


def run_in_terminal(work: Callable[[], None], *models: str | None) -> None:
    """Run a command that a person talks with: quietly, and Ctrl-C leaves it in order.

    Args:
        work: the command.
        models: its sources; if all of them are files, nothing is downloaded.
    """
    from selfplay.garbage import collected, hold_garbage
    from selfplay.project import import_from_here

    import_from_here()
    hold_garbage()
    if all(model is None or Path(model).exists() or ":" in model for model in models):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def quietly() -> None:
        from selfplay.players.human import Left

        try:
            with collected(), interrupts.at_work(lambda: None), interrupts.nothing_to_save():
                work()
        except Left:
            return
        except interrupts.Stopped as stop:
            sys.exit(128 + stop.number)

    run_command(quietly)
