"""The geometric mixture of two policies: exact among options, token by token in free text."""

import copy
import math
from collections import Counter

import pytest
import torch
from bandit import ASK, table
from configs import config
from language_models import made, perturb
from torch import Tensor

from selfplay.building import build
from selfplay.core import Ask, SelfplayError, user
from selfplay.enumeration import sampled
from selfplay.players.language_model import LanguageModel
from selfplay.players.mixture import GeometricMixture

FREE = Ask("solver", user("sort cab"))


def keyed(ask: Ask, count: int) -> list[Ask]:
    return [Ask(ask.role, ask.messages, ask.options, key=f"m/{i}") for i in range(count)]


def pair() -> tuple[object, object]:
    """Tables at 1/2 1/4 1/8 1/8 and 1/8 1/8 1/4 1/2."""
    tables = table(spread=0.0), table(spread=0.0)
    for one, odds in zip(tables, ((4, 2, 1, 1), (1, 1, 2, 4)), strict=True):
        one.logits.data[:] = torch.tensor(odds, dtype=torch.float32).log()
    return tables


@pytest.mark.parametrize(
    ("coefficient", "odds"),
    [
        (0.0, (4, 2, 1, 1)),
        (1.0, (1, 1, 2, 4)),
        (0.5, (2, 2**0.5, 2**0.5, 2)),
        (0.25, (8**0.5, 8**0.25, 2**0.25, 2**0.5)),
    ],
)
def test_mixtures_by_hand(coefficient: float, odds: tuple[float, ...]) -> None:
    [found] = GeometricMixture(*pair(), coefficient).probabilities([ASK])
    assert found == pytest.approx([x / sum(odds) for x in odds], abs=1e-6)


def test_draws_follow_the_mixture() -> None:
    mixture = GeometricMixture(*pair(), 0.5)
    [p] = mixture.probabilities([ASK])
    seen = Counter(reply.text for reply in mixture.act(keyed(ASK, 4000)))
    for option, likely in zip(ASK.options, p, strict=True):
        assert seen[option] / 4000 == pytest.approx(likely, abs=4 * math.sqrt(likely * (1 - likely) / 4000))
    assert [r.text for r in mixture.act(keyed(ASK, 9))] == [r.text for r in mixture.act(keyed(ASK, 9))]


def test_what_cannot_be_said_stays_so() -> None:
    first, second = pair()
    first.logits.data[:] = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
    [found] = GeometricMixture(first, second, 0.5).probabilities([ASK])
    assert found == pytest.approx([0.5, 0.5, 0.0, 0.0])


def greedy(models: tuple[LanguageModel, LanguageModel], shares: tuple[float, float], ask: Ask, count: int) -> list[int]:
    """Token after token without a cache: the likeliest under the sum of share x log-probs."""
    prompt, said = models[0].render(ask.messages), []
    while len(said) < count and (not said or said[-1] not in models[0].stop_ids):
        mixed: Tensor = torch.zeros(())
        for model, share in zip(models, shares, strict=True):
            mixed = mixed + share * model.next_token([(*prompt, *said)])[0]
        said.append(int(mixed.argmax()))
    return said


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_two_language_models_write_one_text(lora: bool, learner: LanguageModel) -> None:
    """With a cache each, rows that leave, and LoRA weights that are swapped: what a plain loop writes."""
    if lora:
        learner = made(lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"})
    learner.max_tokens = 10
    reference = learner.snapshot()
    for i, p in enumerate(learner.parameters()):
        p.data += (0.3 if lora else 0.05) * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    asks = [FREE, Ask("solver", user("is 5 even?")), FREE, Ask("solver", user("add 30 and 41"))]
    mixture = GeometricMixture(learner.with_temperature(0.0), reference, 0.5)
    texts = [
        learner.tokenizer.decode(greedy((learner, reference), (0.5, 0.5), a, 10), skip_special_tokens=True)
        for a in asks
    ]
    assert [reply.text for reply in mixture.act(asks)] == texts
    alone = [[r.text for r in player.with_temperature(0.0).act(asks)] for player in (learner, reference)]
    assert texts not in alone


def test_a_mixture_of_one_is_it(learner: LanguageModel) -> None:
    learner.max_tokens = 8
    other = learner.snapshot()
    perturb(other.model, 0.05)
    asks = keyed(FREE, 6)
    for coefficient, model in ((0.0, learner), (1.0, other)):
        found = GeometricMixture(learner, other, coefficient).act(asks)
        assert [r.text for r in found] == [r.text for r in model.act(asks)]


def test_options_and_free_text_in_one_call(learner: LanguageModel) -> None:
    learner.max_tokens = 4
    asks = [*keyed(FREE, 2), *keyed(Ask("solver", user("now"), ("yes", "no")), 2), *keyed(FREE, 1)]
    mixture = GeometricMixture(learner, learner.snapshot(), 0.5)
    replies = [r.text for r in mixture.act(asks)]
    assert set(replies[2:4]) <= {"yes", "no"} and replies[0] == replies[4] == mixture.act(asks[:1])[0].text
    written = copy.copy(learner)
    written.choose = "text"
    assert GeometricMixture(written, learner, 0.5).act(asks[2:3])[0].text == written.act(asks[2:3])[0].text


def test_what_is_no_mixture_is_refused() -> None:
    with pytest.raises(SelfplayError, match=r"coefficient is 1\.5; choose a number from 0 to 1"):
        GeometricMixture(*pair(), 1.5)
    with pytest.raises(SelfplayError, match="a mixture of Tabular and Tabular is asked for free text"):
        GeometricMixture(*pair(), 0.5).act([FREE])


def test_the_mixture_sits_where_an_opponent_does() -> None:
    cast_ = build(config("game=contest", "game.answers=2", "opponent=mixture", "player.max_tokens=6"))
    episodes = sampled(cast_.game, cast_.opponent, 1, 4, "k")
    seats = [{turn.ask.role: turn.player for turn in e.turns} for e in episodes]
    assert seats == 2 * [
        {"chance": "nature", "first": "learner", "second": "mixture"},
        {"chance": "nature", "first": "mixture", "second": "learner"},
    ]
