"""The settings of a sweep as a reader tells them apart: by what differs, and by a colour that stays."""

from __future__ import annotations

from collections.abc import Iterable

from selfplay.plots.figure_store import COLOURS
from selfplay.plots.figures import look


class Settings:
    """Every setting in the order of its first run, with the overrides that all of them share left out of its name."""

    def __init__(self, settings: Iterable[str]) -> None:
        self.all = list(dict.fromkeys(map(str, settings)))
        parts = [setting.split(" ") for setting in self.all]
        shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
        self.shared = [part for part in parts[0] if part in shared] if parts else []
        names = [" ".join(p for p in some if p not in shared) or "the rest as it is" for some in parts]
        self._short = dict(zip(self.all, names, strict=True))

    def short(self, setting: str) -> str:
        """The name without what all settings share."""
        return self._short.get(str(setting), str(setting))

    def full(self, name: str) -> str:
        """The setting of a name, short or whole; the name itself where there is none."""
        whole = [setting for setting, short in self._short.items() if name in (setting, short)]
        return whole[0] if whole else name

    def number(self, setting: str) -> int:
        """Its place, from 0."""
        return self.all.index(str(setting))

    def colour(self, setting: str) -> str:
        """The colour of its lines in figures."""
        return str(look(self.number(setting))["color"])

    def chip(self, setting: str) -> str:
        """Its colour in the page's style."""
        return f"var(--c{self.number(setting) % len(COLOURS)})"

    def legend(self) -> list[dict[str, str]]:
        """Name and colour of each."""
        return [{"name": self.short(setting), "colour": self.chip(setting)} for setting in self.all]
