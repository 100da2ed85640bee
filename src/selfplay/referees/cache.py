"""A persistent cache of judge replies, keyed by request hash and shared by runs."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selfplay.core import SelfplayError

PATIENCE = 60.0  # seconds to wait for another run that is writing


class Cache:
    """A cache in one SQLite file. Committed replies survive a kill; the next reader rolls back an interrupted write.

    Args:
        path: the file; it and its folder are created on first use.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """Key -> reply, for the cached keys.

        Raises:
            SelfplayError: the file is not a cache or cannot be accessed.
        """
        with self._open() as file:
            rows = (file.execute("SELECT key, reply FROM replies WHERE key = ?", (key,)).fetchone() for key in keys)
            return dict(row for row in rows if row is not None)

    def keep(self, key: str, reply: str) -> None:
        """Store one reply; it is committed on return."""
        with self._open() as file:
            file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the replies of these keys."""
        with self._open() as file:
            file.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as file:
                file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
                yield file
        except (sqlite3.Error, OSError) as error:
            raise SelfplayError(
                f"the judge's cache {self.path} cannot be used ({error}); move it away, or choose another file"
            ) from error
