"""Short names and colours that identify the settings of a sweep throughout the report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selfplay.plots.figure_store import COLOURS
from selfplay.plots.figures import look


class Settings:
    """All settings in order of their first run; short names leave out the overrides that all settings share."""

    def __init__(self, settings: Iterable[str]) -> None:
        self.all = list(dict.fromkeys(map(str, settings)))
        parts = [setting.split(" ") for setting in self.all]
        shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
        self.shared = [part for part in parts[0] if part in shared] if parts else []
        names = [" ".join(p for p in some if p not in shared) or "no other override" for some in parts]
        self._short = dict(zip(self.all, names, strict=True))

    def short(self, setting: str) -> str:
        """The name without the overrides that all settings share."""
        return self._short.get(str(setting), str(setting))

    def full(self, name: str) -> str:
        """The setting with a short or full name; the name itself if there is none."""
        found = [setting for setting, short in self._short.items() if name in (setting, short)]
        return found[0] if found else name

    def number(self, setting: str) -> int:
        """Index of the setting, from 0."""
        return self.all.index(str(setting))

    def colour(self, setting: str) -> str:
        """The setting's colour in figures."""
        return str(look(self.number(setting))["color"])

    def chip(self, setting: str) -> str:
        """The setting's colour as a CSS variable of the page."""
        return f"var(--c{self.number(setting) % len(COLOURS)})"

    def legend(self) -> list[dict[str, Any]]:
        """Number, setting, short name and colour of each setting."""
        return [
            {"number": i, "setting": setting, "name": self.short(setting), "colour": self.chip(setting)}
            for i, setting in enumerate(self.all)
        ]
