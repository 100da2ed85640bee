"""Strategies by hand, and what they read of a model against a plain forward pass."""

from collections.abc import Mapping
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from language_models import made, perturb
from torch import Tensor

from selfplay.core import Ask, Episode, Player, Reply, SelfplayError, Turn, user
from selfplay.players.language_model import LanguageModel
from selfplay.players.scripted import Scripted
from selfplay.selection import strategies
from selfplay.selection.pool import Pool
from selfplay.tasks import noise
from selfplay.tasks.tiny_world import TinyWorld, draw_text

LOSSES = torch.tensor([0.5, 3.0, 1.0, 2.0, 0.1, 4.0, 2.5, 1.5, 0.2, 3.5])


class Known(SimpleNamespace):
    """A stand-in for `PoolView`."""

    def __len__(self) -> int:
        return len(self.tried)


def view(step: int = 1, losses: Tensor = LOSSES, **known: Any) -> Any:
    none = torch.zeros(len(losses))
    return Known(**{"step": step, "surprisal": lambda who: losses, "tried": none, "solved": none, **known})


def kept(weights: Tensor) -> list[int]:
    assert set(weights.tolist()) <= {0.0, 1.0}
    return weights.nonzero()[:, 0].tolist()


def test_lowest_and_highest() -> None:
    assert kept(strategies.lowest(view(), share=0.3)) == [0, 4, 8]
    assert kept(strategies.highest(view(), share=0.3)) == [1, 5, 9]
    assert kept(strategies.lowest(view(), share=0.001)) == [4], "at least one"
    assert kept(strategies.lowest(view(losses=torch.ones(4)), share=0.5)) == [0, 1], "the first on ties"
    assert kept(strategies.uniform(view())) == list(range(10))


def test_phases_of_learn_focus_review() -> None:
    """Ten questions, phases of three steps: all, the hardest 5, all, the hardest 3, and again."""
    hard, hardest = [1, 3, 5, 6, 9], [1, 5, 9]
    phases = [list(range(10)), hard, list(range(10)), hardest] * 2
    for step in range(1, 25):
        assert kept(strategies.focus(view(step), length=3)) == phases[(step - 1) // 3], step


@pytest.mark.parametrize("discard", [(), (0.0, 1.0), (-0.1,), (float("nan"),)])
def test_phases_that_make_no_sense(discard: tuple[float, ...]) -> None:
    with pytest.raises(SelfplayError, match="give one share per phase, each from 0 to below 1"):
        strategies.focus(view(), discard=discard)


def test_the_picker_of_problems() -> None:
    """Questions 0 and 3 were never solved, 2 and 3 never tried: 1/2 for each pair, a question of both counts twice."""
    known = {"tried": torch.tensor([4.0, 4.0, 0.0, 0.0]), "solved": torch.tensor([1.0, 4.0, 0.0, 0.0])}
    known["solved"][0] = 0.0
    weights = strategies.least_solved(view(losses=torch.ones(4), **known), mix=0.5)
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 0.0, 1 / 6 + 1 / 4, 1 / 6 + 1 / 4]))


def test_a_subset_that_represents_the_pool() -> None:
    """Two clusters, one of 30 copies and one of 10: a subset of two has one of each, whatever the step."""
    states = torch.eye(2)[[0] * 30 + [1] * 10]
    pool = view(losses=torch.ones(40), embed=lambda who: states)
    for step in range(1, 6):
        pool.step = step
        chosen = kept(strategies.facility(pool, share=0.05, temperature=0.001))
        assert len(chosen) == 2 and chosen[0] < 30 <= chosen[1]
    halves = [kept(strategies.facility(pool, share=0.5, temperature=1e9, parts=4, seed=s)) for s in range(3)]
    assert all(len(half) == 20 for half in halves) and halves[0] != halves[1] != halves[2]
    with pytest.raises(SelfplayError, match="the pool has 40 questions, but parts is 41"):
        strategies.facility(pool, parts=41)


def pool_of(count: int = 12) -> Pool:
    return Pool(lambda rng: f"what is {rng.randrange(count)}", count, 0, 7)


def answers() -> Player:
    return Scripted(lambda question: question.split()[-1] * (1 + len(question) % 3))


def moved(**changes: Any) -> LanguageModel:
    model = made(**changes)
    perturb(model.model, 0.1)
    return model


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7}], ids=["plain", "tempered"])
def test_surprisal_and_embeddings_are_those_of_a_plain_forward_pass(changes: Mapping[str, Any]) -> None:
    pool, learner, reference = pool_of(), moved(**changes), made()
    players = {"learner": learner, "reference": reference, "teacher": answers()}
    for who in ("learner", "reference"):
        model: Any = players[who]
        found, embedded = pool.view(1, players, "teacher").surprisal(who), pool.view(1, players, "teacher").embed(who)
        for i, question in enumerate(pool.questions):
            prompt = model.render(user(question))
            [said] = answers().act([Ask("x", user(question))])
            ids = torch.tensor([prompt + model.encode_reply(Ask("x", user(question)), said.text).reply_ids])
            with torch.no_grad():
                whole = model.model(ids, output_hidden_states=True)
                prefix = model.model.model(ids[:, : len(prompt)]).last_hidden_state[0]
            logp = (whole.logits[0] / model.temperature).log_softmax(-1)[len(prompt) - 1 : -1]
            expected = -logp.gather(1, ids[0, len(prompt) :, None]).mean()
            assert float(found[i]) == pytest.approx(float(expected), abs=1e-5)
            mean = prefix.mean(0)
            torch.testing.assert_close(embedded[i], mean / mean.norm(), atol=1e-5, rtol=0)
    assert pool.view(1, players, "teacher").surprisal("learner").std() > 0.01


def test_what_a_strategy_cannot_read() -> None:
    pool, players = pool_of(), {"learner": made(), "nature": answers()}
    with pytest.raises(SelfplayError, match="needs demonstrations, but there is no player 'teacher'"):
        pool.view(1, players, "teacher").surprisal("learner")
    with pytest.raises(SelfplayError, match=r"reads the player 'nature', which is not a policy \(there are: learner\)"):
        pool.view(1, players, "teacher").surprisal("nature")
    with pytest.raises(SelfplayError, match="reads the player 'who', which is not a language model"):
        pool.view(1, players, "teacher").embed("who")


def test_answers_are_counted_by_question() -> None:
    pool = pool_of(3)
    one, other = pool.questions[2], pool.questions[0]

    def turn(role: str, text: str, **scores: float) -> Turn:
        return Turn(Ask(role), Reply(text), dict(scores))

    first = Episode(0, [turn("chance", one), turn("solver", "a", truth=1.0), turn("solver", "b", truth=0.0)])
    second = Episode(1, [turn("chance", other), turn("teacher", "t"), turn("solver", "a", truth=0.5)], weight=2.0)
    unknown = Episode(2, [turn("chance", "never heard"), turn("solver", "a", truth=1.0)])
    pool.count([first, second, unknown], "truth")
    assert pool.tried.tolist() == [2.0, 0.0, 2.0] and pool.solved.tolist() == [1.0, 0.0, 1.0]


def test_a_pool_larger_than_its_source() -> None:
    with pytest.raises(SelfplayError, match=r"gave only 12 different ones; set players\.nature\.size=12"):
        Pool(lambda rng: str(rng.randrange(12)), 13, 0, 5)


def test_a_pool_is_the_same_for_the_same_seed() -> None:
    draw = partial(lambda rng: str(rng.randrange(10**6)))
    same = [Pool(draw, 50, seed, 5).questions for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]
    assert all(isinstance(draw(Random(i)), str) for i in range(2))


def test_the_filter_finds_swapped_answers_and_prefers_the_model_s_own_mistakes() -> None:
    """Of a fifth of 150 demonstrations, nearly all are right where answers were swapped (40 % of all are), and fewer
    than in the pool where they are habitual mistakes (50 %)."""
    task, model = TinyWorld(1), made(max_tokens=32)
    pool = Pool(draw_text, 150, 0, 64)
    for answer, share in ((noise.swapped, 0.6), (noise.habitual, 0.5)):
        teacher = Scripted(partial(answer, task=task, share=share))
        chosen = kept(strategies.lowest(pool.view(1, {"reference": model, "teacher": teacher}, "teacher"), share=0.2))
        clean = [not noise.noisy(question, share) for question in pool.questions]
        purity = sum(clean[i] for i in chosen) / len(chosen)
        assert len(chosen) == 30 and abs(sum(clean) / 150 - (1 - share)) < 0.12
        assert purity > 0.9 if answer is noise.swapped else purity < sum(clean) / 150 - 0.05
