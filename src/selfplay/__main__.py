"""Entry point of `selfplay` and `python -m selfplay`."""

from selfplay import interrupts

interrupts.watch()  # before the slow imports below

import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = {  # name -> module with a `main` function
    "run": "selfplay.main",
    "watch": "selfplay.watch",
    "curves": "selfplay.curves",
    "report": "selfplay.report.__main__",
    "crossplay": "selfplay.crossplay",
    "exploit": "selfplay.exploit.command",
    "soup": "selfplay.soup",
    "push": "selfplay.push",
    "play": "selfplay.terminal.play",
    "chat": "selfplay.terminal.chat",
    "serve": "selfplay.serve",
    "reference": "selfplay.reference",
    "export-alpaca-eval": "selfplay.export_alpaca_eval",
    "memory": "selfplay.memory.command",
    "smollm2": "selfplay.models.smollm2",
}
USAGE = """selfplay: train language models by self-play

    selfplay [run] [-m] OPTIONS     start a run, or with -m a sweep: selfplay game=kuhn player=tabular steps=100
    selfplay watch FOLDERS          show runs in the terminal while they go on
    selfplay curves RUN --out F     draw the curves of a run as png, pdf or svg
    selfplay report FOLDERS         write an HTML report on runs, with --refresh while they go on
    selfplay crossplay FOLDERS      play every checkpoint against every other
    selfplay exploit RUN_OR_MODEL   train exploiters against a checkpoint, and certify what they gain
    selfplay soup FOLDERS --out F   average the weights of several runs into one player
    selfplay push RUN --to REPO     upload a checkpoint with a model card to the Hugging Face Hub
    selfplay play RUN_OR_MODEL      play a game against a checkpoint, or watch two of them
    selfplay chat RUN_OR_MODEL      talk with a checkpoint
    selfplay serve MODEL            start vLLM's servers, for engine=server
    selfplay reference              list every group, choice and option (with ./conf) in Markdown
    selfplay export-alpaca-eval     write a checkpoint's answers in AlpacaEval's format
    selfplay memory OPTIONS         the memory that a run with these options needs, and whether it fits
    selfplay smollm2                convert SmolLM2-135M-Instruct, for player=smollm2

selfplay --help lists the option groups, selfplay COMMAND --help the options of a command. See also selfplay --version.
"""


def main() -> None:
    """Dispatch to the named command; without a command name, to `run`."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in ("--version", "-V"):
        print(f"selfplay {version('selfplay')}")
        return
    if first in ("--help", "-h"):
        print(USAGE)
    if first in COMMANDS:
        del sys.argv[1]
        sys.argv[0] = f"selfplay {first}"
    import_module(COMMANDS.get(first, "selfplay.main")).main()


if __name__ == "__main__":
    main()
