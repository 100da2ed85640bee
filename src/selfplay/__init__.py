"""Train language models by self-play: games, players, referees and updates, composed by Hydra.

Names are imported on first use, so `import selfplay` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfplay.api import train
    from selfplay.building import build, make
    from selfplay.composing import compose
    from selfplay.core import (
        Ask,
        Batch,
        Episode,
        Game,
        Learnt,
        Player,
        Policy,
        Referee,
        Reply,
        SelfplayError,
        Turn,
        Update,
        user,
    )
    from selfplay.experiment import Experiment
    from selfplay.rollout import collate, play, score_and_pay, turns_of
    from selfplay.runs import load

_HOMES = {
    "compose": "composing",
    "train": "api",
    **dict.fromkeys(("build", "make"), "building"),
    **dict.fromkeys(
        (
            *("Ask", "Batch", "Episode", "Game", "Learnt", "Player", "Policy"),
            *("Referee", "Reply", "Turn", "Update", "user"),
        ),
        "core",
    ),
    "SelfplayError": "errors",
    "Experiment": "experiment",
    **dict.fromkeys(("collate", "play", "score_and_pay", "turns_of"), "rollout"),
    "load": "runs",
}

__all__ = [  # the public API, under semantic versioning; everything else may change
    "Ask",
    "Batch",
    "Episode",
    "Experiment",
    "Game",
    "Learnt",
    "Player",
    "Policy",
    "Referee",
    "Reply",
    "SelfplayError",
    "Turn",
    "Update",
    "build",
    "collate",
    "compose",
    "load",
    "make",
    "play",
    "score_and_pay",
    "train",
    "turns_of",
    "user",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"selfplay.{_HOMES[name]}"), name)
