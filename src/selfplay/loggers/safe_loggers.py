"""A logger may fail or hang; the run may not."""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from selfplay.console import say
from selfplay.loggers.logger import Logger, figures

PATIENCE = 30.0  # seconds that one call may take, however dead the server at its other end
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)


class Loggers:
    """A run's loggers, by name. One that raises, or takes longer than PATIENCE, is told of once and then left out."""

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._on = dict(loggers)
        self._logged: dict[str, int] = {}

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> None:
        """Tell all of them that the run begins or goes on."""
        for name in list(self._on):
            self._try(name, "starting", partial(self._begin, name, config, folder, resumed_at))

    def _begin(self, name: str, config: Mapping[str, Any], folder: Path, resumed_at: int) -> None:
        self._logged[name] = self._on[name].start(config, folder, resumed_at)

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        """Tell all of them a step's figures; nested ones by the path to each, as eval/accuracy."""
        for name, logger in list(self._on.items()):
            if step > self._logged[name]:
                self._try(name, f"logging step {step}", partial(logger.log, step, figures(metrics)))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell all that were started how the run ended."""
        for name, logger in list(self._on.items()):
            if name in self._logged:
                self._try(name, "finishing", partial(logger.finish, summary))

    def _try(self, name: str, doing: str, call: Callable[[], None]) -> None:
        problem = _problem(call)
        if problem:
            del self._on[name]
            say(
                f"note: logger={name} failed while {doing} ({problem}) and is off for the rest of this run, which goes "
                f"on into metrics.jsonl; look at its disk, its server and conf/logger/{name}.yaml, or use logger=none"
            )


def _problem(call: Callable[[], None]) -> str:
    """What went wrong in the call, in a line; empty if nothing did. It runs in a thread that can be left behind."""
    found: list[str] = []

    def attempt() -> None:
        try:
            call()
            found.append("")
        # Everything: the code behind a logger is not ours, and whatever is wrong with it (a full disk, a dead server,
        # a bug, an exit) is worth less than the hours of the run. metrics.jsonl has it all.
        except (Exception, SystemExit) as error:
            found.append(_told(error))

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f"no answer in {PATIENCE:g} s"


def _told(error: BaseException) -> str:
    """The first line of an error, without any secret of the environment."""
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    for key, value in os.environ.items():
        if SECRET.search(key) and len(value) >= 8:
            line = line.replace(value, "***")
    return line[:300].rstrip(". :")
