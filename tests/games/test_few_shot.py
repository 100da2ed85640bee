"""Replies that are learnt behind another prompt: equal to supervised learning there, and to the mixture of contexts."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cli
import pytest
import torch
from configs import config
from language_models import made, moved
from scripted import Script

from selfplay.building import make_later
from selfplay.core import Ask, Episode, Game, Play, Policy, Reply, Turn, user
from selfplay.games.few_shot import FewShot
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.players.nature import Nature
from selfplay.players.tabular import Tabular
from selfplay.replay import Logged, Replayed
from selfplay.rollout import collate, encode_replies, play, score_and_pay, turns_of
from selfplay.tasks.tiny_world import draw_text
from selfplay.updates.imitation import Imitation, off_policy, paid
from selfplay.updates.optimizers import adamw

QUESTION = user("what is 3+4?")


def played(policy: Policy, count: int = 6) -> list[Episode]:
    game = FewShot(shots=2, answers=2)
    players = {"chance": Nature(draw_text), "teacher": Script(lambda ask: Reply("7")), "solver": policy}
    seats = {"chance": "chance", "teacher": "teacher", "solver": "learner"}
    episodes = play(game, {**players, "learner": policy}, range(count), key="0", seats=lambda _: seats)
    score_and_pay(game, episodes, {}, {})
    return episodes


def grads(policy: Policy, update: Imitation, turns: list[tuple[Episode, Turn]]) -> list[torch.Tensor]:
    update.step(collate(encode_replies(turns, "learner", policy), "learner"))
    return [p.detach().clone() for p in policy.parameters()]


def test_the_prompt_shows_examples_and_the_update_sees_none() -> None:
    policy = made(max_tokens=16)
    episodes = played(policy)
    turns = turns_of(episodes, "learner")
    assert [len(turn.ask.messages) for _, turn in turns] == [5] * 12
    for (_, turn), (_, moved_turn) in zip(turns, encode_replies(turns, "learner", policy), strict=True):
        assert moved_turn.reply.prompt_ids == policy.render(user(turn.ask.prompt)) != turn.reply.prompt_ids
        assert moved_turn.reply.reply_ids == turn.reply.reply_ids
    batch = collate(encode_replies(turns, "learner", policy), "learner")
    assert not batch.on_policy.any() and not batch.logprobs.any()


def test_a_step_is_one_of_supervised_learning_on_the_bare_prompts() -> None:
    """Bit for bit, with the answers given by a teacher instead, after the weights have moved."""
    policy, other = made(max_tokens=32), made(max_tokens=32)
    for each in (policy, other):
        moved(each, 1)
    turns = [(e, t) for e, t in turns_of(played(policy), "learner") if t.reply.reply_ids[-1] in policy.stop_ids]
    assert len(turns) > 4
    bare = [
        (e, Turn(Ask("solver", t.ask.learnt_prompt), Reply(t.reply.text), payoff=1.0, player="t")) for e, t in turns
    ]
    make = partial(Imitation, optimizer=partial(adamw, lr=1e-3))
    ours = grads(policy, make(policy, policy.snapshot(), ["solver"], keep=paid), turns)
    plain = grads(other, make(other, other.snapshot(), ["solver"], keep=off_policy, teachers=["t"]), bare)
    assert all(torch.equal(one, two) for one, two in zip(ours, plain, strict=True))
    assert any(not torch.equal(one, two) for one, two in zip(ours, made(max_tokens=32).parameters(), strict=True))


def test_a_reply_that_was_cut_off_is_left_out() -> None:
    policy = made(max_tokens=2)
    turns = turns_of(played(policy, 20), "learner")
    encoded = encode_replies(turns, "learner", policy)
    ended = [turn.reply.reply_ids[-1] in policy.stop_ids for _, turn in turns]
    assert 0 < sum(ended) < len(ended)
    assert [episode.weight for episode, _ in encoded] == [float(end) for end in ended]
    assert collate(encoded, "learner").weights.tolist() == [float(end) for end in ended]


class Contexts(Game):
    """Chance shows one of two contexts, or none; the answers behind each are learnt behind none."""

    roles = ("chance", "solver")

    def play(self) -> Play:
        [context] = yield [Ask("chance", options=("x", "y"), weights=(0.3, 0.7))]
        yield [Ask("solver", user(context.text), options=("A", "B"), learnt_prompt=QUESTION)]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return [0.0, 1.0]


def outcomes() -> Iterator[tuple[str, str, float]]:
    for context, chance, right in (("x", 0.3, 0.9), ("y", 0.7, 0.2)):
        for answer, p in (("A", right), ("B", 1 - right)):
            yield context, answer, chance * p


def test_on_a_table_the_fixed_point_is_the_mixture_of_the_contexts() -> None:
    """0.3 x 0.9 + 0.7 x 0.2 = 0.41, to 1e-4; what is said behind the contexts is not learnt there."""
    policy = Tabular()
    policy.act([Ask("solver", user(c), options=("A", "B"), key=c) for c in ("x", "y")])
    before = policy.probabilities([Ask("solver", user("x"), options=("A", "B"))])
    update = Imitation(policy, policy.snapshot(), ["solver"], partial(torch.optim.SGD, lr=2.0), keep=paid)
    for _ in range(60):
        turns = []
        for i, (context, answer, weight) in enumerate(outcomes()):
            ask = Ask("solver", user(context), options=("A", "B"), learnt_prompt=QUESTION)
            [reply] = policy.reply_with([ask], [("A", "B").index(answer)])
            turns.append((Episode(i, [], weight=weight), Turn(ask, reply, payoff=1.0, player="learner")))
        update.step(collate(encode_replies(turns, "learner", policy), "learner"))
    [found] = policy.probabilities([Ask("solver", QUESTION, options=("A", "B"))])
    assert found == pytest.approx((0.41, 0.59), abs=1e-4)
    assert policy.probabilities([Ask("solver", user("x"), options=("A", "B"))]) == before


@pytest.mark.parametrize("order", ["shuffled", "surprisal"])
def test_after_many_rounds_of_soft_the_bare_distribution_is_that_behind_the_examples(order: str) -> None:
    """`experiment=soft` on a table, on all answers with their probabilities behind the contexts: to 1e-4 their mixture.

    A table's row behind a context does not move when the bare one does, so the teacher is constant.
    """
    cfg = config(
        "experiment=soft", "player=tabular", "~player.path", f"update.order._target_=selfplay.updates.orders.{order}",
        "update.hoard=2", "update.room=2", "update.fits=1",
    )  # fmt: skip
    policy, roles = Tabular(spread=2.0, seed=3), ("solver",)
    asks = [Ask("solver", user(c), options=("A", "B"), learnt_prompt=QUESTION) for c in ("x", "y")]
    before = policy.probabilities(asks)
    cfg["update"].parts.sft.optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 2.0}
    update = make_later(cfg["update"], "update")(policy=policy, reference=policy.snapshot(), roles=roles)
    for _ in range(120):
        turns = []
        for ask, shares, chance in zip(asks, policy.probabilities(asks), (0.3, 0.7), strict=True):
            for place, share in enumerate(shares):
                [reply] = policy.reply_with([ask], [place])
                turns.append(
                    (Episode(place, [], weight=chance * share), Turn(ask, reply, payoff=1.0, player="learner"))
                )
        update.step(collate(encode_replies(turns, "learner", policy), "learner"))
    assert policy.probabilities(asks) == before and abs(before[0][0] - before[1][0]) > 0.1
    [found] = policy.probabilities([Ask("solver", QUESTION, options=("A", "B"))])
    wanted = 0.3 * before[0][0] + 0.7 * before[1][0]
    assert found == pytest.approx((wanted, 1 - wanted), abs=1e-4)


SMALL = ("game=few_shot", "eval=none", "steps=1", "episodes=4", "game.answers=4", "player.max_tokens=16")


@pytest.mark.parametrize(
    ("update", "reason"),
    [("grpo", "PolicyGradient needs them to be sampled there"), ("spin", "Pairwise takes them for a teacher's")],
)
def test_what_cannot_learn_such_replies_refuses_them(update: str, reason: str, tmp_path: Path) -> None:
    ended = cli.run(*SMALL, f"update={update}", "reward=verifier", f"hydra.run.dir={tmp_path / 'no'}")
    assert ended.code == 1
    assert f"this game's replies are learnt behind another prompt, but {reason}" in ended.err


@pytest.mark.parametrize("update", ["weighted_sft", "rejection", "dpo", "kto"])
def test_what_can_learn_them(update: str, tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *SMALL, f"update={update}", "reward=surprisal", "player.temperature=2")
    assert cli.metrics(run)[-1]["grad_norm"] > 0


def test_where_all_are_cut_off_nothing_is_learnt(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *SMALL, "player.max_tokens=1")
    assert cli.metrics(run)[-1]["grad_norm"] == 0


def test_a_replayed_run_learns_behind_the_same_prompt(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *SMALL)
    game = FewShot(4, 4)
    seats = {"chance": "nature", "teacher": "logged", "solver": "logged"}
    [episode] = Replayed(str(run))(game, Matchmaker(seats, {"logged": Logged()}), 1, 1, "0/1")
    turns = [turn for turn in episode.turns if turn.ask.role == "solver"]
    assert len(turns) == 4 and all(turn.ask.learnt_prompt == user(turn.ask.prompt) for turn in turns)
