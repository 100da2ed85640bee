"""Matchmaker: the assignment of players to the roles of each episode."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.core import Episode, Player, Policy, SelfplayError
from selfplay.options import Name
from selfplay.trainee import Change

LEARNER = "learner"
Seats = Mapping[str, str]  # role -> player name


class Matchmaker:
    """Assigns players to roles. This base class is latest-policy self-play: the learner plays all of its roles.

    Args:
        seated: role -> name, as configured in `seats`.
        players: all initial players, by name.
    """

    def __init__(self, seated: Seats, players: Mapping[str, Player], **_: Any) -> None:
        self.seated, self.players = dict(seated), dict(players)

    @property
    def learner_roles(self) -> tuple[str, ...]:
        """The roles assigned to the learner in the config."""
        return tuple(role for role, name in self.seated.items() if name == LEARNER)

    def seats(self, step: int) -> Callable[[int], Seats]:
        """Episode index -> seats, for the episodes of a step; any randomness is a function of seed, step and index."""
        return lambda index: self.seated

    def enumerate_seatings(self, step: int) -> list[tuple[Seats, float]]:
        """Every seating that `seats` can return, with its probability."""
        return [(self.seated, 1.0)]

    def before(self, step: int) -> Change | None:
        """The change that `selfplay.trainee.Trainee` applies to the learner before the step, if any."""
        return None

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Record the results of a step's episodes and extend the population; return metrics."""
        return {}

    def then(self, step: int) -> Change | None:
        """The change applied to the learner after the step, once `after` has been called, if any."""
        return None

    @property
    def main(self) -> Policy:
        """The policy to evaluate: the learner, or the newest main snapshot while an exploiter is training."""
        learner = self.players[LEARNER]
        assert isinstance(learner, Policy)
        return learner

    def mixture(self) -> dict[str, float]:
        """Name -> weight: the population's mixture strategy; empty if there is no population."""
        return {}

    def store(self, folder: Path) -> None:
        """Save the policies that `state_dict` refers to by name."""

    def state_dict(self) -> dict[str, object]:
        """The state needed to resume, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path, read: Callable[[Path], Policy]) -> None:
        """Restore the state of `state_dict` and `store`.

        Args:
            state: the result of `state_dict`.
            folder: the folder that `store` wrote to.
            read: loads a policy from one of its subfolders.
        """


class Against(Matchmaker):
    """A fixed opponent. The learner plays one of its roles, in rotation over episodes, and the opponent the others.

    Args:
        seated: role -> name, as configured in `seats`.
        players: all players, by name.
        name: "reference" for the frozen base, or a player of the config's `players`.

    Raises:
        SelfplayError: no other player has this name, or the learner has fewer than two roles.
    """

    def __init__(self, seated: Seats, players: Mapping[str, Player], name: Name = "reference", **_: Any) -> None:
        super().__init__(seated, players)
        if name not in players or name == LEARNER:
            others = ", ".join(p for p in players if p != LEARNER)
            raise SelfplayError(f"opponent.name is '{name}', but the other players are {others}; choose one of them")
        check_learner_roles(self.learner_roles)
        self.name = name

    def seats(self, step: int) -> Callable[[int], Seats]:
        return lambda index: rotated(self.seated, self.learner_roles, index, lambda role: self.name)

    def enumerate_seatings(self, step: int) -> list[tuple[Seats, float]]:
        seat, count = self.seats(step), len(self.learner_roles)
        return [(seat(index), 1 / count) for index in range(count)]


def check_learner_roles(roles: Sequence[str]) -> None:
    """Raise SelfplayError unless there are at least two learner roles."""
    if len(roles) < 2:
        raise SelfplayError(
            f"an opponent takes one of the learner's roles, but the learner has only {', '.join(roles)}; "
            "use opponent=latest, or assign the learner another role in `seats`"
        )


def rotated(seated: Seats, learner_roles: Sequence[str], index: int, opponent: Callable[[str], str]) -> Seats:
    """The seats with the learner in one of its roles and opponents in its others.

    Args:
        seated: role -> name, as configured; roles outside `learner_roles` keep their players.
        learner_roles: the roles to distribute.
        index: episode index; the learner plays role number index modulo the number of learner roles.
        opponent: role -> name of the opponent.
    """
    mine = learner_roles[index % len(learner_roles)]
    return {r: opponent(r) if r in learner_roles and r != mine else name for r, name in seated.items()}
