"""TensorBoard: `tensorboard --logdir outputs` shows every run under that folder."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from selfplay.loggers.logger import Logger, flat, require
from selfplay.loggers.turns import Row, columns
from selfplay.options import Whole

MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!|-])")


class TensorBoard(Logger):
    """Writes event files to `<run>/loggers/tensorboard`: scalars, config (as text and hyper-parameters), curves.png.

    Args:
        turns: how many turns of the transcript the text "turns" shows at each evaluation; 0: none.
    """

    def __init__(self, turns: Whole = 16) -> None:
        require("tensorboard", "tensorboard")
        self.turns = turns

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

    def log_turns(self, step: int, rows: Sequence[Row]) -> None:
        names, values = columns(rows)
        table = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in values)]
        self.writer.add_text("turns", "\n".join(f"| {' | '.join(row)} |" for row in table), step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._text("summary", json.dumps(summary, indent=1))
        if self.curves.exists():
            from matplotlib.image import imread

            self.writer.add_image("curves", imread(self.curves), self.step, dataformats="HWC")
        self.writer.close()

    def _text(self, name: str, text: str) -> None:
        self.writer.add_text(name, f"```\n{text}\n```", self.step)


def _cell(value: str | int | float | None) -> str:
    """A value as the cell of a Markdown table."""
    if not isinstance(value, str):
        return "" if value is None else f"{value:g}"
    return escape(MARKDOWN.sub(r"\\\1", value), quote=False).replace("\n", "<br>")
