"""Trackio: on this machine, for all runs together; `trackio show --project selfplay` is its dashboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from selfplay.loggers.logger import Logger, flat, remember, remembered, require
from selfplay.options import Name


class Trackio(Logger):
    """A run of `project` in Trackio's own folder: TRACKIO_DIR, or else the Hugging Face cache.

    That folder cannot be the run's: Trackio reads it once a process, and a process may do many runs.
    """

    def __init__(self, project: Name = "selfplay") -> None:
        require("trackio", "trackio")
        self.project = project

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        import trackio

        self.folder = folder
        own = "/".join(folder.resolve().parts[-2:])
        name = remembered(folder, "trackio").get("name") or f"{own}-{uuid4().hex[:4]}"
        remember(folder, "trackio", name=name)
        self.run = trackio.init(
            project=self.project,
            name=name,
            config=flat(config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return int(self.run._next_step) - 1  # what its own store holds; there is no public name for it

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        import trackio

        if summary["status"] == "finished":  # what is not will be resumed, and goes on after its last row
            last = {k: v for k, v in flat(summary, "summary").items() if isinstance(v, int | float)}
            picture = {"curves": trackio.Image(str(self.folder / "curves.png"))}
            self.run.log({**last, **picture}, step=summary["steps"])
        self.run.finish()
