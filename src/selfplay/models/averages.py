"""The average of the weights of several models of one architecture, a model soup (Wortsman et al. 2022, 2203.05482).

Whole models are averaged tensor by tensor, as their files hold them. Adapters are averaged as what they add to the base
model: where s is their scale, the mean of s B_i A_i with weights w_i is, exactly, one adapter of the ranks' sum,

    s [w_1 B_1, ..., w_n B_n] [A_1; ...; A_n].
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.models.adapters import WEIGHTS
from selfplay.models.base_model import CONFIG, tokenizer_at
from selfplay.models.load import resolve
from selfplay.models.lora_options import ORIGIN

WHOLE = "config.json"
TABLE = "table.safetensors"
COPIED = (".json", ".txt", ".jinja", ".model")  # of a folder's files: configs, the tokenizer, the chat template
UNLIKE = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache"}  # nothing of an architecture
A, B = ("lora_A.weight", "lora_embedding_A"), ("lora_B.weight", "lora_embedding_B")  # how names of the factors end


def holds_weights(folder: Path) -> bool:
    """Whether a folder is one of a whole model, an adapter or a table."""
    return any((folder / name).is_file() for name in (WHOLE, CONFIG, TABLE))


def check_alike(folders: Sequence[Path]) -> None:
    """Raise SelfplayError, naming a difference, unless all are models or adapters that can be averaged.

    Whole models must be of one config, adapters of one config over one base model, and all must read text alike.
    """
    for folder in folders:
        if (folder / TABLE).is_file():
            raise SelfplayError(
                f"{folder} is a table (player=tabular), and only language models are averaged; give their runs, or "
                "seat both tables against each other with selfplay crossplay"
            )
    first, configs = folders[0], [_config(folder) for folder in folders]
    for folder, (file, options) in zip(folders, configs, strict=True):
        if file != configs[0][0]:
            raise SelfplayError(
                f"one of {first} and {folder} is a whole model and the other an adapter; merge the adapter into its "
                "base model with peft, or leave one of them out"
            )
        if options.get("quantization_config"):
            raise SelfplayError(f"{folder} has quantised weights, which have no average; give it in full precision")
        if found := _difference(configs[0][1], options):
            raise SelfplayError(
                f"{first} and {folder} are no models of one architecture ({found}); give those that are"
            )
    _check_tokenizers(folders)


def average(folders: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """Write the average into the empty folder `target`, as a folder that `from_pretrained` or peft loads.

    A weight of 0 leaves a folder out. What is left alone is copied, so a soup of one is this one, bit for bit. All but
    the weights is the first folder's.

    Args:
        folders: which `check_alike` accepts.
        weights: which add up to 1, none below 0.

    Raises:
        SelfplayError: tensors of another name, shape or type; adapters that have no exact average.
    """
    used = [(folder, weight) for folder, weight in zip(folders, weights, strict=True) if weight > 0]
    sources = [_Tensors(folder) for folder, _ in used]
    shares = [weight for _, weight in used]
    first = used[0][0]
    for file in sorted(first.iterdir()):
        if file.is_file() and file.suffix in COPIED:
            shutil.copyfile(file, target / file.name)
    if len(used) == 1:
        for file in sources[0].files:
            shutil.copyfile(file, target / file.name)
        return
    for other in sources[1:]:
        _check_same(sources[0], other)
    if (first / CONFIG).is_file():
        wider = _widened(_config(first)[1], len(used), first)
        (target / CONFIG).write_text(json.dumps(wider, indent=2, sort_keys=True), encoding="utf-8")
    for file in sources[0].files:  # one at a time: large models come in several
        names = [name for name, home in sources[0].home.items() if home == file]
        found = {name: _averaged(name, [source.read(name) for source in sources], shares, first) for name in names}
        save_file(found, target / file.name, metadata=sources[0].metadata(file))


class _Tensors:
    """The tensors in a folder's files, each read when it is needed.

    Attributes:
        files: in order.
        home: name of a tensor -> its file.
        kinds: name of a tensor -> its shape and type.
    """

    def __init__(self, folder: Path) -> None:
        pattern = WEIGHTS if (folder / CONFIG).is_file() else "model*.safetensors"
        self.folder, self.files = folder, sorted(folder.glob(pattern))
        if not self.files:
            raise SelfplayError(f"{folder} has no {pattern}; save it with safe_serialization, as transformers does")
        self.home: dict[str, Path] = {}
        self.kinds: dict[str, str] = {}
        for file in self.files:
            with self._opened(file) as held:
                for name in held.keys():  # noqa: SIM118  (it is no mapping)
                    part = held.get_slice(name)
                    self.home[name], self.kinds[name] = file, f"{part.get_dtype()} {part.get_shape()}"

    def read(self, name: str) -> Tensor:
        with self._opened(self.home[name]) as held:
            tensor: Tensor = held.get_tensor(name)
        return tensor

    def metadata(self, file: Path) -> dict[str, str] | None:
        with self._opened(file) as held:
            found: dict[str, str] | None = held.metadata()
        return found

    def _opened(self, file: Path) -> Any:
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise SelfplayError(f"{file} is broken ({error}); give another checkpoint") from error


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The name of the config in a folder, an adapter's or a whole model's, and what it says."""
    name = CONFIG if (folder / CONFIG).is_file() else WHOLE
    try:
        options = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SelfplayError(f"{folder / name} cannot be read ({error}); give another checkpoint") from error
    if not isinstance(options, dict):
        raise SelfplayError(f"{folder / name} is no config; give another checkpoint")
    return name, options


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first option in which two configs differ, in words; "" where all are alike."""
    base = "base_model_name_or_path"
    for key in (base, "revision", *sorted((one.keys() | other.keys()) - ORIGIN - UNLIKE)):
        here, there = (_said(key, options.get(key)) for options in (one, other))
        if key == base and here and there:
            here, there = (resolve(str(name)) for name in (here, there))
        if here != there:
            return f"{key} is {here} in the one and {there} in the other"
    return ""


def _said(key: str, value: Any) -> Any:
    """A value of a config; the names of modules come in any order, and what says nothing is None."""
    return (
        sorted(value) if key in ("target_modules", "modules_to_save") and isinstance(value, list) else value
    ) or None


def _check_tokenizers(folders: Sequence[Path]) -> None:
    first = _reading(folders[0])
    for folder in folders[1:]:
        for what, there in _reading(folder).items():
            if first[what] != there:
                raise SelfplayError(
                    f"{folders[0]} and {folder} have different tokenizers (another {what}), so their weights mean "
                    "different texts; give models with one tokenizer"
                )


def _reading(folder: Path) -> dict[str, object]:
    """All by which a tokenizer turns messages into numbers."""
    tokenizer: Any = tokenizer_at(str(folder))
    found: dict[str, object] = {"vocabulary": tokenizer.get_vocab(), "chat template": tokenizer.chat_template}
    found["set of special tokens"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if hasattr(tokenizer, "backend_tokenizer"):
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        found["way to cut text up"] = {k: v for k, v in pipeline.items() if k not in ("truncation", "padding")}
    return found


def _check_same(one: _Tensors, other: _Tensors) -> None:
    """Raise SelfplayError unless both folders hold tensors of the same names, shapes and types."""
    for name in sorted(one.kinds.keys() | other.kinds.keys()):
        here, there = (source.kinds.get(name, "missing") for source in (one, other))
        if here != there:
            raise SelfplayError(
                f"{one.folder} and {other.folder} hold different tensors ({name} is {here} in the one and {there} in "
                "the other); give models of one architecture, saved in one precision"
            )


def _averaged(name: str, values: Sequence[Tensor], shares: Sequence[float], folder: Path) -> Tensor:
    """One tensor of the average."""
    if name.endswith(A):
        return torch.cat(list(values), 0)
    if name.endswith(B):
        return torch.cat([(w * v.double()).to(v.dtype) for w, v in zip(shares, values, strict=True)], 1)
    if "lora_" in name and not name.endswith("lora_B.bias"):
        raise SelfplayError(
            f"{folder} holds {name}, in which what the adapter adds is not linear, so there is no exact average; merge "
            "each adapter into its base model with peft, and average those"
        )
    if not values[0].is_floating_point():
        if any(not torch.equal(values[0], value) for value in values):
            raise SelfplayError(f"{name} of {folder} holds whole numbers that differ; give models of one architecture")
        return values[0]
    total = shares[0] * values[0].double()
    for share, value in zip(shares[1:], values[1:], strict=True):
        total += share * value.double()
    return total.to(values[0].dtype)


def _widened(options: Mapping[str, Any], times: int, folder: Path) -> dict[str, Any]:
    """The config of an adapter of so many times the rank, and of the same scale: alpha / r, or alpha / sqrt(r).

    Raises:
        SelfplayError: of an adapter that is no plain sum.
    """
    raw = str(options.get("init_lora_weights")).lower().startswith(("pissa", "olora"))
    if raw or options.get("target_parameters"):
        reason = f"init_lora_weights={options['init_lora_weights']}" if raw else "target_parameters"
        raise SelfplayError(
            f"{folder} is an adapter with {reason}, which has no exact average as an adapter; merge each into its base "
            "model with peft, and average those"
        )
    more = math.sqrt(times) if options.get("use_rslora") else times
    patterns = {name: options.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    return {
        **options,
        "r": times * options["r"],
        "lora_alpha": more * options["lora_alpha"],
        "rank_pattern": {key: times * rank for key, rank in patterns["rank_pattern"].items()},
        "alpha_pattern": {key: more * alpha for key, alpha in patterns["alpha_pattern"].items()},
    }
