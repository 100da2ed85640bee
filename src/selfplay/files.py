"""Crash-safe files: replaced files are written atomically, appended files lose at most their last line."""

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

LONGEST = 2**27  # bytes per line


class DiskError(SelfplayError):
    """A file cannot be written: the disk is full or read-only, or the path is taken."""


@contextmanager
def to_disk(path: Path) -> Iterator[None]:
    """Turn write failures in the block into a DiskError that names `path`.

    Raises:
        DiskError: for an OSError, or the exceptions that torch and safetensors raise instead of one.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if not isinstance(error, (OSError, SafetensorError)) and not full:
            raise
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DiskError(
            f"{path} cannot be written ({reason}); check free disk space and write permissions, then resume"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; if the block succeeds, it atomically replaces `path` and is synced to disk.

    Raises:
        DiskError: it cannot be written; the old file at `path` is kept.
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
    """Append one JSON line per record, in a single write, so that a crash leaves at most one incomplete line.

    Raises:
        SelfplayError: a number is not finite.
        DiskError: they cannot be written; the file is restored if possible.
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
    """Serialise a record as JSON for the file at `path`.

    Raises:
        SelfplayError: a number is not finite.
    """
    try:
        return json.dumps(record, allow_nan=False, indent=indent)
    except ValueError:
        bad = next(_not_finite(record, ""), None)
        if bad is None:
            raise
        where = f" at step {record['step']}" if "step" in record else ""
        raise SelfplayError(
            f"'{bad[0]}' is {bad[1]}{where}, which {path.name} cannot store; leave out metrics that were not "
            "measured, and if training diverged, lower the learning rate"
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
    """Read the JSON object in a file.

    Args:
        path: the file.
        remedy: how the error message ends.

    Raises:
        SelfplayError: the file cannot be read or contains no JSON object.
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
        raise SelfplayError(f"{path} is broken (it contains {str(record)[:20]}, not a record); {remedy}")
    return record


def lines(path: Path, number: str = "step") -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the complete lines of a file, raw and parsed; an incomplete last line, left by a crash, is skipped.

    Args:
        path: the file; a missing one has no lines.
        number: a key under which every record must have a non-negative integer.

    Raises:
        SelfplayError: the file cannot be read, or a complete line is not a record.
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
                        f"line {count} of {path} is longer than any line a run writes; delete that line"
                    )
                yield raw, record_of(raw, count, path, number)
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); restore the file that the run wrote") from error


def record_of(raw: bytes, count: int, path: Path, number: str) -> dict[str, Any]:
    """Parse line `count` of a file; see `lines`.

    Raises:
        SelfplayError: it is not a record.
    """
    where = f"line {count} of {path}"
    try:
        record = json.loads(raw, parse_constant=_no_number, parse_int=_small)
    except (ValueError, RecursionError) as error:
        raise SelfplayError(f"{where} is not JSON ({error}); delete that line") from error
    if not isinstance(record, dict):
        raise SelfplayError(f"{where} is {str(record)[:20]}, not a record; delete that line")
    if type(record.get(number)) is not int or record[number] < 0:
        raise SelfplayError(f"{where} has no {number}; delete that line")
    return record


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _small(digits: str) -> int:
    """Parse a 64-bit integer; data frames cannot store larger ones."""
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{digits[:20]}... is too large")
    return value


def repair(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda record: True, number: str = "step") -> None:
    """Drop an incomplete last line and the records for which `keep` is false; `number` as for `lines`.

    Raises:
        SelfplayError: a line other than the last is corrupt.
        DiskError: the file cannot be rewritten; it is unchanged.
    """
    if path.exists():
        with replacing(path) as draft, draft.open("wb") as file:
            file.writelines(raw for raw, record in lines(path, number) if keep(record))
