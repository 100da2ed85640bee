"""Loggers: destinations of metrics in addition to metrics.jsonl. Their packages are imported only when used."""

from selfplay.loggers.logger import Logger
from selfplay.loggers.safe_loggers import Loggers

__all__ = ["Logger", "Loggers"]
