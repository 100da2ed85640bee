"""What a judge has said, by the hash of what it was asked: paid for once, kept through a kill, shared by runs."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from selfplay.core import SelfplayError

PATIENCE = 60.0  # seconds to wait for another run that is writing


class Cache:
    """One SQLite file. What was kept is there after any kill; a write that a kill tore is undone by the next reader.

    Args:
        path: of the file; it is made, with its folder, when something is first looked up.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """Key -> reply, of those keys that have one.

        Raises:
            SelfplayError: the file is no such cache, or cannot be used.
        """
        with self._open() as file:
            rows = (file.execute("SELECT key, reply FROM replies WHERE key = ?", (key,)).fetchone() for key in keys)
            return dict(row for row in rows if row is not None)

    def keep(self, key: str, reply: str) -> None:
        """Write one reply; it is there when this returns."""
        with self._open() as file:
            file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def forget(self, keys: Iterable[str]) -> None:
        """Let these be asked again."""
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
                f"the judge's cache {self.path} cannot be used ({error}); move it away, or name another file"
            ) from error
