"""What the tests of sweeps share: small ones, and when two of them are the same."""

import os
from pathlib import Path
from typing import Any

import cli
import torch
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

TABLE = (
    *(
        "game=kuhn",
        "player=tabular",
        "regularizer=none",
        "opponent=uniform",
        "opponent.every=3",
        "steps=8",
        "episodes=8",
    ),
    *("eval.every=3", "checkpoint.keep=2", "checkpoint.keep_every=4"),
)
CLOCKS = {
    "curves.png",
    "metrics.jsonl",
    "summary.json",
    "state.pt",
    "SHA256SUMS",
}  # they hold seconds; a pickle remembers more than values, and so does the digest of it


def start(folder: Path, *args: str) -> cli.Ended:
    """`python run.py -m ARGS` into the folder."""
    return cli.run("-m", *args, f"hydra.sweep.dir={folder}")


def runs(folder: Path) -> list[Path]:
    """The folders of a sweep's runs."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def jobs(folder: Path) -> list[dict[str, Any]]:
    """The lines of jobs.jsonl, by the number of the job."""
    return sorted(cli.lines(folder / "jobs.jsonl"), key=lambda job: int(job["job"]))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def states(run: Path) -> dict[str, Any]:
    """Every state.pt of a run, its tensors as lists."""

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return (x.dtype, x.tolist())
        if isinstance(x, dict):
            return {key: plain(value) for key, value in x.items()}
        return [plain(value) for value in x] if isinstance(x, list | tuple) else x

    return {
        str(file.parent): plain(torch.load(run / file, weights_only=True))
        for file in map(Path, files(run))
        if file.name == "state.pt"
    }


def assert_same(sweep: Path, other: Path) -> None:
    """The sweeps have the same runs."""
    assert [run.name for run in runs(sweep)] == [run.name for run in runs(other)]
    for run, twin in zip(runs(sweep), runs(other), strict=True):
        assert_same_run(run, twin)


def assert_same_run(run: Path, twin: Path) -> None:
    """Every file is there and equal, byte for byte, but for what the clock says."""
    here, there = files(run), files(twin)
    assert sorted(here) == sorted(there)
    assert [name for name in here if Path(name).name not in CLOCKS and here[name] != there[name]] == []
    assert states(run) == states(twin)
    assert cli.metrics(run) == cli.metrics(twin)
    assert cli.summary(run) == cli.summary(twin)
    assert cli.summary(run)["status"] == "finished"


class Spy(Callback):
    """Leaves beside a job's folder how many threads torch had there, and in which process."""

    def on_job_end(self, config: DictConfig, **_: Any) -> None:
        Path(f"{config.hydra.runtime.output_dir}.spied").write_text(f"{torch.get_num_threads()} {os.getpid()}")


def spied(folder: Path) -> list[tuple[int, int]]:
    """What the spy left of each job: threads, process."""
    return [(int(a), int(b)) for a, b in (path.read_text().split() for path in sorted(folder.glob("*.spied")))]
