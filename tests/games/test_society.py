"""A society: payoffs by hand, Condorcet's majority exactly, what critics see, and learners that vote together."""

from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path

import cli
import pytest
from scripted import Script

from selfplay.core import Episode, Reply, SelfplayError
from selfplay.evaluations.vote import Vote
from selfplay.games.society import Society
from selfplay.rollout import play, score_and_pay
from selfplay.tasks.tiny_world import TinyWorld
from selfplay.tasks.voting import majority


def played(game: Society, **said: Sequence[str]) -> Episode:
    """An episode in which each role says its lines in order."""
    lines = {role: iter(texts) for role, texts in said.items()}
    players = {role: Script(lambda ask: Reply(next(lines[ask.role]))) for role in game.roles}
    [episode] = play(game, players, [0], key="0")
    score_and_pay(game, [episode], {}, {})
    return episode


def paid(episode: Episode) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for turn in episode.turns:
        found.setdefault(turn.ask.role, []).append(turn.payoff)
    return found


def test_generators_are_paid_for_agreeing_with_the_majority() -> None:
    episode = played(Society(), chance=["q"], generator_1=["7"], generator_2=["8"], generator_3=["7"])
    assert paid(episode) == {"chance": [0.0], "generator_1": [1.0], "generator_2": [0.0], "generator_3": [1.0]}
    assert [turn.ask.prompt for turn in episode.turns[1:]] == ["q"] * 3


def test_critics_are_paid_for_what_they_keep_and_more_for_what_they_correct() -> None:
    """The result is 7: the first agent keeps it, the second corrects itself in two rounds, the third leaves it."""
    game = Society(rounds=3)
    first = {"chance": ["q"], "generator_1": ["7"], "generator_2": ["8"], "generator_3": ["7"]}
    episode = played(game, **first, critic_1=["7", "7"], critic_2=["9", "7"], critic_3=["7", "8"])
    assert paid(episode) == {
        "chance": [0.0],
        "generator_1": [1.0], "generator_2": [0.0], "generator_3": [1.0],
        "critic_1": [0.5, 0.5], "critic_2": [1.0, 1.0], "critic_3": [0.0, 0.0],
    }  # fmt: skip


def test_a_critic_sees_its_own_answer_and_those_of_this_round() -> None:
    first = {"chance": ["q"], "generator_1": ["a"], "generator_2": ["b"], "generator_3": ["c"]}
    episode = played(Society(rounds=2), **first, critic_1=["d"], critic_2=["e"], critic_3=["f"])
    second = next(turn for turn in episode.turns if turn.ask.role == "critic_2")
    contents = [message["content"] for message in second.ask.messages]
    assert contents == ["q", "b", "What do the others answer?", "d\nc", "q"]
    assert [message["role"] for message in second.ask.messages] == ["user", "assistant", "user", "assistant", "user"]


def test_a_summary_takes_the_place_of_the_answers() -> None:
    game = Society(agents=2, rounds=2, summary=True, summarise="{question}: {answers}!")
    assert game.roles == ("chance", "generator_1", "generator_2", "critic_1", "critic_2", "summariser")
    first = {"chance": ["q {answers}"], "generator_1": ["a"], "generator_2": ["b"]}
    episode = played(game, **first, critic_1=["c"], critic_2=["b"], summariser=["s", "t"])
    asked = [turn.ask.prompt for turn in episode.turns if turn.ask.role == "summariser"]
    critic = next(turn for turn in episode.turns if turn.ask.role == "critic_1")
    assert asked == ["q {answers}: b!", "q {answers}: c!"], "a placeholder in the question is not expanded"
    assert critic.ask.messages[3]["content"] == "s" and paid(episode)["summariser"] == [0.0, 0.0]


def test_nobody_is_paid_where_nobody_answers() -> None:
    assert majority(["b", "a"]) == "b" and majority(["a", "b", "a"]) == "a" and majority(["", "", "a"]) == "a"
    episode = played(Society(agents=2), chance=["q"], generator_1=[""], generator_2=[""])
    assert paid(episode) == {"chance": [0.0], "generator_1": [0.0], "generator_2": [0.0]}


@pytest.mark.parametrize("p", [0.2, 0.6, 0.9])
def test_condorcet(p: float) -> None:
    """Three agents who are right with probability p have a right majority with 3 p^2 - 2 p^3: all 8 outcomes."""
    game, right = Society(options=("yes", "no")), 0.0
    for answers in product(("yes", "no"), repeat=3):
        said = {f"generator_{n + 1}": [answer] for n, answer in enumerate(answers)}
        episode = played(game, chance=["q"], **said)
        assert episode.turns[1].ask.options == ("yes", "no")
        right += prod(p if answer == "yes" else 1 - p for answer in answers) * (game.result(episode) == "yes")
    assert right == pytest.approx(3 * p**2 - 2 * p**3, abs=1e-12)


def test_learners_vote_together(tmp_path: Path) -> None:
    """Nine answers of three learners; before the first step they are nine samples of one model."""
    args = ("experiment=multiagent_finetuning", "steps=1", "episodes=4", "task.per_cell=1", "eval.every=1")
    run = cli.finished(tmp_path / "run", *args)
    first, _ = (line["eval"] for line in cli.metrics(run) if "eval" in line)
    assert first["questions"] == 48 and set(first["pass"]) == {"pass@1", "pass@2", "pass@4", "pass@8", "pass@9"}
    turns = cli.lines(run / "episodes.jsonl")
    assert {turn["player"] for turn in turns} == {"nature", "learner", "second", "third"}
    names = [path.name for path in (run / "checkpoints" / "step-000001" / "learners").iterdir()]
    assert sorted(names) == ["second", "third"]
    with pytest.raises(SelfplayError, match=r"eval\.samples is 8, which 3 players cannot share; use a multiple of it"):
        Vote(TinyWorld(1), players=("a", "b", "c"))
    ended = cli.run(*args, "eval.players=[learner,nobody,third]", f"hydra.run.dir={tmp_path / 'other'}")
    assert "eval.players names 'nobody', which is no policy of this run; name a learner" in ended.err
