"""What may be typed: options against type hints, values that mean nothing, set-ups that learn nothing, keys."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import cli
import pytest
from configs import config, filled
from fuzz_overrides import WRONG, Set, drawn, limit, tried
from omegaconf import OmegaConf

from selfplay.commandline import assignments, mistake
from selfplay.config import check_config
from selfplay.core import SelfplayError
from selfplay.effect import check_effect
from selfplay.games.iterated_dilemma import IteratedDilemma
from selfplay.games.kuhn import Kuhn
from selfplay.options import Count, Expression, Holding, OneOf, Range, Share
from selfplay.runs import RunFolder
from selfplay.secrets import holds_secret, is_variable, suspicious
from selfplay.signature import Walk
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.theory.tree import enumerate_game

KUHN = ("game=kuhn", "player=tabular")


# --- values -----------------------------------------------------------------------------------------------------------

HINTS: list[tuple[Any, list[Any], list[Any]]] = [
    (bool, [True, False], ["no", 1, 0, None, "true", [True]]),
    (int, [3, -1], [True, 3.0, "3", None, [3]]),
    (float, [0.5, 3], [True, "0.5", None, float("nan"), float("inf"), {"a": 1}]),
    (str, ["", "5"], [5, None, True, ["a"]]),
    (str | None, ["a", None], [5, False]),
    (Sequence[str], [[], ["a"]], ["abc", [1], None, {"a": "b"}]),
    (tuple[float, float], [[0.9, 0.99]], [[0.9], [0.9, 0.99, 1.0], 0.9, ["a", "b"]]),
    (Mapping[str, float], [{}, {"a": 1}], [None, 5, [1], {"a": "b"}, {"a": None}, {1: 2}]),
    (Literal["a", "b"], ["a"], ["c", None, 1]),
    (Count, [1, 5], [0, -1, 1.0, True, 10**12]),
    (Share, [0, 0.5, 1], [-0.1, 1.1, float("nan"), True]),
    (Annotated[float, Range(0, above=True)], [1e-9, float("inf")], [0, -1, float("nan")]),
    (Annotated[str, OneOf("a", "b")], ["b"], ["c", None]),
    (Annotated[str, Expression(1)], ["(a)"], ["a", "(", "(a)(b)", None]),
    (Annotated[str, Holding("question")], ["{question}?"], ["question", None]),
    (Callable[[int], int], [], [None, 5, "abs", {"a": 1}, [1]]),
]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"), HINTS, ids=[re.sub(" object at 0x[0-9a-f]+", "", str(hint)) for hint, _, _ in HINTS]
)
def test_a_value_is_what_its_hint_says(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    def check(value: Any) -> None:
        walk, node = Walk(), OmegaConf.create({"x": value})
        walk.check(*walk.value(node, "x", "x")[:1], hint, "x")

    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(SelfplayError, match=r"^[^\n]* (is|has) [^\n]+[^.\n]$"):
            check(value)


REFUSED = {  # in a sentence with these words, before anything is made
    "player.stop=yes": ["player.stop is 'yes'", "a list"],
    "+player.lora=[q]": ["player.lora is", "mapping"],
    "update.objective=clipped": ["update.objective is 'clipped'", "_target_"],
    "probes.truth=5": ["probes.truth is 5", "_target_"],
    "~reward": ["reward", "removed"],
    "seed=12345678901234567890": ["seed is 12345678901234567890", "at most 4294967295"],
    "seed=${nope}": ["seed is '${nope}'", "nope"],
    "+update.optimizer.betas=[0.9]": ["update.optimizer.betas is [0.9]", "2 entries"],
    "update.role_weights.solver=high": ["update.role_weights.solver is 'high'", "a number"],
    "update.role_weights.solver=-1": ["update.role_weights.solver is -1", "at least 0"],
    "update.objective._target_=selfplay.updates.advantages.centred": ["update.objective", "Objective"],
    "+update.objective.low=0.2": ["has no option 'low'", "~update.objective.low"],
    "player._target_=selfplay.players.tabular.Tabular": ["has no option"],
    "reward._target_=selfplay.updates.regularizers.Off": [
        "has no option 'path' (it has: none)",
        "(conf/reward/<name>.yaml)",
    ],
    "+probes.reward={_target_:selfplay.referees.verifier.Verifier,task:5}": ["probes.reward.task is 5"],
    "opponent=psro opponent.exact=no": ["opponent.exact is 'no'", "true or false"],
    "opponent=psro opponent.restart=no": ["opponent.restart is 'no'", "true or false"],
    "player.gradient_checkpointing=no": ["player.gradient_checkpointing is 'no'", "true or false"],
    "update=grpo update.objective.low=-0.2": ["update.objective.low is -0.2", "at least 0"],
    "update=grpo update.objective.high=1e12": ["update.objective.high is 1000000000000.0", "at most 1000"],
    "quality=selfjudge_written quality.temperature=-1": ["quality.temperature is -1", "at least 0"],
    "quality=selfjudge_written quality.pattern=abc": ["quality.pattern is 'abc'", "1 group in parentheses"],
    "quality.unreadable=x": ["quality.unreadable is 'x'", "a number"],
    "quality.prompt=5": ["quality.prompt is 5", "in quotes"],
    "game.pay=spice": ["game.pay is 'spice'", "_target_"],
    "update.role_weights.solver=null": ["update.role_weights.solver is null", "a number"],
    "update.role_weights.solver=inf": ["update.role_weights.solver is inf", "at most"],
    "quality.prompt=hello": ["prompts.judge|quality.prompt", "{question}"],
    "quality.begin=null": ["quality.begin is null", "a text"],
    "player.top_k=1": ["player.top_k is 1", "leaves nothing to learn"],
    "player.temperature=1e-9": ["player.temperature is 1e-09", "at least 0.01"],
    "resume=5": ["resume is 5", "a text"],
    "regularizer.beta=nan": ["regularizer.beta is nan", "at least 0"],
}


@pytest.mark.parametrize("override", REFUSED)
def test_nonsense_is_refused_before_anything_is_made(override: str) -> None:
    with pytest.raises(SelfplayError) as told:
        check_config(config(*override.split(" ")))
    assert all(any(w in str(told.value) for w in words.split("|")) for words in REFUSED[override]), told.value
    assert "\n" not in str(told.value)


def test_a_probe_takes_no_place_of_what_is_paid() -> None:
    probe = "+probes.{}={{_target_:selfplay.referees.verifier.Verifier,task:${{task}}}}"
    for name in ("reward", "quality"):
        with pytest.raises(SelfplayError, match=f"probes.{name} would replace the {name} that the game pays"):
            check_config(config(probe.format(name)))
    check_config(config(probe.format("mine")))


def test_a_metric_to_watch_that_is_not_there_is_refused_after_a_step(tmp_path: Path) -> None:
    args = (*KUHN, "progress_metric=nope", "optimized_metric=loss", "steps=2", "eval=none")
    ended = cli.run(*args, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and ended.err.startswith(
        "error: progress_metric is 'nope', which this run does not log; choose one of "
    )


def test_a_class_of_ones_own_is_checked_as_well() -> None:
    walk = Walk()
    target = {"_target_": f"{__name__}.Own", "size": 0}
    with pytest.raises(SelfplayError, match=r"x\.size is 0, but it must be a whole number, at least 1"):
        walk.check(OmegaConf.create(target), Own, "x")
    walk.check(OmegaConf.create({**target, "size": 2}), Own, "x")
    with pytest.raises(SelfplayError, match=r"has no option 'sise' \(did you mean 'size'\?"):
        walk.check(OmegaConf.create({**target, "size": 2, "sise": 2}), Own, "x")


class Own:
    def __init__(self, size: Count) -> None:
        self.size = size


# --- what nobody reads ------------------------------------------------------------------------------------------------

UNREAD = [
    ["update=kto", "regularizer=kl_forward"],
    ["update=dpo", "regularizer.beta=0.2"],
    ["update=sppo", "regularizer=kl_forward"],
    ["update=rejection", "regularizer=kl_forward"],
    [*KUHN, "task=arithmetic"],
    [*KUHN, "prompts=chat"],
    ["+foo=1"],
    ["++foo.bar=1"],
    [*KUHN, "game=matrix", "game.custom.row=[[1]]"],
    ["player.pattern=x"],
]


@pytest.mark.parametrize("overrides", UNREAD, ids=" ".join)
def test_what_is_typed_in_vain_is_refused(overrides: list[str]) -> None:
    cfg = filled(*overrides)
    with pytest.raises(SelfplayError, match=r"has no effect|applies only if"):
        check_effect(cfg, overrides, check_config(cfg))


@pytest.mark.parametrize(
    "overrides",
    [
        ["regularizer=kl_forward", "regularizer.beta=0.2", "prompts=tiny", "challenger=spice", "task.seed=3"],
        ["update=kto", "regularizer=none"],
        ["+mine={rate:1e-3}", "update.optimizer.lr=${mine.rate}"],
        ["schedule=cosine", "schedule.warmup=3", "+extra_evals.more=null", "+players.x=null"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_not(overrides: list[str]) -> None:
    cfg = config(*overrides)
    check_effect(cfg, overrides, check_config(cfg))


def test_a_device_is_one_of_torchs_even_where_nobody_uses_it() -> None:
    for device in ("cpu", "cuda", "cuda:1", "mps"):
        check_config(config("game=kuhn", "player=tabular", f"device={device}"))
    with pytest.raises(SelfplayError, match=r"device is 'nowhere', but it must be a PyTorch device \(cpu, cuda"):
        check_config(config("game=kuhn", "player=tabular", "device=nowhere"))


def test_an_unknown_experiment_is_refused_with_the_names(tmp_path: Path) -> None:
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", "experiment=headrom")
    assert (
        ended.code == 1
        and "'headrom'; did you mean headroom? it has arithmetic_self_training, grpo_paper, headroom" in ended.err
    )
    assert ended.err.startswith("error: ") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["player=tinny"], "player has no choice 'tinny'; did you mean tiny"),
        (["gmae=kuhn"], "there is no option 'gmae'; did you mean game? A new one is added with +gmae=kuhn"),
        (["updat.optimizer.lr=1"], "there is no option 'updat'; did you mean update?"),
        (["-m", "reward=rm,selfjugde"], "reward has no choice 'selfjugde'; did you mean selfjudge or"),
        (["-m", "reward=choice(rm,verifer)"], "'verifer'; did you mean verifier"),
        (["+eval@extra_evals.more=heldot"], "eval has no choice 'heldot'; did you mean heldout"),
        (["logger=[wandb,tensorbord]"], "'tensorbord'; did you mean tensorboard"),
        (["game=''"], "game has no choice ''; it has blotto"),
        (["-m", "--cfg", "job"], "-m and --cfg exclude each other"),
        (["player=tinny", "--config-dir", "mine"], None),
        (["player=tinny", "hydra.searchpath=[file:///mine]"], None),
        (["reward=verifier.yaml", "game=${mine}", "eval@extra_evals.more=heldout", "logger=[wandb,mlflow]"], None),
        (["-m", "game=glob(k*)", "player=tiny,hf", "seed=range(3)", "~logger"], None),
    ],
)
def test_a_name_that_a_group_lacks_is_refused_with_the_nearest(arguments: list[str], told: str | None) -> None:
    found = mistake(arguments, [cli.CONF])
    assert found is None if told is None else found is not None and told in found


@pytest.mark.parametrize("name", cli.choices("experiment"))
def test_any_experiment_goes_without_an_evaluation(name: str) -> None:
    ended = cli.run(name, "eval=none", "--cfg", "job")
    assert ended.code == 0
    assert OmegaConf.create(ended.out).optimized_metric == OmegaConf.create(ended.out).progress_metric


def test_an_experiment_without_its_evaluation_runs(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", "experiment=kuhn_magnet", "eval=none", "steps=1")
    assert RunFolder.open(run).config.optimized_metric == "first/payoff"


# --- set-ups that learn nothing ---------------------------------------------------------------------------------------

NOTHING = {
    "one answer": (["game.answers=1"], "compares the payoffs of the turns in a group, but game.answers is 1"),
    "one episode": (["episodes=1"], "role 'challenger' would learn nothing"),
    "one game": ([*KUHN, "episodes=1", "update.compare=group"], "episodes is 1"),
    "no weight": (["update.role_weights={solver:0,challenger:0}"], "is 0 for all of the learner's roles"),
    "no spread": (["update=grpo", "update.advantage.epsilon=inf"], "epsilon is inf"),
    "no adapter": (["player=tiny_lora", "player.lora.lora_alpha=0"], "lora_alpha is 0"),
    "no teacher": (["game=demonstrations", "update=sft", "update.teachers=[]"], "update.teachers is empty"),
    "no rate": (["update.optimizer.lr=0"], "update.optimizer.lr is 0"),
    "nobody judged": ([*KUHN, "reward=verifier"], "has no judged role"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_set_up_that_learns_nothing_is_refused(case: str, tmp_path: Path) -> None:
    args, words = NOTHING[case]
    small = [o for o in cli.SMALL if not (args[0] == KUHN[0] and o.startswith(("reward", "game", "player")))]
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *small, *args)
    assert ended.code == 1 and words in ended.err and ended.err.startswith("error: "), ended.err
    assert ended.err.count("\n") == 1


def test_a_role_without_weight_need_not_learn(tmp_path: Path) -> None:
    cli.finished(tmp_path / "run", *cli.SMALL, "episodes=1", "update.role_weights.challenger=0", "steps=1")


def test_steps_that_teach_nothing_are_told(tmp_path: Path) -> None:
    ended = cli.run(
        f"hydra.run.dir={tmp_path / 'run'}", "game=matrix", "player=tabular", "game.name=custom", "eval=none",
        "game.custom.row=[[0,0],[0,0]]", "episodes=4", "steps=7", "regularizer=none",
    )  # fmt: skip
    assert ended.code == 0 and ended.out.count("the gradient was exactly 0 in the last 5 steps") == 1


# --- keys -------------------------------------------------------------------------------------------------------------

KEYS = [
    "sk-proj-4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
    "sk-abcdefghijklmnopqrstuvwx",
    "AKIAIOSFODNN7EXAMPLE",
    "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "ghp_0123456789abcdefghij0123456789abcdef",
    "4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
    "A1B2C3D4E5F6G7H8J9K0L1M2N3P4",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_not_taken_for_the_name_of_a_variable(key: str) -> None:
    assert not is_variable(key) and holds_secret("reward.endpoint.key", key)
    told = mistake([f"reward.endpoint.key={key}"], [cli.CONF])
    assert told is not None and key not in told and "reward.endpoint.key" in told
    for argument in (f"reward.endpoint.key={key},JUDGE_KEY", f"+reward.endpoint={{key: {key}}}", f"++a.api_key={key}"):
        assert mistake(["-m", argument], [cli.CONF]) is not None


@pytest.mark.parametrize(
    "text", ["reward.endpoint.key=JUDGE_API_KEY", "reward.endpoint.key=null", "reward=rm,selfjudge"]
)
def test_names_are_not_keys(text: str) -> None:
    assert mistake([text], [cli.CONF]) is None
    assert not any(map(suspicious, ("asset:tiny-rm", "/tmp/task-arithmetic-levels-1-2", "mask-and-more-of-the-same")))


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_key_is_in_no_file_and_not_on_the_console(mode: list[str], tmp_path: Path) -> None:
    """Typed, or in somebody's own experiment file."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - override /reward: judge\nreward:\n  endpoint:\n    key: {KEYS[0]}\n"
    )
    out = [f"hydra.run.dir={tmp_path / 'out'}", f"hydra.sweep.dir={tmp_path / 'out'}"]
    for args in (
        ["reward=judge", f"reward.endpoint.key={KEYS[0]}", "hydra.output_subdir=.hydra"],
        [f"--config-dir={tmp_path}", "experiment=mine"],
    ):
        ended = cli.run(*mode, *args, *out)
        assert ended.code == 1 and ended.err.startswith("error: reward.endpoint.key"), ended.err
        assert KEYS[0] not in ended.out + ended.err
        assert not (tmp_path / "out").exists()


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_game_that_is_too_large_is_refused_at_once() -> None:
    with limit(30), pytest.raises(SelfplayError, match=r"IteratedDilemma\(rounds=1000\) has more than 1000000 nodes"):
        enumerate_game(IteratedDilemma(1000, 5.0, 3.0, 1.0, 0.0, 5.0))
    assert len(enumerate_game(Kuhn(2.0), 55).ends) > 0  # the size is an estimate, the limit is exact
    with pytest.raises(SelfplayError, match=r"Kuhn\(.*\) has more than"):
        enumerate_game(Kuhn(2.0), 20)


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with limit(30), pytest.raises(SelfplayError, match=r"task\.held_out_share is"):
        Arithmetic([1], 5, share, 0)


# --- whatever else may be typed ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_sets_drawn_by_a_seed_end_well_or_in_one_sentence(part: int, tmp_path: Path) -> None:
    rng = Random(f"overrides/test/{part}")
    for number in range(10):
        case = drawn(rng)
        (tmp_path / str(number)).mkdir()
        result = tried(case, tmp_path / str(number))
        assert result.outcome != "fault", (result.reason, case)


def test_the_fuzzer_sees_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Set((*KUHN, "steps=1", "seed=-1"), ("seed=-1",))
    assert tried(case, tmp_path).outcome == "refused"
    monkeypatch.setattr(cli, "run", lambda *_: cli.Ended(0, "", ""))
    assert tried(case, tmp_path).reason == "nonsense was accepted in silence"
    monkeypatch.setattr(cli, "run", lambda *_: cli.Ended(1, "", "Traceback (most recent call last):\nValueError: x"))
    assert tried(case, tmp_path).reason == "traceback: ValueError: x"
    assert len({value for pool in WRONG.values() for value in pool}) > 250


@pytest.mark.parametrize(
    "argument", ["regularizer=glob(kl_*,exclude=*_payoff)", "update.optimizer.lr=tag(log,interval(0.1,10.0))"]
)
def test_a_sweep_without_a_list_is_left_to_hydra(argument: str) -> None:
    assert list(assignments(argument)) == [tuple(argument.split("=", 1))]


def test_every_value_of_a_sweep_is_looked_at() -> None:
    assert {value for _, value in assignments("seed=1,2")} == {"1,2", "1", "2"}
    assert {value for _, value in assignments("seed=range(5,7)")} == {"range(5,7)", "5", "6"}
