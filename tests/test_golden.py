"""A playthrough of every game under conf/game, kept in tests/golden/<game>.txt: what changes in a game shows there.

A golden file is for people to read: who saw what, could say what, said what, and what it paid. Write them anew (and
read the difference before you commit it) with

    SELFPLAY_GOLDEN=write python -m pytest tests/test_golden.py
    SELFPLAY_GOLDEN=write python -m pytest tests/test_golden.py -k kuhn

The players say legal things at random, as a function of the ask's key; where an ask has no options, one of TEXTS.
Where a game leaves the scoring to referees, they are dice.
"""

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from configs import CONF, filled
from omegaconf import DictConfig
from torch import Tensor

from selfplay.building import make
from selfplay.core import Ask, Episode, Game, Player, Policy, Referee, Reply, Turn
from selfplay.rollout import play, score_and_pay

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in (CONF / "game").glob("*.yaml"))
TEXTS = ("what is 2+3?", "5", "a yellow fruit", "banana", "i agree", "no", "[0]", "[4]")
MOST = 40  # options shown


class Legal(Player):
    """One of the options, else one of TEXTS: a function of the ask's key."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(Random(ask.key).choice(ask.options or TEXTS)) for ask in asks]


class Dice(Referee):
    """0 or 1, a function of the ask's key."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(Random(f"{self.name}/{turn.ask.key}").randrange(2)) for turn in turns])


def playthrough(name: str) -> str:
    """The text of a golden file: two episodes of the game as its yaml makes it."""
    cfg = filled(f"game={name}")
    game: Game = make(cfg.game, "game")
    episodes = play(game, seats(cfg, game), range(2), key="golden")
    score_and_pay(game, episodes, {name: Dice(name) for name in ("reward", "quality")}, {})
    lines = [f"game={name}", f"roles: {', '.join(game.roles)}", f"judged: {', '.join(game.judged) or 'nobody'}"]
    lines.append(f"zero-sum: {'yes' if game.zero_sum else 'not claimed'}")
    for episode in episodes:
        lines += ["", f"--- episode {episode.index} ---", *told(episode)]
    return "\n".join(lines) + "\n"


def seats(cfg: DictConfig, game: Game) -> dict[str, Player]:
    """A legal player in every seat but those where the config seats somebody of its own, such as Nature."""
    own = {name: make(cfg.players[name], name) for name in cfg.seats.values() if cfg.players.get(name) is not None}
    return {role: own.get(cfg.seats[role]) or Legal() for role in game.roles}


def told(episode: Episode) -> list[str]:
    """The turns as they were seen and said, and the returns."""
    lines: list[str] = []
    for turn in episode.turns:
        ask, reply = turn.ask, turn.reply
        lines += ["", f"{ask.role} sees" if ask.messages else f"{ask.role} sees nothing"]
        for message in ask.messages:
            head = f"  {message['role']}: "
            lines += (head + message["content"].replace("\n", "\n" + " " * len(head))).split("\n")
        if ask.options:
            lines += options(ask)
        if ask.group is not None:
            lines.append(f"  group: {ask.group}")
        lines.append(f"{ask.role} says {json.dumps(reply.text)}")
        if turn.scores:
            lines.append(f"  scores: {figures(turn.scores)}")
        if ask.role != "chance" and turn.payoff != (episode.returns or {}).get(ask.role):
            lines.append(f"  payoff: {turn.payoff:.6g}")
    lines += ["", f"returns: {figures(episode.returns) if episode.returns else 'left to the referees'}"]
    return [line.rstrip() for line in lines]


def options(ask: Ask) -> list[str]:
    """The options with their weights, broken only between two; of many, the first and the last."""
    weights = [f" ({weight:g})" for weight in ask.weights] or [""] * len(ask.options)
    shown = [option + weight for option, weight in zip(ask.options, weights, strict=True)]
    if len(shown) > MOST:
        shown = [*shown[: MOST // 2], f"... {len(shown)} in all ...", shown[-1]]
    joined = "\xa0| ".join(option.replace(" ", "\xa0") for option in shown)
    broken = textwrap.wrap(joined, 106, break_long_words=False, break_on_hyphens=False)
    heads = ["  options: ", *[" " * 11] * len(broken)]
    return [head + line.replace("\xa0", " ") for head, line in zip(heads, broken, strict=False)]


def figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in values.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_game_plays_as_it_always_did(name: str) -> None:
    file = GOLDEN / f"{name}.txt"
    command = f"SELFPLAY_GOLDEN=write python -m pytest tests/test_golden.py -k {name}"
    text = playthrough(name)
    if os.environ.get("SELFPLAY_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.exists(), f"{name} has no golden file; write it with: {command}"
    assert text == file.read_text(encoding="utf-8"), (
        f"{name} plays otherwise than {file}; where that is meant: {command}"
    )


def test_no_golden_file_is_left_of_a_game_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} <= set(NAMES)
