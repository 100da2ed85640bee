"""What one step is worth logging of its episodes: TRL's metric names behind a role."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from selfplay.core import Episode, Referee, Turn


def of_episodes(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means and spreads by role: every score, the pay-off, the length in tokens; and the share of silent groups."""
    by_role: dict[str, list[Turn]] = {}
    for episode in episodes:
        for turn in episode.turns:
            by_role.setdefault(turn.ask.role, []).append(turn)
    out: dict[str, float] = {}
    for role, turns in by_role.items():
        if role == "chance":
            continue
        for name in dict.fromkeys(name for turn in turns for name in turn.scores):
            values = [turn.scores[name] for turn in turns if name in turn.scores]
            out[f"{role}/{name}"] = fmean(values)
            if name == "reward":
                out[f"{role}/reward_std"] = pstdev(values)
        out[f"{role}/payoff"] = fmean(turn.payoff for turn in turns)
        out[f"{role}/payoff_std"] = pstdev([turn.payoff for turn in turns])
        out[f"{role}/length"] = fmean(len(turn.reply.reply_ids) for turn in turns)
        out[f"{role}/distinct"] = len({turn.reply.text for turn in turns}) / len(turns)
    return out | _silent_groups(episodes) | {"tokens/generated": float(_tokens(episodes))}


def of_referees(referees: Mapping[str, Referee]) -> dict[str, float]:
    """What the referees had to report of their last call, as `<score>/<name>`."""
    return {f"{name}/{key}": value for name, referee in referees.items() for key, value in referee.metrics.items()}


def _silent_groups(episodes: Sequence[Episode]) -> dict[str, float]:
    """The share of an episode's groups in which every turn was paid the same, so that nothing can be learnt."""
    silent = []
    for episode in episodes:
        groups: dict[object, list[float]] = {}
        for turn in episode.turns:
            if turn.ask.group is not None:
                groups.setdefault((turn.ask.role, turn.ask.group), []).append(turn.payoff)
        silent += [max(payoffs) - min(payoffs) < 1e-6 for payoffs in groups.values() if len(payoffs) > 1]
    return {"frac_reward_zero_std": fmean(silent)} if silent else {}


def _tokens(episodes: Sequence[Episode]) -> int:
    return sum(len(turn.reply.reply_ids) for episode in episodes for turn in episode.turns)
