"""Of the valid questions that were asked, the share that the target fails: fewer than half of its answers are right."""

from typing import Any


def figures(sweep: Any, run: str) -> dict[str, float]:
    turns = sweep.turns_of(run)
    if "challenger" not in set(turns["role"]):
        return {}
    steps = int(turns["step"].max())
    return {
        "failing at first, %": failing(turns[turns["step"] == 1]),
        "failing at last, %": failing(turns[turns["step"] > steps - 10]),
    }


def failing(turns: Any) -> float:
    asked = turns[turns["role"] == "challenger"].set_index(["step", "episode"])
    right = turns[turns["role"] == "solver"].groupby(["step", "episode"])["score/truth"].mean()
    valid = asked.index[asked["score/invalid"] == 0]
    return float((right.loc[valid] < 0.5).mean())
