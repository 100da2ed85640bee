"""Evaluations beside the held-out questions: win rates by hand, several at once, a run that only evaluates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import cli
import pytest
import torch
from configs import config
from scripted import Script
from torch import Tensor

from selfplay.building import build, make
from selfplay.core import Ask, Game, Play, Policy, Referee, Reply, SelfplayError, Turn
from selfplay.evaluations.answers import answers
from selfplay.evaluations.versus import Versus
from selfplay.evaluations.win_rate import WinRate
from selfplay.tasks.task import Item, Task
from selfplay.theory.intervals import as_list, bounded, change

TINY = ("task.per_cell=1", "episodes=2", "game.answers=2", "player.max_tokens=12")


class Four(Task):
    """Four questions, all held out; nobody knows the answers."""

    judges = False

    def draw(self, rng: object) -> str:
        raise AssertionError

    def held_out(self) -> Sequence[Item]:
        return [Item(f"q{i}") for i in range(4)]

    def item(self, question: str) -> Item | None:
        return None

    def correct(self, item: Item, reply: str) -> float:
        raise AssertionError


class ByLength(Referee):
    """As many points as the reply has letters."""

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(len(turn.reply.text)) for turn in turns])


class FirstShown(Referee):
    """Whatever is shown first of two with the same question is better."""

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        assert [t.ask.prompt for t in turns[::2]] == [t.ask.prompt for t in turns[1::2]]
        assert [t.ask.group for t in turns] == [i // 2 for i in range(len(turns))]
        return torch.tensor([1.0, 0.0] * (len(turns) // 2))


def win_rate(referee: Referee) -> WinRate:
    return WinRate(Four(), referee, opponent="reference", temperature=0.0, every=1)


def test_a_win_rate_worked_by_hand() -> None:
    """Won, lost, tied, won: 2.5 of 4."""
    found = win_rate(ByLength()).summary(["aaaa", "a", "aa", "aaa"], ["a", "aaaa", "aa", "a"], {})
    assert found["win_rate"] == 2.5 / 4 and found["ties"] == 0.25 and found["order"] == 0.0 and found["questions"] == 4
    assert found["length"] == 2.5 and found["opponent_length"] == 2.0 and found["longer"] == 2.5 / 4
    assert found["interval"] == as_list(0.5 + end / 2 for end in change(2, 1, 4)) and found["quarters"] == "4024"


def test_a_referee_that_looks_at_the_order_favours_nobody() -> None:
    found = win_rate(FirstShown()).summary(["a"] * 4, ["b"] * 4, {})
    assert found["win_rate"] == 0.5 and found["ties"] == 1.0 and found["order"] == 1.0


def test_whoever_is_the_same_ties() -> None:
    found = win_rate(ByLength()).summary(["a"] * 4, ["a"] * 4, {})
    assert found["win_rate"] == 0.5 and found["interval"] == as_list(0.5 + end / 2 for end in change(0, 0, 4))
    low, high = found["interval"]  # type: ignore[misc]
    assert low < 0.3 and high > 0.7


def test_whoever_always_wins_may_lose_the_next() -> None:
    """8 of 8: Wilson's [.676, 1]."""
    eight = win_rate(ByLength())
    eight.questions = [f"q{i}" for i in range(8)]
    found = eight.summary(["aa"] * 8, ["a"] * 8, {})
    assert found["win_rate"] == 1.0 and found["interval"] == [pytest.approx(0.676, abs=5e-4), 1.0]


def test_the_change_of_a_win_rate_is_paired_by_question() -> None:
    evaluation = win_rate(ByLength())
    before = evaluation.summary(["a", "a", "a", "a"], ["a", "a", "a", "aa"], {})
    after = evaluation.summary(["aa", "a", "a", "a"], ["a", "a", "a", "aa"], {})
    found = evaluation.gain(before, after)
    assert found == {"win_rate": 0.125, "length": 0.25, "interval": as_list(change(0.5, 0, 4))}


class Bet(Game):
    """Two roles; who is strong beats who is weak."""

    roles = ("first", "second")

    def play(self) -> Play:
        [first, second] = yield [Ask(role, options=("strong", "weak")) for role in self.roles]
        won = float(first.text == "strong") - float(second.text == "strong")
        return {"first": won, "second": -won}


def test_who_won_all_games_against_a_player_has_no_interval_of_width_0() -> None:
    seated, names = {"first": "learner", "second": "learner"}, {"rival": Script(lambda ask: Reply("weak"))}
    opponent = SimpleNamespace(
        main=Script(lambda ask: Reply("strong")), players=names, seated=seated, learner_roles=("first", "second")
    )
    cast_of = SimpleNamespace(game=Bet(), opponent=opponent, referees={}, players={})
    found = Versus("rival", 8, 1, 0)(cast_of)  # type: ignore[arg-type]
    assert found["return"] == found["win_rate"] == 1.0 and found["games"] == 8
    assert found["interval"] == as_list(bounded([1.0] * 8, -1.0, 1.0))
    assert found["win_rate_interval"] == [pytest.approx(0.676, abs=5e-4), 1.0]
    opponent.main = Script(lambda ask: Reply("weak"))
    found = Versus("rival", 8, 1, 0)(cast_of)  # type: ignore[arg-type]
    assert found["return"] == 0.0 and found["interval"] is None, "nobody earned anything but 0"


def test_a_referee_that_cannot_score_is_an_error() -> None:
    class Nothing(ByLength):
        def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
            return torch.full((len(turns),), torch.nan)

    with pytest.raises(SelfplayError, match=r"the referee of eval \(Nothing\) returned"):
        win_rate(Nothing()).summary(["a"] * 4, ["a"] * 4, {})


def test_the_untouched_learner_ties_with_the_reference_and_learning_shows(tmp_path: Path) -> None:
    folder = cli.finished(tmp_path / "run", "eval=win_rate", "game=dataset", "reward=verifier", "steps=2", *TINY)
    first, *_, last = cli.metrics(folder)
    assert first["eval"]["win_rate"] == 0.5 and first["eval"]["ties"] == 1.0
    assert first["eval"]["length"] == first["eval"]["opponent_length"] == last["eval"]["opponent_length"]
    assert cli.summary(folder)["optimized"] == {"metric": "eval/win_rate", "value": last["eval"]["win_rate"]}


def test_mistakes_of_a_win_rate() -> None:
    made = build(config("eval=win_rate", "eval.opponent=nobody", *TINY))
    with pytest.raises(SelfplayError, match=r"eval\.opponent is 'nobody', but the players are learner, reference"):
        made.evaluation(made)
    for override, message in (("temperature=-1", "eval.temperature is -1"), ("every=0", "every is 0")):
        with pytest.raises(SelfplayError, match=message):
            make(config("eval=win_rate", f"eval.{override}").eval, "eval")


def test_answers_are_in_the_order_of_the_questions() -> None:
    echo = Script(lambda ask: Reply(ask.prompt.upper()))
    assert answers(echo, ["a", "b", "a"], "k") == ["A", "B", "A"] and len(echo.calls) == 1


# --- several, and nothing else ----------------------------------------------------------------------------------------


def test_several_evaluations_at_once(tmp_path: Path) -> None:
    more = ("+eval@extra_evals.gym=reasoning_gym", "extra_evals.gym.task.held_out=2", "extra_evals.gym.task.size=4")
    alone = cli.finished(tmp_path / "a", "steps=1", "eval=heldout", *TINY)
    folder = cli.finished(tmp_path / "b", "steps=1", "eval=heldout", *more, *TINY, "optimized_metric=eval/gym/accuracy")
    for one, both in zip(cli.metrics(alone), cli.metrics(folder), strict=True):
        gym = both["eval"].pop("gym")
        assert one["eval"] == both["eval"] and gym["questions"] == 8 and "tasks" in gym
    summary = cli.summary(folder)
    assert set(summary["eval"]["gain"]["gym"]) == {"gain", "interval"} == set(cli.summary(alone)["eval"]["gain"])
    assert summary["optimized"]["metric"] == "eval/gym/accuracy"


def test_further_evaluations_need_a_first_and_a_name_of_their_own() -> None:
    gym = (
        "+eval@extra_evals.accuracy=reasoning_gym",
        "extra_evals.accuracy.task.held_out=1",
        "extra_evals.accuracy.task.size=4",
    )
    with pytest.raises(SelfplayError, match="extra_evals contains accuracy, but eval is none"):
        build(config("eval=none", *gym))
    made = build(config(*gym, *TINY))
    with pytest.raises(SelfplayError, match=r"extra_evals\.accuracy has the name of a metric"):
        made.evaluation(made)


def test_a_run_without_steps_evaluates_once_and_ends_well(tmp_path: Path) -> None:
    folder = cli.finished(tmp_path / "run", "steps=0", *TINY)
    [line] = cli.metrics(folder)
    summary = cli.summary(folder)
    assert line["step"] == 0 and summary["steps"] == 0 and summary["eval"] == {"before": line["eval"]}
    assert summary["optimized"] == {"metric": "eval/accuracy", "value": line["eval"]["accuracy"]}
    assert not (folder / "checkpoints").exists()
    from selfplay.runs import load

    [row] = load(folder).runs.to_dict("records")
    assert row["status"] == "finished" and row["optimized"] == line["eval"]["accuracy"]


def test_a_checkpoint_is_evaluated_by_its_path(tmp_path: Path) -> None:
    trained = cli.finished(tmp_path / "a", "steps=1", *TINY)
    path = trained / "checkpoints" / "step-000001"
    folder = cli.finished(tmp_path / "b", "steps=0", f"player.path={path}", *TINY)
    assert cli.metrics(folder)[0]["eval"] == cli.metrics(trained)[-1]["eval"]


def test_a_run_without_steps_or_evaluation_has_nothing_to_do(tmp_path: Path) -> None:
    ended = cli.run("steps=0", "eval=none", f"hydra.run.dir={tmp_path / 'a'}")
    assert ended.code == 1 and "there is nothing to do" in ended.err
    wrong = cli.run("steps=0", "optimized_metric=solver/reward", *TINY, f"hydra.run.dir={tmp_path / 'b'}")
    assert wrong.code == 1 and "optimized_metric is 'solver/reward', which this run does not log" in wrong.err
    assert cli.summary(tmp_path / "b")["status"] == "failed"
