"""The episodes of an earlier run, played again from its transcripts.

An episode is a pure function of its replies, so the texts of a run's episodes.jsonl are enough: the game asks again,
with the same messages and options, and referees, payoffs and updates may be others than those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from selfplay.core import Ask, Episode, Game, Player, Policy, Reply, SelfplayError, Turn
from selfplay.files import lines
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.options import Name
from selfplay.rollout import check_seats


class Logged(Player):
    """The author of replies in a transcript: it stands for whoever wrote them, and cannot reply."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        raise SelfplayError("the player of a transcript cannot reply to new asks; use rollout=replayed")


@dataclass(frozen=True)
class _Said:
    """A line of episodes.jsonl."""

    role: str
    prompt: str
    reply: str


class Replayed:
    """A rollout that takes the replies of a logged run: step s replays the next `episodes` of its episodes.

    After the last episode it begins again with the first. Turns get the players of `seats`; those of a `Logged` player
    are learnt from if the update names it as a teacher.

    Args:
        run: the folder of the run; its game must be the one that is played.

    Raises:
        SelfplayError: there is no transcript, or it holds no episode.
    """

    def __init__(self, run: Name) -> None:
        self.file = Path(run) / "episodes.jsonl"
        if not self.file.is_file():
            raise SelfplayError(f"rollout.run is {run}, but there is no {self.file}; give the folder of a run")
        found = [record for _, record in lines(self.file)]
        self.episodes = [
            [_said(record, self.file) for record in records]
            for _, records in groupby(found, key=lambda record: (record.get("step"), record.get("episode")))
        ]
        if not self.episodes:
            raise SelfplayError(f"{self.file} holds no episode; give a run that has done a step")

    def __call__(self, game: Game, opponent: Matchmaker, step: int, episodes: int, key: str) -> list[Episode]:
        seats, first = opponent.seats(step), (step - 1) * episodes
        for role, name in seats(0).items():
            if isinstance(opponent.players.get(name), Policy) and name != "reference" and not name.endswith("@start"):
                raise SelfplayError(
                    f"seats.{role} is {name}, but with rollout=replayed the replies are those of "
                    f"{self.file.parent}; set seats.{role}=logged"
                )
        return [
            self._again(game, index, (first + index) % len(self.episodes), dict(seats(index)), key)
            for index in range(episodes)
        ]

    def _again(self, game: Game, index: int, logged: int, seats: dict[str, str], key: str) -> Episode:
        """Feed a logged episode's replies to the game."""
        check_seats(game, seats)
        said, play, episode = self.episodes[logged], game.play(), Episode(index, [], seats=seats)
        replies: list[Reply] | None = None
        while True:
            try:
                asks = next(play) if replies is None else play.send(replies)
            except StopIteration as end:
                episode.returns = end.value
                break
            first = len(episode.turns)
            part = said[first : first + len(asks)]
            for ask, one in zip(asks, part, strict=False):
                if (ask.role, ask.prompt) != (one.role, one.prompt):
                    raise self._other(logged, f"asks {ask.role} '{_short(ask.prompt)}'", one)
            if len(part) < len(asks):
                raise self._other(logged, f"asks for {len(asks)} replies", None)
            replies = [Reply(one.reply) for one in part]
            keyed = [replace(ask, key=f"{key}/{index}/{first + i}") for i, ask in enumerate(asks)]
            episode.turns += [Turn(a, r, player=seats[a.role]) for a, r in zip(keyed, replies, strict=True)]
        if len(said) > len(episode.turns):
            raise self._other(logged, "has ended", said[len(episode.turns)])
        return episode

    def _other(self, logged: int, game: str, said: _Said | None) -> SelfplayError:
        there = "it ends" if said is None else f"{said.role} replied '{_short(said.reply)}' to '{_short(said.prompt)}'"
        return SelfplayError(
            f"episode {logged + 1} of {self.file} is not one of this game: the game {game}, but there {there}; give "
            "the options of that run's game"
        )


def _said(record: dict[str, Any], file: Path) -> _Said:
    try:
        return _Said(record["role"], record["prompt"], record["reply"])
    except KeyError as error:
        raise SelfplayError(f"a line of {file} has no {error}; give the folder of a run of this version") from error


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
