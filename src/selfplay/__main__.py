"""The command `selfplay`, and `python -m selfplay`."""

from selfplay import interrupts

interrupts.watch()  # before the imports, which take seconds

import sys
from importlib import import_module
from importlib.metadata import version

COMMANDS = {  # each a module with a function `main`
    "run": "selfplay.main",
    "report": "selfplay.report.__main__",
    "crossplay": "selfplay.crossplay",
    "soup": "selfplay.soup",
    "reference": "selfplay.reference",
    "export-alpaca-eval": "selfplay.export_alpaca_eval",
    "smollm2": "selfplay.models.smollm2",
}
USAGE = """selfplay: train language models by self-play

    selfplay [run] [-m] OPTIONS     a run, or with -m a sweep: selfplay game=kuhn player=tabular steps=100
    selfplay report FOLDERS         a page on finished runs
    selfplay crossplay FOLDERS      every checkpoint against every other
    selfplay soup FOLDERS --out F   the average of the weights of several runs, as a player
    selfplay reference              every group, choice and option, in Markdown, with those of ./conf
    selfplay export-alpaca-eval     a checkpoint's answers, for AlpacaEval's judges
    selfplay smollm2                convert SmolLM2-135M-Instruct, for player=smollm2

selfplay --help lists the groups of options, selfplay COMMAND --help a command's own, selfplay --version the version.
"""


def main() -> None:
    """Hand what was typed to a command; what is no command's name belongs to `run`."""
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
