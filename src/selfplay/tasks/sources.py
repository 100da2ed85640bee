"""Where records come from: a source is a function that gives rows, each with the same named fields."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError
from selfplay.options import Name

Row = Mapping[str, Any]
FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
SAVED = ("dataset_dict.json", "dataset_info.json")  # what save_to_disk leaves


def jsonl(path: Name) -> tuple[Row, ...]:
    """The rows of a file with one JSON object a line, or one JSON list of objects.

    Raises:
        SelfplayError: no such file, or a line that is no JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise SelfplayError(
            f"there is no file {path}; give one with a JSON object a line, for example task.source.path=questions.jsonl"
        )
    stamp = file.stat()
    return _jsonl(file, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _jsonl(file: Path, changed: int, size: int) -> tuple[Row, ...]:
    """Read once for all who ask for the same file; `changed` and `size` tell that it is the same."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SelfplayError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    if text.lstrip().startswith("["):
        return tuple(_object(row, f"entry {i}", file) for i, row in enumerate(_json(text, file), 1))
    lines = enumerate(text.split("\n"), 1)  # splitlines would cut at characters that JSON allows in a string
    return tuple(_object(_json(line, f"line {i} of {file}"), f"line {i}", file) for i, line in lines if line.strip())


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        raise SelfplayError(
            f"{where} is no JSON ({reason}); write one object a line, or one list of objects"
        ) from error


def _object(row: Any, where: str, file: Path) -> Row:
    if not isinstance(row, dict):
        raise SelfplayError(
            f"{where} of {file} is a {type(row).__name__}, not a JSON object; "
            'write for example {"question": "...", "answer": "..."}'
        )
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SelfplayError(f"{where} of {file} holds half a character ({error.reason}); write it whole") from error
    if name := next((name for name, value in row.items() if _infinite(value)), None):
        raise SelfplayError(f"{where} of {file} has {row[name]} as its '{name}', which is no number; correct it")
    return row


def _infinite(value: Any) -> bool:
    """Whether a value is, or holds, NaN or a number beyond all floats (NaN, Infinity, 1e400: Python reads them all)."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_infinite, inner))


@lru_cache(maxsize=8)
def huggingface(path: Name, name: Name | None, split: Name) -> tuple[Row, ...]:
    """The rows of a Hugging Face dataset.

    Args:
        path: a hub id, a folder that `save_to_disk` wrote, or a .parquet, .json, .jsonl or .csv file.
        name: the hub's name of the configuration; None where there is one only.
        split: "train", "test", "train[:1000]", ...

    Raises:
        SelfplayError: the package datasets is not installed, or the dataset cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise SelfplayError(
            f"a Hugging Face dataset needs the package datasets ({error}); "
            "install it with: pip install 'selfplay[data]'"
        ) from error
    try:
        if any((Path(path) / mark).is_file() for mark in SAVED):
            rows = _split_of(datasets.load_from_disk(path), path, split)
        elif Path(path).is_file() and Path(path).suffix in FORMATS:
            rows = datasets.load_dataset(FORMATS[Path(path).suffix], data_files={"train": path}, split=split)
        else:
            rows = datasets.load_dataset(path, name, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0][:200].rstrip(".")
        raise SelfplayError(
            f"the dataset '{path}' (name {name}, split {split}) cannot be loaded ({reason}); give a hub id that this "
            "machine can reach, or a folder that save_to_disk wrote"
        ) from error
    return tuple(rows)


def _split_of(saved: Any, path: str, split: str) -> Any:
    """One split of what was saved: of a dictionary of splits by its name, of a single one all of it."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise SelfplayError(f"the dataset '{path}' has no split '{split}' (there are: {', '.join(saved)}); name one")
    return saved[split]
