"""How often answers to the questions themselves are right: all of them, and those whose review is above 5 of 7."""

from typing import Any


def figures(sweep: Any, run: str) -> dict[str, float]:
    turns = sweep.turns_of(run)
    answers = turns[(turns["role"] == "solver") & (turns["group"] == turns["prompt"])]  # not worse answers on purpose
    return {
        "answers right, %": float(answers["score/truth"].mean()),
        "accepted answers right, %": float(answers[answers["payoff"] > 5]["score/truth"].mean()),
    }
