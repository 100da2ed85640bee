"""The pay-off table of a population: who played whom, how often, and with what result."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch

from selfplay.core import Episode

Result = tuple[str, str, float, float]  # a name, its opponent's, its return, 1 for a win or 1/2 for a draw or 0


class Table:
    """Sums over games between named players.

    Attributes:
        roles: how many roles of a game the players share among them. With two, returns are those of a two-player game;
            with more, of games in which one player meets several.
        names: in the order of entry.
        games, returns, wins: [n, n] float64; `returns[i, j]` is the sum of what i got when it met j.
    """

    def __init__(self, names: Sequence[str] = (), roles: int = 2) -> None:
        self.names, self.roles = list(names), roles
        self._place = {name: i for i, name in enumerate(names)}
        self.games, self.returns, self.wins = (np.zeros((len(names), len(names))) for _ in range(3))

    def enter(self, name: str) -> None:
        """A new player, without a game."""
        self._place[name] = len(self.names)
        self.names.append(name)
        self.games, self.returns, self.wins = (np.pad(x, (0, 1)) for x in (self.games, self.returns, self.wins))

    def record(self, results: Sequence[Result], weight: float = 1.0) -> None:
        """Add games up, each as so many."""
        for name, other, gained, won in results:
            i, j = self._place[name], self._place[other]
            self.games[i, j] += weight
            self.returns[i, j] += weight * gained
            self.wins[i, j] += weight * won

    def fade(self, name: str, memory: float) -> None:
        """Let a player's results count less, because the player has changed."""
        i = self._place[name]
        for x in (self.games, self.returns, self.wins):
            x[i] *= memory
            x[:, i] *= memory

    def payoffs(self, names: Sequence[str]) -> np.ndarray:
        """[n, n] mean return of each when it met each; 0 where they never met."""
        return self._mean(self.returns, names, 0.0)

    def win_rates(self, name: str, names: Sequence[str]) -> np.ndarray:
        """[n] how often `name` won against each, draws counting half; 1/2 where they never met."""
        rows = self._mean(self.wins, [name, *names], 0.5)
        return rows[0, 1:]

    def _mean(self, sums: np.ndarray, names: Sequence[str], unknown: float) -> np.ndarray:
        rows = [self._place[name] for name in names]
        games = self.games[np.ix_(rows, rows)]
        means: np.ndarray = np.full_like(games, unknown)
        np.divide(sums[np.ix_(rows, rows)], games, out=means, where=games > 0)
        return means

    def state_dict(self) -> dict[str, object]:
        """As plain values and tensors."""
        sums = {"games": self.games, "returns": self.returns, "wins": self.wins}
        return {"names": list(self.names), **{k: torch.from_numpy(v.copy()) for k, v in sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state_dict` told."""
        self.names = list(state["names"])
        self._place = {name: i for i, name in enumerate(self.names)}
        self.games, self.returns, self.wins = (state[k].numpy().copy() for k in ("games", "returns", "wins"))


def earned(episode: Episode) -> dict[str, float]:
    """Role -> what it earned: its return where the game knows it, else the mean pay-off of its turns."""
    if episode.returns is not None:
        return dict(episode.returns)
    turns: dict[str, list[float]] = {}
    for turn in episode.turns:
        if turn.ask.role != "chance":
            turns.setdefault(turn.ask.role, []).append(turn.payoff)
    return {role: mean(paid) for role, paid in turns.items()}  # exact, so that who is paid alike has drawn


def results(episode: Episode, roles: Sequence[str]) -> list[Result]:
    """What every player in these roles of an episode got of every other one; see `pairs`."""
    seats = {role: name for role, name in episode.seats.items() if role in roles}
    return pairs(seats, earned(episode))


def pairs(seats: Mapping[str, str], paid: Mapping[str, float]) -> list[Result]:
    """Every ordered pair of roles, from the first one's point of view: to have earned more is a win, as much a draw.

    Two roles of one player are a game of it against itself only where nobody else is at the table.
    """
    alone = len(set(seats.values())) == 1
    return [
        (seats[a], seats[b], paid[a], 0.5 * (1.0 + float(np.sign(paid[a] - paid[b]))))
        for a in paid
        for b in paid
        if a != b and a in seats and b in seats and (alone or seats[a] != seats[b])
    ]
