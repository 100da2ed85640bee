"""Checkpoints: the policy in its standard format, and the state that a run needs to resume exactly.

A checkpoint is written under a temporary name and renamed once complete; before deletion it is renamed again. Every
folder named `step-...` is therefore complete, even if the process was killed.
"""

import os
import pickle
import re
import shutil
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay import digests
from selfplay.core import Policy, SelfplayError
from selfplay.runs.folder import RunFolder

STATE, LEARNERS = "state.pt", "learners"
EVERY, LARGE = 20, 10**9  # steps, bytes: by default, checkpoints of every 20th step are kept, unless they are large
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
    further: Mapping[str, tuple[Policy, Mapping[str, Policy]]] | None = None,
    best: int | None = None,
) -> Path:
    """Write the checkpoint of a step, then delete those that are no longer kept.

    Args:
        state: tensors, numbers, strings, and lists, tuples and dicts of them.
        keep: number of newest checkpoints to keep; 0 keeps all.
        keep_every: checkpoints whose step is a multiple of this are also kept; 0 disables this, None uses `EVERY` for
            checkpoints smaller than `LARGE`.
        frozen: additional policies, each saved in a subfolder of its name.
        further: name -> another learner and its additional policies, saved in `learners/<name>/` in the same way.
        best: the step of another checkpoint that is kept, if there is one.

    Raises:
        SelfplayError: the state contains an object that cannot be loaded safely.
    """
    _delete_partial(folder.checkpoints)
    target = folder.checkpoints / f"step-{step:06d}"
    draft = target.with_name(_WRITING + target.name)
    draft.mkdir(parents=True)
    _save_policies(draft, policy, frozen or {})
    for name, (learner, own) in (further or {}).items():
        _save_policies(draft / LEARNERS / name, learner, own)
    kept_by = {"frozen_of": {name: list(own) for name, (_, own) in further.items()}} if further else {}
    _write_state({**state, "frozen": list(frozen or {}), **kept_by}, draft / STATE)
    digests.write(draft)
    for path in draft.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if target.exists():
        _remove(target)
    os.replace(draft, target)
    prune(folder, step, keep, keep_every, best)
    return target


def prune(folder: RunFolder, written: int, keep: int, keep_every: int | None, best: int | None = None) -> None:
    """Delete the checkpoints that are no longer kept after that of step `written` was saved; see `save`."""
    found = _complete(folder.checkpoints)
    retained = kept({step: size(path) for step, path in found.items()}, written, keep, keep_every) | {best}
    for step, path in found.items():
        if step not in retained:
            _remove(path)


def kept(sizes: Mapping[int, int], written: int, keep: int, keep_every: int | None) -> set[int]:
    """The steps of the checkpoints to keep; see `save`.

    Args:
        sizes: step -> size in bytes.
        written: the step just saved, which is always kept.
    """
    if keep == 0:
        return set(sizes)
    every = EVERY if keep_every is None else keep_every
    spaced = {s for s, size in sizes.items() if every and s % every == 0 and (keep_every is not None or size < LARGE)}
    return {written, *sorted(sizes)[-keep:]} | spaced


def size(folder: Path) -> int:
    """Total size in bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def latest(folder: RunFolder) -> tuple[int, Path] | None:
    """The newest checkpoint as (step, path), or None. Deletes partial checkpoints of killed processes."""
    _delete_partial(folder.checkpoints)
    found = _complete(folder.checkpoints)
    return max(found.items(), default=None)


def load(path: Path, policy: Policy) -> tuple[dict[str, object], dict[str, Policy]]:
    """Load a checkpoint into `policy`; return the saved state (tensors on the CPU) and the frozen policies by name.

    Raises:
        SelfplayError: a file is missing or broken.
    """
    file = path / STATE
    remedy = f"delete {path} to resume from the previous checkpoint"
    if not file.is_file():
        raise SelfplayError(f"{file} is missing; {remedy}")
    digests.check(path, remedy)
    with file.open("rb") as opened:
        try:
            with zipfile.ZipFile(opened) as archive:  # torch.load does not verify checksums
                broken = archive.testzip()
            if broken:
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
            opened.seek(0)
            state: dict[str, object] = torch.load(opened, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = (str(error) or "the file is truncated").splitlines()[0].split(". ")[0]
            raise SelfplayError(f"{file} is broken ({reason}); {remedy}") from error
    return state, load_policies(path, policy, state.pop("frozen"))  # type: ignore[arg-type]


def load_policies(path: Path, policy: Policy, names: Iterable[str]) -> dict[str, Policy]:
    """Load a learner's weights from its folder in a checkpoint; return its frozen policies of these names."""
    frozen: dict[str, Policy] = {}
    for name in names:
        policy.load(path / name)
        frozen[name] = policy.snapshot()
    policy.load(path)
    return frozen


def _save_policies(folder: Path, policy: Policy, frozen: Mapping[str, Policy]) -> None:
    """Write a learner's weights to a folder, and each of its frozen policies to a subfolder."""
    folder.mkdir(parents=True, exist_ok=True)
    policy.save(folder)
    for name, other in frozen.items():
        (folder / name).mkdir()
        other.save(folder / name)


def _write_state(state: dict[str, object], file: Path) -> None:
    _check(state)
    torch.save(state, file)


def _check(part: object) -> None:
    """Raise SelfplayError unless `torch.load(weights_only=True)` can load it."""
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
            f"the checkpoint state contains a {kind.__module__}.{kind.__qualname__}, which cannot be loaded safely; "
            "use only tensors, numbers, strings, lists, tuples and dicts"
        )


def _complete(checkpoints: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"step-(\d{6,})", path.name), path) for path in checkpoints.glob("step-*"))
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def _remove(path: Path) -> None:
    doomed = path.with_name(_REMOVING + path.name)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def _delete_partial(checkpoints: Path) -> None:
    for prefix in (_WRITING, _REMOVING):
        for path in checkpoints.glob(prefix + "*"):
            shutil.rmtree(path)
