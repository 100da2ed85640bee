"""What was asked: different questions, different sets of operands, and the perplexity of the families' shares."""

from collections import Counter
from math import exp, log
from typing import Any

from selfplay.tasks.tiny_world import parse


def figures(sweep: Any, run: str) -> dict[str, float]:
    turns = sweep.turns_of(run)
    texts = set(turns[turns["role"] == "chance"]["reply"])
    known = [question for question in map(parse, texts) if question is not None]
    shares = [count / len(known) for count in Counter(question.family for question in known).values()]
    return {
        "different questions asked": float(len(texts)),
        "operand sets": float(len({(question.family, question.operands) for question in known})),
        "families (perplexity)": exp(-sum(share * log(share) for share in shares)),
    }
