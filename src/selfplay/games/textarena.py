"""Any game of TextArena (Guertler et al., arXiv 2504.11442): negotiations, deductions, cards, boards and puzzles."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from io import StringIO
from numbers import Real
from types import ModuleType
from typing import Annotated, Any

import numpy as np

from selfplay.core import Ask, Game, Play, SelfplayError, at_least, user
from selfplay.games.rules import drawn
from selfplay.options import Count, Name, Range

MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
)


class TextArena(Game):
    """A TextArena game among "player_0", "player_1", ...; "chance" draws the seed of its board, cards and dice.

    A player is shown what TextArena shows it, as one text: all so far, or in the games named "...-train" the board as
    it is now; it writes freely. TextArena's own rules say what an illegal move costs; most games forgive one. The
    returns are TextArena's rewards.

    TextArena draws its luck from Python's and numpy's global generators. Here every episode has its own state of both,
    put in place for each call and taken away after it. Nothing is downloaded: a game that needs a word list of nltk
    says so. Not reproducible are games that ask a model over the network (TwentyQuestions, GuessWho, Debate,
    ScenarioPlanning, which want an API key); those with word lists may depend on PYTHONHASHSEED as well.

    Args:
        name: as TextArena registers it: "TicTacToe-v0", "SimpleNegotiation-v0", ...
        players: how many play.
        boards: how many different seeds chance draws from.
        max_turns: after so many replies a game without an end is over, and everybody earns 0.

    Raises:
        SelfplayError: TextArena is not installed, does not know the game, cannot make it (a package, a word list or an
            API key is missing, or it is written for a newer Python), or not for so many players.
        SelfplayError (when playing): chance draws what is no seed, or the game fails or ends without a number a player.
    """

    def __init__(
        self, name: Name, players: Annotated[int, Range(1, 100)] = 2, boards: Count = 1000, max_turns: Count = 200
    ) -> None:
        at_least(1, players=players, boards=boards, max_turns=max_turns)
        self.name, self.boards, self.max_turns = name, boards, max_turns
        self.players = tuple(f"player_{i}" for i in range(players))
        self.roles = ("chance", *self.players)
        self._try()

    def play(self) -> Play:
        seeds = tuple(map(str, range(self.boards)))
        ask = Ask("chance", options=seeds)
        [seed] = yield [ask]
        luck = _Luck(int(drawn(ask, seed)))
        with luck.own():
            env = self._make(int(seed.text))
        for _ in range(self.max_turns):
            with self._told("show a player the game"), luck.own():
                player, seen = env.get_observation()
            [reply] = yield [Ask(self.players[player], user(seen))]
            with self._told("take a reply"), luck.own():
                done, _ = env.step(action=reply.text)
            if done:
                return self._returns(env.close()[0])
        return dict.fromkeys(self.players, 0.0)

    def _returns(self, rewards: Any) -> dict[str, float]:
        paid: list[Any] = [(rewards or {}).get(i) for i in range(len(self.players))]
        if not all(isinstance(p, Real) for p in paid):
            raise SelfplayError(
                f"the TextArena game '{self.name}' ended with the rewards {rewards}, not with a number a player, which "
                "is a fault of that game; choose another"
            )
        return dict(zip(self.players, map(float, paid), strict=True))

    def _make(self, seed: int) -> Any:
        """A fresh environment that shows its players texts."""
        arena = _package()
        env = arena.make(self.name)
        if not (isinstance(env, arena.Wrapper) and env.is_wrapped_with(arena.ObservationWrapper)):  # "...-raw"
            env = arena.wrappers.LLMObservationWrapper(env)
        env.reset(num_players=len(self.players), seed=seed)
        _end_without_players(env.state)
        return env

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except MISTAKES as error:
            raise SelfplayError(
                f"the TextArena game '{self.name}' failed to {doing} ({type(error).__name__}: {error}), which is a "
                "fault of that game; choose another"
            ) from error

    def _try(self) -> None:
        """Make the game once, so that its mistakes come early, and imports draw no luck while playing."""
        known = list(_package().envs.registration.ENV_REGISTRY)
        if self.name not in known:
            near = get_close_matches(self.name, known, n=5, cutoff=0.5) or known[:5]
            raise SelfplayError(f"TextArena has no game '{self.name}'; choose another, for example {', '.join(near)}")
        try:
            with _Luck(0).own():
                self._make(0).get_observation()
        except MISTAKES as error:
            resource = re.search(r"nltk\.download\('(\w+)'\)", str(error))
            if isinstance(error, LookupError) and resource:
                raise SelfplayError(
                    f"the TextArena game '{self.name}' needs the nltk resource '{resource[1]}', which is not on this "
                    f"machine; get it with: python -m nltk.downloader {resource[1]}"
                ) from error
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            if isinstance(error, SyntaxError):
                reason = f"it is written for a newer Python ({reason})"
            raise SelfplayError(
                f"TextArena cannot make the game '{self.name}' for {len(self.players)} players: {reason}; "
                "change game.players or game.name"
            ) from error


def _end_without_players(state: Any) -> None:
    """When all are eliminated, it is a draw; TextArena's free-for-all would look for the next player for ever."""
    step = state.step

    def stop_or_step(*args: Any, **options: Any) -> Any:
        if not state.done and len(set(getattr(state, "elimination_order", ()))) == state.num_players:
            state.set_draw("everybody is eliminated")
        return step(*args, **options)

    state.step = stop_or_step


class _Luck:
    """One episode's own state of Python's and numpy's global generators."""

    def __init__(self, seed: int) -> None:
        self.state: Any = random.Random(seed).getstate()
        self.numpy: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def own(self) -> Iterator[None]:
        """The global generators are this episode's, nothing is printed, and nothing is downloaded."""
        import nltk

        outside, numpy_outside, download = random.getstate(), np.random.get_state(), nltk.download
        nltk.download = lambda *_, **__: False
        random.setstate(self.state)
        np.random.set_state(self.numpy)
        try:
            with redirect_stdout(StringIO()):
                yield
        finally:
            self.state, self.numpy = random.getstate(), np.random.get_state()
            random.setstate(outside)
            np.random.set_state(numpy_outside)
            nltk.download = download


def _package() -> ModuleType:
    try:
        import textarena
    except ImportError as error:
        raise SelfplayError(
            f"game=textarena needs the package textarena ({error}); install it with: pip install 'selfplay[games]'"
        ) from error
    return textarena  # type: ignore[no-any-return]
