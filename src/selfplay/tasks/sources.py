"""Sources of records: functions that return rows with named fields."""

import csv
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError
from selfplay.options import Name

Row = Mapping[str, Any]
FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
ASSET = "asset:"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LONGEST_FIELD = 2**31 - 1  # characters; Python's default for csv is 131,072
SAVED = ("dataset_dict.json", "dataset_info.json")  # files written by save_to_disk


class Located(dict[str, Any]):
    """A row that knows where it is, such as "line 3 of questions.jsonl", for messages about it."""

    def __init__(self, row: Row, where: str) -> None:
        super().__init__(row)
        self.where = where


def file(path: Name) -> tuple[Row, ...]:
    """Read the rows of a file, in the format that its name says, or of a folder that `save_to_disk` wrote.

    Args:
        path: a .csv or .tsv file with a header, whose values are texts; a .parquet file (needs the extra `data`); a
            folder (the same); else a file of JSON, see `jsonl`. "asset:pairs.jsonl" is a file of this package.

    Raises:
        SelfplayError: the file does not exist, or a row of it cannot be read.
    """
    place = Path(path)
    if path.startswith(ASSET):
        place = Path(str(files("selfplay") / "assets" / path.removeprefix(ASSET)))
    if place.is_dir():
        return huggingface(str(place))
    if not place.is_file() or place.suffix not in (*DELIMITERS, ".parquet"):
        return jsonl(str(place))
    stamp = place.stat()
    return (_parquet if place.suffix == ".parquet" else _csv)(place, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _csv(place: Path, changed: int, size: int) -> tuple[Row, ...]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(StringIO(_text(place), newline=""), delimiter=DELIMITERS[place.suffix], strict=True)
    rows, names = [], list[str]()
    try:
        for values in filter(None, reader):
            where = f"line {reader.line_num} of {place}"
            if not names:
                names = _header(values, place)
            elif len(values) != len(names):
                raise SelfplayError(
                    f"{where} has {len(values)} values, but the header has {len(names)} names ({', '.join(names)}); "
                    'put a text that contains the separator or a line break in "quotes"'
                )
            else:
                rows.append(Located(dict(zip(names, values, strict=True)), where))
    except csv.Error as error:
        raise SelfplayError(
            f'line {reader.line_num} of {place} is not CSV ({error}); put texts in "quotes", and write a quote in them '
            'as ""'
        ) from error
    return tuple(rows)


def _header(names: list[str], place: Path) -> list[str]:
    if len(set(names)) < len(names) or "" in names:
        raise SelfplayError(f"the header of {place} is {', '.join(names)}; give every column a name of its own")
    if len(names) == 1 and (other := next((mark for mark in ";\t,|" if mark in names[0]), None)):
        raise SelfplayError(
            f"the header of {place} is the single name '{names[0]}'; its columns seem to be separated by {other!r}: "
            "write a .csv with commas or a .tsv with tabs"
        )
    return names


@lru_cache(maxsize=8)
def _parquet(place: Path, changed: int, size: int) -> tuple[Row, ...]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SelfplayError(
            f"reading {place} needs the package pyarrow ({error}); install it with: pip install 'selfplay[data]'"
        ) from error
    try:
        rows = parquet.read_table(place).to_pylist()
    except (OSError, ValueError) as error:
        raise SelfplayError(f"{place} is not a Parquet file ({str(error)[:200]}); convert it") from error
    return tuple(Located(row, f"row {i} of {place}") for i, row in enumerate(rows, 1))


def jsonl(path: Name) -> tuple[Row, ...]:
    """Read the rows of a file with one JSON object per line, or a JSON list of objects.

    Args:
        path: the file.

    Raises:
        SelfplayError: the file does not exist, or a line is not a JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise SelfplayError(
            f"there is no file {path}; give one, such as task.source.path=questions.jsonl with a JSON object per line"
        )
    stamp = file.stat()
    return _jsonl(file, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _jsonl(file: Path, changed: int, size: int) -> tuple[Row, ...]:
    """Read a file; cached as long as its modification time and size stay the same."""
    text = _text(file)
    if text.lstrip().startswith("["):
        return tuple(_object(row, f"entry {i}", file) for i, row in enumerate(_json(text, file), 1))
    lines = enumerate(text.split("\n"), 1)  # splitlines would also split at characters that are legal in JSON strings
    return tuple(_object(_json(line, f"line {i} of {file}"), f"line {i}", file) for i, line in lines if line.strip())


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SelfplayError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        raise SelfplayError(
            f"{where} is not JSON ({reason}); write one object per line, or one list of objects"
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
        raise SelfplayError(f"{where} of {file} has half a surrogate pair ({error.reason}); fix the text") from error
    if name := next((name for name, value in row.items() if _infinite(value)), None):
        raise SelfplayError(f"{where} of {file} has {row[name]} as its '{name}', which is not finite; fix it")
    return Located(row, f"{where} of {file}")


def _infinite(value: Any) -> bool:
    """Whether a value is or contains NaN or infinity (Python's json reads NaN, Infinity and 1e400)."""
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_infinite, inner))


@lru_cache(maxsize=8)
def huggingface(path: Name, name: Name | None = None, split: Name = "train") -> tuple[Row, ...]:
    """Load the rows of a Hugging Face dataset.

    Args:
        path: a hub id, a folder that `save_to_disk` wrote, or a .parquet, .json, .jsonl or .csv file.
        name: the configuration on the hub; None if there is only one.
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
    return tuple(Located(row, f"row {i} of {path}") for i, row in enumerate(rows, 1))


def _split_of(saved: Any, path: str, split: str) -> Any:
    """The named split of a saved DatasetDict; a single saved Dataset as a whole."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise SelfplayError(f"the dataset '{path}' has no split '{split}' (splits: {', '.join(saved)}); name one")
    return saved[split]
