"""From a composed config to the numbers that its memory depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig

from selfplay.core import SelfplayError
from selfplay.devices import sizes_on
from selfplay.evaluations.versus import Versus
from selfplay.evaluations.win_rate import WinRate
from selfplay.memory.model import Model, model_of
from selfplay.memory.optimizer_state import optimizer_state
from selfplay.memory.parts import Texts
from selfplay.memory.phases import Scorer, Setup
from selfplay.models.base_model import model_config
from selfplay.opponents.league import League
from selfplay.opponents.matchmaker import Against
from selfplay.opponents.mixture import against_mixture
from selfplay.parallel.distributed import Distributed
from selfplay.parallel.sharded import Sharded
from selfplay.players.language_model import LanguageModel
from selfplay.referees.pairwise import ReferenceJudge
from selfplay.referees.reward_model import RewardModel
from selfplay.referees.selfjudge import ExpectedScore, WrittenScore

TEMPLATE = 128  # tokens of a prompt besides another role's reply: instructions, chat template
ENGINES = {"EmbeddedEngine": "embedded", "TransformersEngine": "transformers", "ServerEngine": "server"}
SCORED = ("reward", "quality", "probes", "eval", "extra_evals")  # where referees and evaluations are configured
ALIKE = "reward model (as large as the learner)"


@dataclass(frozen=True)
class Given:
    """What the command line says besides the config.

    Attributes:
        processes: how many processes share the run.
        prompt: tokens of a prompt; None: `max_tokens` + TEMPLATE, since one role's reply is another's prompt.
        config: the learner's config, instead of the one at its path.
    """

    processes: int = 1
    prompt: int | None = None
    config: PreTrainedConfig | None = None


def learner_of(cfg: DictConfig, given: Given, lora: Mapping[str, Any] | None = None) -> Model | None:
    """The learner's sizes; None if it is not a language model.

    Args:
        cfg: a composed config.
        given: see `Given`.
        lora: the adapter, instead of the configured one.

    Raises:
        SelfplayError: its config cannot be read, or no model can be built from it.
    """
    player = _plain(cfg.player)
    if not _is(player, LanguageModel):
        return None
    return _language_model(player, given.config, lora or player.get("lora"))


def setup_of(cfg: DictConfig, given: Given) -> Setup | None:
    """The setup that a config describes; None if its learner is not a language model.

    Raises:
        SelfplayError: a model's config cannot be read, processes and `parallel` contradict one another, or the update
            is of several rules.
    """
    learner = learner_of(cfg, given)
    if learner is None:
        return None
    player, update = _plain(cfg.player), _plain(cfg["update"])
    if "optimizer" not in update:
        raise SelfplayError(f"the memory of {update['_target_']}, which has several rules, is not calculated")
    parallel = _parallel(cfg, given.processes)
    parts = [part for key in SCORED for part in _nodes(_plain(cfg[key]))]
    opponent, reply = _plain(cfg.opponent), int(player["max_tokens"])
    group = int(OmegaConf.select(cfg, "game.answers") or 1)
    prompt = given.prompt or reply + TEMPLATE
    writers = (WrittenScore, ReferenceJudge, WinRate, Versus)
    return Setup(
        learner=learner,
        optimizer=optimizer_state(instantiate(update["optimizer"]), learner.trained),
        batch_size=int(player["batch_size"]),
        micro_batch=int(update["micro_batch"]),
        prompt=prompt,
        reply=reply,
        group=group,
        checkpointing=bool(player.get("gradient_checkpointing")),
        engine=_engine(player),
        parallel=parallel,
        processes=given.processes,
        on_cpu=str(player["device"]).startswith("cpu"),
        scorers=tuple(_scorers(cfg, given, parts, learner, prompt + reply)),
        snapshots=_snapshots(opponent, update, int(cfg.steps)),
        frozen_play=_is(opponent, League) or (_is(opponent, Against) and opponent["name"] == "reference"),
        mixture=_target(opponent) is against_mixture,
        frozen_scoring=any(_is(part, kind) for part in parts for kind in writers),
        aside=bool(opponent.get("exploit")),
        judges=any(_is(part, ExpectedScore) for part in parts),
    )


def reads_rewards(node: Any) -> bool:
    """Whether a referee is a reward model in the run's own processes."""
    return _is(_plain(node), RewardModel)


def _plain(node: Any) -> Any:
    """A config as plain containers; options that are not set remain "???"."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_` in a part of a config, itself included."""
    if isinstance(part, dict):
        if "_target_" in part:
            yield part
        for value in part.values():
            yield from _nodes(value)
    elif isinstance(part, list):
        for value in part:
            yield from _nodes(value)


def _target(node: Any) -> Any:
    return get_object(node["_target_"]) if isinstance(node, dict) and "_target_" in node else None


def _is(node: Any, kind: type) -> bool:
    target = _target(node)
    return isinstance(target, type) and issubclass(target, kind)


def _language_model(node: Mapping[str, Any], config: PreTrainedConfig | None, lora: Any) -> Model:
    found, saved = (config, None) if config is not None else model_config(str(node["path"]))
    return model_of(
        AutoModelForCausalLM,
        found,
        str(node["dtype"]),
        str(node["device"]).startswith("cpu"),
        str(node.get("attention", "sdpa")),
        node.get("compute_dtype"),
        lora or saved,
    )


def _engine(player: Mapping[str, Any]) -> str:
    target = _target(player.get("engine"))
    name = "EmbeddedEngine" if target is None else target.__name__
    if name not in ENGINES:
        raise SelfplayError(f"the memory of the engine {name} is not known; take one of {', '.join(ENGINES.values())}")
    return ENGINES[name]


def _parallel(cfg: DictConfig, processes: int) -> Any:
    node = _plain(cfg.parallel)
    if node is None and processes > 1:
        raise SelfplayError(f"processes is {processes}, but parallel is none; use parallel=ddp or parallel=fsdp")
    if node is None:
        return "none"
    if not _is(node, Distributed):
        raise SelfplayError(f"the memory of parallel={node['_target_']} is not known; take ddp or fsdp")
    return "fsdp" if _is(node, Sharded) else "ddp"


def _snapshots(opponent: Any, update: Mapping[str, Any], steps: int) -> int:
    """Frozen copies besides the reference at the end of a run: a league's members, and an update's magnet."""
    magnet = 1 if update.get("magnet_every") or update.get("refresh") else 0
    if not _is(opponent, League):
        return magnet
    every, exploit = int(opponent["every"]), int(opponent["exploit"])
    period = every + exploit
    exploiters = (steps - exploit) // period + 1 if exploit and steps >= exploit else 0
    return magnet + steps // period + exploiters


def _scorers(
    cfg: DictConfig, given: Given, parts: list[dict[str, Any]], learner: Model, length: int
) -> Iterator[Scorer]:
    """Reward models, and further language models among the players."""
    for part in parts:
        if _is(part, RewardModel):
            work = sizes_on(str(part["device"]).startswith("cpu"))
            texts = Texts(int(part["batch_size"]), length - 1, 1, 1, work)
            yield _reward_model(part, given, learner, texts)
    for name, node in _plain(cfg.players).items():
        if _is(node, LanguageModel):
            yield Scorer(f"players.{name}", _language_model(node, None, node.get("lora")), None)


def _reward_model(node: Mapping[str, Any], given: Given, learner: Model, texts: Texts) -> Scorer:
    """A reward model's sizes; if the learner's are given by hand and this one's config cannot be read, the same."""
    try:
        config, _ = model_config(str(node["path"]))
    except SelfplayError:
        if given.config is None:
            raise
        frozen = model_of(AutoModelForCausalLM, given.config, str(node["dtype"]), True)
        return Scorer(ALIKE, frozen, texts)
    on_cpu = str(node["device"]).startswith("cpu")
    auto = AutoModelForSequenceClassification
    return Scorer("reward model", model_of(auto, config, str(node["dtype"]), on_cpu, str(node["attention"])), texts)
