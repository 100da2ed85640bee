"""The payoff table of a population: games, returns and wins per ordered pair of players."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch

from selfplay.core import Episode

Result = tuple[str, str, float, float]  # player, opponent, return, score (win 1, draw 1/2, loss 0)


class Table:
    """Weighted sums over games between named players.

    Attributes:
        roles: number of game roles that the population fills; with more than two, a game has several pairs.
        names: player names in order of entry.
        games, returns, wins: [n, n] float64; `returns[i, j]` is the summed return of i against j.
    """

    def __init__(self, names: Sequence[str] = (), roles: int = 2) -> None:
        self.names, self.roles = list(names), roles
        self._place = {name: i for i, name in enumerate(names)}
        self.games, self.returns, self.wins = (np.zeros((len(names), len(names))) for _ in range(3))

    def enter(self, name: str) -> None:
        """Add a player without games."""
        self._place[name] = len(self.names)
        self.names.append(name)
        self.games, self.returns, self.wins = (np.pad(x, (0, 1)) for x in (self.games, self.returns, self.wins))

    def record(self, results: Sequence[Result], weight: float = 1.0) -> None:
        """Accumulate results, each with the given weight."""
        for name, other, gained, won in results:
            i, j = self._place[name], self._place[other]
            self.games[i, j] += weight
            self.returns[i, j] += weight * gained
            self.wins[i, j] += weight * won

    def fade(self, name: str, memory: float) -> None:
        """Multiply all results of a player by `memory`, because the player has changed."""
        i = self._place[name]
        for x in (self.games, self.returns, self.wins):
            x[i] *= memory
            x[:, i] *= memory

    def payoffs(self, names: Sequence[str]) -> np.ndarray:
        """[n, n] mean return of i against j; 0 for pairs without games."""
        return self._mean(self.returns, names, 0.0)

    def win_rates(self, name: str, names: Sequence[str]) -> np.ndarray:
        """[n] win rate of `name` against each player, with draws counting half; 1/2 for pairs without games."""
        rows = self._mean(self.wins, [name, *names], 0.5)
        return rows[0, 1:]

    def _mean(self, sums: np.ndarray, names: Sequence[str], unknown: float) -> np.ndarray:
        rows = [self._place[name] for name in names]
        games = self.games[np.ix_(rows, rows)]
        means: np.ndarray = np.full_like(games, unknown)
        np.divide(sums[np.ix_(rows, rows)], games, out=means, where=games > 0)
        return means

    def state_dict(self) -> dict[str, object]:
        """The table as plain values and tensors."""
        sums = {"games": self.games, "returns": self.returns, "wins": self.wins}
        return {"names": list(self.names), **{k: torch.from_numpy(v.copy()) for k, v in sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.names = list(state["names"])
        self._place = {name: i for i, name in enumerate(self.names)}
        self.games, self.returns, self.wins = (state[k].numpy().copy() for k in ("games", "returns", "wins"))


def earned(episode: Episode) -> dict[str, float]:
    """Role -> its return if the game provides returns, else the mean payoff of its turns."""
    if episode.returns is not None:
        return dict(episode.returns)
    turns: dict[str, list[float]] = {}
    for turn in episode.turns:
        if turn.ask.role != "chance":
            turns.setdefault(turn.ask.role, []).append(turn.payoff)
    return {role: mean(paid) for role, paid in turns.items()}  # exact arithmetic, so that equal payoffs tie


def results(episode: Episode, roles: Sequence[str]) -> list[Result]:
    """The pairwise results of an episode between the players in these roles; see `pairs`."""
    seats = {role: name for role, name in episode.seats.items() if role in roles}
    return pairs(seats, earned(episode))


def pairs(seats: Mapping[str, str], paid: Mapping[str, float]) -> list[Result]:
    """One result per ordered pair of roles: the role with the higher payoff wins, and equal payoffs are a draw.

    Pairs of roles with the same player count only if that player fills all roles.

    Args:
        seats: role -> player name.
        paid: role -> payoff.
    """
    alone = len(set(seats.values())) == 1
    return [
        (seats[a], seats[b], paid[a], 0.5 * (1.0 + float(np.sign(paid[a] - paid[b]))))
        for a in paid
        for b in paid
        if a != b and a in seats and b in seats and (alone or seats[a] != seats[b])
    ]
