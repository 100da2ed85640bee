"""Matchmaker: which player is in which role of an episode."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.core import Episode, Player, Policy, SelfplayError
from selfplay.options import Name
from selfplay.trainee import Change

LEARNER = "learner"
Seats = Mapping[str, str]  # role -> the name of the player in it


class Matchmaker:
    """The opponents of a run. This one is the latest self: the learner sits in every role that the game gives it.

    Args:
        seated: role -> name, as the config seats them.
        players: everybody who takes part from the start, by name.

    """

    def __init__(self, seated: Seats, players: Mapping[str, Player], **_: Any) -> None:
        self.seated, self.players = dict(seated), dict(players)

    @property
    def learner_roles(self) -> tuple[str, ...]:
        """The roles that the config gives to the learner."""
        return tuple(role for role, name in self.seated.items() if name == LEARNER)

    def seats(self, step: int) -> Callable[[int], Seats]:
        """Episode index -> seats, for the episodes of a step. Its luck is a function of seed, step and index."""
        return lambda index: self.seated

    def enumerate_seatings(self, step: int) -> list[tuple[Seats, float]]:
        """Every seating that `seats` may give, with its probability."""
        return [(self.seated, 1.0)]

    def before(self, step: int) -> Change | None:
        """How the learner changes before the step, see `selfplay.trainee.Trainee`; an opponent rule only chooses."""
        return None

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Learn from a step's episodes who won, let the population grow; return what is worth logging."""
        return {}

    def then(self, step: int) -> Change | None:
        """How the learner changes after the step, when `after` was called."""
        return None

    @property
    def main(self) -> Policy:
        """The policy that the run is about: the learner, or the main learner while an exploiter learns."""
        learner = self.players[LEARNER]
        assert isinstance(learner, Policy)
        return learner

    def mixture(self) -> dict[str, float]:
        """Name -> weight: the strategy of the population as a whole; empty where there is no population."""
        return {}

    def store(self, folder: Path) -> None:
        """Write what `state_dict` only names."""

    def state_dict(self) -> dict[str, object]:
        """All that must survive a kill, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], folder: Path, read: Callable[[Path], Policy]) -> None:
        """Become what `state_dict` and `store` told; `read` gives the policy of a folder that `store` wrote."""


class Against(Matchmaker):
    """One given player in all of the learner's roles but one; the roles take turns, episode by episode.

    Args:
        name: "reference" for the frozen base, or a player of the config's `players`.

    Raises:
        SelfplayError: nobody has this name, or the game leaves no role for an opponent.
    """

    def __init__(self, seated: Seats, players: Mapping[str, Player], name: Name = "reference", **_: Any) -> None:
        super().__init__(seated, players)
        if name not in players or name == LEARNER:
            others = ", ".join(p for p in players if p != LEARNER)
            raise SelfplayError(f"opponent.name is '{name}', but the other players are {others}; name one of them")
        check_learner_roles(self.learner_roles)
        self.name = name

    def seats(self, step: int) -> Callable[[int], Seats]:
        return lambda index: rotated(self.seated, self.learner_roles, index, lambda role: self.name)

    def enumerate_seatings(self, step: int) -> list[tuple[Seats, float]]:
        seat, count = self.seats(step), len(self.learner_roles)
        return [(seat(index), 1 / count) for index in range(count)]


def check_learner_roles(roles: Sequence[str]) -> None:
    """Raise SelfplayError unless the learner has a role to spare."""
    if len(roles) < 2:
        raise SelfplayError(
            f"an opponent takes one of the learner's roles, but the learner has only {', '.join(roles)}; "
            "use opponent=latest, or seat the learner in a further role"
        )


def rotated(seated: Seats, learner_roles: Sequence[str], index: int, opponent: Callable[[str], str]) -> Seats:
    """The learner in the index-th of its roles, opponents in the others, everybody else where they were."""
    mine = learner_roles[index % len(learner_roles)]
    return {r: opponent(r) if r in learner_roles and r != mine else name for r, name in seated.items()}
