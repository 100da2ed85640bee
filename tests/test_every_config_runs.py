"""Every yaml plays, scores and learns a step, and leaves the metrics that analysis, curves and dashboards read."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cli
import pytest
import test_conf
from omegaconf import DictConfig

from selfplay.measures import numbers
from selfplay.plots.curves import panels, run_figure
from selfplay.runs import RunFolder
from selfplay.runs.trust import check_targets

GROUPS = (
    "game", "experiment", "player", "prompts", "update", "regularizer", "challenger", "quality", "reward", "eval",
    "opponent", "meta_solver", "schedule", "rollout", "logger", "task", "data",
)  # fmt: skip
DOCUMENTED = [
    name
    for row in re.findall(r"^\| (`.*?) \|", (cli.ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", row)
]
TIMES = {"time/play", "time/score", "time/update"}


def check_names(config: DictConfig, metrics: dict[str, Any], roles: set[str]) -> None:
    assert roles and roles <= {role for role, player in config.seats.items() if player == "learner"}
    for role in roles:
        assert {f"{role}/{name}" for name in ("payoff", "payoff_std", "length")} <= set(metrics)
        if config.game._target_.endswith("FewShot"):
            continue  # its turns are learnt where they were not sampled
        assert f"{role}/kl" in metrics
        assert metrics[f"{role}/entropy"] > 0
    if "answers" in config.game:
        assert 0 <= metrics["frac_reward_zero_std"] <= 1
    if "solver" in roles:
        assert ({"solver/reward", "solver/reward_std"} <= set(metrics)) == (config.reward is not None)
        assert ("solver/truth" in metrics) == (config.probes.truth is not None)
        assert ("solver/quality" in metrics) == (config.quality is not None)
    if "challenger" in roles:
        assert ("challenger/invalid" in metrics) == (config.probes.invalid is not None)
    assert {"tokens/generated", "logprob_mismatch", "loss", "grad_norm", "learning_rate"} <= set(metrics)


def check_curves(config: DictConfig, metrics: list[dict[str, Any]], draw: bool) -> None:
    """The first panel shows what the run optimizes, and no panel is empty."""
    found = panels([numbers(line) for line in metrics], config.optimized_metric)
    assert config.optimized_metric in {curve.key for curve in found[0].curves}
    for panel in found:
        assert panel.curves and all(curve.x and len(curve.x) == len(curve.y) for curve in panel.curves), panel.title
        for curve in panel.curves if panel.measure.share else ():
            assert all(0 <= value <= 1 for value in (*curve.y, *filter(math.isfinite, (*curve.low, *curve.high))))
    if draw:
        axes = run_figure(metrics, config.optimized_metric).axes
        assert len(axes) == len(found) + 1 and all(panel.has_data() for panel in axes)


@pytest.mark.parametrize("choice", cli.choices(*GROUPS))
def test_a_step(choice: str, tmp_path: Path) -> None:
    args = cli.shrunk(choice)
    if choice == "reward=none":
        ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *args)
        assert ended.code == 1 and "the game needs the score 'reward' of a solver turn" in ended.err
        return  # only a game that pays by itself can do without; one that does is in test_plugin.py
    folder = cli.finished(tmp_path / "run", *args)
    config = RunFolder.open(folder).config
    if cli.isolation() != "none" or "isolation=none" not in " ".join(args):
        trusted = ["stored"] if choice == "reward=function" else []
        check_targets(config, folder / "config.yaml", trusted)  # it can be resumed without trust=
    *before, last = cli.lines(folder / "metrics.jsonl")
    assert [line["step"] for line in before] == ([] if config.eval is None else [0]) and last["step"] == 1
    names = {name for line in (*before, last) for name in paths(line)}
    assert not undocumented(config, names), "add them to docs/metrics.md"
    assert set(last) >= TIMES and all(last[name] > 0 for name in TIMES)
    check_curves(config, [*before, last], draw=choice.startswith(("game=", "eval=")))
    figures = {name: value for name, value in last.items() if name not in ("eval", "opponents")}
    assert all(math.isfinite(value) for value in figures.values()), figures
    # In bfloat16 the run compares it with the rounding that it measures (tests/engines/test_logprob_mismatch.py),
    # which differs among processors.
    if config.player.get("dtype", "float32") == "float32":
        assert last["logprob_mismatch"] < 1e-4
    if "learner" not in config.seats.values():
        return  # it says nothing: tests/test_replay.py, tests/updates/test_conservative.py
    turns = cli.lines(folder / "episodes.jsonl")
    said = [turn for turn in turns if turn["player"] == "learner"]
    check_names(config, last, {turn["role"] for turn in said})
    assert len(said) >= 2 and all(math.isfinite(turn["payoff"] + turn["advantage"]) for turn in said)
    assert last["tokens/generated"] >= len(said)
    assert cli.summary(folder)["optimized"]["metric"] == config.optimized_metric


def undocumented(config: DictConfig, names: set[str]) -> list[str]:
    """The metrics that docs/metrics.md does not have; of an evaluation within another, the first part counts."""
    words = {
        "role": "|".join(config.seats),
        "score": "|".join(["reward", "quality", *config.probes]),
        "part": "|".join([*config["update"].get("parts", {}), *config.learners, *config.seats]),
    }
    known = [re.escape(name).replace("\\-", "-") for name in DOCUMENTED]
    known = [re.sub(r"<(\w+)>", lambda word: f"({words.get(word[1], '[^/]+')})", name) for name in known]
    known += [f"{name}/.*" for name in known if name.startswith("eval/")]
    return [name for name in sorted(names) if not re.fullmatch("|".join(known), name)]


def paths(line: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Every metric of a line of metrics.jsonl, as <group>/<name>."""
    for name, value in line.items():
        yield from paths(value, f"{at}{name}/") if isinstance(value, dict) else [f"{at}{name}"]


def test_every_group_is_run_or_built() -> None:
    folders = {path.name for path in cli.CONF.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, *test_conf.BUILT_ONLY}


def test_a_name_that_is_missing_would_be_seen(tmp_path: Path) -> None:
    args = cli.shrunk("game=lsp")
    *_, last = cli.lines(cli.finished(tmp_path / "run", *args) / "metrics.jsonl")
    for name in ("solver/reward_std", "challenger/entropy", "solver/kl", "frac_reward_zero_std", "logprob_mismatch"):
        with pytest.raises((AssertionError, KeyError)):
            check_names(cli.composed(*args), {k: v for k, v in last.items() if k != name}, {"challenger", "solver"})
