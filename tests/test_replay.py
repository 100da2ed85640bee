"""A logged run is played again: the same asks, replies and payoffs, for other referees and rules."""

from pathlib import Path

import cli
import pytest

FEW = ("episodes=3", "game.answers=4", "player.max_tokens=12", "eval=none")
DATA = ("game=dataset", "reward=verifier", *FEW)
SEEN = ("step", "episode", "role", "group", "prompt", "reply", "scores", "payoff")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("replay") / "logged", *DATA, "steps=2")


def seen(run: Path) -> list[tuple[object, ...]]:
    return [tuple(line[name] for name in SEEN) for line in cli.lines(run / "episodes.jsonl")]


def again(logged: Path, folder: Path, *args: str) -> Path:
    return cli.finished(folder, *args, "rollout=replayed", f"rollout.run={logged}", "seats.solver=logged")


def test_the_same_game_again(logged: Path, tmp_path: Path) -> None:
    run = again(logged, tmp_path / "run", *DATA, "steps=3", "update=dpo")
    first, *rest = seen(run), seen(logged)
    assert first[: len(rest[0])] == rest[0]
    third = [(line[0] - 2, *line[1:]) for line in first[len(rest[0]) :]]
    assert third == [line for line in rest[0] if line[0] == 1], "after the last episode the first follows"
    assert {line["player"] for line in cli.lines(run / "episodes.jsonl")} == {"nature", "logged"}
    assert cli.metrics(run)[-1]["pairs"] > 0 and cli.metrics(run)[-1]["grad_norm"] > 0


def test_another_referee_scores_what_was_said(logged: Path, tmp_path: Path) -> None:
    run = again(logged, tmp_path / "run", "game=dataset", "reward=rm", *FEW, "steps=2", "update=rejection")
    one, other = (cli.lines(folder / "episodes.jsonl") for folder in (run, logged))
    assert [line["reply"] for line in one] == [line["reply"] for line in other]
    solvers = [line for line in one if line["role"] == "solver"]
    assert [line["scores"]["truth"] for line in solvers] == [
        line["payoff"] for line in other if line["role"] == "solver"
    ]
    assert len({round(line["payoff"], 3) for line in solvers}) > 3


def test_returns_follow_from_the_replies(tmp_path: Path) -> None:
    kuhn = ("game=kuhn", "player=tabular", "episodes=20", "eval=none", "steps=1")
    run = cli.finished(tmp_path / "run", *kuhn)
    both = ("seats.first=logged", "seats.second=logged", "update=sft", "rollout=replayed", f"rollout.run={run}")
    assert seen(cli.finished(tmp_path / "again", *kuhn, *both)) == seen(run)


def test_resumed_in_the_middle_of_the_log(logged: Path, tmp_path: Path) -> None:
    whole = again(logged, tmp_path / "whole", *DATA, "steps=3", "episodes=2", "update=dpo")
    half = again(logged, tmp_path / "half", *DATA, "steps=2", "episodes=2", "update=dpo")
    ended = cli.run(f"resume={half}", "steps=3")
    assert ended.code == 0, ended.err
    assert cli.metrics(half) == cli.metrics(whole) and seen(half) == seen(whole)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("game.answers=3",), "is not one of this game: the game has ended, but there solver replied '"),
        (("game.answers=5",), "is not one of this game: the game asks for 5 replies, but there it ends"),
        (("game=demonstrations", "game.answers=4"), "is not one of this game: the game asks teacher '"),
        (("seats.solver=learner",), "update.teachers names 'logged', which plays no role"),
        (("rollout.run=nowhere",), "rollout.run is nowhere, but there is no nowhere/episodes.jsonl; give the folder"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], sentence: str, logged: Path, tmp_path: Path) -> None:
    args = [*DATA, "steps=1", "update=dpo", "rollout=replayed", f"rollout.run={logged}", "seats.solver=logged"]
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *args, *options)
    assert ended.code == 1 and sentence in ended.err, ended.err
    assert ended.err.count("\n") == 1


def test_the_learner_cannot_be_the_author(logged: Path, tmp_path: Path) -> None:
    log = ("rollout=replayed", f"rollout.run={logged}", "seats.first=logged", "update=sft")
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", "game=kuhn", "player=tabular", "eval=none", *log)
    assert ended.code == 1 and "seats.second is learner, but with rollout=replayed" in ended.err, ended.err


def test_a_log_without_episodes(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text("")
    args = [*DATA, "steps=1", "update=dpo", "rollout=replayed", f"rollout.run={tmp_path}", "seats.solver=logged"]
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *args)
    assert ended.code == 1 and "episodes.jsonl holds no episode; give a run that has done a step" in ended.err
