"""Weight averaging of models with the same architecture, a model soup (Wortsman et al. 2022, 2203.05482).

Whole models are averaged tensor by tensor, as stored in their files. For adapters, the weight updates are averaged:
with scale s and weights w_i, the mean of s B_i A_i is exactly one adapter whose rank is the sum of the ranks,

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
COPIED = (".json", ".txt", ".jinja", ".model")  # configs, tokenizer, chat template
UNLIKE = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache"}  # may differ
A, B = ("lora_A.weight", "lora_embedding_A"), ("lora_B.weight", "lora_embedding_B")  # suffixes of tensor names


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model, an adapter or a table."""
    return any((folder / name).is_file() for name in (WHOLE, CONFIG, TABLE))


def check_alike(folders: Sequence[Path]) -> None:
    """Raise SelfplayError, naming the difference, unless the models or adapters can be averaged.

    All must be whole models, or all adapters of the same base model, with equal configs and tokenizers.
    """
    for folder in folders:
        if (folder / TABLE).is_file():
            raise SelfplayError(
                f"{folder} is a table (player=tabular), and only language models can be averaged; give runs of "
                "language models, or compare the tables with selfplay crossplay"
            )
    first, configs = folders[0], [_config(folder) for folder in folders]
    for folder, (file, options) in zip(folders, configs, strict=True):
        if file != configs[0][0]:
            raise SelfplayError(
                f"one of {first} and {folder} is a whole model and the other an adapter; merge the adapter into its "
                "base model with peft, or remove one of them"
            )
        if options.get("quantization_config"):
            raise SelfplayError(f"{folder} has quantised weights, which cannot be averaged; give it in full precision")
        if found := _difference(configs[0][1], options):
            raise SelfplayError(
                f"{first} and {folder} have different architectures ({found}); give models of one architecture"
            )
    _check_tokenizers(folders)


def average(folders: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """Write the average into the empty folder `target`, in a format that `from_pretrained` or peft can load.

    Folders with weight 0 are skipped. A single remaining folder is copied bit for bit. All files but the weights come
    from the first remaining folder.

    Args:
        folders: folders that `check_alike` accepts.
        weights: non-negative weights that sum to 1.
        target: an empty folder.

    Raises:
        SelfplayError: names, shapes or dtypes of tensors differ, or the adapters have no exact average.
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
    for file in sources[0].files:  # one file at a time: large models have several
        names = [name for name, home in sources[0].home.items() if home == file]
        found = {name: _averaged(name, [source.read(name) for source in sources], shares, first) for name in names}
        save_file(found, target / file.name, metadata=sources[0].metadata(file))


class _Tensors:
    """The tensors in a folder's files, read lazily.

    Attributes:
        files: the weight files, sorted.
        home: maps a tensor's name to its file.
        kinds: maps a tensor's name to its dtype and shape.
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
                for name in held.keys():  # noqa: SIM118  (not a mapping)
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
    """The file name and the contents of the config in a folder, of an adapter or a whole model."""
    name = CONFIG if (folder / CONFIG).is_file() else WHOLE
    try:
        options = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SelfplayError(f"{folder / name} cannot be read ({error}); give another checkpoint") from error
    if not isinstance(options, dict):
        raise SelfplayError(f"{folder / name} is not a config; give another checkpoint")
    return name, options


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A description of the first option in which two configs differ, or "" if they are equal."""
    base = "base_model_name_or_path"
    for key in (base, "revision", *sorted((one.keys() | other.keys()) - ORIGIN - UNLIKE)):
        here, there = (_normal(key, options.get(key)) for options in (one, other))
        if key == base and here and there:
            here, there = (resolve(str(name)) for name in (here, there))
        if here != there:
            return f"{key} is {here} in the first and {there} in the second"
    return ""


def _normal(key: str, value: Any) -> Any:
    """A config value in normal form: module names are sorted, and empty values become None."""
    return (
        sorted(value) if key in ("target_modules", "modules_to_save") and isinstance(value, list) else value
    ) or None


def _check_tokenizers(folders: Sequence[Path]) -> None:
    first = _reading(folders[0])
    for folder in folders[1:]:
        for what, there in _reading(folder).items():
            if first[what] != there:
                raise SelfplayError(
                    f"{folders[0]} and {folder} have different tokenizers (the {what} differs), so their weights "
                    "cannot be averaged; give models with the same tokenizer"
                )


def _reading(folder: Path) -> dict[str, object]:
    """All properties of a tokenizer that affect how messages become token ids."""
    tokenizer: Any = tokenizer_at(str(folder))
    found: dict[str, object] = {"vocabulary": tokenizer.get_vocab(), "chat template": tokenizer.chat_template}
    found["set of special tokens"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if hasattr(tokenizer, "backend_tokenizer"):
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        found["pipeline"] = {k: v for k, v in pipeline.items() if k not in ("truncation", "padding")}
    return found


def _check_same(one: _Tensors, other: _Tensors) -> None:
    """Raise SelfplayError unless both folders hold tensors of the same names, shapes and dtypes."""
    for name in sorted(one.kinds.keys() | other.kinds.keys()):
        here, there = (source.kinds.get(name, "missing") for source in (one, other))
        if here != there:
            raise SelfplayError(
                f"{one.folder} and {other.folder} hold different tensors ({name} is {here} in the first and {there} in "
                "the second); give models of one architecture, saved in one precision"
            )


def _averaged(name: str, values: Sequence[Tensor], shares: Sequence[float], folder: Path) -> Tensor:
    """One tensor of the average."""
    if name.endswith(A):
        return torch.cat(list(values), 0)
    if name.endswith(B):
        return torch.cat([(w * v.double()).to(v.dtype) for w, v in zip(shares, values, strict=True)], 1)
    if "lora_" in name and not name.endswith("lora_B.bias"):
        raise SelfplayError(
            f"{folder} holds {name}, in which the adapter's update is not linear, so there is no exact average; merge "
            "each adapter into its base model with peft, and average the merged models"
        )
    if not values[0].is_floating_point():
        if any(not torch.equal(values[0], value) for value in values):
            raise SelfplayError(f"{name} of {folder} holds integers that differ; give models of one architecture")
        return values[0]
    total = shares[0] * values[0].double()
    for share, value in zip(shares[1:], values[1:], strict=True):
        total += share * value.double()
    return total.to(values[0].dtype)


def _widened(options: Mapping[str, Any], times: int, folder: Path) -> dict[str, Any]:
    """The config of an adapter with `times` the rank and the same scale, alpha / r or alpha / sqrt(r).

    Raises:
        SelfplayError: the adapter is not a plain sum s B A.
    """
    raw = str(options.get("init_lora_weights")).lower().startswith(("pissa", "olora"))
    if raw or options.get("target_parameters"):
        reason = f"init_lora_weights={options['init_lora_weights']}" if raw else "target_parameters"
        raise SelfplayError(
            f"{folder} is an adapter with {reason}, which has no exact average as an adapter; merge each into its base "
            "model with peft, and average the merged models"
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
