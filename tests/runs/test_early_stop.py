"""A run ends when its evaluations no longer improve, names the best step and keeps it, and resumes as any run."""

from pathlib import Path

import cli
import pytest

from selfplay.core import SelfplayError
from selfplay.runs.early_stop import EarlyStop

# NashConv of rock paper scissors: 0.551, 0.518, 0.457 (step 2), 0.467, 0.513, 0.547, ...
TABLE = ("experiment=rps_latest", "steps=30", "checkpoint.every=7", "checkpoint.keep=1", "checkpoint.keep_every=0")
STOP = ("stop.metric=eval/nash_conv", "stop.goal=min")


def evaluations(*values: float) -> dict[int, dict[str, float]]:
    return {10 * i: {"accuracy": value} for i, value in enumerate(values)}


@pytest.mark.parametrize(
    ("values", "goal", "best", "due"),
    [
        ((0.3, 0.4, 0.4), "max", 10, False),  # a tie is no new best
        ((0.3, 0.4, 0.4, 0.2), "max", 10, True),
        ((0.3, 0.4, 0.1, 0.5), "max", 30, False),
        ((0.3, 0.4, 0.4), "min", 0, True),
        ((0.3, 0.2, 0.4, 0.1), "min", 30, False),
    ],
)
def test_the_rule_on_hand_made_evaluations(values: tuple[float, ...], goal: str, best: int, due: bool) -> None:
    rule = EarlyStop("eval/accuracy", 2, goal)
    assert rule.best(evaluations(*values)) == (best, values[best // 10]) and rule.due(evaluations(*values)) == due
    assert EarlyStop().best(evaluations(*values)) is None and not EarlyStop().due(evaluations(*values))


def test_nested_figures_and_unknown_ones() -> None:
    found = {0: {"accuracy": 0.1, "levels": {"1": 0.5}}}
    assert EarlyStop("eval/levels/1").best(found) == (0, 0.5)
    with pytest.raises(
        SelfplayError, match=r"stop.metric is 'eval/x', which .* do not log; choose one of eval/accuracy"
    ):
        EarlyStop("eval/x").check(found)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("stop") / "run", *TABLE, *STOP, "stop.patience=3")


def test_a_run_stops_and_keeps_its_best_step(stopped: Path) -> None:
    values = {line["step"]: line["eval"]["nash_conv"] for line in cli.metrics(stopped)}
    assert list(values) == [0, 1, 2, 3, 4, 5] and min(values, key=lambda at: values[at]) == 2
    found = cli.summary(stopped)
    rule = {"metric": "eval/nash_conv", "patience": 3, "goal": "min"}
    assert found["stop"] == {**rule, "best_step": 2, "best": values[2], "early": True} and found["steps"] == 5
    assert cli.steps(stopped) == ["step-000002", "step-000005"], "the best step and the last"


def test_it_is_the_run_without_a_rule_until_then(stopped: Path, tmp_path: Path) -> None:
    """The rule changes nothing before it ends the run; continued with more patience, the runs are equal bit for bit."""
    whole = cli.finished(tmp_path / "whole", *TABLE, "steps=9")
    assert "stop" not in cli.summary(whole) and cli.metrics(whole)[:6] == cli.metrics(stopped)
    patient = cli.finished(tmp_path / "patient", *TABLE, *STOP, "stop.patience=3")
    ended = cli.run(f"resume={patient}", "stop.metric=null", "steps=9")
    assert ended.code == 0, ended.err
    assert cli.metrics(patient) == cli.metrics(whole)
    for file in (whole / "checkpoints/step-000009").iterdir():
        assert (patient / "checkpoints/step-000009" / file.name).read_bytes() == file.read_bytes()


def test_resumed_it_stays_stopped(tmp_path: Path) -> None:
    """Also after a stop within the patience: what counts are the evaluations in the log."""
    run = cli.finished(tmp_path / "run", *TABLE, *STOP, "stop.patience=3", "steps=4")
    assert cli.summary(run)["stop"]["early"] is False
    for _ in range(2):
        ended = cli.run(f"resume={run}", "steps=30")
        assert ended.code == 0, ended.err
        assert (
            "stopped early after step 5: eval/nash_conv has not improved for 3 evaluations; it was best at step 2"
            in (ended.out)
        )
        assert cli.summary(run)["stop"]["early"] is True and cli.summary(run)["steps"] == 5
        assert cli.steps(run) == ["step-000002", "step-000005"]


def test_a_restarted_sweep_skips_it(tmp_path: Path) -> None:
    sweep = ("-m", *TABLE, *STOP, "seed=0", f"hydra.sweep.dir={tmp_path}")
    assert cli.run(*sweep, "stop.patience=3").code == 0
    again = cli.run(*sweep, "stop.patience=3")
    assert again.code == 0 and f"{tmp_path / chr(48)} is already finished" in again.out
    more = cli.run(*sweep, "stop.patience=4")
    assert more.code == 0 and "stopped early" in more.out
    assert cli.summary(tmp_path / "0")["steps"] > 5


@pytest.mark.parametrize(
    ("values", "limit", "told"),
    [
        ((0.0, 0.9, 0.3, 0.7), {"above": {"x": 0.4}}, "x was 0.5 on average over the last 2 steps, above 0.4"),
        ((0.0, 0.9, 0.3, 0.7), {"above": {"x": 0.5}}, ""),  # the limit itself is within
        ((0.9, 0.1, 0.0), {"below": {"x": 0.1}}, "x was 0.05 on average over the last 2 steps, below 0.1"),
        ((0.9,), {"above": {"x": 0.4}}, ""),  # fewer steps than the window
        ((0.9, None, 0.9), {"above": {"x": 0.4}}, "x was 0.9"),  # a step that does not log it
    ],
)
def test_limits_of_means_over_steps(values: tuple[float, ...], limit: dict[str, dict[str, float]], told: str) -> None:
    lines = [{"step": step, **({} if value is None else {"x": value})} for step, value in enumerate(values, 1)]
    rule = EarlyStop(window=2, **limit)
    said = rule.left(rule.recent([{"step": 0, "x": 9.0}, *lines]))
    assert said.startswith(told) and bool(said) == bool(told)
    with pytest.raises(SelfplayError, match="limits 'x', which this run does not log; choose one of step, y"):
        rule.left([{"step": 1, "y": 0.1}])


def test_a_run_ends_at_a_limit(tmp_path: Path) -> None:
    """It is evaluated and saved there, stays ended when it is resumed, and goes on if the limit is lifted."""
    table = ("experiment=rps_latest", "steps=9", "checkpoint.every=7", "eval.every=5")
    whole = cli.finished(tmp_path / "whole", *table)
    means = {line["step"]: line["column/kl"] for line in cli.metrics(whole) if line["step"]}
    step = next(at for at in range(3, 9) if means[at] + means[at - 1] + means[at - 2] > 3 * 0.09)
    assert step not in (5, 7), "no step at which it is evaluated or saved anyway"
    run = cli.finished(tmp_path / "run", *table, "stop.above={column/kl:0.09}", "stop.window=3")
    found = cli.summary(run)
    assert found["steps"] == step and found["stop"]["early"] and "column/kl was" in found["stop"]["left"]
    assert cli.steps(run) == [f"step-{step:06d}"] and "eval" in cli.metrics(run)[-1]
    again = cli.run(f"resume={run}")
    assert f"stopped early after step {step}: column/kl was" in again.out and cli.summary(run)["steps"] == step
    more = cli.run(f"resume={run}", "stop.above={}")
    assert more.code == 0, more.err
    for file in (whole / "checkpoints/step-000009").iterdir():
        assert (run / "checkpoints/step-000009" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("stop.metric=eval/nope",), "stop.metric is 'eval/nope', which the evaluations of this run do not log"),
        (("stop.metric=eval/x", "eval=none", "optimized_metric=loss"), "stop.metric is 'eval/x', but eval is none"),
        (("stop.patience=2",), "stop.patience is set, but stop.metric is null; set stop.metric, or remove it"),
        (("stop.window=2",), "stop.window is set, but no metric has a limit; set stop.above or stop.below"),
        (("stop.above={row/pay:0.1}",), "stop.above limits 'row/pay', which this run does not log; choose one of"),
        (("stop.below={loss:x}",), "stop.below.loss is 'x'"),
        ((*STOP, "stop.patience=0"), "stop.patience is 0, but it must be a whole number, at least 1"),
        (("stop.metric=eval/nash_conv", "stop.goal=least"), "stop.goal is 'least', but it must be one of max, min"),
    ],
)
def test_what_is_refused(args: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    ended = cli.run("experiment=rps_latest", "steps=1", *args, f"hydra.run.dir={tmp_path / 'no'}")
    assert ended.code == 1 and reason in ended.err
