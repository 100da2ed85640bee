"""What differs between the runs, by the config that each of them recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay.runs.reading import NOT_SCIENCE
from selfplay.runs.sweep import Sweep

RECORDED = (*NOT_SCIENCE, "overrides", "versions", "commit", "trust", "folder")  # not part of a comparison
TARGET = "._target_"
ITSELF = "selfplay.opponents.matchmaker.Matchmaker"  # the opponent rule of a learner that plays every role itself
NAMES = ("name",)  # options of a game that choose another game

Config = Mapping[str, str]


def flat_config(recorded: Mapping[str, Any]) -> Config:
    """The config that a run recorded: dotted key -> value as text; empty if it could not be read.

    Keys that cannot affect results, and the seed, are left out. A class is told by its name without its module.
    """
    flat = _flat(recorded)
    return {key: value for key, value in flat.items() if not _left_out(key)}


def _left_out(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in RECORDED)


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: _text(tree)} if prefix else {}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return {key: value.rpartition(".")[2] if key.endswith(TARGET) else value for key, value in flat.items()}


def _text(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false", "{}": "none"}.get(str(value), str(value))


def configs(sweep: Sweep) -> dict[str, Config]:
    """Run -> its config."""
    return {str(run): flat_config(sweep.configs.get(str(run), {})) for run in sweep.runs["run"]}


def against_itself(recorded: Mapping[str, Any]) -> bool:
    """Whether a run optimized the payoff of a role in a zero-sum game between the learner and itself.

    Such a payoff says nothing about learning; the KL is then recorded as the progress (`selfplay.derived.progress`).

    Args:
        recorded: the content of its config.yaml.
    """
    progress, optimized = (str(recorded.get(f"{name}_metric")) for name in ("progress", "optimized"))
    role, _, name = optimized.rpartition("/")
    opponent = recorded.get("opponent")
    plain = isinstance(opponent, dict) and opponent.get(TARGET[1:]) == ITSELF
    return name == "payoff" and progress == f"{role}/kl" and plain


def differing(known: Mapping[str, Config], seeds: Mapping[str, object]) -> list[str]:
    """The keys whose values differ between the runs, classes first.

    Left out are keys that always equal the seed, and keys that only some runs have because these chose another class,
    as long as all of these have the same value.

    Args:
        known: run -> its config; runs without one are ignored.
        seeds: run -> its seed.
    """
    some = {run: written for run, written in known.items() if written}
    keys = dict.fromkeys(key for written in some.values() for key in written)
    varied = {key for key in keys if len({written.get(key) for written in some.values()}) > 1}
    found = []
    for key in keys:
        if any(other.startswith(f"{key}.") for other in keys):  # nothing in some runs, more keys in others
            continue
        values = {run: written[key] for run, written in some.items() if key in written}
        explained = any(parent in varied for parent in _classes(key))
        same = len(set(values.values())) == 1
        if key in varied and not (same and explained) and any(v != str(seeds.get(run)) for run, v in values.items()):
            found.append(key)
    return sorted(found, key=lambda key: (not key.endswith(TARGET), key.count(".")))


def _classes(key: str) -> list[str]:
    """The keys of the classes that a key is an option of, at any depth."""
    parts = key.removesuffix(TARGET).split(".")
    return [".".join(parts[:i]) + TARGET for i in range(1, len(parts))]


def apart(setting: str, other: str, written: Config, other_written: Config) -> tuple[str, str]:
    """Names of two settings by the overrides in which they differ: ("reward=rm", "selfjudge").

    Where an override was typed for one of them only, the other's value is read from its config, if it is a value and
    not a whole component. The full names if nothing else tells them apart.
    """
    mine, its = (dict(part.partition("=")[::2] for part in name.split(" ")) for name in (setting, other))
    keys = [key for key in {**mine, **its} if key != "default"]
    pairs = {
        key: (mine.get(key, written.get(key.lstrip("+"))), its.get(key, other_written.get(key.lstrip("+"))))
        for key in keys
    }
    pairs = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if not pairs:
        return setting, other
    if len(pairs) == 1:
        [(key, (first, second))] = pairs.items()
        if first is not None and second is not None:
            return f"{key}={first}", second
    first, second = (" ".join(f"{key}={pair[i]}" for key, pair in pairs.items() if pair[i] is not None) for i in (0, 1))
    return first or "the default", second or "the default"


def arena(written: Config) -> str:
    """What an evaluation measures: the task where it asks questions of one, else the game.

    Settings are compared within an arena only: accuracies on the same questions, whatever game was played in training,
    but not NashConv in two different games.
    """
    if task := written.get(f"eval.task{TARGET}"):
        return task
    return " ".join(filter(None, (written.get(f"game.{name}") for name in (TARGET[1:], *NAMES))))
