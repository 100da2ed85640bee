"""Changes of a run that reduce its memory, and which of them would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from selfplay.memory.model import Model
from selfplay.memory.phases import Setup, peak

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
LORA_TEXT = "'player.lora={r: 16, lora_alpha: 32, target_modules: all-linear}'"
PROCESSES = (2, 4, 8, 16, 32, 64)  # that a remedy proposes


@dataclass(frozen=True)
class Remedy:
    """Changes of a config, as overrides of the command line, and the setup that has them."""

    text: str
    setup: Setup


@dataclass(frozen=True)
class Change:
    """One change of a config; `apply` returns None where it would change nothing."""

    text: str
    apply: Callable[[Setup], Setup | None]


Fits = Callable[[Setup], bool]


def remedies(setup: Setup, adapted: Callable[[], Model] | None, fits: Fits) -> list[Remedy]:
    """The changes that make a run fit, in the order in which they should be tried.

    These are first the changes that suffice on their own. If none does, it is one combination: each change in turn that
    reduces the peak until the run fits, without those that turn out to be superfluous; empty if all of them do not
    suffice.

    Args:
        setup: a setup that does not fit.
        adapted: returns the learner's sizes with the adapter LORA; None if it has one.
        fits: whether a setup fits.
    """
    kinds = _changes(setup, adapted)
    alone = [remedy for kind in kinds if (remedy := _first(setup, kind, [], fits)) is not None]
    if alone:
        return alone
    chosen: list[Change] = []
    for kind in kinds:
        if (remedy := _first(setup, kind, chosen, fits)) is not None:
            return [_reduced(setup, chosen, kind, fits) or remedy]
        before = peak(_with(setup, chosen))
        chosen += [change for change in kind[-1:] if peak(_with(setup, [*chosen, change])) < before]
    return []


def _with(setup: Setup, changes: Sequence[Change]) -> Setup:
    for change in changes:
        setup = change.apply(setup) or setup
    return setup


def _first(setup: Setup, kind: Sequence[Change], others: Sequence[Change], fits: Fits) -> Remedy | None:
    """The first of ever stronger versions of one change with which, beside the others, the setup fits."""
    for change in kind:
        changes = [*others, change]
        if change.apply(setup) is not None and fits(found := _with(setup, changes)):
            return Remedy(" ".join(one.text for one in changes), found)
    return None


def _reduced(setup: Setup, others: Sequence[Change], kind: Sequence[Change], fits: Fits) -> Remedy | None:
    """The combination without the changes that it does not need, the first ones left out first."""
    rest = list(others)
    for change in others:
        fewer = [one for one in rest if one is not change]
        if _first(setup, kind, fewer, fits) is not None:
            rest = fewer
    return _first(setup, kind, rest, fits)


def _changes(setup: Setup, adapted: Callable[[], Model] | None) -> list[list[Change]]:
    """Each kind of change, in ever stronger versions."""

    def sized(name: str, text: str, size: int) -> Change:
        return Change(f"{text}={size}", lambda one: replace(one, **{name: size}))  # type: ignore[arg-type]

    def with_adapter(one: Setup) -> Setup | None:
        return None if adapted is None else replace(one, learner=adapted())

    def split(processes: int) -> Change:
        return Change(
            f"parallel=fsdp processes={processes}", lambda one: replace(one, parallel="fsdp", processes=processes)
        )

    return [
        [sized("micro_batch", "update.micro_batch", size) for size in _halves(setup.micro_batch)],
        [sized("batch_size", "player.batch_size", size) for size in _halves(setup.batch_size)],
        [
            Change(
                "player.gradient_checkpointing=true",
                lambda one: None if one.checkpointing else replace(one, checkpointing=True),
            )
        ],
        [Change(LORA_TEXT, with_adapter)],
        [split(processes) for processes in PROCESSES if processes > setup.shards],
        [Change("engine=server", lambda one: None if one.engine == "server" else replace(one, engine="server"))],
    ]


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size
