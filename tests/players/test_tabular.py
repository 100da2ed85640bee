"""The table as a policy: draws, masks, rows, copies, files, and what it refuses."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from selfplay.core import Ask, Batch, Episode, SelfplayError, Turn, user
from selfplay.players.tabular import STATES, WEIGHTS, Tabular, uniform
from selfplay.rollout import collate

TWO, THREE, ONE = (Ask("a", user(text), options=options) for text, options in (("x", "pq"), ("y", "pqr"), ("z", "s")))


def made(**changes: float) -> Tabular:
    return Tabular(**{"states": 4, "actions": 3, "spread": 1.0, "temperature": 1.0, "seed": 0, **changes})  # type: ignore[arg-type]


def many(ask: Ask, count: int) -> list[Ask]:
    return [Ask(ask.role, ask.messages, ask.options, key=f"k/{i}") for i in range(count)]


def batch_of(policy: Tabular, asks: Sequence[Ask]) -> Batch:
    return collate([(Episode(0, []), Turn(a, r, {}, 0.0)) for a, r in zip(asks, policy.act(asks), strict=True)])


def set_rows(policy: Tabular, *rows: Sequence[float]) -> None:
    for i, row in enumerate(rows):
        policy.logits.data[i, : len(row)] = torch.tensor(row)


# --- acting -----------------------------------------------------------------------------------------------------------


def test_probabilities_by_hand() -> None:
    """Logits 0, log 3 and log 4 at temperature 1; at 1/2 they count twice, and the odds are squared."""
    policy = made()
    policy.probabilities([THREE, TWO])
    set_rows(policy, [0.0, math.log(3), math.log(4)], [math.log(4), 0.0, 99.0])
    assert policy.probabilities([THREE]) == [pytest.approx((1 / 8, 3 / 8, 4 / 8))]
    assert policy.probabilities([TWO, THREE])[0] == pytest.approx((4 / 5, 1 / 5))
    assert policy.with_temperature(0.5).probabilities([THREE])[0] == pytest.approx((1 / 26, 9 / 26, 16 / 26))  # type: ignore[attr-defined]


def test_what_is_beyond_the_options_is_never_taken() -> None:
    """However great the logits there, and with no gradient for them."""
    policy = made()
    policy.probabilities([TWO, ONE])
    set_rows(policy, [0.0, 0.0, 50.0], [0.0, 50.0, 50.0])
    assert {r.text for r in policy.act(many(TWO, 50))} == {"p", "q"}
    assert [(r.text, r.reply_ids, r.logprobs) for r in policy.act(many(ONE, 2))] == [("s", (0,), (0.0,))] * 2
    policy.logprobs(batch_of(policy, [*many(TWO, 9), *many(ONE, 9)])).sum().backward()
    assert policy.logits.grad is not None
    assert policy.logits.grad[:, 2].tolist() == [0, 0, 0, 0] and policy.logits.grad[1].tolist() == [0, 0, 0]
    assert policy.logits.grad[0, 0] != 0


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    policy = made(temperature=temperature)
    [p] = policy.probabilities([THREE])
    counts = Counter(r.text for r in policy.act(many(THREE, 20_000)))
    seen = [counts[c] for c in "pqr"]
    assert stats.chisquare(seen, [20_000 * x / sum(p) for x in p]).pvalue > 0.001
    assert stats.chisquare(seen).pvalue < 1e-9  # draws that are all alike would not pass


def test_the_key_is_the_dice() -> None:
    policy = made(spread=0.0, actions=2)
    replies = policy.act(many(TWO, 200))
    assert [r.text for r in replies] == ["p" if uniform(f"k/{i}") < 0.5 else "q" for i in range(200)]
    assert [policy.act([ask])[0] for ask in many(TWO, 20)] == replies[:20]
    points = [uniform(f"k/{i}") for i in range(2000)]
    assert stats.kstest(points, "uniform").pvalue > 0.001 and min(points) >= 0 and max(points) < 1


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampler_learner_and_probabilities_agree(temperature: float) -> None:
    policy = made(temperature=temperature)
    asks = [*many(TWO, 4), *many(THREE, 4), *many(ONE, 1)]
    batch = batch_of(policy, asks)
    learnt = policy.logprobs(batch)
    assert learnt.shape == (9, 1) and learnt.requires_grad
    assert torch.equal(learnt.detach(), batch.logprobs)
    said = [p[a] for p, a in zip(policy.probabilities(asks), batch.replies[:, 0].tolist(), strict=True)]
    assert learnt.detach().exp()[:, 0].tolist() == pytest.approx(said, rel=1e-6)
    assert all(sum(p) == pytest.approx(1.0) for p in policy.probabilities(asks))


def test_the_gradient_is_the_softmaxs() -> None:
    """d log p(a) / d logits = (1[a] - p) / temperature."""
    policy = made(temperature=2.0)
    batch = batch_of(policy, many(THREE, 1))
    [p] = policy.probabilities([THREE])
    policy.logprobs(batch).sum().backward()
    assert policy.logits.grad is not None
    taken = torch.eye(3)[int(batch.replies[0, 0])]
    torch.testing.assert_close(policy.logits.grad[0], (taken - torch.tensor(p)) / 2)


def test_greedy_takes_the_likeliest() -> None:
    policy = made()
    policy.probabilities([THREE, TWO])
    set_rows(policy, [0.0, 2.0, 1.0], [1.0, 0.0])
    assert [r.text for r in policy.with_temperature(0.0).act([*many(THREE, 9), *many(TWO, 9)])] == ["q"] * 9 + ["p"] * 9
    assert policy.with_temperature(0.0).probabilities([THREE, TWO]) == [(0.0, 1.0, 0.0), (1.0, 0.0)]


def test_a_state_is_the_role_and_all_that_it_sees() -> None:
    policy = made()
    seen = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "x"})
    asks = [TWO, Ask("b", TWO.messages, TWO.options), Ask("a", seen, TWO.options), Ask("a", user("x"), ("u", "v"))]
    rows = [r.prompt_ids for r in policy.act(asks)]
    assert rows == [(0,), (1,), (2,), (0,)]
    assert list(policy.index) == [("a", "x"), ("b", "x"), ("a", "x", "x")]


def test_the_start_comes_from_the_seed() -> None:
    assert torch.equal(made(seed=3).logits, made(seed=3).logits)
    assert not torch.equal(made(seed=3).logits, made(seed=4).logits)
    assert torch.equal(made(seed=3, spread=2.0).logits, 2 * made(seed=3).logits)
    assert made(spread=0.0).probabilities([TWO, THREE, ONE]) == [
        pytest.approx(p) for p in ((0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (1.0,))
    ]
    drawn = made(states=1000, actions=30).logits.detach().flatten()
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02) and abs(float(drawn.mean())) < 0.02


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_stays_and_shares_the_rows() -> None:
    """A state that the learner meets after the snapshot has the same number for both."""
    policy = made()
    policy.act(many(TWO, 1))
    start = policy.logits.detach().clone()
    snapshot = policy.snapshot()
    policy.logits.data += 1.0 * torch.arange(3)
    policy.act(many(THREE, 1))
    assert [r.prompt_ids for r in snapshot.act([ONE, THREE, TWO])] == [(2,), (1,), (0,)]
    assert [r.prompt_ids for r in policy.act([ONE, THREE, TWO])] == [(2,), (1,), (0,)]
    assert torch.equal(snapshot.logits, start) and not snapshot.logits.requires_grad
    assert snapshot.probabilities([TWO]) != policy.probabilities([TWO])
    assert (list(snapshot.parameters()), list(policy.parameters())) == ([], [policy.logits])
    assert list(policy.with_temperature(0.5).parameters()) == [policy.logits]
    assert torch.equal(snapshot.snapshot().logits, start)


def test_another_temperature_is_the_same_live_table() -> None:
    policy = made()
    hot = policy.with_temperature(2.0)
    before = hot.probabilities([THREE])
    policy.logits.data *= 2
    assert hot.probabilities([THREE]) != before
    assert hot.probabilities([THREE])[0] == pytest.approx(made().probabilities([THREE])[0], rel=1e-6)
    assert (hot.temperature, policy.temperature) == (2.0, 1.0)


def test_restore_takes_the_weights_in_place() -> None:
    policy = made()
    snapshot, parameter = policy.snapshot(), policy.logits
    start = parameter.detach().clone()
    parameter.data += 1.0
    policy.restore(snapshot)
    assert policy.logits is parameter and parameter.requires_grad
    assert torch.equal(parameter, start)
    parameter.data += 1.0
    assert torch.equal(snapshot.logits, start)


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    policy = made()
    policy.probabilities([THREE, TWO])
    policy.logits.data[:2] += torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    policy.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATES, WEIGHTS]
    other = made()
    other.load(tmp_path)
    assert other.index == policy.index and other.options == policy.options == [3, 2]
    assert torch.equal(other.logits, policy.logits)  # the rows that are not in use are those of the seed
    again = tmp_path / "again"
    again.mkdir()
    other.save(again)
    for name in (STATES, WEIGHTS):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_loading_looks_for_states_not_for_rows(tmp_path: Path) -> None:
    """The other table met the states in another order, and one that the saved table never met: its row begins anew."""
    policy = made()
    policy.probabilities([THREE, TWO])
    set_rows(policy, [1.0, 2.0, 3.0], [4.0, 5.0])
    policy.save(tmp_path)
    other = made()
    other.probabilities([ONE, TWO])
    other.logits.data += 7.0
    parameter = other.logits
    other.load(tmp_path)
    assert other.logits is parameter
    assert list(other.index.values()) == [0, 1, 2] and other.options == [1, 2, 3]
    assert torch.equal(other.logits[0], made().logits[0])
    assert other.logits[1, :2].tolist() == [4, 5] and other.logits[2].tolist() == [1, 2, 3]
    assert other.probabilities([THREE, TWO]) == policy.probabilities([THREE, TWO])


def test_a_snapshots_table_is_saved_as_it_is(tmp_path: Path) -> None:
    policy = made()
    policy.probabilities([TWO])
    snapshot = policy.snapshot()
    expected = policy.probabilities([TWO])
    policy.logits.data += torch.arange(3.0)
    snapshot.save(tmp_path)
    policy.load(tmp_path)
    assert policy.probabilities([TWO]) == expected and policy.logits.requires_grad


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ([Ask("solver", user("x"))], "cannot generate free text, but the game asks 'solver' for it; use player=tiny"),
        ([Ask("a", options=tuple("pqrs"))], r"a state of 'a' has 4 options; raise player.actions \(now 3\)"),
        ([Ask("a", user(str(i)), ("p",)) for i in range(5)], "more than 4 information states; raise player.states"),
        (
            [TWO, Ask("a", user("x"), ("p", "q", "r"))],
            r"the state \('a', 'x'\) had 2 options and now has 3; the messages of a game must",
        ),
    ],
    ids=["text", "options", "room", "changed"],
)
def test_what_a_table_cannot_play(asks: list[Ask], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        made().act(asks)
    with pytest.raises(SelfplayError, match=told):
        made().probabilities(asks)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": 0.0}, "player.temperature is 0.0; a learner must explore"),
        ({"temperature": -1.0}, "player.temperature is -1.0"),
        ({"states": 0}, "states is 0, but it must be a whole number, at least 1"),
        ({"actions": 0}, "actions is 0, but it must be a whole number, at least 1"),
    ],
)
def test_what_is_no_table(changes: dict[str, float], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        made(**changes)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def no_states(folder: Path) -> None:
    (folder / STATES).unlink()


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-3])


def cut_states(folder: Path) -> None:
    (folder / STATES).write_text((folder / STATES).read_text()[:-5])


def foreign(folder: Path) -> None:
    save_file({"weights": torch.zeros(2, 3)}, folder / WEIGHTS)


def fewer(folder: Path) -> None:
    (folder / STATES).write_text(json.dumps(json.loads((folder / STATES).read_text())[:1]))


def wider(folder: Path) -> None:
    save_file({"logits": torch.zeros(2, 5)}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        *((harm, "is not a table or is broken") for harm in (no_weights, no_states, cut, cut_states, foreign)),
        (fewer, r"holds 1 states in a table of shape \(2, 3\)"),
        (wider, r"holds 2 states in a table of shape \(2, 5\), the player has rows of 3; resume with the player"),
    ],
)
def test_a_broken_checkpoint_leaves_the_table(harm: object, told: str, tmp_path: Path) -> None:
    policy = made()
    policy.probabilities([TWO, THREE])
    policy.save(tmp_path)
    harm(tmp_path)  # type: ignore[operator]
    before = policy.logits.detach().clone()
    with pytest.raises(SelfplayError, match=f"the checkpoint {tmp_path} {told}"):
        policy.load(tmp_path)
    assert torch.equal(policy.logits, before)


def test_a_checkpoint_needs_room(tmp_path: Path) -> None:
    policy = made()
    policy.probabilities([TWO, THREE, ONE])
    policy.save(tmp_path)
    with pytest.raises(SelfplayError, match=r"more than 2 information states; raise player\.states"):
        made(states=2).load(tmp_path)
