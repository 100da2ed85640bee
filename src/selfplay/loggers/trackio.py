"""Trackio: a local store for all runs; `trackio show --project selfplay` opens its dashboard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from selfplay.loggers.logger import Logger, flat, remember, remembered, require
from selfplay.loggers.turns import Row, columns
from selfplay.options import Name, Whole


class Trackio(Logger):
    """Logs to Trackio's own folder: TRACKIO_DIR, or else the Hugging Face cache.

    The run's folder cannot be used, because Trackio reads the setting once per process, which may run many runs.

    Args:
        project: name of the Trackio project.
        turns: how many turns of the transcript the table "turns" shows at each evaluation; 0: none.
    """

    def __init__(self, project: Name = "selfplay", turns: Whole = 16) -> None:
        require("trackio", "trackio")
        self.project, self.turns = project, turns

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
        return int(self.run._next_step) - 1  # the last step in Trackio's store; there is no public attribute

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def log_turns(self, step: int, rows: Sequence[Row]) -> None:
        import trackio

        names, values = columns(rows)
        self.run.log({"turns": trackio.Table(columns=names, data=values)}, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        import trackio

        if summary["status"] == "finished":  # an unfinished run may resume after its last row
            last = {k: v for k, v in flat(summary, "summary").items() if isinstance(v, int | float)}
            picture = {"curves": trackio.Image(str(self.folder / "curves.png"))}
            self.run.log({**last, **picture}, step=summary["steps"])
        self.run.finish()
