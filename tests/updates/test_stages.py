"""Rounds over a buffer: equal to the bare rule where there is one step and one update, exact on a table, resumable."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from bandit import ASK, PAYS, table
from batches import batch

from selfplay.core import Batch, Episode, SelfplayError, Turn
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate
from selfplay.updates.buffer import Buffer
from selfplay.updates.gradient_step import GradientUpdate
from selfplay.updates.imitation import Imitation
from selfplay.updates.kto import KTO
from selfplay.updates.pairs import bradley_terry
from selfplay.updates.pairwise import Pairwise
from selfplay.updates.policy_gradient import PolicyGradient
from selfplay.updates.stages import Stages

SGD = partial(torch.optim.SGD, lr=0.5)
RULES: dict[str, Callable[..., GradientUpdate]] = {
    "dpo": partial(Pairwise, optimizer=SGD),
    "kto": partial(KTO, optimizer=partial(torch.optim.Adam, lr=0.1)),
    "rejection": partial(Imitation, optimizer=SGD),
}
FEW = ("game=dataset", "reward=verifier", "task.per_cell=1", "eval=none", "episodes=3", "game.answers=4",
       "player.max_tokens=12")  # fmt: skip


def pulls(policy: Tabular, step: int, count: int = 8) -> Batch:
    """A step's batch: in each episode two pulls are compared."""
    turns = []
    for i in range(count):
        asks = [replace(ASK, key=f"{step}/{i}/{j}", group=0) for j in range(2)]
        found = [
            Turn(ask, reply, payoff=PAYS[ASK.options.index(reply.text)])
            for ask, reply in zip(asks, policy.act(asks), strict=True)
        ]
        turns += [(Episode(i, found), turn) for turn in found]
    return collate(turns)


def known() -> Tabular:
    """A table that has met the state, so that its row exists."""
    policy = table()
    policy.act([ASK])
    return policy


def staged(policy: Tabular, rule: str = "dpo", **options: Any) -> Stages:
    make = options.pop("parts", {rule: RULES[rule]})
    return Stages(policy, policy.snapshot(), None, make, **{"hoard": 1, "room": 1, "fits": 1, **options})


@pytest.mark.parametrize("rule", RULES)
def test_one_step_and_one_update_is_the_bare_rule(rule: str) -> None:
    one, other = table(), table()
    bare, stages = RULES[rule](one, one.snapshot(), None), staged(other, rule)
    for step in range(4):
        mine, theirs = pulls(one, step), pulls(other, step)
        learnt, also = bare.step(mine), stages.step(theirs)
        assert torch.equal(one.logits, other.logits)
        assert {**learnt.metrics, "buffer/turns": 16.0} == also.metrics
        assert torch.equal(learnt.advantages, also.advantages)  # type: ignore[arg-type]
    assert float((one.logits - table().logits).abs().max()) > 0.01


def test_the_policy_is_constant_within_a_round() -> None:
    policy = table()
    stages, was = staged(policy, hoard=3, room=3, fits=2), policy.logits.clone()
    for step in range(1, 7):
        learnt = stages.step(pulls(policy, step))
        moved = not torch.equal(policy.logits, was)
        assert moved == (step % 3 == 0)
        assert learnt.metrics["buffer/turns"] == 16.0 * ((step - 1) % 3 + 1)
        assert ("grad_norm" in learnt.metrics) == moved
        assert learnt.metrics["loss"] == (0.0 if step < 3 else stages.last["loss"])
        was = policy.logits.clone()


def test_every_update_learns_from_the_whole_buffer() -> None:
    """Two updates on the turns of two steps, by hand; with replay, the third step learns from steps 2 and 3."""
    one, other = known(), known()
    bare, stages = RULES["rejection"](one, one.snapshot(), None), staged(other, "rejection", hoard=2, room=2, fits=2)
    first, second = pulls(other, 1), pulls(other, 2)
    stages.step(first)
    stages.step(second)
    for _ in range(2):
        bare.step(Batch.joined([first, second]))
    assert torch.equal(one.logits, other.logits)
    replays = staged(other, "rejection", hoard=1, room=2)
    replays.step(first)
    one.restore(other)
    third = pulls(other, 3)
    bare.step(Batch.joined([first, third]))
    replays.step(third)
    assert torch.equal(one.logits, other.logits)


def test_parts_learn_in_their_order() -> None:
    one, other = known(), known()
    stages = staged(other, parts={"sft": RULES["rejection"], "preferences": RULES["dpo"]})
    turns, start = pulls(other, 1), one.snapshot()
    learnt = stages.step(turns)
    RULES["rejection"](one, start, None).step(turns)
    RULES["dpo"](one, start, None).step(turns)
    assert torch.equal(one.logits, other.logits)
    assert {"sft/loss", "preferences/loss", "preferences/pairs"} <= set(learnt.metrics)


def test_dpo_on_a_fixed_buffer_reaches_the_tilted_reference() -> None:
    """pi_ref exp(r / beta), normalised (2305.18290, equation 4), on a buffer that holds every arm once."""
    policy, beta = table(spread=1.0), 0.5
    turns = [
        Turn(ASK, reply, payoff=pay) for reply, pay in zip(policy.reply_with([ASK] * 4, range(4)), PAYS, strict=True)
    ]
    every = collate([(Episode(0, turns), turn) for turn in turns])
    rule = partial(
        Pairwise,
        optimizer=partial(torch.optim.SGD, lr=20.0, momentum=0.95),
        pairs=bradley_terry,
        beta=beta,
        max_grad_norm=1e9,
    )
    wanted = policy.logits[0] + torch.tensor(PAYS) / beta
    staged(policy, parts={"dpo": rule}, fits=400).step(every)
    torch.testing.assert_close(policy.logits[0].log_softmax(0), wanted.log_softmax(0), atol=1e-4, rtol=0)


def test_a_round_may_begin_from_the_reference() -> None:
    """With restart a round's result depends on its turns alone, not on the rounds before it."""
    found = []
    for rounds in ([1, 2], [2]):
        policy = known()
        stages = staged(policy, "kto", restart=True)
        for number in rounds:
            sampled = pulls(table(), number)
            stages.step(sampled)
        found.append(policy.logits.clone())
    assert torch.equal(*found)


def test_the_policy_of_the_round_s_start_may_be_the_reference() -> None:
    policy = table()
    stages, start = staged(policy, fits=3, rebase=True), policy.logits.clone()
    for step in (1, 2):
        stages.step(pulls(policy, step))
        [magnet] = stages.frozen.values()
        assert torch.equal(magnet.logits, start) and not torch.equal(policy.logits, start)  # type: ignore[attr-defined]
        start = policy.logits.clone()
    assert list(stages.frozen) == ["dpo-magnet"]


def test_groups_are_drawn_whole() -> None:
    policy = table()
    stages, seen = staged(policy, groups=3, room=2), []
    [part] = stages.parts.values()
    step = part.step
    part.step = lambda batch: (seen.append(batch), step(batch))[1]  # type: ignore[method-assign, func-returns-value]
    for number in (1, 2, 3):
        stages.step(pulls(policy, number))
    for drawn in seen:
        sizes = [int((drawn.groups == group).sum()) for group in set(drawn.groups.tolist())]
        assert sizes == [2, 2, 2]
    assert len({tuple(drawn.groups.tolist()) for drawn in seen}) > 1


def test_a_sampler_that_differs_is_seen_though_nothing_is_learnt() -> None:
    policy = table()
    stages = staged(policy, hoard=2, room=2)

    def compare(turns: Batch, logprobs: torch.Tensor) -> None:
        if float(((logprobs - turns.logprobs).abs() * turns.mask).max()) > 1e-3:
            raise SelfplayError("apart")

    stages.gradient_step.compare = compare  # type: ignore[union-attr]
    sampled = pulls(policy, 1)
    assert stages.step(sampled).metrics["logprob_mismatch"] < 1e-6
    assert stages.step(pulls(policy, 2)).metrics["logprob_mismatch"] < 1e-6
    with pytest.raises(SelfplayError, match="apart"):
        stages.step(sampled)  # turns of the policy before the round


def test_batches_are_joined_and_taken_apart() -> None:
    one, other = batch(), batch(("b", "b", "c"), (1.0, 2.0, 3.0)).rows(torch.tensor([0, 1]))
    both = Batch.joined([one, other])
    assert same(both.rows(torch.arange(3)), one)
    assert both.groups.tolist() == [0, 1, 1, 2, 3] and both.roles == ("a", "b", "b", "b", "b")
    apart = both.rows(torch.tensor([3, 4]))
    assert same(replace(apart, groups=apart.groups - 2), other)
    assert same(Batch.joined([one]), one)
    taught = replace(other, off_policy=(False, True))
    assert Batch.joined([one, taught]).off_policy == (False, False, False, False, True)


def same(one: Batch, other: Batch) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b) and a.dtype == b.dtype
        return len(a) == len(b) and all(map(equal, a, b)) if isinstance(a, tuple) else bool(a == b)

    return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch))


def test_a_buffer_on_disk(tmp_path: Path) -> None:
    buffer, again = Buffer(2), Buffer(2)
    policy = table()
    added = [replace(pulls(policy, step), off_policy=(True, False) * 8) for step in range(3)]
    for turns in added:
        buffer.add(turns)
        buffer.store(tmp_path)
    again.load_state_dict(**buffer.state_dict())  # type: ignore[arg-type]
    again.fetch(tmp_path)
    assert same(again.joined(), Batch.joined(added[1:])) and len(again) == 32
    again.add(added[0])
    assert again.numbers == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"batch-00000{i}.safetensors" for i in (1, 2, 3)]
    (tmp_path / "batch-000002.safetensors").write_bytes(b"no")
    third = Buffer(2)
    third.load_state_dict([2], 2)
    with pytest.raises(SelfplayError, match=r"batch-000002\.safetensors with turns of the buffer cannot be read"):
        third.fetch(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parts": {}}, "update.parts is empty, so nothing would be learnt"),
        (
            {"parts": {"pg": PolicyGradient}},
            "update.parts.pg is PolicyGradient, which learns only from turns of the cu",
        ),
        ({"hoard": 3, "room": 2}, "update.room is 2, but a round collects the turns of update.hoard=3 steps"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SelfplayError, match=sentence):
        staged(table(), **options)


@pytest.mark.parametrize(
    "options",
    [
        ("update.hoard=2", "update.room=3", "update.groups=4", "update.fits=2"),
        ("update@update.parts.preferences=kto", "update.hoard=2", "update.room=2", "update.rebase=true"),
    ],
    ids=["replay", "rounds"],
)
def test_a_run_that_is_stopped_within_a_round_goes_on_as_if_it_never_had(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    whole = cli.finished(tmp_path / "whole", *FEW, "update=stages", *options, "steps=4")
    half = cli.finished(tmp_path / "half", *FEW, "update=stages", *options, "steps=3")
    ended = cli.run(f"resume={half}", "steps=4")
    assert ended.code == 0, ended.err
    assert cli.metrics(half) == cli.metrics(whole)
    for name in ("model.safetensors", "state.pt"):
        last = f"checkpoints/step-000004/{name}"
        assert (half / last).read_bytes() == (whole / last).read_bytes()
