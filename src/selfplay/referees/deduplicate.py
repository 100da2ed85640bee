"""Scoring each distinct question-answer pair once, since samples of one question often repeat."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfplay.core import Turn

Pair = tuple[str, str]  # question, answer


def score_deduplicated(turns: Sequence[Turn], score: Callable[[list[Pair]], Tensor]) -> Tensor:
    """[N] scores, one per turn.

    Args:
        turns: the turns to score.
        score: scores a list of distinct pairs, sorted by length.
    """
    pairs = [(turn.ask.prompt, turn.reply.text) for turn in turns]
    distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    where = {pair: i for i, pair in enumerate(distinct)}
    scores = score(distinct).float().cpu()
    return scores[torch.tensor([where[pair] for pair in pairs])]
