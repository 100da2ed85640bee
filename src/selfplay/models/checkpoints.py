"""Checkpoints of whole models, saved and loaded by transformers under the published names.

transformers converts the weights of many architectures when loading (such as stacking the experts of a mixture) and
back when saving, so names in a file may differ from names in the model.
"""

import copy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Module, ModuleDict, ModuleList, Sequential
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from selfplay.core import SelfplayError
from selfplay.models.load import lacking, quiet, some
from selfplay.models.structure import class_of
from selfplay.parallel import current

REMEDY = "resume with the player it was made with"
CONTAINERS = (ModuleList, ModuleDict, Sequential)  # not initialised by any architecture


def check_kept(model: PreTrainedModel, path: str) -> None:
    """Raise SelfplayError if loading a checkpoint of the model would change its weights.

    While loading, transformers initialises weights that the file lacks. Some architectures also initialise others, such
    as the padding token's embedding. This is tested on a copy of one module of each type, so the model is not changed.

    Args:
        model: the model.
        path: its path, for messages.
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
                f"transformers reinitialises {name}.{lost} of {type(model).__name__} ('{path}') whenever it loads a "
                "checkpoint, so its training would be lost; train an adapter (player.lora), or another architecture"
            )


@torch.no_grad()
def _initialised(owner: PreTrainedModel, module: Module) -> str:
    """The name of a weight in this module that its owner initialises although it is loaded, or "".

    Args:
        owner: the model to whose architecture the module belongs.
        module: a copy, which is modified.
    """
    held = {name: value for name, value in module.state_dict(keep_vars=True).items() if value.is_floating_point()}
    for value in held.values():
        value.add_(1.0)  # differs from any initial value
        value._is_hf_initialized = True  # type: ignore[attr-defined]
    read = {name: value.clone() for name, value in held.items()}
    with guard_torch_init_functions():  # as transformers does while loading
        owner._init_weights(module)
    return next((name for name, value in held.items() if not torch.equal(value, read[name])), "")


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a folder that `from_pretrained` can load."""
    sharded = class_of(model) is not type(model)
    model.save_pretrained(folder, state_dict=_gathered(model) if sharded else None)


def published(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors that `save` would write, by name; most are the model's own, not copies."""
    sharded = class_of(model) is not type(model)
    state = _gathered(model) if sharded else dict(model.state_dict())
    left_out = set(model._keys_to_ignore_on_save or ())
    state = {name: value for name, value in state.items() if name not in left_out}
    with torch.no_grad():
        return dict(revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model)))


def _gathered(model: Module) -> dict[str, Tensor]:
    """The state of a sharded model while its weights are gathered; calling its `state_dict` would reshard them."""
    passing = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: value.detach() for name, value in named if name not in passing}


def load(model: PreTrainedModel, folder: Path) -> None:
    """Load what `save` wrote, in place: parameters and persistent buffers stay the same objects.

    This temporarily needs CPU memory for a second model.

    Raises:
        SelfplayError: a file is missing or broken, or belongs to a different model.
    """
    _check_files(folder)
    try:
        with quiet():
            read, info = class_of(model).from_pretrained(  # type: ignore[attr-defined]
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
            f"transformers loads weights that differ from those in {folder} ({some(changed)}), a bug in its "
            f"{type(model).__name__}; train an adapter (player.lora), or another architecture"
        )
    copy_weights(read, model)


@torch.no_grad()
def copy_weights(source: Module, target: Module) -> None:
    """Copy all parameters and persistent buffers into another model of the same shape, in place."""
    found, into = source.state_dict(), target.state_dict()
    assert found.keys() == into.keys()
    for name, value in into.items():
        value.copy_(current().placed_like(value, found[name]))


def _check_files(folder: Path) -> None:
    """Raise SelfplayError unless there are weight files and all can be opened."""
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
    """The names of weights, among those with equal names in file and model, whose values differ."""
    changed = []
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118  (not a mapping)
                value = read.get(name)
                there = None if value is None else held.get_tensor(name)
                if value is not None and there is not None and value.shape == there.shape:
                    same = torch.equal(value.cpu(), there.to(value.dtype))
                    changed += [] if same else [name]
    return changed


def _apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The names that only one of the two has, or that differ in shape."""
    shapes = [{name: value.shape for name, value in state.items()} for state in (ours, theirs)]
    return sorted(name for name in {**ours, **theirs} if shapes[0].get(name) != shapes[1].get(name))


def _differs(name: str, ours: Tensor | None, theirs: Tensor | None) -> str:
    here, there = ("missing" if value is None else str(list(value.shape)) for value in (ours, theirs))
    return f"{name} is {there} in the checkpoint and {here} in the model"
