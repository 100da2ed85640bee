"""Sampler and learner are one distribution, or the run stops: what rounding explains is measured, nats are not."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from language_models import batch_for, batch_of, logprobs, made, moved, reader

from selfplay.checks import LIMIT, FirstUpdate, Mismatch
from selfplay.core import Ask, Batch, Reply, SelfplayError, user
from selfplay.engines import rounding
from selfplay.engines.llama import trial
from selfplay.engines.rounding import FACTOR, finer
from selfplay.engines.truncation import Truncation
from selfplay.players.language_model import LanguageModel
from selfplay.players.tabular import Tabular

KUHN = ("game=kuhn", "player=tabular", "eval=none", "episodes=8", "optimized_metric=loss")


def shifted(replies: list[Reply], by: float) -> list[Reply]:
    return [replace(r, logprobs=(*r.logprobs[:-1], r.logprobs[-1] - by)) for r in replies]


class Off(LanguageModel):
    """Its sampler is wrong by so many nats at one token a reply."""

    def __init__(self, by: float, **options: Any) -> None:
        super().__init__(**options)
        self.by = by

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return shifted(super().act(asks), self.by)


class OffTable(Tabular):
    def __init__(self, by: float, **options: Any) -> None:
        super().__init__(**options)
        self.by = by

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return shifted(super().act(asks), self.by)


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=0.002"),
        (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=0.002", "update=ppo", "update.epochs=2"),
        (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=0.002", "update=kto"),
        (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=0.002", "update=dpo"),
        (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=3", "player.compute_dtype=bfloat16"),
        (*KUHN, "steps=2", "player._target_=test_logprob_mismatch.OffTable", "+player.by=0.002"),
    ],
    ids=["lsp", "ppo", "kto", "dpo", "bfloat16", "table"],
)
def test_a_wrong_sampler_stops_the_run(args: Sequence[str], tmp_path: Path) -> None:
    """In one sentence with the value, the limit and the remedy, before anything is learnt."""
    args = (*args, "reward=selfjudge", "quality=none") if "game=kuhn" not in args else args
    ended = cli.run(f"hydra.run.dir={tmp_path}", *args)
    assert ended.code == 1 and re.fullmatch(r"error: [^\n]+[^.\n]\n", ended.err), ended.err
    value = "3" if "+player.by=3" in args else "0.002"
    assert re.search(rf"disagree by {value}\S* nats on a token \(logprob_mismatch\)", ended.err) or (
        value == "3" and re.search(r"disagree by (2\.9|3)\S* nats", ended.err)
    ), ended.err
    limit = re.search(r"rounding explains at most ([\d.e-]+), so", ended.err)
    assert limit and (float(limit[1]) == LIMIT if value == "0.002" else 0.01 < float(limit[1]) < 2)
    assert "try player.attention=eager" in ended.err and "choose another" in ended.err
    assert cli.summary(tmp_path)["status"] == "failed" and cli.summary(tmp_path)["steps"] == 0
    assert not (tmp_path / "checkpoints").exists() or not cli.steps(tmp_path)


def test_a_forgotten_adapter_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that see nothing, and a decoder that reads past an adapter: right at first, wrong once it has moved."""
    monkeypatch.setattr("selfplay.engines.embedded.can_decode", lambda model: True)
    monkeypatch.setattr("selfplay.engines.ways.can_decode", lambda model: True)
    lora = ("player=tiny_lora", "player.lora.target_modules=[embed_tokens]", "update.optimizer.lr=1e-2")
    args = (*cli.SMALL, *lora, "reward=selfjudge", "quality=none", "episodes=4", "steps=8")
    ended = cli.run(f"hydra.run.dir={tmp_path}", *args)
    assert ended.code == 1 and "on a token (logprob_mismatch)" in ended.err
    assert 1 <= cli.summary(tmp_path)["steps"] < 8


def test_half_a_thousandth_is_let_pass_and_paths_are_told(tmp_path: Path) -> None:
    args = (*cli.SMALL, "player._target_=test_logprob_mismatch.Off", "+player.by=0.0005", "steps=1")
    ended = cli.run(*args, f"hydra.run.dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert 4e-4 < cli.metrics(tmp_path)[-1]["logprob_mismatch"] < 6e-4
    ways = {
        "sampling": "own layers",
        "log-probabilities": "own layers",
        "prompts": "computed once for all replies",
        "matrix products": "float32 on cpu",
    }
    assert cli.summary(tmp_path)["ways"] == ways
    assert ended.out.count("learner implementation: sampling: own layers; log-probabilities: own layers; ") == 1


def test_products_in_bfloat16_are_no_mistake(tmp_path: Path) -> None:
    args = (*cli.SMALL, "player.compute_dtype=bfloat16", "reward=selfjudge", "quality=none", "episodes=4")
    folder = cli.finished(tmp_path, *args)
    assert all(line["logprob_mismatch"] > LIMIT for line in cli.metrics(folder))


# --- what is compared -------------------------------------------------------------------------------------------------


def off(batch: Batch, by: float) -> Batch:
    logp = batch.logprobs.clone()
    logp[0, 0] += by
    return replace(batch, logprobs=logp)


def test_what_others_said_has_no_part_in_it(tiny: LanguageModel) -> None:
    batch = batch_of(tiny)
    wrong = off(batch, 5.0)
    with pytest.raises(SelfplayError, match=r"disagree by 5 nats on a token .* explains at most 0\.001,"):
        Mismatch(tiny)(wrong, logprobs(tiny, batch))
    Mismatch(tiny)(replace(wrong, off_policy=(True, *[False] * (len(batch) - 1))), logprobs(tiny, batch))


def test_the_sign_does_not_matter(tiny: LanguageModel) -> None:
    batch = batch_of(tiny)
    for by in (-0.01, 0.01):
        with pytest.raises(SelfplayError, match="logprob_mismatch"):
            Mismatch(tiny)(off(batch, by), logprobs(tiny, batch))


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_dtype": "bfloat16"},
        {"compute_dtype": "bfloat16", "top_k": 4, "top_p": 0.9, "min_p": 0.02},
        {"dtype": "bfloat16", "lora": {"r": 4, "target_modules": "all-linear"}},
        {"temperature": 1e-3},
    ],
    ids=str,
)
def test_what_rounding_explains_is_let_pass(changes: dict[str, Any]) -> None:
    """And nats are not. What was explained is remembered; nothing is measured again below it."""
    policy = made(max_tokens=16, **changes)
    moved(policy, 3) if policy.adapter else None
    asks = [Ask("solver", user(f"add {i} and 4"), key=str(i)) for i in range(8)]
    batch = batch_for(policy, asks)
    check = Mismatch(policy)
    check(batch, logprobs(policy, batch))
    if "temperature" not in changes:
        assert LIMIT < check.limit < 1.5
        policy.rounding = None  # type: ignore[method-assign, assignment]
        check(batch, logprobs(policy, batch))
        del policy.rounding
        for alone in range(3):  # one turn is measured by all that might have been said there
            one = batch.rows(torch.tensor([alone]))
            Mismatch(policy)(one, logprobs(policy, one))
    with pytest.raises(SelfplayError, match="logprob_mismatch"):
        check(off(batch, 10.0), logprobs(policy, batch))


@pytest.mark.parametrize("changes", [{}, {"compute_dtype": "bfloat16"}], ids=str)
def test_among_options(changes: dict[str, Any]) -> None:
    policy = made(**changes)
    asks = [Ask("solver", user(f"add {i} and 4"), ("yes", "no", "perhaps"), key=str(i)) for i in range(4)]
    batch = batch_for(policy, asks)
    Mismatch(policy)(batch, logprobs(policy, batch))
    found = policy.rounding(batch)
    assert found.shape == batch.replies.shape and bool((found[:, 0] > 0).all())
    with pytest.raises(SelfplayError, match="logprob_mismatch"):
        Mismatch(policy)(off(batch, 4.0), logprobs(policy, batch))


def test_a_table_at_a_low_temperature() -> None:
    policy = Tabular(8, 3, 5.0, 1e-5, 0)
    batch = batch_for(policy, [Ask("solver", user(str(i)), ("a", "b", "c"), key=str(i)) for i in range(5)])  # type: ignore[arg-type]
    assert float(policy.rounding(batch).max()) > LIMIT
    assert float(Tabular.rounding(policy.with_temperature(1.0), batch).max()) < LIMIT  # type: ignore[arg-type]


# --- the measure ------------------------------------------------------------------------------------------------------


def test_rounding_is_measured_against_a_finer_precision() -> None:
    """By hand: the largest difference that bfloat16 makes to any log-probability, anywhere in the vocabulary."""
    policy = made(compute_dtype="bfloat16")
    batch = batch_of(policy).rows(torch.tensor([0]))
    text = torch.cat([batch.prompts[0], batch.replies[0][batch.mask[0]]])[None]
    places = slice(len(batch.prompts[0]) - 1, -1)
    with torch.no_grad():
        right = torch.log_softmax(policy.model(input_ids=text).logits[0, places], -1)
        with torch.autocast("cpu", torch.bfloat16):
            rough = torch.log_softmax(policy.model(input_ids=text).logits[0, places].float(), -1)
    most = float((right - rough).abs().max())
    assert most > 1e-3
    torch.testing.assert_close(policy.rounding(batch)[batch.mask], torch.full((batch.mask.sum(),), FACTOR * most))


@pytest.mark.parametrize("fails", [False, True])
def test_a_finer_precision_leaves_the_weights_as_they_were(fails: bool) -> None:
    policy = made(dtype="bfloat16", lora={"r": 4, "target_modules": "all-linear"})
    body = policy.model.get_decoder()
    before = [(p, p.data_ptr(), p.dtype, p.detach().clone()) for p in policy.model.parameters()]
    seen: list[torch.dtype] = []

    def look(module: Any, given: Any, out: torch.Tensor) -> None:
        seen.append(module.weight.dtype)
        if fails:
            raise ValueError

    handle = body.layers[1].mlp.up_proj.base_layer.register_forward_hook(look)
    try:
        with torch.no_grad(), finer(body, torch.float32):
            out = body(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).last_hidden_state
            assert out.dtype == torch.float32
    except ValueError:
        assert fails
    handle.remove()
    assert seen == [torch.float32]
    assert all(p.data_ptr() == at and p.dtype == kind and torch.equal(p, was) for p, at, kind, was in before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in body.modules())


def test_a_token_at_the_border_may_be_in_or_out() -> None:
    """By hand, with logits of .5, .3, .3 - 1e-6, and far below."""
    p = torch.tensor([[0.4, 0.3, 0.3 - 1e-6, 1e-6]])
    logits, said = p.log(), torch.tensor([0])

    def doubt(slack: float, said: torch.Tensor = said, **how: float) -> float:
        truncation = Truncation(**{"top_k": 0, "top_p": 1.0, "min_p": 0.0, **how})  # type: ignore[arg-type]
        return float(truncation.doubt(logits, said, slack))

    one, two, three = (torch.tensor(x).log() for x in (0.4, 0.7, 1.0))
    assert doubt(1e-4, top_k=2) == pytest.approx(float(three - one), abs=1e-4), "both are as likely as the second"
    assert doubt(1e-8, top_k=1) == pytest.approx(0, abs=1e-6)
    assert doubt(1e-4, top_p=0.6) == pytest.approx(float(three - one), abs=1e-4), "either may be the second"
    assert doubt(1e-4, top_p=0.5, said=torch.tensor([1])) == pytest.approx(float(three - two), abs=1e-4)
    assert doubt(1e-4, top_p=0.2) == pytest.approx(0, abs=1e-6)
    assert doubt(1e-4, min_p=0.75) == pytest.approx(float(three - one), abs=1e-4)
    assert doubt(1e-4, min_p=0.5) == doubt(1e-4, min_p=0.8) == 0
    assert doubt(1.0, min_p=0.5) == pytest.approx(float(three - one), abs=1e-4)


def test_without_slack_nothing_is_in_doubt() -> None:
    torch.manual_seed(0)
    logits, said = 3 * torch.randn(50, 30), torch.zeros(50, dtype=torch.int64)
    for how in (Truncation(5, 1.0, 0.0), Truncation(0, 0.8, 0.0), Truncation(0, 1.0, 0.1), Truncation(9, 0.9, 0.02)):
        assert float(how.doubt(logits, said, 1e-9).max()) < 1e-5
        assert torch.equal(how._beyond(logits, 1e-9), how._out(logits))
        some = how.doubt(logits, said, 0.3)
        assert float(some.min()) >= 0 and 0.01 < float(some.max()) < 5


# --- after the first update -------------------------------------------------------------------------------------------


def test_trials_are_made_again_once_weights_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that is wrong then is left, and a person is told."""
    policy, told = made(), list[str]()
    assert policy.ways()["sampling"] == "own layers"
    first = FirstUpdate(policy, True, told.append)

    def step(change: float) -> None:
        first.before()
        with torch.no_grad():
            policy.model.model.layers[0].mlp.up_proj.weight += change
        first.after({"grad_norm": 0.0})

    monkeypatch.setattr(trial, "_agrees", lambda model: False)
    step(0.0)
    assert policy.ways()["sampling"] == "own layers" and not told, "nothing has moved"
    step(0.01)
    assert policy.ways()["sampling"] == "transformers' modules"
    assert told == [
        "note: after the first update, sampling by own layers is wrong; using transformers' modules from now on"
    ]
    ask = Ask("solver", user("add 3 and 4"), key="k")
    assert reader(policy.model) is policy.model and policy.act([ask])
    monkeypatch.setattr(trial, "_agrees", lambda model: pytest.fail("is not looked at again"))
    step(0.01)


def test_the_measure_is_not_taken_where_it_is_not_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rounding, "_both", lambda *given: pytest.fail("was measured"))
    cli.finished(tmp_path, *cli.SMALL, "reward=selfjudge", "quality=none", "steps=1")
