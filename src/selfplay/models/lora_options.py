"""The options of a LoRA adapter: which can be kept in a file, and which make two adapters different ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.models.base_model import config_at
from selfplay.models.residual import leaves_residual

if TYPE_CHECKING:
    from peft import LoraConfig

KEEPS = (True, False, "gaussian", "orthogonal", "mica")  # initialisations that leave the base model as it is
SHOWN = {  # options that show in the names and shapes of an adapter's weights
    "r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "target_parameters",
}  # fmt: skip
ORIGIN = {  # options that say where an adapter comes from and how it began, or that dropout alone knows
    "task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "init_lora_weights", "lora_dropout", "runtime_config", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core",
}  # fmt: skip


def check_lora(lora: Mapping[str, Any]) -> None:
    """Raise SelfplayError where an adapter would change nothing, or sample otherwise than it learns."""
    if lora.get("lora_dropout"):
        raise SelfplayError(
            f"player.lora.lora_dropout is {lora['lora_dropout']}, but a policy learns from what it said without "
            "dropout; leave it out"
        )
    for name in ("r", "lora_alpha"):
        value = lora.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SelfplayError(
                f"player.lora.{name} is {value}, but it must be a number above 0, or the adapter would change nothing"
            )


def check_kept(config: LoraConfig, base: PreTrainedModel) -> None:
    """Raise SelfplayError where an adapter could not be saved as it is, or would be another one than was asked for."""
    init, dtype = config.init_lora_weights, str(base.dtype).removeprefix("torch.")
    if init not in KEEPS and not leaves_residual(config):
        raise SelfplayError(
            f"player.lora.init_lora_weights is '{init}', which needs more than the model's weights to begin with "
            "(data, gradients, quantisation); take true, gaussian, orthogonal, mica, pissa, pissa_niter_<n> or olora"
        )
    for option in ("kasa_config", "alora_invocation_tokens", "arrow_config"):
        if getattr(config, option, None):
            raise SelfplayError(
                f"player.lora.{option} is given, but with it an adapter is no fixed change of its base model; "
                "leave it out"
            )
    if not leaves_residual(config):
        return
    if dtype != "float32":
        raise SelfplayError(
            f"player.lora.init_lora_weights={init} takes the adapter's start out of the base model's weights, which "
            f"{dtype} would round; take player.dtype=float32, or another initialisation"
        )
    if config.target_parameters:
        raise SelfplayError(
            f"player.lora.target_parameters does not go with init_lora_weights={init}; leave out one of them"
        )


def to_go_on(path: str | None, task: str) -> LoraConfig:
    """The config of the adapter at a path, for going on with it."""
    config = None if path is None else config_at(path)
    assert config is not None
    init = config.init_lora_weights
    if str(init).startswith("pissa_niter") or init in ("corda", "loftq", "lora_ga"):
        raise SelfplayError(
            f"the adapter '{path}' belongs to weights that its initialisation ({init}) changed and that it does not "
            "hold; save it with peft's path_initial_model_for_weight_conversion"
        )
    if not leaves_residual(config):
        config.init_lora_weights = True  # what it begins with is read
    config.task_type, config.inference_mode, config.lora_dropout = task, False, 0.0
    return config


def other_option(mine: LoraConfig, theirs: LoraConfig) -> str:
    """The first option of an adapter that is another one in `theirs`, the config of a folder, in words; "" if none is.

    What shows in names and shapes of weights is left to them. Where `theirs` is as peft itself saves it, and not as
    `Adapter.save` does, the initialisation counts as well.
    """
    raw = leaves_residual(theirs)
    here, there = mine.to_dict(), theirs.to_dict()
    for key in sorted(here.keys() - SHOWN - ORIGIN | ({"init_lora_weights"} if raw else set())):
        one, other = _plain(here[key]), _plain(there.get(key))
        if one != other:
            return f"{key} is {other} there and {one} here"
    return ""


def _plain(value: object) -> object:
    """An option as JSON gives it back, a set in order; whatever says nothing is None."""
    return json.loads(json.dumps(sorted(value) if isinstance(value, set) else value, default=str)) or None
