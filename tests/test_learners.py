"""Several learners in one run: each learns from its own turns, with its own rule, and is saved beside the others."""

import json
from pathlib import Path

import cli
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import selfplay
from selfplay import crossplay
from selfplay.building import build
from selfplay.derived import fill_in
from selfplay.games.kuhn import Kuhn
from selfplay.theory.dynamics import quantal_response

TABLE = ("player=tabular", "rollout=exact", "episodes=1", "regularizer=entropy", "regularizer.beta=1.0")


def played(folder: Path, *more: str) -> Path:
    game = ("game=kuhn", "game._target_=apart.Apart", "~game.forfeit", "player=tiny", "eval=none", "update=grpo")
    return cli.finished(folder, *game, "steps=3", "episodes=4", "player.max_tokens=8", *more)


def weights(folder: Path, name: str = "") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "step-000003" / name / "model.safetensors")


def mean(folder: Path, role: str) -> list[float]:
    return [line[f"{role}/payoff"] for line in cli.metrics(folder)]


def test_two_identical_learners_in_separate_games_equal_two_runs(tmp_path: Path) -> None:
    """Bit for bit: weights and payoffs."""
    scripted = "+players.other._target_=selfplay.players.scripted.Scripted"
    answer = ("+players.other.answer._target_=apart.silent", "+players.other.answer._partial_=true")
    both = played(tmp_path / "both", "learners.second={}", "seats.right=second")
    left = played(tmp_path / "left", scripted, *answer, "seats.right=other")
    right = played(tmp_path / "right", scripted, *answer, "seats.left=other")
    moved = 0.0
    for ours, alone in ((weights(both), weights(left)), (weights(both, "learners/second"), weights(right))):
        assert ours.keys() == alone.keys() and all(torch.equal(ours[name], alone[name]) for name in ours)
        pairs = zip(ours.values(), weights(left).values(), strict=True)
        moved += sum(float((one - two).abs().max()) for one, two in pairs)
    assert moved > 1e-3, "the two learn different things"
    assert mean(both, "left") == mean(left, "left") and mean(both, "right") == mean(right, "right")
    logged = cli.metrics(both)[-1]
    assert logged["second/loss"] == cli.metrics(right)[-1]["loss"] and logged["loss"] == cli.metrics(left)[-1]["loss"]
    assert logged["right/kl"] == cli.metrics(right)[-1]["right/kl"], "a role's metric keeps its name"
    advantages = [json.loads(line)["advantage"] for line in (both / "episodes.jsonl").read_text().splitlines()]
    assert None not in advantages


def test_a_resumed_run_of_several_learners_equals_one_that_never_stopped(tmp_path: Path) -> None:
    """Bit for bit: every file of the last checkpoint, every metric, every turn."""
    more = ("learners.second.update.optimizer.lr=3e-3", "seats.right=second", "checkpoint.keep=0")
    whole, half = played(tmp_path / "whole", *more), played(tmp_path / "half", *more, "steps=2")
    assert cli.run(f"resume={half}", "steps=3", "trust=apart").code == 0
    files = [path.relative_to(whole) for path in (whole / "checkpoints" / "step-000003").rglob("*") if path.is_file()]
    assert Path("checkpoints/step-000003/learners/second/model.safetensors") in files
    assert all((whole / file).read_bytes() == (half / file).read_bytes() for file in files if file.name != "SHA256SUMS")
    assert cli.metrics(whole) == cli.metrics(half)
    assert (whole / "episodes.jsonl").read_bytes() == (half / "episodes.jsonl").read_bytes()
    assert cli.metrics(whole)[-1]["second/learning_rate"] == 3e-3 != cli.metrics(whole)[-1]["learning_rate"]


def test_independent_learners_reach_the_quantal_response_equilibrium(tmp_path: Path) -> None:
    """With an entropy bonus of 1, in a game that is not zero-sum; and step by step as one table for both roles."""
    game = (
        "game=matrix",
        "game.name=custom",
        "game.custom.row=[[2,0],[0,1]]",
        "game.custom.column=[[1,0],[0,2]]",
        "eval=none",
        "update.optimizer.lr=2.0",
        *TABLE,
    )
    apart = cli.finished(tmp_path / "apart", *game, "steps=150", "learners.other={}", "seats.column=other")
    joint = cli.finished(tmp_path / "joint", *game, "steps=150")
    for role in ("row", "column"):
        assert mean(apart, role) == pytest.approx(mean(joint, role), abs=1e-6)
    found = quantal_response([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 2.0]], beta=1.0)
    value = {"row": found.row_value, "column": found.column_value}
    assert {role: mean(apart, role)[-1] for role in value} == pytest.approx(value, abs=1e-4)
    assert abs(mean(apart, "row")[0] - value["row"]) > 0.01


def test_a_shared_teacher_s_metrics_and_advantages_are_each_learner_s_own(tmp_path: Path) -> None:
    """What the first learner logs of a teacher's role is not replaced by the second one's."""
    small = ("experiment=scaled_ql", "episodes=32", "steps=1", "update.fits=5", "eval=none")
    alone = cli.finished(tmp_path / "alone", *small)
    both = cli.finished(tmp_path / "both", *small, "learners.other.update.alpha=50")
    one, two = cli.metrics(alone)[-1], cli.metrics(both)[-1]
    assert {key: two[key] for key in one if "time/" not in key} == {k: v for k, v in one.items() if "time/" not in k}
    assert two["first/q"] != two["other/first/q"] and two["loss"] != two["other/loss"]
    assert (alone / "episodes.jsonl").read_bytes() == (both / "episodes.jsonl").read_bytes()


def test_a_resumed_run_may_change_the_sizes_of_all_learners(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *cli.SMALL, "steps=1", "learners.c={}", "seats.challenger=c")
    assert cli.run(f"resume={run}", "steps=2", "update.micro_batch=16", "player.batch_size=8").code == 0
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.learners.c["update"].micro_batch == cfg["update"].micro_batch == 16
    assert cfg.learners.c.player.batch_size == cfg.player.batch_size == 8


def test_each_critic_gets_the_bounds_of_the_game() -> None:
    cfg = selfplay.compose("game=kuhn", "player=q_table", "learners.other={}", "seats.second=other")
    fill_in(cfg, Kuhn())
    assert cfg.player.support == cfg.learners.other.player.support == list(Kuhn().bounds or ())


def test_cross_play_refuses_them_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("game=kuhn", "player=tabular", "eval=none", "episodes=4", "steps=1", "learners.o={}", "seats.second=o")
    run = cli.finished(tmp_path / "run", *args)
    with pytest.raises(SystemExit):
        crossplay.main([str(run), "--out", str(tmp_path / "out")])
    assert "has several learners (learner, o), which cross-play cannot tell apart" in capsys.readouterr().err


def test_referees_get_each_learner_and_its_start() -> None:
    built = build(selfplay.compose("learners.second={}", "seats.challenger=second", "eval=none"))
    assert list(built.players) == ["learner", "reference", "second", "second@start"]
    assert list(built.trainees) == ["learner", "second"] and built.players["second"] is built.trainees["second"].learner


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("learners.reference={}",), "learners.reference cannot be the name of a further learner"),
        (("learners.learner={}",), "learners.learner cannot be the name of a further learner"),
        (("learners.second={}",), "no role is assigned to learners.second"),
        (("learners.second.lr=1", "seats.solver=second"), "learners.second has the option 'lr'; it takes the options"),
        (("learners.second.update=dpo", "seats.solver=second"), "choose it with +update@learners.second.update=dpo"),
        (("learners.second.update.role_weights.challenger=0.5", "seats.solver=second"), "names 'challenger', but the"),
        (("learners.second={}", "seats.solver=second", "player.batch_size=auto"), "memory of several learners is not"),
        (("learners.second=3", "seats.solver=second"), "learners.second is no mapping"),
        (("game=dataset", "learners.nature={}"), "'nature' is the name of a learner and of players.nature"),
        (("learners.second={}", "seats.solver=second", "opponent=uniform"), "there are several learners (learner"),
        (("learners.second.player.temperature=-1", "seats.solver=second"), "learners.second.player.temperature is -1"),
        (("learners.second.update.optimizer.lr=0", "seats.solver=second"), "learners.second.update.optimizer.lr is 0"),
    ],
)  # fmt: skip
def test_mistakes(args: tuple[str, ...], told: str, tmp_path: Path) -> None:
    ended = cli.run(*cli.SMALL, *args, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and ended.err.startswith("error: ") and told in ended.err
