"""SHA-256 digests of the files in a folder, to detect corrupted files before they are loaded."""

import hashlib
from pathlib import Path

from selfplay.errors import SelfplayError

FILE = "SHA256SUMS"  # in sha256sum format: `sha256sum -c SHA256SUMS` also checks the folder


def write(folder: Path) -> None:
    """Write the digests of all files in the folder, recursively."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in found]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def check(folder: Path, remedy: str) -> None:
    """Verify the files against their digests; a folder without digests is accepted.

    Args:
        folder: the folder to verify.
        remedy: how the error message ends.

    Raises:
        SelfplayError: a file is missing or was changed.
    """
    file = folder / FILE
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not name or not path.is_file():
            raise SelfplayError(f"{path} is missing, or {file} is broken; {remedy}")
        if _digest(path) != digest:
            raise SelfplayError(f"{path} is broken (its digest differs from the one in {FILE}); {remedy}")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); check the disk") from error
