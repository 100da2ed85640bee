"""Whole models on disk: written under the names that were published, and read back by the library that wrote them.

transformers converts the weights of many architectures when it loads them (the experts of a mixture become one tensor)
and back when it saves them, so names in a file are not names in the model. They are left to it.
"""

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Module, ModuleDict, ModuleList, Sequential
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from selfplay.core import SelfplayError
from selfplay.models.load import lacking, quiet, some

REMEDY = "resume with the player it was made with"
CONTAINERS = (ModuleList, ModuleDict, Sequential)  # which no architecture initialises by themselves


def check_kept(model: PreTrainedModel, path: str) -> None:
    """Raise SelfplayError where transformers would read other weights than a checkpoint of the model holds.

    While it reads a file it initialises what the file lacks. Some architectures initialise more than that, such as the
    padding token's embedding. A copy of one module of each type is tried; the model itself is not touched, for a
    module's initialisation may reach into the modules within it.
    """
    seen: set[tuple[type, bool]] = set()
    owners = {name: module for name, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    for name, module in model.named_modules():
        kind = (type(module), getattr(module, "padding_idx", None) is not None)
        if (
            kind in seen
            or isinstance(module, CONTAINERS)
            or any(isinstance(m, PreTrainedModel) for m in module.modules())
        ):
            continue
        seen.add(kind)
        owner = owners[max((n for n in owners if not n or name.startswith(f"{n}.")), key=len)]
        if lost := _initialised(owner, copy.deepcopy(module)):
            raise SelfplayError(
                f"transformers draws {name}.{lost} of {type(model).__name__} ('{path}') anew whenever it reads a "
                "checkpoint, so what is learnt would be lost; train an adapter of it (player.lora), or another "
                "architecture"
            )


@torch.no_grad()
def _initialised(owner: PreTrainedModel, module: Module) -> str:
    """The name of a weight in this module that its owner initialises although it was read; "" for none.

    Args:
        owner: the model to whose architecture the module belongs.
        module: to be thrown away.
    """
    held = {name: value for name, value in module.state_dict(keep_vars=True).items() if value.is_floating_point()}
    for value in held.values():
        value.add_(1.0)  # away from whatever it may be initialised with
        value._is_hf_initialized = True  # type: ignore[attr-defined]
    read = {name: value.clone() for name, value in held.items()}
    with guard_torch_init_functions():  # as transformers does it while it reads
        owner._init_weights(module)
    return next((name for name, value in held.items() if not torch.equal(value, read[name])), "")


def save(model: PreTrainedModel, folder: Path) -> None:
    """A folder that `from_pretrained` loads as it is."""
    model.save_pretrained(folder)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Read what `save` wrote into the model, in place: its parameters and persistent buffers stay the same objects.

    For the time being a second model is in the CPU's memory.

    Raises:
        SelfplayError: the folder lacks a file, holds a broken one, or is another model's.
    """
    _check_files(folder)
    try:
        with quiet():
            read, info = type(model).from_pretrained(
                folder,
                dtype=model.dtype,
                attn_implementation=model.config._attn_implementation,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(f"the checkpoint {folder} cannot be read ({reason}); {REMEDY}") from error
    unknown = sorted(info["unexpected_keys"])
    reason = lacking(info) or (f"unknown: {some(unknown)}" if unknown else "")
    ours, theirs = model.state_dict(), read.state_dict()
    if not reason:
        reason = next((_differs(name, ours.get(name), theirs.get(name)) for name in _apart(ours, theirs)), "")
    if reason:
        raise SelfplayError(f"the checkpoint {folder} does not fit the model ({reason}); {REMEDY}")
    if changed := _changed(theirs, folder):
        raise SelfplayError(
            f"transformers reads other weights than {folder} holds ({some(changed)}), which is a fault of its "
            f"{type(model).__name__}; train an adapter of it (player.lora), or another architecture"
        )
    copy_weights(read, model)


@torch.no_grad()
def copy_weights(source: Module, target: Module) -> None:
    """Copy all parameters and persistent buffers of a model into another one of the same shape, in place."""
    found, into = source.state_dict(), target.state_dict()
    assert found.keys() == into.keys()
    for name, value in into.items():
        value.copy_(found[name])


def _check_files(folder: Path) -> None:
    """Raise SelfplayError unless there are weights, in files that can be opened."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise SelfplayError(
            f"the checkpoint {folder} has no model.safetensors; resume from another run or delete this folder"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise SelfplayError(
                f"the checkpoint file {file} is broken ({error}); delete {folder} to resume from the one before it"
            ) from error


def _changed(read: dict[str, Tensor], folder: Path) -> list[str]:
    """The names of weights that are in the files under the model's own names, and have other values in the model."""
    changed = []
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118  (it is no mapping)
                value = read.get(name)
                there = None if value is None else held.get_tensor(name)
                if value is not None and there is not None and value.shape == there.shape:
                    same = torch.equal(value.cpu(), there.to(value.dtype))
                    changed += [] if same else [name]
    return changed


def _apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The names of what one has and the other has not, or has in another shape."""
    shapes = [{name: value.shape for name, value in state.items()} for state in (ours, theirs)]
    return sorted(name for name in {**ours, **theirs} if shapes[0].get(name) != shapes[1].get(name))


def _differs(name: str, ours: Tensor | None, theirs: Tensor | None) -> str:
    here, there = ("missing" if value is None else str(list(value.shape)) for value in (ours, theirs))
    return f"{name} is {there} in the checkpoint and {here} in the model"
