"""Talk with a checkpoint or a model in the terminal.

selfplay chat outputs/2026-01-01/12-00-00
selfplay chat HuggingFaceTB/SmolLM2-135M-Instruct --temperature 0 --out talks/one
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from pathlib import Path

from selfplay.terminal.play import run_in_terminal

HELP = """/help    this list
/reset   begin a new conversation
/quit    leave (so do Ctrl-D and Ctrl-C)
//text   say /text"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay chat", description="A conversation with a checkpoint or a model in the terminal."
    )
    add = found.add_argument
    add("source", metavar="SOURCE", help="a run (its last checkpoint), one of its checkpoints, a model's folder or id")
    add("--temperature", type=float, metavar="T", help="0 is greedy (default: the run's; 1 for a model)")
    add("--max-tokens", type=int, metavar="N", help="per reply (default: the run's; 256 for a model)")
    add("--system", metavar="TEXT", help="a system message")
    add("--seed", type=int, metavar="S", help="of all random numbers (default: another one each time)")
    add("--out", type=Path, metavar="FOLDER", help="keep the conversation in FOLDER/episodes.jsonl")
    add("--device", default="cpu", help='"cpu", "cuda", ... (%(default)s)')
    add("--trust", action="append", default=[], metavar="PACKAGE", help="another package whose code a run may call")
    return found


def chat(args: argparse.Namespace) -> None:
    """Load the policy and talk until the person leaves.

    Raises:
        SelfplayError: an argument is wrong, the source cannot be loaded, or it is a table.
        Left: the person left.
    """
    from selfplay.core import SelfplayError, at_least
    from selfplay.screen import Screen

    if args.temperature is not None and args.temperature < 0:
        raise SelfplayError(f"--temperature is {args.temperature}; give 0 for greedy replies, or more")
    if args.max_tokens is not None:
        at_least(1, **{"--max-tokens": args.max_tokens})
    screen = Screen()
    with screen.waiting(f"loading {args.source} ..."):
        from selfplay.openmp import fit_threads
        from selfplay.players.tabular import Tabular
        from selfplay.terminal.conversation import Conversation
        from selfplay.terminal.source import Source, player_of
        from selfplay.terminal.transcript import Transcript

        fit_threads()
        transcript = None if args.out is None else Transcript(args.out)
        changes = {} if args.max_tokens is None else {"max_tokens": args.max_tokens}
        source = Source.named(args.source, args.trust)
        policy = player_of(source, args.device, changes)
    if isinstance(policy, Tabular):
        raise SelfplayError(
            f"{args.source} is a table, which has no words; play its game with: selfplay play {args.source}"
        )
    player = policy if args.temperature is None else policy.with_temperature(args.temperature)
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    conversation = Conversation(screen, player, args.system, f"{seed}/chat", transcript)
    screen.say(f"{args.source}: type a message, or /help", "dim")
    try:
        conversation.hold(HELP)
    finally:
        if transcript is not None:
            for path in transcript.written:
                screen.say(f"transcript: {path}", "dim")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    args = parser().parse_args(arguments)
    run_in_terminal(lambda: chat(args), args.source)
