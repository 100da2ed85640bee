"""Any game of OpenSpiel (Lanctot et al., arXiv 1908.09453): board games, card games, matrix games, auctions."""

from collections import Counter
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

from selfplay.core import Ask, Game, Message, Play, SelfplayError, user
from selfplay.games.rules import drawn, forfeited, illegal
from selfplay.options import Name, NotNegative

AND_THEN = "\n\nThen:\n"  # between the observations that one makes without moving


class OpenSpiel(Game):
    """An OpenSpiel game among "player_0", "player_1", ..., and "chance" where the game has any.

    A player is shown its `information_state_string`; in a game without one, all that it observed and did so far. The
    options are OpenSpiel's own names of the legal actions, chance's weights are OpenSpiel's, and so are the returns.
    Players who move simultaneously are asked at once.

    Args:
        name: as OpenSpiel writes it, with parameters if any: "leduc_poker", "leduc_poker(players=3)".
        forfeit: what an illegal reply costs; None for the most that OpenSpiel says can be won or lost.

    Raises:
        SelfplayError: OpenSpiel is not installed, does not know the game or its parameters; or the game is a
            mean-field game, draws its luck by itself, shows its players nothing as text, or lists no actions.
        SelfplayError (when playing): chance replies what is no outcome.
    """

    def __init__(self, name: Name, forfeit: NotNegative | None = None) -> None:
        self.game = _load(name)
        kind = self.game.get_type()
        if kind.dynamics.name == "MEAN_FIELD":
            raise SelfplayError(
                f"game.name is '{name}', a mean-field game, which has no players to seat; choose another"
            )
        if kind.chance_mode.name == "SAMPLED_STOCHASTIC":
            raise SelfplayError(
                f"game.name is '{name}', which draws its luck by itself (sampled stochastic), so no episode could be "
                "replayed; choose a game whose chance is explicit"
            )
        if kind.action_structs_only:
            raise SelfplayError(
                f"game.name is '{name}', whose actions are structures without numbers, so there are no options to "
                "choose from; choose another"
            )
        self.recalls = bool(kind.provides_information_state_string)
        if not self.recalls and not kind.provides_observation_string:
            raise SelfplayError(f"game.name is '{name}', which shows its players nothing as text; choose another")
        self.name = name
        self.players = tuple(f"player_{i}" for i in range(self.game.num_players()))
        self.roles = self.players if kind.chance_mode.name == "DETERMINISTIC" else ("chance", *self.players)
        self.zero_sum = kind.utility.name == "ZERO_SUM"
        self.forfeit = max(self.game.max_utility(), -self.game.min_utility()) if forfeit is None else forfeit

    def play(self) -> Play:
        state = self.game.new_initial_state()
        seen: list[list[Message]] = [[] for _ in self.players]
        while not state.is_terminal():
            if state.is_chance_node():
                outcomes, weights = zip(*state.chance_outcomes(), strict=True)
                names = _names(state, state.current_player(), outcomes)
                luck = Ask("chance", options=names, weights=weights)
                [reply] = yield [luck]
                state.apply_action(outcomes[names.index(drawn(luck, reply))])
                continue
            together = state.is_simultaneous_node()
            legal = {p: state.legal_actions(p) for p in (range(len(seen)) if together else [state.current_player()])}
            legal = {p: actions for p, actions in legal.items() if actions}  # some may have no say
            self._look(state, seen, legal)
            asks = [Ask(self.players[p], tuple(seen[p]), _names(state, p, legal[p])) for p in legal]
            replies = yield asks
            if offenders := illegal(asks, replies):
                return forfeited(self.players, offenders, self.forfeit)
            chosen = dict.fromkeys(range(len(seen)), 0)  # OpenSpiel's stand-in for those without a say
            for (p, actions), ask, reply in zip(legal.items(), asks, replies, strict=True):
                chosen[p] = actions[ask.options.index(reply.text)]
                seen[p].append({"role": "assistant", "content": reply.text})
            if together:
                state.apply_actions(list(chosen.values()))
            else:
                state.apply_action(chosen[state.current_player()])
        return dict(zip(self.players, map(float, state.returns()), strict=True))

    def _look(self, state: Any, seen: list[list[Message]], movers: Collection[int]) -> None:
        """Show the movers their information states; without such, show everybody the observation after all before it.

        Observations while others move are kept too: what one has seen, one remembers.
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
    """OpenSpiel's names of actions; the number is added where one is empty or not alone."""
    names = [state.action_to_string(player, action).strip() for action in actions]
    counts = Counter(names)
    return tuple(
        name if name and counts[name] == 1 else f"{name} ({action})".strip()
        for name, action in zip(names, actions, strict=True)
    )


def _load(name: str) -> Any:
    """The pyspiel game of this name."""
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
        raise SelfplayError(f"OpenSpiel cannot make the game '{name}': {reason}; change game.name") from error
