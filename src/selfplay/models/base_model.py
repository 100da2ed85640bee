"""Loads the model at a path: a whole model, or the base model of a LoRA adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from selfplay.core import SelfplayError
from selfplay.models.load import lacking, load_incomplete, load_model, load_tokenizer, resolve

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG = "adapter_config.json"


def config_at(name: str) -> LoraConfig | None:
    """The config of the LoRA adapter in a folder or at a hub id; None for a whole model, or if nothing is there.

    Raises:
        SelfplayError: it is an adapter of another kind, or its config cannot be read.
    """
    place = resolve(name)
    try:
        if find_adapter_config_file(place) is None:
            return None
    except (OSError, ValueError):
        return None  # loading the model reports what is missing
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(place)
    except (TypeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(f"the {CONFIG} of '{name}' cannot be read ({reason}); give another folder") from error
    if type(config) is not LoraConfig:
        raise SelfplayError(
            f"the adapter '{name}' has the type {config.peft_type}, but only LoRA is supported; merge it into its base "
            "model with peft"
        )
    return config


def _base_of(name: str, config: LoraConfig) -> str:
    """The path of an adapter's base model."""
    if not config.base_model_name_or_path:
        raise SelfplayError(
            f"the adapter '{name}' does not name its base model; set base_model_name_or_path in its {CONFIG}"
        )
    return str(config.base_model_name_or_path)


def model_config(name: str) -> tuple[PreTrainedConfig, LoraConfig | None]:
    """The config of the model at a path, without its weights; of an adapter, its base model's config and its own.

    Args:
        name: as for `load_base`, or the path of a config.json.

    Raises:
        SelfplayError: there is no such config.
    """
    adapter = config_at(name)
    place = name if adapter is None else _base_of(name, adapter)
    try:
        return AutoConfig.from_pretrained(resolve(place)), adapter
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SelfplayError(
            f"the config of the model '{place}' cannot be read ({reason}); give a hub id, a folder, or the path of a "
            "config.json"
        ) from error


def base_path(name: str) -> str:
    """The folder or hub id of the model at a path; of the base model for an adapter.

    Raises:
        SelfplayError: there is no such model, or the adapter's config cannot be used.
    """
    config = config_at(name)
    return resolve(name if config is None else _base_of(name, config))


def load_base(
    auto: Any, name: str, dtype: str, device: str, attention: str, **options: Any
) -> tuple[PreTrainedModel, LoraConfig | None, set[str]]:
    """Load the model at a path, or the base model of the adapter there.

    Args:
        auto: a transformers Auto class.
        name: hub id, folder, `asset:<name>` or `cache:smollm2`.
        dtype, device, attention, options: see `load_model`.

    Returns:
        The model; the config of the adapter, which is not applied yet, or None; and the names of weights that the base
        model lacks and the adapter must provide (empty without an adapter).

    Raises:
        SelfplayError: the model cannot be loaded, or the weights of a whole model are incomplete.
    """
    config = config_at(name)
    if config is None:
        return load_model(auto, name, dtype, device, attention, **options), None, set()
    base = _base_of(name, config)
    if config.revision:
        options = {**options, "revision": config.revision}
    try:
        if config_at(base) is not None:
            raise SelfplayError(f"'{base}' is itself an adapter; merge it into its base model with peft")
        model, info = load_incomplete(auto, base, dtype, device, attention, **options)
    except SelfplayError as error:
        raise SelfplayError(
            f"the base model of the adapter '{name}' cannot be loaded: {error}; or correct base_model_name_or_path in "
            f"its {CONFIG}"
        ) from error
    if reason := lacking({**info, "missing_keys": []}):
        kind = type(model).__name__
        raise SelfplayError(
            f"the base model '{base}' of the adapter '{name}' is not a {kind} ({reason}); correct "
            f"base_model_name_or_path in its {CONFIG}"
        )
    return model, config, set(info["missing_keys"])


def tokenizer_at(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a path, or of the base model if an adapter has none.

    Raises:
        SelfplayError: see `load_tokenizer`.
    """
    config = config_at(name)
    try:
        return load_tokenizer(name)
    except SelfplayError:
        if config is None:
            raise
        return load_tokenizer(_base_of(name, config))
