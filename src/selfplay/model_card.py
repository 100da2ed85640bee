"""The model card of a run's checkpoint: README.md with the metadata that the Hugging Face Hub reads."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCardData
from omegaconf import DictConfig, OmegaConf

from selfplay.building import make
from selfplay.composing import compose
from selfplay.derived import fill_in
from selfplay.measures import headline
from selfplay.runs.early_stop import evaluations_of
from selfplay.runs.folder import RunFolder
from selfplay.runs.progress import changes, ends
from selfplay.runs.reading import NOT_SCIENCE

FOLDER = re.compile(r"(?<![\w.:/<])(?:\w+:/{2,})?(?:~|(?<!\w)/)(?:[^\s/'\",;:\[\]{}()<>]*/)*(?=[^\s/'\",;:\[\]{}()<>])")
LEFT_OUT = (*(name for name in NOT_SCIENCE if name != "seed"), "versions", "overrides", "trust")
LONE = re.compile(r"(?:~|/|\w+:///).*")


@dataclass(frozen=True)
class Base:
    """The model that a run started from.

    Attributes:
        name: as the card calls it; None for a local folder.
        hub: its hub id; None if it has none.
        licence: as in the Hub's metadata, such as "apache-2.0"; None if unknown.
        remark: a sentence on what differs from the published model, or "".
    """

    name: str | None
    hub: str | None = None
    licence: str | None = None
    remark: str = ""


def model_card(run: RunFolder, step: int, title: str, base: Base, adapter: bool) -> str:
    """The text of the card of the checkpoint after a step; it contains no folder of the machine.

    Args:
        run: the run.
        step: of the checkpoint.
        title: the heading, also the id in the examples: of the repository, or the folder's name.
        base: the model that the run started from.
        adapter: whether the checkpoint is a PEFT adapter instead of a whole model.

    Raises:
        SelfplayError: a file of the run is broken.
    """
    config, summary = run.config, run.summary
    meta = ModelCardData(
        base_model=base.hub,
        library_name="peft" if adapter else "transformers",
        license=base.licence,
        pipeline_tag="text-generation",
        tags=["selfplay", "self-play", "reinforcement-learning", *_kinds(config)],
    ).to_yaml()
    started = f"`{base.name}`" if base.name else "a local model that the run's config does not name"
    what = "A LoRA adapter" if adapter else "A causal language model"
    parts = [
        f"---\n{meta}\n---\n\n# {title}\n",
        f"{what}, trained with selfplay from {started}: the learner after step {step} of {config.steps}. {base.remark}"
        .rstrip() + "\n",
        _results(run, step, summary),
        "![What the run logged at each step](curves.png)\n",
        _use(title, adapter, base),
        _training(run, config, summary, step),
    ]  # fmt: skip
    return "\n".join(parts)


def without_folders(value: Any) -> Any:
    """The value with every absolute path in its strings shortened to its last part; nested containers are copied."""
    if isinstance(value, Mapping):
        return {key: without_folders(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(part) for part in value]
    if not isinstance(value, str):
        return value
    if LONE.fullmatch(value) and "/" in value[1:]:  # one path, which may contain spaces
        return ".../" + value.rstrip("/").rpartition("/")[2]
    return FOLDER.sub(".../", value)


def changed(ours: Any, default: Any) -> Any:
    """The entries of a nested config that differ from those of the default config, in the same nesting."""
    found: dict[str, Any] = {}
    for name, value in ours.items():
        other = default.get(name)
        if isinstance(value, dict) and isinstance(other, dict) and value.get("_target_") == other.get("_target_"):
            if inner := changed(value, other):
                found[name] = inner
        elif value != other:
            found[name] = value
    return found


def _kinds(config: DictConfig) -> list[str]:
    """The names of the game's and the update's classes, in lower case."""
    targets = (OmegaConf.select(config, f"{part}._target_") for part in ("game", "update"))
    return list(dict.fromkeys(str(target).rpartition(".")[2].lower() for target in targets if target))


def _results(run: RunFolder, step: int, summary: Mapping[str, Any]) -> str:
    """The section with the evaluations before training and at the step, or a sentence on what is missing."""
    found = evaluations_of(run.metrics())
    if 0 not in found or step not in found:
        return (
            f"The run did not evaluate the learner {'before training' if 0 not in found else f'after step {step}'}.\n"
        )
    gain = (summary.get("eval") or {}).get("gain") or {} if step == summary.get("steps") else {}
    rows = [
        "## Evaluation\n",
        f"Before training and after step {step}, each with its 95 % interval where there is one.\n",
        "| | before | after | change |",
        "| --- | ---: | ---: | ---: |",
        *_rows("", found[0], found[step], gain),
    ]
    for name in OmegaConf.select(run.config, "extra_evals") or ():
        if name in found[0] and name in found[step]:
            rows += _rows(f"{name}: ", found[0][name], found[step][name], gain.get(name) or {})
    return "\n".join(rows) + "\n"


def _rows(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any], gain: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, first, last in changes(before, after):
        main = name == headline(after)
        cells = (f"{first:.4f}{ends(before, name, main)}", f"{last:.4f}{ends(after, name, main)}")
        rows.append(f"| {prefix}{name} | {' | '.join(cells)} | {last - first:+.4f}{ends(gain, name, main, '+')} |")
    return [row.replace("\n", " ") for row in rows]


def _use(title: str, adapter: bool, base: Base) -> str:
    ours = f"With selfplay: `selfplay chat {title}`, or `player=hf player.path={title}` in a run.\n"
    if adapter and base.hub is None:  # only selfplay finds the base model
        return f"## Use\n\n{ours}"
    kind = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer"
    code = [
        imports if adapter else f"from transformers import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("{title}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{title}")',
    ]
    return "\n".join(["## Use\n", "```python", *code, "```\n", ours])


def _training(run: RunFolder, config: DictConfig, summary: Mapping[str, Any], step: int) -> str:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    typed = [text for text in plain.get("overrides") or [] if not _left_out(text.partition("=")[0].lstrip("+~"))]
    default = compose()
    fill_in(default, make(default.game, "game"))
    apart = changed(plain, OmegaConf.to_container(default, resolve=True))
    shown = OmegaConf.to_yaml(OmegaConf.create(_kept(without_folders(apart)))) if apart else ""
    versions = run.recorded.get("versions") or {}
    made = ", ".join(f"{name} {value}" for name, value in versions.items() if value is not None)
    parts = ["## Training\n", "```bash", shlex.join(["selfplay", *map(without_folders, typed)]), "```\n"]
    if shown.strip() not in ("", "{}"):
        parts += ["What differs from the default config:\n", "```yaml", shown.rstrip(), "```\n"]
    if summary.get("steps") == step:
        parts += [f"Steps: {step}; generated tokens: {summary['tokens']:.0f}; seconds: {summary['seconds']:.0f}.\n"]
    return "\n".join([*parts, f"Versions: {made}.\n"] if made else parts)


def _left_out(key: str) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/", f"{name}@")) for name in LEFT_OUT)


def _kept(tree: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The entries of a nested config without those that do not affect results."""
    found = {}
    for name, value in tree.items():
        path = f"{key}.{name}" if key else str(name)
        if not _left_out(path) and value != {}:
            found[name] = _kept(value, path) if isinstance(value, dict) else value
    return {name: value for name, value in found.items() if value != {}}
