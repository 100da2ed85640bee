"""A command of the documentation, made small and with stand-ins for what is not on this machine.

What lies on a hub or behind a url is replaced by small models of weights of chance and by doubles of the servers.
"""

import atexit
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import cli
import judges
import reward_servers
import stored
from chat_models import stand_in
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from servers import Double, serving

from selfplay.composing import arguments_of, composed
from selfplay.core import SelfplayError


def smaller(words: Sequence[str]) -> list[str]:
    """The options of a run or sweep with stand-ins, and what makes it small where it does not say how large it is."""
    words = [short(word) for word in words]
    if any(word.startswith(("resume=", "--")) for word in words):
        return words
    for word in words:
        supply(word.partition("=")[2])
    if "player=tabular" in words:  # takes no time
        return given(words, [] if any(word.startswith("steps=") for word in words) else ["steps=1"])
    words = given(words, stand_ins(words))
    try:
        cfg = of_first_job(words)
    except (SelfplayError, HydraException):
        return words  # the run says it as well
    return given(words, [*models_elsewhere(cfg), *sizes(cfg, words)])


def with_stand_ins(words: Sequence[str]) -> list[str]:
    """The options, with models and servers of this machine in place of others.

    Raises:
        SelfplayError, HydraException: an option is wrong.
    """
    words = given(words, stand_ins(words))
    return given(words, [*models_elsewhere(of_first_job(words))])


def short(word: str) -> str:
    """An option that sets a size of a run, or its device, as it is here."""
    key, _, value = word.partition("=")
    if key == "seed":
        return f"seed={','.join(value.split(',')[:2])}"
    if word == "device=cuda":
        return "device=cpu"
    if key == "reward.context":
        return "reward.context=512"  # what the double of a reward model's server takes
    return "hydra.sweeper.n_trials=2" if key == "hydra.sweeper.n_trials" else word


def sizes(cfg: DictConfig, words: Sequence[str]) -> list[str]:
    """Options that make a run of this config small; those that the command itself sets stay as they are, except for
    ten and more steps of a language model."""
    own = {word.lstrip("+").partition("=")[0] for word in words}
    if "max_tokens" not in cfg.player:  # a table, which takes no time
        return [] if "steps" in own else ["steps=1"]
    evals = {"eval": cfg.eval} | {f"extra_evals.{name}": cfg.extra_evals[name] for name in cfg.extra_evals}
    strategy = "strategy" in (cfg.players.get("nature") or {})
    small = ["episodes=2", f"player.max_tokens={32 if strategy else 12}"]  # strategies read demonstrations
    small += ["players.nature.size=8"] if strategy and "-m" not in words and "size" in cfg.players.nature else []
    small += ["task.per_cell=1"] if "per_cell" in (cfg.task or {}) and "task" in (cfg.eval or {}) else []
    small += ["game.answers=2"] if cfg.game.get("answers") else []
    small += ["update.hoard=1", "update.room=1", "update.groups=0"] if "hoard" in cfg["update"] else []
    small += ["update.order=null"] if cfg["update"].get("order") else []
    small += ["quality.max_tokens=12"] if "max_tokens" in (cfg.quality or {}) else []
    for where, node in evals.items():
        small += [f"{where}.episodes=2"] if "episodes" in (node or {}) else []
        if "task" in (node or {}) and not OmegaConf.is_interpolation(node, "task"):
            small += [
                f"{where}.task.{key}"
                for key in ("size=8", "held_out=2", "longest=200")
                if key.partition("=")[0] in node.task
            ]
    kept = [word for word in small if word.partition("=")[0] not in own]
    return [*kept, "steps=1"] if "steps" not in own or cfg.steps >= 10 else kept


def given(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """The options, with `more` in place of those of the same name."""
    replaced = {word.lstrip("+").partition("=")[0] for word in more}
    return [*(word for word in words if word.lstrip("+").partition("=")[0] not in replaced), *more]


def stand_ins(words: Sequence[str]) -> list[str]:
    """Options that lead to a server on this machine, or to data."""
    more = []
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        where = key.partition("@")[2] or key
        if key.startswith("reward") and re.match(r"judge(_|$)", value):
            more += [f"{where}.endpoint.url={judges.stand_in()}", f"{where}.endpoint.cache=null"]
        elif value == "rm_server":
            more += [f"{where}.url={reward_servers.stand_in()}", f"{where}.path=asset:tiny-rm"]
        elif key.startswith("learners.") and key.endswith(".path") and not Path(value).exists():
            more.append(f"{key}={stand_in(False)}")
        elif word == "engine=server":
            more.append(f"engine.urls=[{generator()}]")
        elif word == "task=alpaca":
            more += [f"task.source.path={stored.path('alpaca')}", "task.held_out_share=0.2"]
    return more


def models_elsewhere(cfg: DictConfig) -> Iterator[str]:
    """Options that put a small model in place of each that is not on this machine."""
    for place, reward in cli.elsewhere(OmegaConf.to_container(cfg)):
        path = OmegaConf.select(cfg, f"{place}.path", throw_on_missing=False)
        if path is None or not Path(str(path)).exists():
            yield f"++{place}.path={stand_in(reward)}"


def of_first_job(words: Sequence[str]) -> DictConfig:
    """The config of a run, or of a sweep's first job."""
    single = [word for word in words if word != "-m"]
    single = [re.sub(r"^([\w.@/]+=[^\[{(,]*),.*$", r"\1", word) for word in single]
    single = [re.sub(r"=tag\(.*$", "=1", word) for word in single]
    return composed(arguments_of(tuple(single), {}))


def supply(name: str) -> None:
    """Write a file of the reader's own that a command names."""
    rows = [{"prompt": f"add {i} and 2", "solution": str(i + 2)} for i in range(40)]
    made = {
        "mine.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "alpaca_eval.json": json.dumps([{"instruction": "add 3 and 4", "dataset": "mine"}]),
        "my/config.json": (Path(stand_in(False)) / "config.json").read_text() if name == "my/config.json" else "",
    }
    if name in made and not Path(name).exists():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(made[name])


@cache
def generator() -> str:
    """The url of a double of vLLM's server of the included model that serves until the tests end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(serving(Double())).url
