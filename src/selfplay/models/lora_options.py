"""Checks of LoRA options: which adapters can be saved, and which options distinguish two adapters."""

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

KEEPS = (True, False, "gaussian", "orthogonal", "mica")  # initialisations that do not change the base model
SHOWN = {  # options that determine names and shapes of an adapter's weights
    "r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "target_parameters",
}  # fmt: skip
ORIGIN = {  # options about origin, initialisation or dropout, which do not change the adapter's function
    "task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "init_lora_weights", "lora_dropout", "runtime_config", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core",
}  # fmt: skip


def check_lora(lora: Mapping[str, Any]) -> None:
    """Raise SelfplayError if an adapter would have no effect, or if sampling would differ from training."""
    if lora.get("lora_dropout"):
        raise SelfplayError(
            f"player.lora.lora_dropout is {lora['lora_dropout']}, but a policy trains on replies sampled without "
            "dropout; leave it out"
        )
    for name in ("r", "lora_alpha"):
        value = lora.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SelfplayError(
                f"player.lora.{name} is {value}, but it must be a number above 0, or the adapter would have no effect"
            )


def check_kept(config: LoraConfig, base: PreTrainedModel) -> None:
    """Raise SelfplayError if an adapter could not be saved exactly, or would differ from the requested one."""
    init, dtype = config.init_lora_weights, str(base.dtype).removeprefix("torch.")
    if init not in KEEPS and not leaves_residual(config):
        raise SelfplayError(
            f"player.lora.init_lora_weights is '{init}', which needs more than the model's weights "
            "(data, gradients, quantisation); take true, gaussian, orthogonal, mica, pissa, pissa_niter_<n> or olora"
        )
    for option in ("kasa_config", "alora_invocation_tokens", "arrow_config"):
        if getattr(config, option, None):
            raise SelfplayError(
                f"player.lora.{option} is set, but it makes an adapter more than a fixed change of its base model; "
                "leave it out"
            )
    if not leaves_residual(config):
        return
    if dtype != "float32":
        raise SelfplayError(
            f"player.lora.init_lora_weights={init} subtracts the adapter's initial weights from the base model's, "
            f"which {dtype} would round; take player.dtype=float32, or another initialisation"
        )
    if config.target_parameters:
        raise SelfplayError(
            f"player.lora.target_parameters cannot be combined with init_lora_weights={init}; leave out one of them"
        )


def to_go_on(path: str | None, task: str) -> LoraConfig:
    """The config of the adapter at a path, prepared for further training."""
    config = None if path is None else config_at(path)
    assert config is not None
    init = config.init_lora_weights
    if str(init).startswith("pissa_niter") or init in ("corda", "loftq", "lora_ga"):
        raise SelfplayError(
            f"the adapter '{path}' needs base weights that its initialisation ({init}) changed and that it does not "
            "contain; save it with peft's path_initial_model_for_weight_conversion"
        )
    if not leaves_residual(config):
        config.init_lora_weights = True  # the initial weights are read from the file
    config.task_type, config.inference_mode, config.lora_dropout = task, False, 0.0
    return config


def other_option(mine: LoraConfig, theirs: LoraConfig) -> str:
    """A description of the first option that differs between an adapter and `theirs`, the config of a folder, or "".

    Options that determine names and shapes of weights are skipped. If `theirs` was saved by peft itself, not by
    `Adapter.save`, the initialisation is compared too.
    """
    raw = leaves_residual(theirs)
    here, there = mine.to_dict(), theirs.to_dict()
    for key in sorted(here.keys() - SHOWN - ORIGIN | ({"init_lora_weights"} if raw else set())):
        one, other = _plain(here[key]), _plain(there.get(key))
        if one != other:
            return f"{key} is {other} there and {one} here"
    return ""


def _plain(value: object) -> object:
    """An option after a round trip through JSON, with sets sorted and empty values as None."""
    return json.loads(json.dumps(sorted(value) if isinstance(value, set) else value, default=str)) or None
