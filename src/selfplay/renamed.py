"""Names of version 0.1: rejected in user input, translated when an old run is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = {  # old key -> current key
    "watch": "progress_metric",
    "evals": "extra_evals",
    "outcomes": "rollout",
    "player.rows": "player.batch_size",
    "player.compute": "player.compute_dtype",
    "player.checkpointing": "player.gradient_checkpointing",
    "reward.rows": "reward.batch_size",
}
CHOICES = {  # (current group, old choice) -> current choice
    ("rollout", "every"): "exact",
    ("reward", "total"): "ensemble",
}
OF_A_MODEL = {"rows": "batch_size", "compute": "compute_dtype", "checkpointing": "gradient_checkpointing"}
MODELS = ("selfplay.players.language_model.LanguageModel", "selfplay.referees.reward_model.RewardModel")
TARGETS = {
    "selfplay.outcomes.every": "selfplay.enumeration.exact",
    "selfplay.outcomes.sampled": "selfplay.enumeration.sampled",
    "selfplay.games.challenger_pay": "selfplay.games.challenger_rewards",
    "selfplay.referees.total": "selfplay.referees.ensemble",
    "selfplay.referees.distinct": "selfplay.referees.deduplicate",
    "selfplay.referees.marks": "selfplay.referees.judge_prompt",
    "selfplay.updates.imitation.taught": "selfplay.updates.imitation.off_policy",
    "selfplay.updates.regularizers.surprise": "selfplay.updates.regularizers.entropy",
    "selfplay.updates.aggregations.whole": "selfplay.updates.aggregations.sequence_sum",
    "selfplay.tasks.luck": "selfplay.tasks.seeding",
    "selfplay.tasks.guard": "selfplay.tasks.safe_eval",
}
METRICS = {"drift": "logprob_mismatch"}


def refused(key: str, value: object = None) -> str | None:
    """The error for an assignment that uses an old name; None if key and choice are current.

    Args:
        key: dotted key, without "+" or "~"; a group may have a package after an "@".
        value: the choice, if the key is a group.
    """
    group, _, package = key.partition("@")
    for old, new in KEYS.items():
        for where, form in ((group, "{}"), (package, f"{group}@{{}}")):
            if where == old or where.startswith(f"{old}."):
                return f"{key} is called {form.format(new + where[len(old) :])} since version 0.2; use the new name"
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and (group, name) in CHOICES:
            return f"{group}={name} is called {group}={CHOICES[group, name]} since version 0.2; use the new name"
    return None


def refused_in(config: DictConfig) -> str | None:
    """`refused` for the keys of a composed config, which may come from a user's yaml."""
    from omegaconf import OmegaConf

    for old in KEYS:
        missing = object()
        if OmegaConf.select(config, old, default=missing, throw_on_missing=False) is not missing:
            return refused(old)
    return None


def translated(node: Any) -> Any:
    """Translate the plain config of a run of any version to current names."""
    if isinstance(node, list):
        return [translated(item) for item in node]
    if not isinstance(node, dict):
        return node
    names = OF_A_MODEL if node.get("_target_") in MODELS else {}
    found = {names.get(key, key): translated(value) for key, value in node.items()}
    if isinstance(target := found.get("_target_"), str):
        found["_target_"] = _moved(target)
    return found


def translated_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`translated`, including the names of the run's own options."""
    top = {old: new for old, new in KEYS.items() if "." not in old}
    found = {top.get(key, key): value for key, value in translated(dict(config)).items()}
    if isinstance(found.get("overrides"), list):
        found["overrides"] = [_override(text) for text in found["overrides"]]
    return found


def translated_metrics(line: dict[str, Any]) -> dict[str, Any]:
    """Translate a record of metrics.jsonl to current names."""
    if not METRICS.keys() & line.keys():
        return line
    return {METRICS.get(name, name): value for name, value in line.items()}


def translated_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a checkpoint's state: version 0.1 kept the update that an exploiter sets aside in the opponent."""
    if "trainee" in state:
        return dict(state)
    aside = state["opponent"].get("aside")
    return {**state, "opponent": {**state["opponent"], "exploits": aside is not None}, "trainee": aside}


def _moved(target: str) -> str:
    for old, new in TARGETS.items():
        if target == old or target.startswith(f"{old}."):
            return new + target[len(old) :]
    return target


def _override(text: object) -> object:
    """Translate the key and choice of an override."""
    if not isinstance(text, str):
        return text
    signs, key, rest = re.match(r"([+~]*)([^=]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            key = new + key[len(old) :]
    return f"{signs}{key}={CHOICES.get((key, rest[1:]), rest[1:])}" if rest else f"{signs}{key}"
