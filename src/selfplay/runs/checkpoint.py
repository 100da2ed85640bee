"""Checkpoints: the policy in the format of the field, and beside it all that a run needs to go on as if never stopped.

A checkpoint is written under another name and renamed when it is whole; it is renamed before it is removed. Whatever
is called `step-...` is therefore complete, at whatever instant the process was killed.
"""

import os
import pickle
import re
import shutil
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay import digests
from selfplay.core import Policy, SelfplayError
from selfplay.runs.folder import RunFolder

STATE = "state.pt"
EVERY, LARGE = 20, 10**9  # steps, bytes: by default each 20th checkpoint stays for good, unless it is large
_WRITING, _REMOVING = ".writing-", ".removing-"
_PLAIN = (
    Tensor, Parameter, torch.Size, torch.dtype, torch.device,
    bool, int, float, complex, str, bytes, bytearray, type(None),
)  # fmt: skip


def save(
    folder: RunFolder,
    step: int,
    policy: Policy,
    state: Mapping[str, object],
    keep: int,
    keep_every: int | None,
    frozen: Mapping[str, Policy] | None = None,
) -> Path:
    """Write the checkpoint of a step, then remove those that are no longer kept.

    Args:
        state: tensors, and numbers, strings, lists, tuples and dicts of them.
        keep: how many of the newest stay; 0 keeps all.
        keep_every: a checkpoint whose step is a multiple of this stays, too; 0 for none, None for `EVERY` where it is
            smaller than `LARGE`.
        frozen: further policies, each saved in a folder of its name inside the checkpoint.

    Raises:
        SelfplayError: the state holds something that could not be read back.
    """
    _sweep(folder.checkpoints)
    target = folder.checkpoints / f"step-{step:06d}"
    draft = target.with_name(_WRITING + target.name)
    draft.mkdir(parents=True)
    policy.save(draft)
    for name, other in (frozen or {}).items():
        (draft / name).mkdir()
        other.save(draft / name)
    _write_state({**state, "frozen": list(frozen or {})}, draft / STATE)
    digests.write(draft)
    for path in draft.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if target.exists():
        _remove(target)
    os.replace(draft, target)
    prune(folder, step, keep, keep_every)
    return target


def prune(folder: RunFolder, written: int, keep: int, keep_every: int | None) -> None:
    """Remove the checkpoints that are no longer kept once that of step `written` is there; see `save`."""
    found = _complete(folder.checkpoints)
    stay = kept({step: size(path) for step, path in found.items()}, written, keep, keep_every)
    for step, path in found.items():
        if step not in stay:
            _remove(path)


def kept(sizes: Mapping[int, int], written: int, keep: int, keep_every: int | None) -> set[int]:
    """Which of the checkpoints are kept, by step; see `save`.

    Args:
        sizes: step -> bytes.
    """
    if keep == 0:
        return set(sizes)
    every = EVERY if keep_every is None else keep_every
    for_good = {s for s, size in sizes.items() if every and s % every == 0 and (keep_every is not None or size < LARGE)}
    return {written, *sorted(sizes)[-keep:]} | for_good


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def latest(folder: RunFolder) -> tuple[int, Path] | None:
    """The newest checkpoint and its step, None when there is none. Removes what a killed process left half done."""
    _sweep(folder.checkpoints)
    found = _complete(folder.checkpoints)
    return max(found.items(), default=None)


def load(path: Path, policy: Policy) -> tuple[dict[str, object], dict[str, Policy]]:
    """Read a checkpoint: the policy in place, the state as it was saved (tensors on the CPU), and what it froze.

    Raises:
        SelfplayError: a file is missing or broken.
    """
    file = path / STATE
    remedy = f"delete {path} to resume from the checkpoint before it"
    if not file.is_file():
        raise SelfplayError(f"{file} is missing; {remedy}")
    digests.check(path, remedy)
    with file.open("rb") as opened:
        try:
            with zipfile.ZipFile(opened) as archive:  # torch.load does not look at the checksums
                broken = archive.testzip()
            if broken:
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
            opened.seek(0)
            state: dict[str, object] = torch.load(opened, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = (str(error) or "it ends too early").splitlines()[0].split(". ")[0]
            raise SelfplayError(f"{file} is broken ({reason}); {remedy}") from error
    frozen: dict[str, Policy] = {}
    for name in state.pop("frozen"):  # type: ignore[attr-defined]
        policy.load(path / name)
        frozen[name] = policy.snapshot()
    policy.load(path)
    return state, frozen


def _write_state(state: dict[str, object], file: Path) -> None:
    _check(state)
    torch.save(state, file)


def _check(part: object) -> None:
    """Raise SelfplayError unless `torch.load` could read it back without running anybody's code."""
    if type(part) in (dict, OrderedDict, Counter):
        for key, value in part.items():  # type: ignore[attr-defined]
            _check(key)
            _check(value)
    elif type(part) in (list, tuple, set):
        for value in part:  # type: ignore[attr-defined]
            _check(value)
    elif type(part) not in _PLAIN:
        kind = type(part)
        raise SelfplayError(
            f"the state of a checkpoint holds {kind.__module__}.{kind.__qualname__}, which could not be read back "
            "safely; make it of tensors, numbers, strings, lists, tuples and dicts"
        )


def _complete(checkpoints: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"step-(\d{6,})", path.name), path) for path in checkpoints.glob("step-*"))
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def _remove(path: Path) -> None:
    doomed = path.with_name(_REMOVING + path.name)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def _sweep(checkpoints: Path) -> None:
    for prefix in (_WRITING, _REMOVING):
        for path in checkpoints.glob(prefix + "*"):
            shutil.rmtree(path)
