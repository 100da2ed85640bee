"""Files that survive a kill: whole ones appear at once or not at all, growing ones lose at most their last line."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under; when the block ends well it takes the place of `path`, at once and on the disk."""
    draft = path.with_name(f".writing-{path.name}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def append(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Add one JSON line a record, all in one write, so that a kill tears at most the last of them.

    Raises:
        SelfplayError: a figure is not finite.
    """
    text = "".join(as_json(record, path) + "\n" for record in records)
    with path.open("ab") as file:
        file.write(text.encode())


def as_json(record: Mapping[str, object], path: Path, indent: int | None = None) -> str:
    """A record as JSON, for the file at `path`.

    Raises:
        SelfplayError: a figure is not finite.
    """
    try:
        return json.dumps(record, allow_nan=False, indent=indent)
    except ValueError:
        bad = next(_not_finite(record, ""), None)
        if bad is None:
            raise
        where = f" at step {record['step']}" if "step" in record else ""
        raise SelfplayError(
            f"'{bad[0]}' is {bad[1]}{where}, which {path.name} cannot hold; leave out what was not measured, "
            "and if learning diverged, lower the learning rate"
        ) from None


def _not_finite(value: object, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _not_finite(inner, f"{name}[{i}]")


def lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a file, as they stand and as they read; one without its end was torn by a kill.

    Raises:
        SelfplayError: a whole line is broken.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                record = json.loads(raw)
            except ValueError as error:
                raise SelfplayError(f"line {number} of {path} is not JSON ({error}); delete that line") from error
            yield raw, record


def mend(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda record: True) -> None:
    """Forget a torn last line, and the records that are not to be kept.

    Raises:
        SelfplayError: a line other than the last is broken.
    """
    if path.exists():
        with replacing(path) as draft, draft.open("wb") as file:
            file.writelines(raw for raw, record in lines(path) if keep(record))
