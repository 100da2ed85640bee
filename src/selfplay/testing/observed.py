"""A wrapper around a game that checks its asks and returns."""

import math
import random
from collections.abc import Generator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from selfplay.core import Ask, Episode, Game, Play, Reply, SelfplayError
from selfplay.testing.asks import check_unchanged, checked_wave, contents

WAVES = 1000  # most lists of asks in an episode


class ChanceRefused(SelfplayError):
    """The game refused a reply of chance that is not one of its outcomes, which is allowed."""


class ObservedGame(Game):
    """Wraps a game; checks its asks before players see them, and its returns before payoffs are computed."""

    check_rng = True  # whether to check the global RNG state, which takes longer than most games

    def __init__(self, game: Game) -> None:
        self.game, self.name = game, type(game).__name__
        self.roles, self.judged, self.zero_sum = tuple(game.roles), tuple(game.judged), game.zero_sum

    def play(self) -> Play:
        run = self.game.play()
        if not isinstance(run, Generator):
            raise SelfplayError(
                f"{self.name}.play returned a {type(run).__name__}, but it must be a generator; write it with yield"
            )
        turns: list[tuple[Ask, Reply]] = []
        shown: list[object] = []
        replies: list[Reply] | None = None
        for _ in range(WAVES):
            ended, given = self._advance(run, replies, turns)
            if ended:
                check_unchanged(self.name, [ask for ask, _ in turns], shown)
                if not turns:
                    raise SelfplayError(f"{self.name} ended without any asks; yield at least one list of asks")
                self._check_returns(given)
                return given  # type: ignore[return-value]
            asks = checked_wave(self.name, self.roles, given)
            shown += map(contents, asks)
            replies = yield asks
            turns += zip(asks, replies, strict=True)
        raise SelfplayError(
            f"{self.name} yielded {WAVES} lists of asks in one episode; end it after a bounded number of turns"
        )

    def payoffs(self, episode: Episode) -> list[float]:
        try:
            return self.game.payoffs(episode)
        except SelfplayError:
            raise
        except Exception as error:
            replies = ", ".join(_cut(turn.reply) for turn in episode.turns[-4:])
            raise SelfplayError(
                f"{self.name}.payoffs raised {type(error).__name__} ({error}) for an episode that ended with the "
                f"replies {replies}; fix it"
            ) from error

    def _advance(
        self, run: Play, replies: list[Reply] | None, turns: Sequence[tuple[Ask, Reply]]
    ) -> tuple[bool, object]:
        """Advance the game; return whether it has ended, and what it returned or yielded."""
        before = _rng_state() if self.check_rng else None
        ended = False
        given: object = None
        try:
            given = next(run) if replies is None else run.send(replies)
        except StopIteration as end:
            ended, given = True, end.value
        except Exception as error:
            raise self._failed(error, turns, len(replies or ())) from error
        if before is not None and _rng_state() != before:
            raise SelfplayError(
                f"{self.name} used or seeded a global random generator; ask the role 'chance' for random outcomes"
            )
        return ended, given

    def _failed(self, error: Exception, turns: Sequence[tuple[Ask, Reply]], last: int) -> SelfplayError:
        """The error to raise for an exception of the game; `last` is the number of turns in the wave before it."""
        chance = [(i, ask, reply) for i, (ask, reply) in enumerate(turns) if ask.role == "chance"]
        refused = any(i >= len(turns) - last or reply.text not in ask.options for i, ask, reply in chance)
        if refused and isinstance(error, SelfplayError):
            return ChanceRefused(str(error))
        what = f"{self.name}.play raised {type(error).__name__} ({error})"
        if not turns:
            return SelfplayError(f"{what} before the first reply; fix it")
        replies = ", ".join(f"{ask.role} {_cut(reply)}" for ask, reply in turns[-4:])
        return SelfplayError(
            f"{what} after the replies {replies}; handle replies of any text, for example with "
            "chance_outcome and illegal of selfplay.games.rules"
        )

    def _check_returns(self, returns: object) -> None:
        """Raise SelfplayError unless every role has a finite return, and returns sum to 0 in a zero-sum game."""
        if returns is None:
            if self.zero_sum:
                raise SelfplayError(f"{self.name} claims zero_sum, but returned None; return each role's return")
            return
        roles = [role for role in self.roles if role != "chance"]
        if not isinstance(returns, Mapping) or set(returns) != set(roles):
            raise SelfplayError(
                f"{self.name} ended with the returns {returns}; return one number for each of the roles "
                f"{', '.join(roles)}, or None if referees decide who won"
            )
        if not all(isinstance(value, Real) and math.isfinite(value) for value in returns.values()):
            raise SelfplayError(f"{self.name} ended with the returns {returns}; return finite numbers")
        if self.zero_sum and abs(total := sum(returns.values())) > 1e-9:
            raise SelfplayError(
                f"{self.name} claims zero_sum, but its returns {returns} add up to {total:g}; fix them, or set "
                "zero_sum = False"
            )


def observed(game: Game) -> ObservedGame:
    """Wrap a game in an `ObservedGame` whose class has the game's name, so that errors show that name."""
    kind: type[ObservedGame] = type(type(game).__name__, (ObservedGame,), {})
    return kind(game)


def _cut(reply: Reply) -> str:
    """The text of a reply, cut to 40 characters."""
    return repr(reply.text if len(reply.text) <= 40 else f"{reply.text[:40]}...")


def _rng_state() -> object:
    """The state of the global random generators of Python, NumPy and PyTorch."""
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), numbers[2:], torch.get_rng_state().numpy().tobytes()
