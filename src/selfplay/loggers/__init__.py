"""Loggers: where a run's figures go beside metrics.jsonl. One file each; every package is imported where it is used."""

from selfplay.loggers.logger import Logger
from selfplay.loggers.safe_loggers import Loggers

__all__ = ["Logger", "Loggers"]
