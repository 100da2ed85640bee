"""Every yaml composes and can be built; what wins over what; an option lives in one constructor and its yaml."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli
import configs
import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf
from peft import LoraConfig

from selfplay.building import build
from selfplay.config import LAST, check_config
from selfplay.experiment import Experiment

BUILT_ONLY = ("endpoint", "engine", "parallel", "probes")  # tests/test_every_config_runs.py runs all other groups
SOURCES = [*sorted((cli.ROOT / "src").rglob("*.py")), cli.ROOT / "run.py"]


@pytest.mark.parametrize("choice", [choice for choice in cli.choices() if choice.split("=")[0] in BUILT_ONLY])
def test_every_yaml_builds(choice: str) -> None:
    config = cli.composed(*cli.needing(choice))
    check_config(config)
    made = build(config)
    assert isinstance(made, Experiment) and "learner" in made.opponent.seated.values()
    assert ("quality" in made.referees, "reward" in made.referees) == (bool(config.quality), bool(config.reward))


# "Class.option" -> why the default run gives another value than the constructor's default.
OF_THE_DEFAULT_RUN = {
    "LanguageModel.max_tokens": "the embedded model's questions and answers are short",
    "LanguageModel.batch_size": "it is small",
    "LanguageModel.engine": "None is the embedded engine, too",
    "PolicyGradient.role_weights": "alpha_Ch of the paper, where one looks for it",
}
DELIBERATE = OF_THE_DEFAULT_RUN | {  # the same, of the choice that is named; experiments may differ in anything
    "Against.name": "opponent=random",
    "ConservativeQ.max_grad_norm": "player=q_table",
    "ConservativeQ.micro_batch": "player=q_table",
    "Agreement.task": "reward=agreement: whole replies need no task",
    "Endpoint.cache": "endpoint=chat: runs of a folder share what was answered",
    "Engineer.most": "game=engineer: the embedded model's rubric has 7 points instead of LANCE's 10",
    "Engineer.threshold": "game=engineer: of 7",
    "Engineer.words": "game=engineer: the embedded model's questions are short",
    "IFBench.held_out_share": "eval=ifbench: all of it",
    "IFBench.longest": "set by these tests",
    "Imitation.keep": "update=sft",
    "Imitation.role_weights": "alpha_Ch",
    "Imitation.teachers": "update=sft",
    "InLoss.estimator": "regularizer=kl_forward, literal, entropy",
    "InPayoff.cost": "regularizer=kl_forward_payoff",
    "KTO.role_weights": "alpha_Ch",
    "LanguageModel.lora": "player=tiny_lora",
    "LanguageModel.temperature": "player=smollm2: at 1 it rambles",
    "LSP.pay": "game=lsp_zero; challenger=r_zero, spice, sqlm, absolute_zero, reverse_gen, error_rate, family",
    "League.every": "opponent=psro, league: an oracle is a longer way",
    "League.exploit": "opponent=league",
    "League.latest": "opponent=league, pfsp",
    "League.matches": "opponent=psro: its table is measured",
    "League.restart": "opponent=psro",
    "League.rule": "opponent=psro, league, pfsp, recent",
    "Nature.draw": "where Nature asks questions of a task",
    "Pairwise.beta": "update=sppo",
    "Pairwise.objective": "update=sppo",
    "Pairwise.pairs": "update=spin",
    "Pairwise.refresh": "update=spin, sppo: an iteration",
    "Pairwise.role_weights": "alpha_Ch",
    "Pairwise.teachers": "update=spin",
    "PolicyGradient.advantage": "update=grpo, rloo, spiral, nash_md",
    "PolicyGradient.aggregation": "update=grpo, dr_grpo, dapo, bnpo, gspo, cispo, sapo, ppo",
    "PolicyGradient.compare": "player=tabular: a state's own baseline",
    "PolicyGradient.epochs": "update=ppo",
    "PolicyGradient.max_grad_norm": "player=tabular",
    "PolicyGradient.micro_batch": "player=tabular, hf",
    "PolicyGradient.minibatches": "update=ppo",
    "PolicyGradient.mixture": "update=nash_md",
    "PolicyGradient.objective": "update=grpo, dr_grpo, dapo, bnpo, gspo, cispo, sapo, ppo",
    "PolicyGradient.optimizer": "player=tabular: plain gradient descent",
    "PolicyGradient.regularizer": "regularizer=none, kl_reverse_payoff, kl_forward_payoff",
    "PolicyGradient.schedule": "schedule=linear, cosine, harmonic",
    "Programs.sandbox": "None is one with the default limits, too",
    "ReasoningGym.held_out": "set by these tests",
    "ReasoningGym.size": "set by these tests",
    "Selection.draw": "where Nature asks questions of a task",
    "Selection.every": "data=focus, least_solved: weights that change",
    "Selection.size": "set by these tests",
    "Selection.strategy": "data=lowest, highest, focus, facility, least_solved",
    "Society.task": "game=society: whole replies need no task",
    "Stages.parts": "update=stages: SFT, then DPO",
    "Records.answer": "task=alpaca, which has none",
    "Records.demonstration": "task=alpaca, gsm8k, math: the full solution",
    "Records.held_out_rows": "task=gsm8k, math: their test split",
    "Records.held_out_share": "task=alpaca",
    "Records.labels": "task=math",
    "Records.match": "task=gsm8k, math",
    "Records.most": "task=alpaca",
    "Records.pattern": "task=gsm8k: the number after ####",
    "Records.rejected": "task=preferences",
    "Records.question": "task=alpaca, math: the fields of these sets",
    "WrittenScore.max_tokens": "quality=selfjudge_rubric justifies itself first",
    "adamw.lr": "player=hf, smollm2",
    "clipped.high": "update=dapo",
    "huggingface.name": "task=gsm8k: its subset",
    "huggingface.split": "task=gsm8k, math: the test split",
    "matrix_game.custom": "game=matrix: an example to change",
    "matrix_game.random": "game=matrix: an example to change",
}

PLAIN = {  # the choice that gives a class its defaults, where others depart from them -> the class
    "opponent=uniform": "League",
    "opponent=reference": "Against",
    "update=dpo": "Pairwise",
    "update=kto": "KTO",
    "update=rejection": "Imitation",
    "update=grpo": "clipped",
    "regularizer=kl_reverse_payoff": "InPayoff",
    "quality=selfjudge_written": "WrittenScore",
    "task=records": "Records",
}


def calls(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from calls(value, f"{where}.{key}")


def options(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}


def is_default(value: Any, default: Any) -> bool:
    """Whether a yaml's value is the default of a signature; the options of parts are compared where they are made."""
    if isinstance(value, dict) and "_target_" in value:
        target = get_object(value["_target_"])
        return default is target if value.get("_partial_") else type(default) is target
    if isinstance(value, dict | list):
        return value == (type(value)(default) if default is not None else type(value)())
    return type(value) is type(default) and bool(value == default)


def departures(*args: str) -> set[str]:
    """The options of a composed config whose value is neither the default nor taken from elsewhere in the config."""
    composed = configs.config(*args)
    resolved = OmegaConf.to_container(composed, resolve=True)
    raw = dict(calls(OmegaConf.to_container(composed)))
    found = set()
    for where, node in calls(resolved):
        if not node["_target_"].startswith("selfplay."):
            continue
        target = get_object(node["_target_"])
        for key, value in options(node).items():
            parameter = inspect.signature(target).parameters.get(key)
            written = raw[where][key] if where in raw else None
            followed = isinstance(written, str) and "${" in written and not isinstance(value, dict)
            if parameter is None or parameter.default is parameter.empty or followed:
                continue
            if not is_default(value, parameter.default):
                found.add(f"{target.__name__}.{key}")
    return found


@pytest.mark.parametrize("choice", cli.choices())
def test_every_key_is_a_parameter_and_what_has_no_default_is_a_key(choice: str) -> None:
    config = OmegaConf.to_container(configs.config(*cli.needing(choice)), resolve=True)
    found = list(calls(config))
    assert len(found) > 5
    for where, node in found:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        keys, given = set(options(node)), set(LAST[where[1:]][1] if where[1:] in LAST else ())
        named = {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        further = any(p.kind is p.VAR_KEYWORD and not n.startswith("_") for n, p in parameters.items())
        assert further or keys <= named - given, f"{where} of {choice}: {node['_target_']} does not know {keys - named}"
        if not node.get("_partial_") and node["_target_"].startswith("selfplay."):
            needed = {n for n in named if parameters[n].default is inspect.Parameter.empty}
            assert needed <= keys | given, f"{where} of {choice} leaves out {needed - keys}"


def test_the_command_line_composes_the_same() -> None:
    for args in ((), ("game=kuhn", "player=tabular"), ("experiment=rps_psro", "seed=3")):
        assert cli.composed(*args) == OmegaConf.create(OmegaConf.to_yaml(configs.config(*args)))


def test_a_yaml_gives_the_default_of_the_constructor_or_another_value_on_purpose() -> None:
    assert departures() == set(OF_THE_DEFAULT_RUN)
    for choice, name in PLAIN.items():
        of_it = {option for option in departures(*cli.needing(choice)) if option.startswith(f"{name}.")}
        assert of_it <= {f"{name}.role_weights"}, f"{choice} gives {of_it}"
    choices = [choice for choice in cli.choices() if not choice.startswith("experiment=")]
    found = {option: choice for choice in choices for option in departures(*cli.needing(choice))}
    assert set(found) == set(DELIBERATE), {option: found.get(option) for option in set(found) ^ set(DELIBERATE)}


def test_the_keys_of_lora_are_peft_s() -> None:
    lora = cli.composed("player=tiny_lora").player.lora
    assert set(lora) and set(lora) <= set(inspect.signature(LoraConfig).parameters)


# --- what wins over what ----------------------------------------------------------------------------------------------


@pytest.fixture
def experiment(tmp_path: Path) -> list[str]:
    """An experiment file of somebody else's folder."""
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /quality: none\n  - override /update: grpo\n"
    text += "steps: 7\nepisodes: 5\ngame:\n  answers: 3\nupdate:\n  role_weights:\n    challenger: 0.25\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    return [f"--config-dir={tmp_path}", "experiment=mine"]


def test_an_experiment_wins_over_the_config_and_the_game(experiment: list[str]) -> None:
    plain, mine = cli.composed(), cli.composed(*experiment)
    assert (mine.steps, mine.episodes, mine.game.answers, mine.seed) == (7, 5, 3, plain.seed)
    assert plain.steps != 7 and plain.episodes != 5 and plain.game.answers != 3
    assert plain.quality is not None and mine.quality is None
    assert mine["update"].role_weights == {"challenger": 0.25, "solver": 1.0}
    assert mine["update"].objective._target_.endswith("clipped")


def test_the_command_line_wins_over_an_experiment(experiment: list[str]) -> None:
    mine = cli.composed(*experiment, "steps=9", "game.answers=4", "quality=selfjudge", "update=lsp")
    assert (mine.steps, mine.episodes, mine.game.answers) == (9, 5, 4)
    assert mine.quality._target_.endswith("ExpectedScore") and mine["update"].objective._target_.endswith("reinforce")


def test_a_search_path_finds_an_experiment_too(experiment: list[str]) -> None:
    folder = experiment[0].removeprefix("--config-dir=")
    assert cli.composed(f"hydra.searchpath=[file://{folder}]", "experiment=mine").steps == 7


def test_lsp_brings_the_quality_and_lsp_zero_does_not() -> None:
    assert cli.composed("game=lsp").quality._target_.endswith("ExpectedScore")
    assert cli.composed("game=lsp_zero").quality is None
    assert cli.composed("game=dataset").quality is None


def test_the_command_line_wins_over_a_game() -> None:
    assert cli.composed("game=lsp", "quality=none").quality is None
    assert cli.composed("quality=selfjudge_written", "game=lsp").quality._target_.endswith("WrittenScore")
    assert cli.composed("game=lsp_zero", "quality=selfjudge").quality._target_.endswith("ExpectedScore")


def test_the_challenger_s_pay_is_chosen_where_there_is_a_challenger() -> None:
    own = {game: cli.composed(f"game={game}").challenger._target_.rsplit(".")[-1] for game in ("lsp", "lsp_zero")}
    assert own == {"lsp": "lsp", "lsp_zero": "lsp_zero"}
    spice = cli.composed("game=lsp", "challenger=spice", "challenger.sigma=0.5")
    assert spice.game.pay._target_.endswith(".spice") and spice.game.pay.sigma == 0.5
    refused = cli.run("game=dataset", "challenger=spice", "--cfg", "job")
    assert refused.code == 1 and refused.err.startswith("Could not override 'challenger'.")


def test_the_judge_is_the_same_as_reward_and_as_quality() -> None:
    for name in ("selfjudge", "selfjudge_written"):
        both = cli.composed(f"reward={name}", f"quality={name}")
        assert both.reward == both.quality and "_target_" in both.reward


# --- rules of the house -----------------------------------------------------------------------------------------------


def test_no_default_hides_in_the_code() -> None:
    found = [p.name for p in SOURCES if re.search(r"\b(cfg|config|conf)(\.\w+|\[\"\w+\"\])*\.get\(", p.read_text())]
    assert found == []


@pytest.mark.parametrize("file", ["src/selfplay/main.py", "src/selfplay/core.py", "src/selfplay/rollout.py"])
def test_the_core_names_no_component(file: str) -> None:
    folders = ("games", "players", "referees", "updates")
    sources = [p for f in folders for p in sorted((cli.ROOT / "src/selfplay" / f).glob("*.py"))]
    components = {c.name for p in sources for c in ast.walk(ast.parse(p.read_text())) if isinstance(c, ast.ClassDef)}
    assert {"LSP", "LanguageModel", "Verifier", "PolicyGradient"} <= components
    used: set[str] = set()
    for node in ast.walk(ast.parse((cli.ROOT / file).read_text())):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
            assert not re.match(rf"selfplay\.({'|'.join(folders)})\b", node.module or ""), node.module
    assert not used & components


@pytest.mark.parametrize(
    ("overrides", "probed"),
    [
        ((), True),
        (("player=smollm2",), False),  # whose Challenger asks anything
        (("player=hf", "player.path=x", "game=lsp_zero"), False),
        (("player=smollm2", "task=arithmetic", "probes=task"), True),
        (("player=smollm2", "task=arithmetic", "game=dataset"), True),  # where questions are the task's
        (("experiment=smollm2_arithmetic_spark",), True),
        (("experiment=lsp_paper",), False),
    ],
)
def test_probes_are_there_where_they_apply(overrides: tuple[str, ...], probed: bool) -> None:
    assert (cli.composed(*overrides).probes.truth is not None) == probed
