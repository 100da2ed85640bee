"""The share of right demonstrations among those that a run of POINTS learned from."""

from typing import Any

from selfplay.tasks.tiny_world import parse


def figures(sweep: Any, run: str) -> dict[str, float]:
    if run not in sweep.transcripts:  # a soup, which learned nothing
        return {"right demonstrations, %": float("nan")}
    turns = sweep.turns_of(run)
    taught = turns[turns["role"] == "teacher"]
    known = {prompt: parse(prompt) for prompt in taught["prompt"].unique()}
    right = [
        known[p] is not None and known[p].answer == r for p, r in zip(taught["prompt"], taught["reply"], strict=True)
    ]
    return {"right demonstrations, %": sum(right) / len(right)}
