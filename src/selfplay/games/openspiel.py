"""OpenSpiel games (Lanctot et al., arXiv 1908.09453): board games, card games, matrix games, auctions."""

from collections import Counter
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

from selfplay.core import Ask, Game, Message, Play, SelfplayError, user
from selfplay.games.rules import chance_outcome, forfeited, illegal
from selfplay.options import Name, NotNegative

AND_THEN = "\n\nThen:\n"  # separates the observations between two moves of a player


class OpenSpiel(Game):
    """An OpenSpiel game among "player_0", "player_1", ..., with "chance" if the game is stochastic.

    A player sees its `information_state_string`; in a game without one, it sees its history of observations and
    actions. The options are OpenSpiel's names of the legal actions, and chance probabilities and returns are
    OpenSpiel's. Simultaneous moves are asked in one batch.

    Args:
        name: OpenSpiel's name for the game, with optional parameters: "leduc_poker", "leduc_poker(players=3)".
        forfeit: penalty for an illegal reply; None for the largest absolute utility that OpenSpiel reports.

    Raises:
        SelfplayError: OpenSpiel is not installed, or does not know the game or its parameters; or the game is a
            mean-field game, samples its chance outcomes internally, has no text observations, or lists no actions.
        SelfplayError (when playing): chance replies with an invalid outcome.
    """

    def __init__(self, name: Name, forfeit: NotNegative | None = None) -> None:
        self.game = _load(name)
        kind = self.game.get_type()
        if kind.dynamics.name == "MEAN_FIELD":
            raise SelfplayError(
                f"game.name is '{name}', a mean-field game, which has no individual players; choose another"
            )
        if kind.chance_mode.name == "SAMPLED_STOCHASTIC":
            raise SelfplayError(
                f"game.name is '{name}', which samples chance outcomes internally (sampled stochastic), so episodes "
                "cannot be replayed; choose a game with explicit chance nodes"
            )
        if kind.action_structs_only:
            raise SelfplayError(
                f"game.name is '{name}', whose actions are structures without indices, so it cannot list options; "
                "choose another"
            )
        self.recalls = bool(kind.provides_information_state_string)
        if not self.recalls and not kind.provides_observation_string:
            raise SelfplayError(f"game.name is '{name}', which has no text observations; choose another")
        self.name = name
        self.players = tuple(f"player_{i}" for i in range(self.game.num_players()))
        self.roles = self.players if kind.chance_mode.name == "DETERMINISTIC" else ("chance", *self.players)
        self.zero_sum = kind.utility.name == "ZERO_SUM"
        self.bounds = (self.game.min_utility(), self.game.max_utility())
        self.forfeit = max(self.game.max_utility(), -self.game.min_utility()) if forfeit is None else forfeit

    def play(self) -> Play:
        state = self.game.new_initial_state()
        seen: list[list[Message]] = [[] for _ in self.players]
        while not state.is_terminal():
            if state.is_chance_node():
                outcomes, weights = zip(*state.chance_outcomes(), strict=True)
                names = _names(state, state.current_player(), outcomes)
                ask = Ask("chance", options=names, weights=weights)
                [reply] = yield [ask]
                state.apply_action(outcomes[names.index(chance_outcome(ask, reply))])
                continue
            together = state.is_simultaneous_node()
            legal = {p: state.legal_actions(p) for p in (range(len(seen)) if together else [state.current_player()])}
            legal = {p: actions for p, actions in legal.items() if actions}  # some players may have no legal action
            self._look(state, seen, legal)
            asks = [Ask(self.players[p], tuple(seen[p]), _names(state, p, legal[p])) for p in legal]
            replies = yield asks
            if offenders := illegal(asks, replies):
                return forfeited(self.players, offenders, self.forfeit)
            chosen = dict.fromkeys(range(len(seen)), 0)  # OpenSpiel's placeholder for players without a legal action
            for (p, actions), ask, reply in zip(legal.items(), asks, replies, strict=True):
                chosen[p] = actions[ask.options.index(reply.text)]
                seen[p].append({"role": "assistant", "content": reply.text})
            if together:
                state.apply_actions(list(chosen.values()))
            else:
                state.apply_action(chosen[state.current_player()])
        return dict(zip(self.players, map(float, state.returns()), strict=True))

    def _look(self, state: Any, seen: list[list[Message]], movers: Collection[int]) -> None:
        """Update the movers' information states; in games without them, append each player's current observation.

        Observations are appended for all players, also while others move, so that players have perfect recall.
        """
        if self.recalls:
            for p in movers:
                seen[p][:] = user(state.information_state_string(p))
            return
        for p, messages in enumerate(seen):
            now = state.observation_string(p)
            if not messages or messages[-1]["role"] == "assistant":
                messages.append({"role": "user", "content": now})
            elif now not in (messages[-1]["content"], messages[-1]["content"].rpartition(AND_THEN)[2]):
                messages[-1] = {"role": "user", "content": messages[-1]["content"] + AND_THEN + now}


def _names(state: Any, player: int, actions: Sequence[int]) -> tuple[str, ...]:
    """OpenSpiel's names of the actions, with the index appended to empty or duplicate names."""
    names = [state.action_to_string(player, action).strip() for action in actions]
    counts = Counter(names)
    return tuple(
        name if name and counts[name] == 1 else f"{name} ({action})".strip()
        for name, action in zip(names, actions, strict=True)
    )


def _load(name: str) -> Any:
    """Load a pyspiel game by name."""
    try:
        import open_spiel.python.games  # noqa: F401  registers the games that are written in Python
        import pyspiel
    except ImportError as error:
        raise SelfplayError(
            f"game=openspiel needs the package open_spiel ({error}); install it with: pip install 'selfplay[games]'"
        ) from error
    known, short = pyspiel.registered_names(), name.split("(")[0]
    if short not in known:
        near = get_close_matches(short, known, n=5, cutoff=0.5) or known
        raise SelfplayError(f"OpenSpiel has no game '{short}'; choose another, for example {', '.join(near[:5])}")
    try:
        return pyspiel.load_game(name)
    except (pyspiel.SpielError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise SelfplayError(f"OpenSpiel cannot create the game '{name}': {reason}; change game.name") from error
