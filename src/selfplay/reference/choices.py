"""The choices of each group in conf/ and their options, read from yaml files and constructors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.utils import get_object

from selfplay.config import LAST
from selfplay.reference.words import documented, hint_within, hints_of, literal, short_target, type_name, yaml_value

RENAMED = "of before: now "  # docstring prefix of options that only exist to reject an old name
SPECIAL = ("_target_", "_partial_", "_convert_", "_args_")


@dataclass(frozen=True)
class Option:
    """One row of a table, as unescaped plain text."""

    name: str
    default: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A value of a yaml file as written, with its end-of-line comment."""

    text: str
    comment: str = ""


@dataclass(frozen=True)
class Choice:
    """A choice of a group: one yaml file.

    Attributes:
        name: of the choice.
        summary: its first comment.
        base: the choice that it extends, as a name, or as group=choice if it is of another group; "" for none.
        parts: key -> group=choice, for other choices nested in it.
        brings: choices of other groups that it makes the default, as group=choice.
        own: entries of its file that belong to the group, by path relative to the group's key.
        others: entries of its file that belong elsewhere, by full path.
        every: `own` merged over the entries of the choices that it extends.
    """

    name: str
    summary: str
    base: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    brings: tuple[str, ...] = ()
    own: Mapping[str, Entry] = field(default_factory=dict)
    others: Mapping[str, Entry] = field(default_factory=dict)
    every: Mapping[str, Entry] = field(default_factory=dict)


def choices(group: str, folders: Sequence[Path]) -> list[Choice]:
    """The choices of a group, sorted by name; of files with the same name, that of the first folder is used."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            files.setdefault(path.stem, path)
    read = {name: _read(group, name, path.read_text(encoding="utf-8")) for name, path in sorted(files.items())}
    return [_resolved(choice, read) for choice in read.values()]


def options(group: str, choice: Choice) -> list[Option]:
    """The rows of a choice: all options of its constructor, or its changes to the choice that it extends."""
    made_with = LAST.get(group, (None, ()))[1]
    rows = []
    for path, entry in choice.own.items():
        if path.rpartition(".")[2] in SPECIAL:
            continue
        rows.append(Option(path, yaml_value(entry.text), *_described(choice.every, path, entry.comment)))
    for path, entry in choice.own.items():
        part, _, last = path.rpartition(".")
        if last == "_target_" and part:
            rows.append(Option(part, short_target(entry.text), *_described(choice.every, part, entry.comment)))
    for key, chosen in choice.parts.items():
        rows.append(Option(key, chosen, *_described(choice.every, key, "")))
    if "_target_" in choice.own and not choice.base:
        given = {name.partition(".")[0] for name in (*choice.own, *choice.parts)} | set(made_with)
        rows += _unset(get_object(choice.own["_target_"].text), given)
    rows = [row for row in rows if not row.meaning.startswith(RENAMED)]
    order = {name.partition(".")[0]: i for i, name in reversed(list(enumerate(_parameters(choice.every))))}
    return sorted(rows, key=lambda row: (order.get(row.name.partition(".")[0], len(order)), row.name.count(".") > 0))


def _read(group: str, name: str, text: str) -> Choice:
    """Read a choice from its file, without the choices that it extends."""
    package = re.search(r"^# @package (\S+)", text, re.MULTILINE)
    where = package[1] if package else group
    entries = entries_of(text)
    choice = Choice(name, _summary(text))
    base, parts, brings = "", {}, []
    for line in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(line, str) and line.startswith("/"):  # /task/ifbench@task
            chosen, _, key = line.lstrip("/").partition("@")
            chosen = "=".join(chosen.rsplit("/", 1))
            if key == "_here_" or (where == "_global_" and key == group):
                base = chosen.removeprefix(f"{group}=")
            else:
                parts[key] = chosen
        elif isinstance(line, str) and line != "_self_":
            base = line
        elif isinstance(line, dict):
            [(key, value)] = line.items()
            chosen, _, at = key.removeprefix("override ").lstrip("/").partition("@")
            if at:
                parts[at.removeprefix(f"{group}.")] = f"{chosen}={value}"
            else:
                brings.append(f"{chosen}={value}")
    own, others = {}, {}
    for path, entry in entries.items():
        if where != "_global_":
            own[path] = entry
        elif path.startswith(f"{group}."):
            own[path.removeprefix(f"{group}.")] = entry
        elif path != group:
            others[path] = entry
    return replace(choice, base=base, parts=parts, brings=tuple(brings), own=own, others=others, every=own)


def _resolved(choice: Choice, read: Mapping[str, Choice]) -> Choice:
    """Merge the choice's entries over those of the choices that it extends."""
    every, base = dict(choice.own), choice.base
    while base in read:
        every = {**read[base].own, **every}
        base = read[base].base
    return replace(choice, every=every)


def _summary(text: str) -> str:
    """The comments at the top of the file, without Hydra's directive."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def entries_of(text: str) -> dict[str, Entry]:
    """path -> entry, for all leaves of a yaml file (including empty and flow-style mappings)."""
    lines, found = text.splitlines(), {}

    def beside(mark: yaml.Mark) -> str:
        rest = lines[mark.line][mark.column :].lstrip(": ") if mark.line < len(lines) else ""
        return rest.removeprefix("#").strip() if rest.startswith("#") else ""

    def walk(node: yaml.Node, path: str) -> None:
        for key, value in node.value:
            name = f"{path}{key.value}"
            if name == "defaults":
                continue
            start, end = value.start_mark, value.end_mark
            if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                if comment := beside(key.end_mark):
                    comments[name] = comment
                walk(value, f"{name}.")
            elif isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
                found[name] = Entry(value.value)
            else:
                found[name] = Entry(text[start.index : end.index], beside(end))

    comments: dict[str, str] = {}
    root = yaml.compose(text)
    if root is not None:
        walk(root, "")
    for name, comment in comments.items():
        target = f"{name}._target_"
        for path in (target, *(path for path in found if path.startswith(f"{name}."))):
            if path in found and not found[path].comment:
                found[path] = Entry(found[path].text, comment)
                break
    return found


def elsewhere(choice: Choice) -> Iterator[str]:
    """The settings that a file makes outside its group; components are given by the name of their constructor."""
    for path, entry in choice.others.items():
        part, _, last = path.rpartition(".")
        if last == "_target_":
            yield f"{part}: {short_target(entry.text)}"
        elif last not in SPECIAL:
            yield f"{path}={yaml_value(entry.text)}"


def _parameters(entries: Mapping[str, Entry]) -> list[str]:
    if "_target_" not in entries:
        return []
    try:
        return list(inspect.signature(get_object(entries["_target_"].text)).parameters)
    except (ValueError, TypeError):  # a built-in
        return []


def _unset(target: Any, given: Iterable[str]) -> list[Option]:
    """The options with defaults in the constructor that the yaml file does not set."""
    hints, meanings = hints_of(target), documented(target)
    rows = []
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.default is not parameter.empty and name not in given and not name.startswith("_"):
            hint, meaning = type_name(hints.get(name, Any)), meanings.get(name, "")
            rows.append(Option(name, literal(parameter.default), hint, meaning))
    return rows


def _described(entries: Mapping[str, Entry], path: str, comment: str) -> tuple[str, str]:
    """The type and the meaning of an option, from the constructor of the innermost component that contains it."""
    names = path.split(".")
    for n in range(len(names) - 1, -1, -1):
        part = ".".join(names[:n])
        if (target := entries.get(f"{part}._target_" if part else "_target_")) is not None:
            if target.text.startswith("torch."):
                return "", comment
            made = get_object(target.text)
            hint = hint_within(hints_of(made).get(names[n], Any), names[n + 1 :])
            meaning = documented(made).get(names[n], "")
            vague = len(names) > n + 1 or re.search(r"(^|, )(see|as in) `", meaning)
            return type_name(hint), comment if vague and comment else meaning or comment
    return "", comment


def first_sentence(choice: Choice) -> str:
    """The first paragraph of the docstring of the choice's constructor."""
    target = choice.every.get("_target_")
    doc = inspect.getdoc(get_object(target.text)) if target else None
    return " ".join((doc or "").partition("\n\n")[0].split())
