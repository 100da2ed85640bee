"""Tables of many runs: one row per run, per step, or per turn. Unfinished runs are listed, never dropped.

from selfplay.runs import load
sweep = load("multirun/2026-01-01/12-00-00", "outputs/2026-01-02")
print(sweep)
sweep.runs.groupby("setting")["optimized"].mean()
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from selfplay.core import SelfplayError
from selfplay.garbage import paused
from selfplay.measures import numbers
from selfplay.runs.finding import find
from selfplay.runs.reading import Run, read, records

KINDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "episode": (int,),
    "role": (str,),
    "player": (str, type(None)),
    "group": (str, int, type(None)),
    "prompt": (str,),
    "reply": (str,),
    "payoff": (float, int, type(None)),
    "advantage": (float, int, type(None)),
    "scores": (dict,),
}
FIGURES = ("payoff", "advantage")
TURN = ("step", "episode", "role", "player", "group", "prompt", "reply", "payoff", "advantage")


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The runs of one or more folders, as tables.

    Attributes:
        runs: one row per run, whatever its status: `run` (a short id), `path`, `status` and `reason` (see
            `selfplay.runs.reading.Run`), `setting` (the overrides that affect results, without the seed), `seed`,
            `steps`, `seconds`, `tokens` (generated), `optimized` and `metric` (its name), `override/<key>` (the value
            as written), `eval/before/...`, `eval/after/...`, `eval/gain/...`.
        metrics: one row per logged step: `run`, `setting`, `seed`, `step`, `tokens` (generated so far), and all logged
            numbers, nested ones as `eval/accuracy`. Step 0 is the evaluation before training.
        transcripts: run -> path of its episodes.jsonl, for readable ones.
        notes: warnings about sweeps whose planned jobs are unknown.
        configs: run -> the content of its config.yaml as plain data; empty for one that cannot be read.
        unread: run -> why its transcript is left out of `turns`; filled when `turns` is first read.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    transcripts: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> pd.DataFrame:
        """The rows of unfinished runs."""
        return self.runs[self.runs["status"] != "finished"]

    @cached_property
    def turns(self) -> pd.DataFrame:
        """Every turn of every readable transcript, loaded at first use; see `turns_of`."""
        parts = []
        for run in self.transcripts:
            try:
                parts.append(self.turns_of(run))
            except SelfplayError as error:
                self.unread[run] = str(error)
        if not parts:
            return pd.DataFrame(columns=["run", "setting", "seed", *TURN, "weight"])
        table = pd.concat(parts, ignore_index=True)
        return table.astype(dict.fromkeys(("run", "setting", "role", "player"), "category"))

    def turns_of(self, run: str, steps: Collection[int] | None = None) -> pd.DataFrame:
        """One row per turn of a run, in the given steps or in all: `run`, `setting`, `seed`, `step`, `episode`, `role`,
        `player`, `group`, `prompt`, `reply`, `payoff`, `advantage`, `weight` (1 for sampled episodes), `score/<name>`;
        missing numbers are NaN.

        Raises:
            SelfplayError: the run has no readable transcript, or a turn in it is malformed.
        """
        if run not in self.transcripts:
            known = ", ".join(self.transcripts) or "none"
            raise SelfplayError(f"run '{run}' has no readable transcript; choose one that has: {known}")
        path = self.transcripts[run]
        with paused():
            turns = [turn for turn in records(path) if steps is None or turn["step"] in steps]
            try:
                columns = _columns(turns)
            except ValueError as wrong:
                raise SelfplayError(f"a turn in {path} has {wrong}; restore the file that the run wrote") from None
            [row] = self.runs.loc[self.runs["run"] == run, ["setting", "seed"]].itertuples(index=False)
            return pd.DataFrame({"run": run, "setting": row.setting, "seed": row.seed, **columns})

    def __str__(self) -> str:
        counts = self.runs["status"].value_counts()
        total = f"{len(self.runs)} run{'s' if len(self.runs) != 1 else ''}"
        text = [f"{total}: " + ", ".join(f"{count} {status}" for status, count in counts.items())]
        for run in self.problems.itertuples():
            seed = "" if pd.isna(run.seed) else f" seed={run.seed}"
            text.append(f"  {run.run} is {run.status} ({run.setting}{seed}): {run.reason}")
        return "\n".join([*text, *(f"  note: {note}" for note in self.notes)])

    __repr__ = __str__


def _columns(turns: Sequence[Mapping[str, Any]]) -> dict[str, pd.Series]:
    """The columns of `Sweep.turns_of` that are in a transcript, checked.

    Raises:
        ValueError: what is wrong with a turn.
    """
    try:
        written = {name: [turn[name] for turn in turns] for name in KINDS}
    except KeyError as error:
        raise ValueError(f"no {error}") from error
    for name, kinds in KINDS.items():
        _check(written[name], kinds, name)
    scores, weights = written.pop("scores"), [turn.get("weight", 1.0) for turn in turns]
    names = dict.fromkeys(name for some in scores for name in some)
    figures = {name: written.pop(name) for name in FIGURES} | {"weight": weights}
    figures |= {f"score/{name}": [some.get(name) for some in scores] for name in names}
    for values in figures.values():
        _check(values, KINDS["payoff"], "a figure")
    # object, because groups are int, str or None, as written, and pyarrow's strings cannot contain lone surrogates
    kinds_of = dict.fromkeys(("group", "prompt", "reply"), object)
    columns = {name: pd.Series(values, dtype=kinds_of.get(name)) for name, values in written.items()}
    return columns | {name: pd.Series(values, dtype="float64") for name, values in figures.items()}


def _check(values: Sequence[object], kinds: Collection[type], name: str) -> None:
    if set(map(type, values)) - set(kinds):
        odd = next(value for value in values if type(value) not in kinds)
        raise ValueError(f"{str(odd)[:40]} as {name}")
    if float in kinds and (large := [x for x in values if type(x) is int and abs(x) >= 2**63]):
        raise ValueError(f"{str(large[0])[:40]} as {name}")


def load(*folders: Path | str) -> Sweep:
    """Load the runs in one or more folders; each folder is a run, or contains runs at any depth.

    Jobs that a sweep planned but that wrote nothing are included with the status "missing".

    Raises:
        SelfplayError: a folder does not exist, or contains neither a run nor a sweep that planned one.
    """
    notes: list[str] = []
    named = find(folders, read, notes)
    metrics = [row for name, run in named.items() for row in _steps(name, run)]
    return Sweep(
        _typed(pd.DataFrame([_row(name, run) for name, run in named.items()])),
        _typed(pd.DataFrame(metrics, columns=None if metrics else ["run", "setting", "seed", "step", "tokens"])),
        {name: run.path / "episodes.jsonl" for name, run in named.items() if run.transcript},
        tuple(dict.fromkeys(notes)),
        {name: run.recorded for name, run in named.items()},
    )


def _row(name: str, run: Run) -> dict[str, Any]:
    logged = [numbers(line) for line in run.metrics]
    optimized = run.summary.get("optimized", {})
    row: dict[str, Any] = {
        "run": name,
        "path": str(run.path),
        "status": run.status,
        "reason": run.reason,
        "setting": run.setting,
        "seed": run.seed,
        "steps": run.steps,
        "seconds": sum(v for line in logged for k, v in line.items() if k.startswith("time/")),
        "tokens": sum(line.get("tokens/generated", 0.0) for line in logged),
        "optimized": optimized.get("value", float("nan")),
        "metric": optimized.get("metric"),
    }
    row |= {f"override/{key}": text.partition("=")[2] if "=" in text else "~" for key, text in run.overrides.items()}
    return row | numbers({"eval": run.summary.get("eval", {})})


def _steps(name: str, run: Run) -> Iterator[dict[str, Any]]:
    tokens = 0.0
    for line in run.metrics:
        logged = numbers({key: value for key, value in line.items() if key != "step"})
        tokens += logged.get("tokens/generated", 0.0)
        yield {"run": name, "setting": run.setting, "seed": run.seed, "step": line["step"], "tokens": tokens} | logged


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Make seeds and steps nullable integers, since some may be unknown."""
    return table.astype({name: "Int64" for name in ("seed", "step", "steps") if name in table})
