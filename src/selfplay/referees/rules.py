"""Rewards that are functions of a reply alone: its length, its format, its repetitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import regex
import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.options import Count, Expression, Name, NotEmpty, NotNegative, Range, Whole

SECONDS = 2.0  # in which a pattern must have been matched with a reply
Unit = Literal["tokens", "words", "characters"]


class Rule(Referee):
    """The value of a function of a turn.

    Args:
        rule: turn -> number, such as the functions of this module.
        roles: the roles whose turns are scored; empty for those that the game judges.
    """

    def __init__(self, rule: Callable[[Turn], float], roles: Sequence[Name] = ()) -> None:
        self.rule, self.roles = rule, tuple(roles)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(self.rule(turn)) for turn in turns])


def overlong(
    turn: Turn, most: Count, buffer: Annotated[float, Range(0, 1, above=True)] = 0.2, unit: Unit = "tokens"
) -> float:
    """0 up to (1 - buffer) x most units, falling linearly to -1 at `most`, and -1 beyond.

    DAPO's soft overlong punishment (2503.14476), equation 13, with L_cache = buffer x L_max.

    Args:
        most: L_max, usually the maximum length of a reply.
        buffer: the share of `most` in which the score falls; the paper's is 4096 / 20480.
        unit: "tokens", "words" (separated by white space) or "characters".
    """
    cache = buffer * most
    return max(-1.0, min(0.0, (most - cache - len(units(turn, unit))) / cache))


def near_length(turn: Turn, target: Whole, slope: NotNegative = 0.0003, unit: Unit = "tokens") -> float:
    """-slope x |length - target|; with target 0, a penalty on every unit.

    The length term of LCPO-Exact (L1, 2503.04697), equation 1.

    Args:
        target: the best length.
        slope: per unit; the paper's alpha is 0.0003.
        unit: "tokens", "words" or "characters".
    """
    return -slope * abs(len(units(turn, unit)) - target)


def repetition(turn: Turn, size: Count = 3, unit: Unit = "words") -> float:
    """Minus the share of the reply's n-grams that repeat an earlier one: 0 if all differ, or if there is none.

    The repetition penalty of "Demystifying Long Chain-of-Thought Reasoning" (2502.03373), appendix C.2, as in Open-R1
    (words) and TRL (tokens), with a largest penalty of -1.

    Args:
        size: n, the number of units of an n-gram.
        unit: "words" (in lower case, separated by white space), "tokens" or "characters".
    """
    parts = units(turn, unit)
    grams = [tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)]
    return len(set(grams)) / len(grams) - 1 if grams else 0.0


def tagged(turn: Turn, tags: Annotated[Sequence[Name], NotEmpty()] = ("think", "answer"), rest: bool = False) -> float:
    """1 if the reply is <tag>...</tag> for each of the tags in order, each tag once, and nothing else; otherwise 0.

    White space around the blocks is ignored. The format reward of DeepSeek-R1 (2501.12948), section 2.2.2.

    Args:
        tags: the names of the tags.
        rest: whether text may follow the last block, as an answer behind <think>...</think>.
    """
    text, inside = turn.reply.text.strip(), []
    for tag in tags:
        start, closed, after = text.partition(f"</{tag}>")
        if not start.startswith(f"<{tag}>") or not closed:
            return 0.0
        inside.append(start.removeprefix(f"<{tag}>"))
        text = after.lstrip()
    every = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    again = any(mark in part for mark in every for part in (*inside, text))
    return float(not again and (rest or not text))


def matches(turn: Turn, pattern: Annotated[str, Expression()]) -> float:
    """1 if the whole reply matches a regular expression, in which a dot is any character; otherwise 0.

    Args:
        pattern: the expression.

    Raises:
        SelfplayError: the match takes longer than two seconds.
    """
    try:
        return float(regex.fullmatch(pattern, turn.reply.text, regex.DOTALL, timeout=SECONDS) is not None)
    except TimeoutError as error:
        raise SelfplayError(
            f"the pattern '{pattern}' took more than {SECONDS:g} seconds on a reply of {len(turn.reply.text)} "
            "characters; write it without nested repetitions, or use selfplay.referees.rules.tagged"
        ) from error


def units(turn: Turn, unit: Unit) -> Sequence[Any]:
    """The parts of a reply: token ids, words in lower case, or characters.

    Raises:
        SelfplayError: tokens are asked for, but the player has none.
    """
    if unit == "words":
        return turn.reply.text.lower().split()
    if unit == "characters":
        return turn.reply.text
    if not turn.reply.reply_ids:
        raise SelfplayError(
            f"a reply of {turn.player or 'a player'} to the role {turn.ask.role} has no tokens to count; use "
            "unit=words or unit=characters"
        )
    return turn.reply.reply_ids
