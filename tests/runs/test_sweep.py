"""A sweep leaves a whole folder a run; what is asked without a run stays quick. See also test_sweep_*.py."""

from pathlib import Path
from typing import Any

import cli
import pytest
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from selfplay.plots.curves import draw_curves

RETURNED: list[object] = []
FILES = {"config.yaml", "metrics.jsonl", "episodes.jsonl", "summary.json", "curves.png", "checkpoints"}


class Spy(Callback):
    """Keeps what each job gave to the sweeper."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        RETURNED.append(job_return.return_value)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    RETURNED.clear()
    spy = "+hydra.callbacks.spy._target_=test_sweep.Spy"
    sizes = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.runs.session.draw_curves", draw_curves)
        ended = cli.run("-m", "game=lsp", "reward=verifier,selfjudge", *sizes, spy, f"hydra.sweep.dir={folder}")
    assert ended.code == 0, ended.err
    return folder


def test_two_sweeps_of_one_second_have_folders_of_their_own() -> None:
    shown: Any = OmegaConf.to_container(OmegaConf.create(cli.run("game=kuhn", "--cfg", "hydra").out))
    for kind in ("run", "sweep"):
        assert "${now:%H-%M-%S-%f}" in shown["hydra"][kind]["dir"], "microseconds"


def test_a_sweep_leaves_whole_folders(swept: Path) -> None:
    assert sorted(path.name for path in swept.iterdir() if path.is_dir()) == ["0", "1"]
    for run, reward in (("0", "verifier"), ("1", "selfjudge")):
        folder = swept / run
        assert {path.name for path in folder.iterdir()} == FILES
        assert cli.summary(folder)["status"] == "finished" and cli.steps(folder) == ["step-000001", "step-000002"]
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert [line["step"] for line in cli.metrics(folder)] == [1, 2]
        config = OmegaConf.load(folder / "config.yaml")
        assert f"reward={reward}" in config.overrides and "game=lsp" in config.overrides
        assert config.reward._target_.endswith({"verifier": "Verifier", "selfjudge": "ExpectedScore"}[reward])


def test_the_runs_of_a_sweep_differ_in_the_reward_alone(swept: Path) -> None:
    configs = [OmegaConf.to_container(OmegaConf.load(swept / run / "config.yaml")) for run in ("0", "1")]
    first, second = configs
    assert isinstance(first, dict) and isinstance(second, dict)
    assert {key for key in first if first[key] != second[key]} == {"reward", "overrides"}
    said = [[turn["reply"] for turn in cli.lines(swept / run / "episodes.jsonl")[:6]] for run in ("0", "1")]
    assert said[0] == said[1], "the first step is before any reward"


def test_the_sweeper_is_given_the_optimised_metric(swept: Path) -> None:
    written = [cli.summary(swept / run)["optimized"] for run in ("0", "1")]
    assert [w["value"] for w in written] == RETURNED and all(isinstance(value, float) for value in RETURNED)
    last = [cli.metrics(swept / run)[-1] for run in ("0", "1")]
    assert [w["metric"] for w in written] == ["solver/reward"] * 2
    assert [line["solver/reward"] for line in last] == RETURNED and RETURNED[0] != RETURNED[1]


def test_a_sweep_over_the_reward_model(tmp_path: Path) -> None:
    sizes = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    assert cli.run("-m", "reward=rm,selfjudge", *sizes, "steps=1", f"hydra.sweep.dir={tmp_path}").code == 0
    assert [cli.summary(tmp_path / run)["status"] for run in ("0", "1")] == ["finished"] * 2


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    sizes = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    ended = cli.run("-m", "reward=none,verifier", *sizes, "steps=1", f"hydra.sweep.dir={tmp_path}")
    assert ended.code == 1 and "Traceback" not in ended.err
    assert ended.err.startswith("error: job 0: the game needs the score 'reward'") and ended.err.count("\n") == 1
    assert "failed: job 0 (reward=none " in ended.out and "1 finished, 1 failed" in ended.out
    assert [cli.summary(tmp_path / run)["status"] for run in ("0", "1")] == ["failed", "finished"]


def test_a_sweep_of_seeds_gives_different_runs(tmp_path: Path) -> None:
    ended = cli.run("-m", "seed=1,2", *cli.SMALL, "steps=1", f"hydra.sweep.dir={tmp_path}")
    assert ended.code == 0, ended.err
    said = [(tmp_path / run / "episodes.jsonl").read_bytes() for run in ("0", "1")]
    assert said[0] != said[1]


SCRIPT = """
import runpy, sys
sys.argv[0] = {run!r}
try:
    runpy.run_path({run!r}, run_name="__main__")
finally:
    print([name for name in ("torch", "transformers", "matplotlib", "scipy") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(("ask", "shown"), [("--help", "rollout: exact, replayed, sampled"), ("--cfg=job", "steps: ")])
def test_questions_about_the_config_need_no_torch(ask: str, shown: str) -> None:
    ended = cli.process(ask, script=SCRIPT.format(run=str(cli.ROOT / "run.py")))
    assert (ended.code, ended.err) == (0, "[]\n")
    assert shown in ended.out
