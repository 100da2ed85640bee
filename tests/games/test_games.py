"""Every game under conf/game keeps the rules of the house: found by glob, judged by `selfplay.testing.check_game`."""

import pytest
from configs import CONF, config, filled
from omegaconf import DictConfig, OmegaConf

from selfplay.building import make
from selfplay.core import Ask, Episode, Game, Reply, Turn
from selfplay.testing import check_game

NAMES = sorted(path.stem for path in (CONF / "game").glob("*.yaml"))
PAYS = sorted(path.stem for path in (CONF / "challenger").glob("*.yaml"))


@pytest.fixture(params=[(name, ()) for name in NAMES] + [("lsp", (f"challenger={pay}",)) for pay in PAYS], ids=str)
def cfg(request: pytest.FixtureRequest) -> DictConfig:
    name, overrides = request.param
    return filled(f"game={name}", *overrides)


@pytest.fixture
def game(cfg: DictConfig) -> Game:
    return make(cfg.game, "game")


def test_there_are_games() -> None:
    assert {"dataset", "lsp", "lsp_zero"} <= set(NAMES)
    assert len(PAYS) >= 6


def test_a_game_and_its_seats_agree(cfg: DictConfig, game: Game) -> None:
    """Every role has a seat, no seat is without a role, and somebody learns, if only from a teacher."""
    assert set(cfg.seats) == set(game.roles)
    assert "learner" in cfg.seats.values() or set(cfg["update"].teachers) & set(cfg.seats.values())
    assert set(cfg.seats.values()) <= {"learner", "reference", *cfg.players}
    learning = {role for role, name in cfg.seats.items() if name == "learner"}
    assert set(OmegaConf.select(cfg, "update.role_weights") or {}) <= learning


def test_it_keeps_the_rules_of_every_game(cfg: DictConfig, game: Game) -> None:
    """The rules themselves, each with a game that breaks it, are in test_testing.py."""
    chance = cfg.players.get(cfg.seats.get("chance", ""))
    players = {} if chance is None else {"chance": make(chance, "chance")}
    checked = check_game(game, again=make(cfg.game, "game"), players=players)
    assert checked.turns >= checked.episodes and (checked.nodes is None) == (checked.not_enumerated != "")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("lsp")])
def test_language_self_plays_payoffs_by_hand(name: str) -> None:
    """R 1 0 0 1 and Q 7 4 2 3: V = 1/2, V_Q = 4. LSP-Zero is zero-sum on average when nobody measures quality."""
    game = make(config(f"game={name}", "game.answers=4", "game.quality_weight=1").game, "game")
    asked = Turn(Ask("challenger"), Reply("?"))
    answers = [Turn(Ask("solver"), Reply(""), {"reward": r, "quality": q}) for r, q in ((1, 7), (0, 4), (0, 2), (1, 3))]
    assert game.payoffs(Episode(0, [asked, *answers])) == [3.5 if name == "lsp" else -0.5, 8, 4, 2, 4]
    for turn in answers:
        del turn.scores["quality"]
    paid = game.payoffs(Episode(0, [asked, *answers]))
    assert paid == [-0.5, 1, 0, 0, 1]
    assert paid[0] + sum(paid[1:]) / 4 == 0
