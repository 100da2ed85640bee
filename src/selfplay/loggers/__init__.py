"""Loggers: where a run's figures go beside metrics.jsonl. One file each; every package is imported where it is used."""

from selfplay.loggers.guard import Loggers
from selfplay.loggers.logger import Logger

__all__ = ["Logger", "Loggers"]
