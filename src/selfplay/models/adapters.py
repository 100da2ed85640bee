"""LoRA adapters over frozen weights, created, saved and loaded by peft."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from selfplay import digests
from selfplay.core import SelfplayError
from selfplay.models.base_model import CONFIG, config_at
from selfplay.models.load import resolve, some
from selfplay.models.lora_options import check_kept, other_option, to_go_on
from selfplay.models.residual import A, B, doubled, halved, leaves_residual, publish

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "default"  # peft's name of a model's only adapter
WEIGHTS = "adapter_model.safetensors"


class Adapter:
    """A LoRA adapter over a base model's frozen weights.

    Args:
        base: the base model, in eval mode; the adapter is inserted into it.
        lora: arguments of `peft.LoraConfig`, or None to use those of the adapter at `path`.
        seed: seed of the initial weights.
        path: folder or hub id of an adapter to continue training.
        missing: weights that the base model lacks, such as a head, and that the adapter must provide.
        task: peft's task type.

    Attributes:
        model: the base model with the adapter, in eval mode; trained parameters require a gradient.
        weights: the adapter's weights by their names in the model: factors, fully trained modules, biases, and their
            buffers. They stay the same objects.
        start: the adapter's initial weights by their names in a file, if they were subtracted from the base model's
            (see `selfplay.models.residual`).

    Raises:
        SelfplayError: the adapter cannot be saved exactly or does not match the one at `path`, or weights are missing.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        lora: Mapping[str, Any] | None,
        seed: int,
        path: str | None = None,
        missing: Collection[str] = (),
        task: str = "CAUSAL_LM",
    ) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type=task, **lora) if lora is not None else to_go_on(path, task)
        check_kept(config, base)
        with torch.random.fork_rng(devices=[]), _without_hints():
            torch.default_generator.manual_seed(seed)  # peft initialises on the CPU; accelerators are left alone
            try:
                self.model: Any = get_peft_model(base, config).eval()
            except torch.OutOfMemoryError:
                raise
            except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError, LookupError) as error:
                reason = str(error).strip().split("\n")[0]
                raise SelfplayError(
                    f"peft cannot put this adapter into {type(base).__name__} ({reason}); change player.lora, for "
                    "example its target_modules"
                ) from error
        self._check_complete(missing, path)
        self.start: dict[str, Tensor] | None = None
        if leaves_residual(config):
            self._check_apart()
            self.start = {name: value.clone() for name, value in self._state().items() if name.endswith((A, B))}
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        every = {**self.model.state_dict(keep_vars=True), **trained}
        names = trained.keys() | set(self._names().values())
        self.weights: dict[str, Tensor] = {name: every[name] for name in sorted(names)}
        if path is None:
            self._check_names()
        else:
            digests.check(Path(resolve(path)), "give another checkpoint")
            self._read(
                path, f"the adapter '{path}' does not fit player.lora", "leave out player.lora to use its own options"
            )

    def _check_complete(self, missing: Collection[str], path: str | None) -> None:
        """Raise SelfplayError if the base model lacks a weight that the adapter does not provide."""
        from peft.utils import ModulesToSaveWrapper

        inner = self.model.get_base_model()
        lost = [n for n in missing if not isinstance(inner.get_submodule(n.rpartition(".")[0]), ModulesToSaveWrapper)]
        if lost:
            raise SelfplayError(
                f"neither the adapter '{path}' nor its base model has {some(sorted(lost))}, which would be "
                "initialised randomly; give a model that was trained for this use"
            )

    def _check_names(self) -> None:
        """Raise SelfplayError if peft could not load the adapter from the names that it saves."""
        names = {name: p.detach().clone() for name, p in self._state().items()}
        if reason := self._of_base(names) or self._assign(names):
            raise SelfplayError(
                f"peft could not load this adapter in the form that it saves ({reason}); change "
                "player.lora.target_modules"
            )

    def _check_apart(self) -> None:
        """Raise SelfplayError if the adapter's initial weights were subtracted from a weight that is shared."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        uses = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        for name, module in self.model.named_modules():
            if isinstance(module, BaseTunerLayer) and uses[id(getattr(module.get_base_layer(), "weight", None))] > 1:
                raise SelfplayError(
                    f"player.lora.init_lora_weights={self.config.init_lora_weights} would change the weights of "
                    f"{name}, which are shared with another module; leave it out of player.lora.target_modules"
                )

    @property
    def config(self) -> LoraConfig:
        """The adapter's config, as completed by peft."""
        config: LoraConfig = self.model.peft_config[NAME]
        return config

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a folder that peft loads over the published base model; the bytes do not depend on the process."""
        with _without_hints():
            self.model.save_pretrained(folder, save_embedding_layers=False)
        if self.start is not None:
            save_file(doubled(load_file(folder / WEIGHTS), self.start), folder / WEIGHTS, metadata={"format": "pt"})
        self._published().save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Load what `save` wrote, in place.

        Raises:
            SelfplayError: a file is missing or broken, or belongs to a different adapter.
        """
        problem = f"the checkpoint {folder} does not fit the model"
        self._read(str(folder), problem, "resume with the player it was made with")

    def _published(self) -> LoraConfig:
        """The config that `save` writes."""
        config = copy.copy(self.config)
        config.inference_mode = True
        for field in fields(config):
            if isinstance(value := getattr(config, field.name), set):  # the order of a set depends on the process
                setattr(config, field.name, sorted(value))
        if self.start is not None:
            publish(config)
        return config

    def _state(self) -> dict[str, Tensor]:
        """The adapter's weights by their names in a file."""
        from peft import get_peft_model_state_dict

        state: dict[str, Tensor] = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return state

    def _names(self) -> dict[str, str]:
        """Maps names in a file to names in the model, by passing names through peft in place of tensors."""
        from peft import get_peft_model_state_dict

        names: Any = {name: name for name in self.model.state_dict()}
        found: Any = get_peft_model_state_dict(self.model, names, save_embedding_layers=False)
        return dict(found)

    def _read(self, place: str, problem: str, remedy: str) -> None:
        """Load an adapter's weights.

        Raises:
            SelfplayError: they cannot be read, or they do not fit, with the message `problem (reason); remedy`.
        """
        weights, config = _weights_at(place), config_at(place)
        if config is None:
            raise SelfplayError(f"the checkpoint {place} has no {CONFIG}; {remedy}")
        reason = other_option(self.config if leaves_residual(config) else self._published(), config)
        if not reason and self.start is not None and not leaves_residual(config):
            weights, reason = halved(weights, self.start)
        reason = reason or self._of_base(weights) or self._assign(weights)
        if reason:
            raise SelfplayError(f"{problem} ({reason}); {remedy}")

    def _of_base(self, weights: dict[str, Tensor]) -> str:
        """Drop weights equal to the base model's; return a description of one that differs, or ""."""
        every, own = self.model.state_dict(), self._names()
        for name in sorted(weights.keys() & every.keys() - own.keys()):
            if not torch.equal(weights.pop(name).to(every[name]), every[name]):
                return f"{name} differs from the base model's, and is not part of the adapter"
        return ""

    def _assign(self, weights: dict[str, Tensor]) -> str:
        """Let peft load weights into the model; return a description of what failed, or ""."""
        from peft import set_peft_model_state_dict

        try:
            with _without_hints():
                result: Any = set_peft_model_state_dict(self.model, weights)
        except KeyError as error:
            return f"missing: {error.args[0]}"
        except (RuntimeError, ValueError) as error:  # mismatched shapes
            return str(error).strip().splitlines()[-1].strip()
        missing = sorted(set(result.missing_keys) & set(self._names().values()))
        unknown = sorted(result.unexpected_keys)
        return f"missing: {some(missing)}" if missing else f"unknown: {some(unknown)}" if unknown else ""


def judging(base: PreTrainedModel, path: str, missing: Collection[str]) -> PreTrainedModel:
    """A frozen classifier with the adapter at `path`; see `Adapter`.

    Modules that the adapter replaces, such as the head, are put into the model without peft's wrapper.
    """
    from peft.utils import ModulesToSaveWrapper

    adapter = Adapter(base, None, 0, path, missing, task="SEQ_CLS")
    adapter.model.requires_grad_(False)
    found: PreTrainedModel = adapter.model.get_base_model()
    for name, module in list(found.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            found.set_submodule(name, module.modules_to_save[NAME])
    return found


def _weights_at(place: str) -> dict[str, Tensor]:
    """The weights of an adapter by their names in the file.

    Raises:
        SelfplayError: the file is missing or broken.
    """
    from peft.utils.save_and_load import load_peft_weights

    folder = Path(resolve(place))
    if folder.is_dir() and not any((folder / name).is_file() for name in (WEIGHTS, "adapter_model.bin")):
        raise SelfplayError(f"the checkpoint {folder} has no {WEIGHTS}; resume from another run or delete this folder")
    try:
        weights: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
    except (SafetensorError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise SelfplayError(
            f"the weights of the adapter {folder} are broken ({error}); delete it to resume from the one before it"
        ) from error
    return weights


@contextmanager
def _without_hints() -> Iterator[None]:
    """Suppress peft's warning about gradient checkpointing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        yield
