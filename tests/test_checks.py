"""A set-up that would train nothing, or begins away from its reference, is refused with the reason and the remedy."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import cli
import pytest
import torch
from chat_models import stand_in
from language_models import adapted, made

import selfplay
from selfplay.checks import FirstUpdate, check_reference, check_trainable, fingerprint
from selfplay.core import Policy, SelfplayError
from selfplay.players.language_model import LanguageModel
from selfplay.players.tabular import Tabular
from selfplay.update_checks import UpdateChecks

KUHN = ("game=kuhn", "player=tabular", "eval=none", "episodes=8", "steps=2", "optimized_metric=loss")


def refused(folder: Path, *args: str) -> str:
    ended = cli.run(f"hydra.run.dir={folder}", *args)
    assert ended.code == 1 and re.fullmatch(r"error: [^\n]+[^.\n]\n", ended.err), ended.err
    return ended.err


# --- nothing to train -------------------------------------------------------------------------------------------------


def test_a_learner_without_a_trainable_parameter(tmp_path: Path) -> None:
    args = ("player=tiny_lora", "+player.lora.inference_mode=true")
    told = refused(tmp_path / "run", *cli.SMALL, *args)
    assert "the learner (LanguageModel) has no trainable parameter" in told and "choose another player" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_coarse_weights_are_not_trained(dtype: str, tmp_path: Path) -> None:
    told = refused(tmp_path / "run", *cli.SMALL, f"player.dtype={dtype}")
    assert dtype in told and "player.dtype=float32" in told and "player.lora" in told


def test_coarse_weights_under_an_adapter_are(tmp_path: Path) -> None:
    lora = "player.lora={r: 2, target_modules: all-linear}"
    hf = ("player=hf", f"player.path={stand_in(False)}", "player.dtype=bfloat16", lora, "reward=rm", "quality=none")
    folder = cli.finished(tmp_path / "run", *cli.SMALL, *hf, "steps=1")
    assert cli.metrics(folder)[-1]["grad_norm"] > 0


def test_what_can_be_trained_passes(tiny: LanguageModel) -> None:
    for policy in (tiny, adapted(), Tabular(8, 2, 0.0, 1.0, 0)):
        check_trainable(policy)
    with pytest.raises(SelfplayError, match="no trainable parameter"):
        check_trainable(adapted().snapshot())


# --- the reference is the learner -------------------------------------------------------------------------------------


class Moved(LanguageModel):
    """A player whose snapshots are not what it is."""

    def snapshot(self) -> LanguageModel:
        twin = super().snapshot()
        with torch.no_grad():
            twin.model.get_output_embeddings().weight[20] += 0.1
        return twin


class MovedTable(Tabular):
    def snapshot(self) -> Tabular:
        twin = super().snapshot()
        twin.logits.data[:, 0] += 0.1
        return twin


@pytest.mark.parametrize(
    "args",
    [(*cli.SMALL, "player._target_=test_checks.Moved"), (*KUHN, "player._target_=test_checks.MovedTable")],
    ids=["language", "table"],
)
def test_a_reference_that_is_not_the_learner(args: Sequence[str], tmp_path: Path) -> None:
    told = refused(tmp_path, *args)
    assert re.search(r"/kl is [\d.e-]+ nats per token before the first update", told) and "snapshot() must be" in told
    assert cli.summary(tmp_path)["steps"] == 0


def test_how_far_rounding_goes() -> None:
    """k3 of a difference d is exp(d) - d - 1: of 0.1, 0.00517."""
    check_reference({"solver/kl": 0.0051, "logprob_mismatch": 0.1})
    with pytest.raises(SelfplayError, match=r"solver/kl is 0\.0053"):
        check_reference({"solver/kl": 0.0053, "logprob_mismatch": 0.1})
    check_reference({"solver/kl": 1e-9, "logprob_mismatch": 0.0})
    with pytest.raises(SelfplayError, match="challenger/kl"):
        check_reference({"solver/kl": 0.0, "challenger/kl": 1e-5, "logprob_mismatch": 1e-5})
    check_reference({"loss": 1.0})  # a rule that compares with nothing


def test_a_resumed_run_has_left_its_reference(tmp_path: Path) -> None:
    """And is not refused for it."""
    args = [
        "update.optimizer.lr=1.0",
        "eval=none",
        "game=kuhn",
        "player=tabular",
        "episodes=8",
        "optimized_metric=loss",
    ]
    cli.finished(tmp_path, *args, "steps=3")
    ended = cli.run(f"resume={tmp_path}", "steps=4")
    assert ended.code == 0, ended.err
    last = cli.metrics(tmp_path)[-1]
    assert max(value for name, value in last.items() if name.endswith("/kl")) > 1e-3


# --- the first update moves something ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        (*cli.SMALL, "reward=selfjudge", "quality=none"),
        (*KUHN, "player.spread=1.0"),  # a logit of 0 would take up the least step
    ],
    ids=["language", "table"],
)
def test_an_update_that_moves_nothing(args: Sequence[str], tmp_path: Path) -> None:
    told = refused(tmp_path, *args, "update.optimizer.lr=1e-30")
    assert "changed no weight" in told and "raise update.optimizer.lr" in told
    assert cli.summary(tmp_path)["status"] == "failed"


def test_turns_that_were_paid_alike_are_no_mistake(tmp_path: Path) -> None:
    """Every answer is wrong: no advantage, no gradient, no divergence yet; the run goes on."""
    folder = cli.finished(tmp_path, *cli.SMALL, "quality=none", "player.temperature=20", "steps=2")
    lines = cli.metrics(folder)
    assert lines[0]["grad_norm"] < 1e-6, lines[0]


def step(learner: Policy, first: FirstUpdate, change: float, **metrics: float) -> None:
    first.before()
    with torch.no_grad():
        next(iter(learner.parameters())).view(-1)[3] += change
    first.after(metrics)


def test_it_watches_until_something_moved() -> None:
    learner = made()
    first = FirstUpdate(learner, fresh=True)
    step(learner, first, 0.0, grad_norm=0.0)
    with pytest.raises(SelfplayError, match=r"norm is 0\.5 \(learning rate 1e-09\)"):
        step(learner, first, 0.0, grad_norm=0.5, learning_rate=1e-9)
    step(learner, first, 1e-3, grad_norm=0.5)
    step(learner, first, 0.0, grad_norm=0.5)  # nobody looks any more
    again = FirstUpdate(learner, fresh=True)
    with pytest.raises(SelfplayError, match="changed no weight"):
        step(learner, again, 0.0, grad_norm=0.5)


def test_one_weight_is_enough(tiny: LanguageModel) -> None:
    policy = made()
    before = fingerprint(policy)
    assert fingerprint(policy) == before == fingerprint(tiny)
    *_, last = policy.parameters()
    with torch.no_grad():
        last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], torch.tensor(torch.inf))
    assert fingerprint(policy) != before


def test_the_batch_is_checked_in_the_first_step_of_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and once more where the run resumes: a later step may have turns that nothing compares."""
    steps: list[int] = []
    monkeypatch.setattr("selfplay.update_checks.check_batch", lambda episodes, *_: steps.append(len(episodes)))
    args = ("game=kuhn", "player=tabular", "eval=none", "episodes=4")
    cli.finished(tmp_path / "run", *args, "steps=3")
    assert steps == [4]
    assert cli.run(f"resume={tmp_path / 'run'}", "steps=5").code == 0
    assert steps == [4, 4]


@pytest.mark.parametrize("update", ["rejection", "dpo", "stages"])
def test_in_half_precision_the_reference_is_compared_on_what_is_measured(
    update: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that learns from some turns measures the divergence on all: only another reference is refused."""
    args = (
        "game=dataset", "reward=verifier", f"update={update}", "player.compute_dtype=bfloat16", "eval=none", "steps=1",
        "episodes=4", "game.answers=4", *(("update.hoard=1", "update.room=1") if update == "stages" else ()),
    )  # fmt: skip
    cli.finished(tmp_path / "run", *args)
    plain = LanguageModel.snapshot

    def other(self: LanguageModel) -> LanguageModel:
        found = plain(self)
        with torch.no_grad():
            for p in found.model.parameters():
                p *= 1.05
        return found

    monkeypatch.setattr(LanguageModel, "snapshot", other)
    ended = cli.run(*args, f"hydra.run.dir={tmp_path / 'other'}")
    assert ended.code == 1 and "before the first update, so the reference differs from the initial learner" in ended.err


def test_in_half_precision_the_mismatch_of_all_turns_is_what_is_allowed() -> None:
    """Also for a rule that compared no turn, such as one on pairs without a pair: its own measure is then 0."""
    args = ("game=dataset", "reward=verifier", "update=dpo", "eval=none", "episodes=4", "game.answers=4")
    for precision in ("bfloat16", "float32"):
        experiment = selfplay.build(selfplay.compose(*args, f"player.compute_dtype={precision}"))
        players = experiment.opponent.players
        episodes = selfplay.play(experiment.game, players, range(4), "0/1", experiment.opponent.seats(1))
        selfplay.score_and_pay(experiment.game, episodes, experiment.referees, experiment.players)
        turns = selfplay.turns_of(episodes, "learner")
        batch = selfplay.collate(turns)
        found = []
        for more in (0.0, 1e-5):
            checks = UpdateChecks(experiment.trainee, True, print)
            checks.before(episodes, turns, batch)
            d = checks.first.mismatch
            metrics = {"solver/kl": math.expm1(d) - d + more, "logprob_mismatch": 0.0, "grad_norm": 0.0}
            if more:
                with pytest.raises(SelfplayError, match="the reference differs from the initial learner"):
                    checks.after(metrics)
            else:
                checks.after(metrics)
            found.append(d)
        if precision == "float32":
            assert found == [0.0, 0.0], "rounding is far below what is allowed anyway"
            continue
        with torch.no_grad():
            apart = (experiment.learner.logprobs(batch) - batch.logprobs).abs().max()
        assert found == pytest.approx([float(apart)] * 2, abs=1e-6) and found[0] > 2e-3
