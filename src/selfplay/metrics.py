"""What one step is worth logging of its episodes: TRL's metric names behind a role."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from selfplay.core import Episode, Referee, Turn


def of_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means and spreads by role: every score, the pay-off, the length in tokens; and the share of silent groups."""
    by_role: dict[str, list[tuple[Turn, float]]] = {}
    for episode in episodes:
        for turn in episode.turns:
            by_role.setdefault(turn.ask.role, []).append((turn, episode.weight))
    out: dict[str, float] = {}
    for role, weighed in by_role.items():
        if role == "chance":
            continue
        turns = [turn for turn, _ in weighed]
        for name in dict.fromkeys(name for turn in turns for name in turn.scores):
            values = [(turn.scores[name], weight) for turn, weight in weighed if name in turn.scores]
            out[f"{role}/{name}"], spread = _mean_and_spread(values)
            if name == "reward":
                out[f"{role}/reward_std"] = spread
        paid = _mean_and_spread([(turn.payoff, weight) for turn, weight in weighed])
        out[f"{role}/payoff"], out[f"{role}/payoff_std"] = paid
        out[f"{role}/length"], _ = _mean_and_spread([(len(turn.reply.reply_ids), weight) for turn, weight in weighed])
        out[f"{role}/distinct"] = len({turn.reply.text for turn in turns}) / len(turns)
    return out | _silent_groups(episodes) | {"tokens/generated": float(_tokens(episodes))}


def _mean_and_spread(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard deviation (n in the denominator) of values with their weights."""
    plain, weights = [value for value, _ in values], [weight for _, weight in values]
    away = [value - plain[0] for value in plain]  # so that what is all alike spreads by exactly 0
    mean = fmean(away, weights)
    return plain[0] + mean, math.sqrt(fmean([(value - mean) ** 2 for value in away], weights))


def of_referees(referees: Mapping[str, Referee]) -> dict[str, float]:
    """What the referees had to report of their last call, as `<score>/<name>`."""
    return {f"{name}/{key}": value for name, referee in referees.items() for key, value in referee.metrics.items()}


def _silent_groups(episodes: Sequence[Episode]) -> dict[str, float]:
    """The share of an episode's groups in which every turn was paid the same, so that nothing can be learnt.

    The same in float32, in which updates are told the pay-offs: a group counts if its advantages are all 0.
    """
    silent = []
    for episode in episodes:
        groups: dict[object, list[float]] = {}
        for turn in episode.turns:
            if turn.ask.group is not None:
                groups.setdefault((turn.ask.role, turn.ask.group), []).append(turn.payoff)
        told = [np.array(payoffs, dtype=np.float32) for payoffs in groups.values() if len(payoffs) > 1]
        silent += [bool((payoffs == payoffs[0]).all()) for payoffs in told]
    return {"frac_reward_zero_std": fmean(silent)} if silent else {}


def _tokens(episodes: Sequence[Episode]) -> int:
    return sum(len(turn.reply.reply_ids) for episode in episodes for turn in episode.turns)
