"""TextArena games (Guertler et al., arXiv 2504.11442): negotiation, deduction, card, board and puzzle games."""

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
from selfplay.games.rules import chance_outcome
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
    """A TextArena game among "player_0", "player_1", ...; "chance" samples the seed of its board, cards and dice.

    Players see TextArena's observation as one text and reply with free text. The observation is the full history, or
    the current board in games named "...-train". TextArena's rules decide the cost of an illegal move (most games
    forgive one), and its rewards are the returns.

    TextArena uses the global random generators of Python and numpy. Each episode has its own state of both, which is
    swapped in for each call and out afterwards. Nothing is downloaded: a game that needs an nltk word list raises an
    error. Games that call a model over the network with an API key (TwentyQuestions, GuessWho, Debate,
    ScenarioPlanning) are not reproducible, and games with word lists may also depend on PYTHONHASHSEED.

    Args:
        name: TextArena's name for the game: "TicTacToe-v0", "SimpleNegotiation-v0", ...
        players: number of players.
        boards: number of distinct seeds that chance samples from.
        max_turns: number of replies after which an unfinished game ends with return 0 for all players.

    Raises:
        SelfplayError: TextArena is not installed, does not know the game, or cannot create it (a package, a word list
            or an API key is missing, it needs a newer Python, or it does not support this number of players).
        SelfplayError (when playing): chance replies with an invalid seed, or the game fails or ends without a numeric
            reward for each player.
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
        rng = _Luck(int(chance_outcome(ask, seed)))
        with rng.own():
            env = self._make(int(seed.text))
        for _ in range(self.max_turns):
            with self._translated("show a player the game"), rng.own():
                player, seen = env.get_observation()
            [reply] = yield [Ask(self.players[player], user(seen))]
            with self._translated("take a reply"), rng.own():
                done, _ = env.step(action=reply.text)
            if done:
                return self._returns(env.close()[0])
        return dict.fromkeys(self.players, 0.0)

    def _returns(self, rewards: Any) -> dict[str, float]:
        paid: list[Any] = [(rewards or {}).get(i) for i in range(len(self.players))]
        if not all(isinstance(p, Real) for p in paid):
            raise SelfplayError(
                f"the TextArena game '{self.name}' ended with the rewards {rewards}, not with one number per player, "
                "which is a bug in that game; choose another"
            )
        return dict(zip(self.players, map(float, paid), strict=True))

    def _make(self, seed: int) -> Any:
        """A new environment with text observations."""
        arena = _package()
        env = arena.make(self.name)
        if not (isinstance(env, arena.Wrapper) and env.is_wrapped_with(arena.ObservationWrapper)):  # "...-raw"
            env = arena.wrappers.LLMObservationWrapper(env)
        env.reset(num_players=len(self.players), seed=seed)
        _end_without_players(env.state)
        return env

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Re-raise errors of the game as SelfplayError."""
        try:
            yield
        except MISTAKES as error:
            raise SelfplayError(
                f"the TextArena game '{self.name}' failed to {doing} ({type(error).__name__}: {error}), which is a "
                "bug in that game; choose another"
            ) from error

    def _try(self) -> None:
        """Create the game once, so that errors surface early and imports use no random numbers during play."""
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
                    f"machine; download it with: python -m nltk.downloader {resource[1]}"
                ) from error
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            if isinstance(error, SyntaxError):
                reason = f"it requires a newer Python ({reason})"
            raise SelfplayError(
                f"TextArena cannot create the game '{self.name}' for {len(self.players)} players: {reason}; "
                "change game.players or game.name"
            ) from error


def _end_without_players(state: Any) -> None:
    """End the game in a draw once all players are eliminated; TextArena's free-for-all would loop forever."""
    step = state.step

    def stop_or_step(*args: Any, **options: Any) -> Any:
        if not state.done and len(set(getattr(state, "elimination_order", ()))) == state.num_players:
            state.set_draw("everybody is eliminated")
        return step(*args, **options)

    state.step = stop_or_step


class _Luck:
    """One episode's state of Python's and numpy's global random generators."""

    def __init__(self, seed: int) -> None:
        self.state: Any = random.Random(seed).getstate()
        self.numpy: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def own(self) -> Iterator[None]:
        """Give the global generators this episode's state, and suppress printing and nltk downloads."""
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
