"""What lies at a path: a whole model, or a LoRA adapter of peft's and the base model that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from selfplay.core import SelfplayError
from selfplay.models.load import lacking, load_incomplete, load_model, load_tokenizer, resolve

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG = "adapter_config.json"


def config_at(name: str) -> LoraConfig | None:
    """The config of the LoRA adapter in a folder or at a hub id; None where there is a whole model, or nothing.

    Raises:
        SelfplayError: it is no LoRA adapter, or its config cannot be read.
    """
    place = resolve(name)
    try:
        if find_adapter_config_file(place) is None:
            return None
    except (OSError, ValueError):
        return None  # what is not there is told where the model is loaded
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(place)
    except (TypeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(f"the {CONFIG} of '{name}' cannot be read ({reason}); give another folder") from error
    if type(config) is not LoraConfig:
        raise SelfplayError(
            f"the adapter '{name}' is of the type {config.peft_type}, but only LoRA can be read here; merge it into "
            "its base model with peft"
        )
    return config


def _base_of(name: str, config: LoraConfig) -> str:
    """The path of an adapter's base model."""
    if not config.base_model_name_or_path:
        raise SelfplayError(
            f"the adapter '{name}' does not name its base model; write it into its {CONFIG} as base_model_name_or_path"
        )
    return str(config.base_model_name_or_path)


def load_base(
    auto: Any, name: str, dtype: str, device: str, attention: str, **options: Any
) -> tuple[PreTrainedModel, LoraConfig | None, set[str]]:
    """The model at a path, or the base model of the adapter there.

    Returns:
        the model; the adapter's config, which is not in the model yet, or None where there is none; and the names of
        weights that the base model lacks and the adapter has to bring (none without an adapter).

    Raises:
        SelfplayError: it cannot be loaded, or the weights of a whole model are incomplete.
    """
    config = config_at(name)
    if config is None:
        return load_model(auto, name, dtype, device, attention, **options), None, set()
    base = _base_of(name, config)
    if config.revision:
        options = {**options, "revision": config.revision}
    try:
        if config_at(base) is not None:
            raise SelfplayError(f"'{base}' is an adapter itself; merge that one into its base model with peft")
        model, info = load_incomplete(auto, base, dtype, device, attention, **options)
    except SelfplayError as error:
        raise SelfplayError(
            f"the base model of the adapter '{name}' is not to be had: {error}; or mend base_model_name_or_path in its "
            f"{CONFIG}"
        ) from error
    if reason := lacking({**info, "missing_keys": []}):
        raise SelfplayError(f"the base model '{base}' of the adapter '{name}' is no {type(model).__name__} ({reason})")
    return model, config, set(info["missing_keys"])


def tokenizer_at(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a path; an adapter without one has that of its base model.

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
