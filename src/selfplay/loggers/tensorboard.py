"""TensorBoard: `tensorboard --logdir outputs` shows every run under that folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from selfplay.loggers.logger import Logger, flat, require


class TensorBoard(Logger):
    """Writes event files to `<run>/loggers/tensorboard`: scalars, config (as text and hyper-parameters), curves.png."""

    def __init__(self) -> None:
        require("tensorboard", "tensorboard")

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.curves = folder / "curves.png"
        self.step = resumed_at
        # purge_step: readers discard what an earlier process logged from this step on
        self.writer = SummaryWriter(str(folder / "loggers" / "tensorboard"), purge_step=resumed_at + 1)
        self._text("config", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in flat(config).items()}
        # add_hparams would create a second run
        for part in hparams(plain, {config["optimized_metric"]: None}):
            self.writer.file_writer.add_summary(part)  # type: ignore[attr-defined]
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._text("summary", json.dumps(summary, indent=1))
        if self.curves.exists():
            from matplotlib.image import imread

            self.writer.add_image("curves", imread(self.curves), self.step, dataformats="HWC")
        self.writer.close()

    def _text(self, name: str, text: str) -> None:
        self.writer.add_text(name, f"```\n{text}\n```", self.step)
