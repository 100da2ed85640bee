"""A question in several wordings, and SimPLE's edited labels as its reward: equal to the rule on plain embeddings."""

from collections import Counter
from pathlib import Path
from random import Random

import cli
import pytest
import torch
from language_models import made, moved
from scripted import Script

from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.games.views import Views
from selfplay.referees.edited_labels import EditedLabels
from selfplay.referees.neighbours import edited
from selfplay.rollout import play
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.tiny_world import FAMILIES, TinyWorld, parse

TASK = TinyWorld(1, families=["compare"])


def played(count: int, seed: int = 0) -> tuple[list[Turn], object]:
    policy, rng = made(), Random(seed)
    moved(policy, 1)
    nature = Script(lambda ask: Reply(TASK.draw(rng)))
    episodes = play(Views(TASK), {"chance": nature, "solver": policy}, range(count), key=f"{seed}/1")
    return [turn for episode in episodes for turn in episode.turns[1:]], policy


def test_every_wording_is_asked_and_means_the_same() -> None:
    turns, _ = played(3)
    asked = [parse(turn.ask.prompt) for turn in turns]
    assert len(turns) == 9 and len({turn.ask.prompt for turn in turns}) == 9
    assert len({question.operands for question in asked if question}) == 3
    assert {len(family.wordings) for family in FAMILIES.values()} == {3}
    assert TinyWorld(1).wordings("no question") == ("no question",)
    with pytest.raises(SelfplayError, match="Arithmetic knows only one of '1 \\+ 1'"):
        play(Views(Arithmetic()), {"chance": Script(lambda _: Reply("1 + 1")), "solver": made()}, [0], key="0")


def test_scores_are_those_of_the_rule_on_plain_embeddings() -> None:
    """After the weights have moved, whatever the order of the turns."""
    turns, policy = played(40)
    referee = EditedLabels(neighbours=7, share=0.25, who="learner", batch_size=16)
    found = referee.score(turns, {"learner": policy})  # type: ignore[dict-item]
    states = []
    for turn in turns:
        ids = torch.tensor([policy.render(turn.ask.messages)])  # type: ignore[attr-defined]
        with torch.no_grad():
            states.append(policy.model.model(ids).last_hidden_state[0].mean(0))  # type: ignore[attr-defined]
    labels = torch.tensor([["yes", "no"].index(turn.reply.text) for turn in turns]).view(40, 3)
    likely = policy.probabilities([turns[3 * i].ask for i in range(40)])  # type: ignore[attr-defined]
    fallback = torch.tensor([int(p[1] > p[0]) for p in likely])
    wanted = edited(torch.stack(states).view(40, 3, -1).transpose(0, 1), labels.T, fallback, 7, 0.25)
    assert torch.equal(found.view(40, 3), (labels == wanted.labels[:, None]).float())
    assert referee.metrics == {"left_out": pytest.approx(float(wanted.uncertain.float().mean()))}
    voted = labels.float().mean(1).round().long()
    assert not torch.equal(wanted.labels, voted), "editing changes some votes"
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = referee.score([turns[i] for i in order.tolist()], {"learner": policy})  # type: ignore[dict-item]
    assert float((shuffled == found[order]).float().mean()) > 0.9, "but for ties, which the first view decides"


def test_what_cannot_be_edited() -> None:
    free = [Turn(Ask("solver", user("q"), key="0/0/0/1"), Reply("yes"))]
    with pytest.raises(SelfplayError, match="asked 'q' without options, or answered none of them; use game=views"):
        EditedLabels().score(free, {"learner": made()})
    turns, policy = played(4)
    with pytest.raises(SelfplayError, match="some have 2 and others 3; use game=views"):
        EditedLabels().score(turns[:-1], {"learner": policy})  # type: ignore[dict-item]
    with pytest.raises(SelfplayError, match="neighbours is 50, but there are 12 labelled views"):
        EditedLabels(neighbours=50).score(turns, {"learner": policy})  # type: ignore[dict-item]
    with pytest.raises(SelfplayError, match="the learner is no language model"):
        EditedLabels().score(turns, {"learner": None})  # type: ignore[dict-item]


@pytest.mark.parametrize("reward", ["agreement", "edited_labels"])
def test_a_run(reward: str, tmp_path: Path) -> None:
    small = ("eval=none", "steps=2", "episodes=6", "task.families=[compare]")
    run = cli.finished(tmp_path / "run", "experiment=simple", f"reward={reward}", *small)
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "solver"]
    paid = Counter(turn["payoff"] for turn in turns)
    assert len(turns) == 36 and set(paid) <= {0.0, 1.0} and paid[1.0] >= 18
