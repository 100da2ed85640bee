"""Which weights a server holds while several threads ask it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition


class Residents:
    """The weights that servers hold: at most `room` at a time, each loaded once and kept while somebody uses it.

    Threads that need weights that are loaded go on side by side; a thread that needs others waits until there is room.

    Args:
        room: how many can be held at a time.

    Attributes:
        names: the weights that are held, the last used at the end.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.names: OrderedDict[str, None] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._changed = Condition()

    @contextmanager
    def using(self, name: str, load: Callable[[], None], drop: Callable[[str], None]) -> Iterator[None]:
        """Within the block, the servers hold the named weights.

        Args:
            name: of the weights.
            load: loads them; called by one thread only, unless it raises.
            drop: drops the named weights that were used longest ago, to make room.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self.names or self._unused() is not None or self._has_room())
            if name not in self.names:
                if not self._has_room():
                    oldest = self._unused()
                    assert oldest is not None
                    del self.names[oldest]
                    drop(oldest)
                load()
                self.names[name] = None
            self.names.move_to_end(name)
            self._users[name] += 1
        try:
            yield
        finally:
            with self._changed:
                self._users[name] -= 1
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self.names) < self.room

    def _unused(self) -> str | None:
        """The weights that nobody uses, of which the use is longest ago."""
        return next((name for name in self.names if not self._users[name]), None)
