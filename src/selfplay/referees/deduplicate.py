"""Scoring each distinct question-answer pair once: samples of one question repeat themselves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfplay.core import Turn

Pair = tuple[str, str]  # question, answer


def score_deduplicated(turns: Sequence[Turn], score: Callable[[list[Pair]], Tensor]) -> Tensor:
    """[N] scores, one a turn, from a function that is asked for the distinct pairs alone, shortest first."""
    pairs = [(turn.ask.prompt, turn.reply.text) for turn in turns]
    distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    where = {pair: i for i, pair in enumerate(distinct)}
    scores = score(distinct).float().cpu()
    return scores[torch.tensor([where[pair] for pair in pairs])]
