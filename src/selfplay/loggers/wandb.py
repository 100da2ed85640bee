"""Weights & Biases: offline by default; `wandb sync <run>/loggers/wandb/offline-run-*` uploads a run later."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from selfplay.core import SelfplayError
from selfplay.loggers.logger import Logger, flat, remember, remembered, require
from selfplay.loggers.turns import Row, columns
from selfplay.options import Name, OneOf, Whole

MODES = ("offline", "online")
TIMEOUT = 20  # seconds to connect to the server, and to upload the last metrics


class WandB(Logger):
    """Logs to Weights & Biases, with files in `<run>/loggers/wandb`. Set the API key with `wandb login`.

    Args:
        project: name of the W&B project.
        entity: user or team; null for the default of the account.
        mode: "online" requires `wandb login`.
        turns: how many turns of the transcript the table "turns" shows at each evaluation; 0: none.

    Raises:
        SelfplayError: the package is missing, or `mode` is neither offline nor online.
    """

    def __init__(
        self,
        project: Name = "selfplay",
        entity: str | None = None,
        mode: Annotated[str, OneOf("offline", "online")] = "offline",
        turns: Whole = 16,
    ) -> None:
        require("wandb", "wandb")
        if mode not in MODES:
            raise SelfplayError(f"logger.wandb.mode is '{mode}'; choose one of {', '.join(MODES)}")
        self.project, self.entity, self.mode, self.turns = project, entity, mode, turns

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import; sends no crash reports
        import wandb

        self.folder = folder
        known = {"id": uuid4().hex[:8], "step": -1, **remembered(folder, "wandb")}
        (folder / "loggers").mkdir(exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]
            dir=str(folder / "loggers"),
            id=known["id"],
            resume="allow" if self.mode == "online" else None,
            name="/".join(folder.resolve().parts[-2:]),
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=TIMEOUT,
                login_timeout=TIMEOUT,
                finish_timeout=TIMEOUT,
                finish_timeout_raises=True,
                disable_git=True,  # the URL of a git remote may contain a token
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        remember(folder, "wandb", id=known["id"], step=known["step"])
        return int(known["step"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)
        remember(self.folder, "wandb", id=self.run.id, step=step)

    def log_turns(self, step: int, rows: Sequence[Row]) -> None:
        import wandb

        names, values = columns(rows)
        self.run.log({"turns": wandb.Table(columns=names, data=values)}, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        import wandb

        self.run.summary.update(flat(summary, "summary"))
        if (self.folder / "curves.png").exists():
            self.run.log({"curves": wandb.Image(str(self.folder / "curves.png"))})
        self.run.finish(exit_code=0 if summary["status"] == "finished" else 1)
