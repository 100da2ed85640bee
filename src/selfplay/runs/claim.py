"""A folder that belongs to one process at a time: it is claimed before anything in it is read or written."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from selfplay.console import say
from selfplay.core import SelfplayError
from selfplay.files import to_disk

LOCK = ".lock"  # only where a folder itself cannot be locked, as over NFS


class Claim:
    """Holds a lock on a folder, which is made if it is not there. The lock ends with the process, however that ends.

    A context manager; a copy that is sent to another process holds nothing.

    Raises:
        SelfplayError: another process holds the lock, or the folder cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = _locked(path)

    def close(self) -> None:
        """Let the folder go. One that is still empty is removed: it was made for this claim."""
        if self._held is not None:
            with suppress(OSError):  # it is not empty
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
    """Remove a folder in which nothing was written, unless another process has claimed it."""
    if path.is_dir():
        with suppress(SelfplayError):
            Claim(path).close()


def _locked(path: Path) -> int:
    """A descriptor of the folder at the path, with the lock. Whoever let it go may have removed it: then once more."""
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
                f"another process is at work in {path}; wait until it ends, or end it, and start again"
            ) from None
        except OSError:
            os.close(held)
            return _locked_by_file(path)
        os.close(held)


def _locked_by_file(path: Path) -> int:
    """The same by a file in the folder, for file systems that lock no folders."""
    with to_disk(path / LOCK):
        held = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SelfplayError(
            f"another process is at work in {path}; wait until it ends, or end it, and start again"
        ) from None
    except OSError as error:
        say(f"note: {path} cannot be locked ({error.strerror}); see to it that no second process starts there")
    return held
