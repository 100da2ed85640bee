"""Locks that give one process at a time exclusive use of a folder; taken before reading or writing it."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from selfplay.console import say
from selfplay.core import SelfplayError
from selfplay.files import to_disk

LOCK = ".lock"  # used only on file systems that cannot lock folders, such as NFS


class Claim:
    """An exclusive lock on a folder, which is created if missing. It is released when the process ends, even by a kill.

    A context manager. A copy pickled to another process does not hold the lock.

    Raises:
        SelfplayError: another process holds the lock, or the folder cannot be created or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = _locked(path)

    def close(self) -> None:
        """Release the lock, and remove the folder if it is empty."""
        if self._held is not None:
            with suppress(OSError):  # not empty
                self.path.rmdir()
            os.close(self._held)
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_held": None}

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None:
            os.close(self._held)  # type: ignore[arg-type]


def remove_if_empty(path: Path) -> None:
    """Remove a folder if it is empty, unless another process has locked it."""
    if path.is_dir():
        with suppress(SelfplayError):
            Claim(path).close()


def _locked(path: Path) -> int:
    """Open and lock the folder; return its descriptor. Retries if the previous holder removed the folder meanwhile."""
    while True:
        with to_disk(path):
            path.mkdir(parents=True, exist_ok=True)
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir() and os.path.samestat(os.fstat(held), path.stat()):
                return held
        except BlockingIOError:
            os.close(held)
            raise SelfplayError(
                f"another process is using {path}; wait for it to finish or stop it, then start again"
            ) from None
        except OSError:
            os.close(held)
            return _locked_by_file(path)
        os.close(held)


def _locked_by_file(path: Path) -> int:
    """The same with a lock file in the folder, for file systems that cannot lock folders."""
    with to_disk(path / LOCK):
        held = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SelfplayError(
            f"another process is using {path}; wait for it to finish or stop it, then start again"
        ) from None
    except OSError as error:
        say(f"note: {path} cannot be locked ({error.strerror}); make sure that no other process uses it")
    return held
