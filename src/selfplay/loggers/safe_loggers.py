"""Isolates a run from loggers that fail or hang."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from selfplay.console import say
from selfplay.core import Episode
from selfplay.loggers.logger import Logger, figures
from selfplay.loggers.turns import sample

PATIENCE = 30.0  # time limit of one call, in seconds
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)


class Loggers:
    """A run's loggers, by name. A logger that raises or takes longer than PATIENCE is reported once and disabled."""

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._on = dict(loggers)
        self._logged: dict[str, int] = {}

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> None:
        """Start all loggers; see `Logger.start`."""
        for name in list(self._on):
            self._try(name, "starting", partial(self._begin, name, config, folder, resumed_at))

    def _begin(self, name: str, config: Mapping[str, Any], folder: Path, resumed_at: int) -> None:
        self._logged[name] = self._on[name].start(config, folder, resumed_at)

    def log(self, step: int, metrics: Mapping[str, object], episodes: Sequence[Episode] = ()) -> None:
        """Log the metrics of a step, nested ones as eval/accuracy, and a sample of the episodes' turns."""
        for name, logger in list(self._on.items()):
            if step > self._logged[name]:
                self._try(name, f"logging step {step}", partial(self._log, logger, step, metrics, episodes))

    def _log(self, logger: Logger, step: int, metrics: Mapping[str, object], episodes: Sequence[Episode]) -> None:
        logger.log(step, figures(metrics))
        if logger.turns > 0 and (rows := sample(step, episodes, logger.turns)):
            logger.log_turns(step, rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Finish all loggers that were started; see `Logger.finish`."""
        for name, logger in list(self._on.items()):
            if name in self._logged:
                self._try(name, "finishing", partial(logger.finish, summary))

    def _try(self, name: str, doing: str, call: Callable[[], None]) -> None:
        problem = _problem(call)
        if problem:
            del self._on[name]
            say(
                f"note: logger={name} failed while {doing} ({problem}) and is disabled for the rest of this run; "
                f"metrics.jsonl is still written; check its disk, its server and conf/logger/{name}.yaml, or use "
                "logger=none"
            )


def _problem(call: Callable[[], None]) -> str:
    """Run the call in a thread that can be abandoned; return what went wrong in one line, or ""."""
    found: list[str] = []

    def attempt() -> None:
        try:
            call()
            found.append("")
        # All exceptions: no failure of third-party code (full disk, dead server, bug, exit) may end the run, whose
        # metrics are in metrics.jsonl anyway.
        except (Exception, SystemExit) as error:
            found.append(_redacted(error))

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f"no answer in {PATIENCE:g} s"


def _redacted(error: BaseException) -> str:
    """The first line of an error, without secrets from environment variables."""
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    for key, value in os.environ.items():
        if SECRET.search(key) and len(value) >= 8:
            line = line.replace(value, "***")
    return line[:300].rstrip(". :")
