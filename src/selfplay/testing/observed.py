"""A game under observation: its asks are checked before anybody is asked, its returns before anybody is paid."""

import math
import random
from collections.abc import Generator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from selfplay.core import Ask, Episode, Game, Play, Reply, SelfplayError
from selfplay.testing.asks import check_unchanged, checked_wave, contents

WAVES = 1000  # of an episode, at most


class ChanceRefused(SelfplayError):
    """The game says that what chance replied is none of its outcomes, which it may."""


class ObservedGame(Game):
    """A game whose asks are looked at before anybody is asked, and whose returns before anybody is paid."""

    luck = True  # whether the global generators are looked at: it takes longer than most games

    def __init__(self, game: Game) -> None:
        self.game, self.name = game, type(game).__name__
        self.roles, self.judged, self.zero_sum = tuple(game.roles), tuple(game.judged), game.zero_sum

    def play(self) -> Play:
        run = self.game.play()
        if not isinstance(run, Generator):
            raise SelfplayError(
                f"{self.name}.play gave a {type(run).__name__}, but it must be a generator; write it with yield"
            )
        turns: list[tuple[Ask, Reply]] = []
        shown: list[object] = []
        replies: list[Reply] | None = None
        for _ in range(WAVES):
            ended, given = self._advance(run, replies, turns)
            if ended:
                check_unchanged(self.name, [ask for ask, _ in turns], shown)
                if not turns:
                    raise SelfplayError(f"{self.name} ended without asking anybody; yield at least one list of asks")
                self._check_returns(given)
                return given  # type: ignore[return-value]
            asks = checked_wave(self.name, self.roles, given)
            shown += map(contents, asks)
            replies = yield asks
            turns += zip(asks, replies, strict=True)
        raise SelfplayError(
            f"{self.name} asked {WAVES} times in one episode without an end; end it after a number of turns"
        )

    def payoffs(self, episode: Episode) -> list[float]:
        try:
            return self.game.payoffs(episode)
        except SelfplayError:
            raise
        except Exception as error:
            said = ", ".join(_cut(turn.reply) for turn in episode.turns[-4:])
            raise SelfplayError(
                f"{self.name}.payoffs raised {type(error).__name__} ({error}) for an episode that ended with the "
                f"replies {said}; mend it"
            ) from error

    def _advance(
        self, run: Play, replies: list[Reply] | None, turns: Sequence[tuple[Ask, Reply]]
    ) -> tuple[bool, object]:
        """Whether the game is over, and what it returns, or else yields."""
        before = _global_luck() if self.luck else None
        ended = False
        given: object = None
        try:
            given = next(run) if replies is None else run.send(replies)
        except StopIteration as end:
            ended, given = True, end.value
        except Exception as error:
            raise self._failed(error, turns, len(replies or ())) from error
        if before is not None and _global_luck() != before:
            raise SelfplayError(
                f"{self.name} drew from a global random generator, or seeded it; ask the role 'chance' for its luck"
            )
        return ended, given

    def _failed(self, error: Exception, turns: Sequence[tuple[Ask, Reply]], last: int) -> SelfplayError:
        """What is told of an error of the game's; `last` turns were in the wave before it."""
        luck = [(i, ask, reply) for i, (ask, reply) in enumerate(turns) if ask.role == "chance"]
        refused = any(i >= len(turns) - last or reply.text not in ask.options for i, ask, reply in luck)
        if refused and isinstance(error, SelfplayError):
            return ChanceRefused(str(error))
        what = f"{self.name}.play raised {type(error).__name__} ({error})"
        if not turns:
            return SelfplayError(f"{what} before anybody replied; mend it")
        said = ", ".join(f"{ask.role} {_cut(reply)}" for ask, reply in turns[-4:])
        return SelfplayError(
            f"{what} after the replies {said}; a reply may be any text: say what an illegal one costs, for example by "
            "selfplay.games.rules"
        )

    def _check_returns(self, returns: object) -> None:
        """Raise SelfplayError unless each role has a finite return, and they add up to 0 where that is claimed."""
        if returns is None:
            if self.zero_sum:
                raise SelfplayError(f"{self.name} claims zero_sum, but returned None; return each role's return")
            return
        roles = [role for role in self.roles if role != "chance"]
        if not isinstance(returns, Mapping) or set(returns) != set(roles):
            raise SelfplayError(
                f"{self.name} ended with the returns {returns}; return one number for each of the roles "
                f"{', '.join(roles)}, or None where only referees know who won"
            )
        if not all(isinstance(value, Real) and math.isfinite(value) for value in returns.values()):
            raise SelfplayError(f"{self.name} ended with the returns {returns}; return finite numbers")
        if self.zero_sum and abs(total := sum(returns.values())) > 1e-9:
            raise SelfplayError(
                f"{self.name} claims zero_sum, but its returns {returns} add up to {total:g}; mend them, or set "
                "zero_sum = False"
            )


def observed(game: Game) -> ObservedGame:
    """The game under observation; its class has the game's name, which is what errors tell."""
    kind: type[ObservedGame] = type(type(game).__name__, (ObservedGame,), {})
    return kind(game)


def _cut(reply: Reply) -> str:
    """What was said, or its beginning."""
    return repr(reply.text if len(reply.text) <= 40 else f"{reply.text[:40]}...")


def _global_luck() -> object:
    """The state of the generators that everybody shares."""
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), numbers[2:], torch.get_rng_state().numpy().tobytes()
