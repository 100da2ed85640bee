"""A game that nobody here wrote: one python file and one yaml in a folder of its own, no edit elsewhere."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import cli
import pytest
import test_games
from omegaconf import DictConfig
from safetensors.torch import load_file

from selfplay.building import make
from selfplay.core import Game

GAME = '''
"""Two players speak at once, twice; who said more in all takes a point from the other."""

from selfplay.core import Ask, Game, Play, user


class Duel(Game):
    roles = ("left", "right")
    zero_sum = True

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def play(self) -> Play:
        said = {"left": "", "right": ""}
        for turn in range(self.rounds):
            first, second = yield [Ask(role, user(f"Turn {turn}. {said[role]}")) for role in self.roles]
            said = {"left": said["left"] + first.text, "right": said["right"] + second.text}
        point = (len(said["left"]) > len(said["right"])) - (len(said["left"]) < len(said["right"]))
        return {"left": float(point), "right": -float(point)}
'''
YAML = """# @package _global_
game:
  _target_: duel.Duel
  rounds: 2
seats:
  left: learner
  right: learner
optimized_metric: left/payoff
"""
RUN = ("game=duel", "reward=none", "eval=none", "episodes=4", "player.max_tokens=8")
CHECKS = (test_games.test_a_game_and_its_seats_agree, test_games.test_it_keeps_the_rules_of_every_game)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the two files."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "duel.py").write_text(GAME)
    (folder / "conf" / "game").mkdir(parents=True)
    (folder / "conf" / "game" / "duel.yaml").write_text(YAML)
    return folder


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_rules_of_every_game(
    check: Callable[[DictConfig, Game], None], plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plugin))
    monkeypatch.delitem(sys.modules, "duel", raising=False)
    cfg = cli.composed(f"--config-dir={plugin / 'conf'}", *RUN)
    game = make(cfg.game, "game")
    assert type(game).__name__ == "Duel" and game.zero_sum
    check(cfg, game)


def test_it_trains(plugin: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = [*RUN, "steps=2", "update.optimizer.lr=1e-3"]
    ended = cli.process(f"--config-dir={plugin / 'conf'}", f"hydra.run.dir={run}", *args, path=plugin)
    assert ended.code == 0, ended.err
    first, second = cli.metrics(run)
    assert {"left/payoff", "right/payoff", "left/entropy", "right/kl", "tokens/generated"} <= set(second)
    assert first["logprob_mismatch"] < 1e-4 and second["logprob_mismatch"] < 1e-4
    assert cli.summary(run)["optimized"] == {"metric": "left/payoff", "value": second["left/payoff"]}
    turns = cli.lines(run / "episodes.jsonl")
    assert [turn["role"] for turn in turns[:4]] == ["left", "right", "left", "right"] and len(turns) == 32
    assert all(turn["scores"] == {} for turn in turns)
    paid = [tuple(turn["payoff"] for turn in turns[i : i + 4]) for i in range(0, 32, 4)]
    assert all(left == again == -right for left, right, again, _ in paid)
    assert any(left != 0 for left, *_ in paid), "nobody ever won"
    assert any(turn["advantage"] != 0 for turn in turns), "nothing to learn"
    one, two = (load_file(run / "checkpoints" / step / "model.safetensors") for step in cli.steps(run))
    assert any(not one[name].equal(two[name]) for name in one), "nothing was learnt"


def test_it_is_listed_and_found_on_a_search_path_too(plugin: Path) -> None:
    ended = cli.run(f"--config-dir={plugin / 'conf'}", "--help")
    assert ended.code == 0 and "duel" in re.findall(r"^game: (.*)$", ended.out, re.M)[0].split(", ")
    found = cli.composed(f"hydra.searchpath=[file://{plugin / 'conf'}]", "game=duel", "game.rounds=3")
    assert found.game == {"_target_": "duel.Duel", "rounds": 3}


def test_an_opponent_that_does_not_learn(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin))
    args = [*RUN, "steps=1", "seats.right=reference", "regularizer=none"]
    run = cli.finished(tmp_path / "run", f"--config-dir={plugin / 'conf'}", *args)
    [line] = cli.metrics(run)
    assert "left/entropy" in line and "right/entropy" not in line and "right/payoff" in line
    players = {turn["role"]: turn["player"] for turn in cli.lines(run / "episodes.jsonl")}
    assert players == {"left": "learner", "right": "reference"}
    assert all((turn["advantage"] is None) == (turn["role"] == "right") for turn in cli.lines(run / "episodes.jsonl"))
