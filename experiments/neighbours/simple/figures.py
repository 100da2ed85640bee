"""How often the answers, their majority and the edited labels of a run's training questions are right."""

from typing import Any


def figures(sweep: Any, run: str) -> dict[str, float]:
    turns = sweep.turns_of(run)
    turns = turns[turns["role"] == "solver"]
    views = turns.groupby(["step", "episode"])
    right, paid = views["score/truth"].mean(), views["score/reward"].max()
    first = turns[turns["score/reward"] == 1].groupby(["step", "episode"])["score/truth"].first()
    labels = first.reindex(right.index).where(paid == 1, 1 - right)  # no view gave the label: it is the other option
    return {
        "answers right, %": float(turns["score/truth"].mean()),
        "majority right, %": float((right > 0.5).mean()),  # of three views
        "labels right, %": float(labels.mean()),
    }
