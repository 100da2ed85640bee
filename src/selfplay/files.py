"""Files that survive a kill: whole ones appear at once or not at all, growing ones lose at most their last line."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from selfplay.errors import SelfplayError

LONGEST = 2**27  # bytes of a line


class DiskError(SelfplayError):
    """The disk does not take what is to be written: it is full, read-only, or something else is in the place."""


@contextmanager
def to_disk(path: Path) -> Iterator[None]:
    """Tell in one sentence where the block cannot write to `path`.

    Raises:
        DiskError: an OSError, or what torch and safetensors make of one.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if not isinstance(error, (OSError, SafetensorError)) and not full:
            raise
        reason = "the disk takes no more" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DiskError(
            f"{path} cannot be written ({reason}); look at the disk's free space and at who may write there, then go on"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under; when the block ends well it takes the place of `path`, at once and on the disk.

    Raises:
        DiskError: it cannot be written; what was at `path` is still there.
    """
    draft = path.with_name(f".writing-{path.name}")
    with to_disk(path):
        try:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def append(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Add one JSON line a record, all in one write, so that a kill tears at most the last of them.

    Raises:
        SelfplayError: a figure is not finite.
        DiskError: they cannot be written; the file is as it was, as far as the disk lets it.
    """
    text = "".join(as_json(record, path) + "\n" for record in records)
    before = path.stat().st_size if path.is_file() else 0
    with to_disk(path):
        try:
            with path.open("ab") as file:
                file.write(text.encode())
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise


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


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The record that a file holds.

    Raises:
        SelfplayError: it holds none; the remedy is told.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST)
        record = json.loads(raw, parse_constant=_no_number, parse_int=_small)
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise SelfplayError(f"{path} is broken ({error}); {remedy}") from error
    if not isinstance(record, dict):
        raise SelfplayError(f"{path} is broken (it holds {str(record)[:20]}, no record); {remedy}")
    return record


def lines(path: Path, number: str = "step") -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a file, as they stand and as they read; one without its end was torn by a kill.

    Args:
        number: a key under which every record has a whole number.

    Raises:
        SelfplayError: the file cannot be read, or a whole line is no record.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            for count in itertools.count(1):
                raw = file.readline(LONGEST)
                if not raw.endswith(b"\n"):
                    if len(raw) < LONGEST:
                        return
                    raise SelfplayError(
                        f"line {count} of {path} is longer than any that a run writes; delete that line"
                    )
                yield raw, record_of(raw, count, path, number)
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); put back what the run wrote") from error


def record_of(raw: bytes, count: int, path: Path, number: str) -> dict[str, Any]:
    """The record in the line `count` of a file; see `lines`.

    Raises:
        SelfplayError: it is none.
    """
    where = f"line {count} of {path}"
    try:
        record = json.loads(raw, parse_constant=_no_number, parse_int=_small)
    except (ValueError, RecursionError) as error:
        raise SelfplayError(f"{where} is not JSON ({error}); delete that line") from error
    if not isinstance(record, dict):
        raise SelfplayError(f"{where} is {str(record)[:20]}, no record; delete that line")
    if type(record.get(number)) is not int or record[number] < 0:
        raise SelfplayError(f"{where} has no {number}; delete that line")
    return record


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _small(digits: str) -> int:
    """A whole number of 64 bits; larger ones become nothing that tables hold."""
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{digits[:20]}... is too large")
    return value


def mend(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda record: True, number: str = "step") -> None:
    """Forget a torn last line, and the records that are not to be kept; `number` as of `lines`.

    Raises:
        SelfplayError: a line other than the last is broken.
        DiskError: the file cannot be written anew; it is as it was.
    """
    if path.exists():
        with replacing(path) as draft, draft.open("wb") as file:
            file.writelines(raw for raw, record in lines(path, number) if keep(record))
