"""Metrics of a step's episodes, as <role>/<name> with TRL's names."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

import numpy as np

from selfplay.core import Episode, Referee, Turn


def of_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Weighted means of scores, payoffs and lengths (tokens) by role, and the share of silent groups.

    Reward and payoff also get their standard deviation.
    """
    by_role: dict[str, list[tuple[Turn, float]]] = {}
    for episode in episodes:
        for turn in episode.turns:
            by_role.setdefault(turn.ask.role, []).append((turn, episode.weight))
    out: dict[str, float] = {}
    for role, weighted in by_role.items():
        if role == "chance":
            continue
        turns = [turn for turn, _ in weighted]
        for name in dict.fromkeys(name for turn in turns for name in turn.scores):
            values = [(turn.scores[name], weight) for turn, weight in weighted if name in turn.scores]
            out[f"{role}/{name}"], spread = _mean_and_spread(values)
            if name == "reward":
                out[f"{role}/reward_std"] = spread
        paid = _mean_and_spread([(turn.payoff, weight) for turn, weight in weighted])
        out[f"{role}/payoff"], out[f"{role}/payoff_std"] = paid
        out[f"{role}/length"], _ = _mean_and_spread([(len(turn.reply.reply_ids), weight) for turn, weight in weighted])
        out[f"{role}/distinct"] = len({turn.reply.text for turn in turns}) / len(turns)
    return out | _silent_groups(episodes) | {"tokens/generated": float(_tokens(episodes))}


def of_learner(name: str, roles: Collection[str], metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a learner's update; those of further learners as `<name>/<metric>`, unless they are a role's."""
    alone = name == "learner"
    return {key if alone or key.partition("/")[0] in roles else f"{name}/{key}": metrics[key] for key in metrics}


def _mean_and_spread(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Weighted mean and population standard deviation of (value, weight) pairs."""
    plain, weights = [value for value, _ in values], [weight for _, weight in values]
    shifted = [value - plain[0] for value in plain]  # so that equal values have a deviation of exactly 0
    mean = fmean(shifted, weights)
    return plain[0] + mean, math.sqrt(fmean([(value - mean) ** 2 for value in shifted], weights))


def of_referees(referees: Mapping[str, Referee]) -> dict[str, float]:
    """The metrics of each referee's last call, as `<score>/<name>`."""
    return {f"{name}/{key}": value for name, referee in referees.items() for key, value in referee.metrics.items()}


def _silent_groups(episodes: Sequence[Episode]) -> dict[str, float]:
    """The share of groups of two or more turns whose payoffs are all equal, so that nothing can be learnt from them.

    Payoffs are compared in float32, the precision of updates: a group counts if its advantages are all 0.
    """
    silent = []
    for episode in episodes:
        groups: dict[object, list[float]] = {}
        for turn in episode.turns:
            if turn.ask.group is not None:
                groups.setdefault((turn.ask.role, turn.ask.group), []).append(turn.payoff)
        compared = [np.array(payoffs, dtype=np.float32) for payoffs in groups.values() if len(payoffs) > 1]
        silent += [bool((payoffs == payoffs[0]).all()) for payoffs in compared]
    return {"frac_reward_zero_std": fmean(silent)} if silent else {}


def _tokens(episodes: Sequence[Episode]) -> int:
    return sum(len(turn.reply.reply_ids) for episode in episodes for turn in episode.turns)
