"""Every game under conf/game keeps the rules of the house: found by glob, played with random players in every seat."""

import math
import re
from collections.abc import Mapping, Sequence
from random import Random

import pytest
import torch
from conftest import CONF, config
from omegaconf import DictConfig
from torch import Tensor

from selfplay.building import make
from selfplay.core import Ask, Episode, Game, Player, Policy, Referee, Reply, Turn
from selfplay.rollout import play, score_and_pay

NAMES = sorted(path.stem for path in (CONF / "game").glob("*.yaml"))
PAYS = sorted(path.stem for path in (CONF / "challenger").glob("*.yaml"))
MOST_WAVES, EPISODES = 1000, 8
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?"


class Babbler(Player):
    """One of the ask's options, or a short random text: a function of the ask's key. No game may go on for ever."""

    def __init__(self) -> None:
        self.waves = 0

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.waves += 1
        assert self.waves < MOST_WAVES, f"no end after {MOST_WAVES} waves"
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        moves = ask.options or re.findall(r"\[[\w ]+\]", ask.prompt)  # TextArena names its moves in brackets, in words
        text = rng.choice(moves) if moves else "".join(rng.choices(LETTERS, k=rng.randint(0, 6)))
        return Reply(text, (1, 2), tuple(rng.randrange(9) for _ in range(rng.randint(1, 4))))


class Again(Player):
    """Says what was said before, by key; keeps what it was asked."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.said = {turn.ask.key: turn.reply for e in episodes for turn in e.turns}
        self.asked: dict[str, Ask] = {}

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asked |= {ask.key: ask for ask in asks}
        return [self.said[ask.key] for ask in asks]


class Dice(Referee):
    """A random number from 0 to `top`, a function of the turn."""

    def __init__(self, top: float) -> None:
        self.top = top

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([self.top * Random(f"{self.top}/{turn.ask.key}").random() for turn in turns])


def seats(cfg: DictConfig, game: Game) -> dict[str, Player]:
    """A babbler in every seat; in Nature's the player whom the config seats there, if it is one of `players`."""
    babbler = Babbler()
    chance = cfg.players.get(cfg.seats.get("chance", ""))
    return {r: make(chance, "chance") if r == "chance" and chance is not None else babbler for r in game.roles}


def settled(game: Game, episodes: list[Episode]) -> list[Episode]:
    score_and_pay(game, episodes, {"reward": Dice(1.0), "quality": Dice(7.0)}, {})
    return episodes


@pytest.fixture(params=[(name, ()) for name in NAMES] + [("lsp", (f"challenger={pay}",)) for pay in PAYS], ids=str)
def cfg(request: pytest.FixtureRequest) -> DictConfig:
    name, overrides = request.param
    return config(f"game={name}", *overrides)


@pytest.fixture
def game(cfg: DictConfig) -> Game:
    return make(cfg.game, "game")


def test_there_are_games() -> None:
    assert {"dataset", "lsp", "lsp_zero"} <= set(NAMES)
    assert len(PAYS) >= 6


def test_a_game_and_its_seats_agree(cfg: DictConfig, game: Game) -> None:
    """Every role has a seat, no seat is without a role, somebody learns, and the judged ones are roles."""
    assert set(cfg.seats) == set(game.roles)
    assert "learner" in cfg.seats.values()
    assert set(cfg.seats.values()) <= {"learner", "reference", *cfg.players}
    assert len(set(game.roles)) == len(game.roles) > 0
    assert set(game.judged) <= set(game.roles) - {"chance"}
    learning = {role for role, name in cfg.seats.items() if name == "learner"}
    assert set(cfg["update"].role_weights) <= learning


def test_every_role_is_asked_and_no_other(cfg: DictConfig, game: Game) -> None:
    episodes = play(game, seats(cfg, game), range(EPISODES), key="asked")
    assert {turn.ask.role for e in episodes for turn in e.turns} == set(game.roles)
    assert all(turn.reply.text in turn.ask.options for e in episodes for turn in e.turns if turn.ask.options)


def test_an_episode_is_a_function_of_its_replies(cfg: DictConfig, game: Game) -> None:
    """The same players and keys: the same episodes. The same replies, said by somebody else: the same asks."""
    episodes = play(game, seats(cfg, game), range(EPISODES), key="replay")
    assert play(game, seats(cfg, game), range(EPISODES), key="replay") == episodes
    parrot = Again(episodes)
    replayed = play(make(cfg.game, "game"), dict.fromkeys(game.roles, parrot), range(EPISODES), key="replay")
    assert replayed == episodes
    assert parrot.asked == {turn.ask.key: turn.ask for e in episodes for turn in e.turns}
    assert play(game, seats(cfg, game), range(EPISODES), key="other") != episodes


def test_an_episode_does_not_depend_on_its_neighbours(cfg: DictConfig, game: Game) -> None:
    together = settled(game, play(game, seats(cfg, game), range(EPISODES), key="alone"))
    for index in range(EPISODES):
        alone = settled(game, play(game, seats(cfg, game), [index], key="alone"))
        assert alone == [together[index]]


def test_every_turn_is_paid(cfg: DictConfig, game: Game) -> None:
    for episode in settled(game, play(game, seats(cfg, game), range(EPISODES), key="paid")):
        payoffs = game.payoffs(episode)
        assert [turn.payoff for turn in episode.turns] == payoffs  # asking for them again changes nothing
        assert len(payoffs) == len(episode.turns) > 0
        assert all(math.isfinite(p) for p in payoffs)
        assert all(turn.payoff == 0.0 for turn in episode.turns if turn.ask.role == "chance")


def test_returns_are_complete_and_zero_sum_where_claimed(cfg: DictConfig, game: Game) -> None:
    episodes = play(game, seats(cfg, game), range(EPISODES), key="returns")
    for episode in episodes:
        if episode.returns is not None:
            assert set(episode.returns) == set(game.roles) - {"chance"}
            assert all(math.isfinite(r) for r in episode.returns.values())
        if game.zero_sum:
            assert episode.returns is not None
            assert sum(episode.returns.values()) == pytest.approx(0.0, abs=1e-9)


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
