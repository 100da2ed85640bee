"""The required properties of a game; each function raises SelfplayError if the game lacks one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfplay.core import Ask, Episode, Game, Player, SelfplayError
from selfplay.players.nature import Nature
from selfplay.rollout import play, score_and_pay
from selfplay.testing.asks import is_text
from selfplay.testing.observed import ChanceRefused, ObservedGame, observed
from selfplay.testing.players import Babbler, Dice, Parrot, Unasked, babble
from selfplay.theory.size import NotEnumerable
from selfplay.theory.tree import enumerate_game


@dataclass(frozen=True)
class Trial:
    """A game, and the players, scores and number of episodes with which it is tested."""

    game: ObservedGame
    again: ObservedGame
    players: Mapping[str, Player]
    scores: Mapping[str, float]
    episodes: int

    def seats(self) -> dict[str, Player]:
        """role -> player: those given by the user, else Nature for chance and a `Babbler` for other roles."""
        babbler = Babbler()
        return {role: Nature(babble) if role == "chance" else babbler for role in self.game.roles} | dict(self.players)

    def played(self, key: str, indices: Sequence[int] | None = None) -> list[Episode]:
        return play(self.game, self.seats(), range(self.episodes) if indices is None else indices, key=key)

    def paid(self, episodes: list[Episode]) -> list[Episode]:
        score_and_pay(self.game, episodes, {name: Dice(top) for name, top in self.scores.items()}, {})
        return episodes


def check_declared(game: Game) -> None:
    """Raise SelfplayError unless it is a game with distinct roles, and `judged` contains only its roles."""
    if not isinstance(game, Game):
        shown = f"the class {game.__name__}" if isinstance(game, type) else repr(game)
        raise SelfplayError(f"{shown} is not a game; give an instance of a subclass of selfplay.Game")
    name, roles = type(game).__name__, getattr(game, "roles", None)
    if not isinstance(roles, tuple) or not roles or not all(map(is_text, roles)) or len(set(roles)) < len(roles):
        raise SelfplayError(f"{name}.roles is {roles!r}; give a tuple of different names, such as ('first', 'second')")
    strangers = sorted(set(game.judged) - set(roles) | set(game.judged) & {"chance"})
    if strangers:
        raise SelfplayError(
            f"{name}.judged is {game.judged!r}, but '{strangers[0]}' is not a role that can be judged (roles: "
            f"{', '.join(roles)}); remove it"
        )


def check_seats(game: Game, players: Mapping[str, Player]) -> None:
    for role in players:
        if role not in game.roles:
            raise SelfplayError(
                f"players has '{role}', but {type(game).__name__} has the roles {', '.join(game.roles)}; remove it"
            )


def check_roles_are_asked(trial: Trial) -> int:
    """Raise SelfplayError unless every role is asked; return the number of turns."""
    turns = [turn for episode in trial.played("asked") for turn in episode.turns]
    silent = [role for role in trial.game.roles if role not in {turn.ask.role for turn in turns}]
    if silent:
        raise SelfplayError(
            f"{trial.game.name} has the role '{silent[0]}', but never asked it in {trial.episodes} episodes; remove it "
            "from roles, or give more episodes or better players"
        )
    return len(turns)


def check_purity(trial: Trial) -> None:
    """Raise SelfplayError unless an episode is a function of its replies."""
    first = trial.played("replay")
    parrot = dict.fromkeys(trial.game.roles, Parrot(first))
    for game, players in (trial.game, trial.seats()), (trial.again, parrot):
        for one, other in zip(first, play(game, players, range(trial.episodes), key="replay"), strict=True):
            if difference := _difference(one, other):
                second = "; a game given as again= needs the same arguments" if game is trial.again else ""
                raise SelfplayError(
                    f"{trial.game.name} continued differently after the same replies ({difference}); an episode must "
                    "be a function of its replies, so ask the role 'chance' for random outcomes and keep no state "
                    f"between episodes{second}"
                )


def check_neighbours(trial: Trial) -> None:
    """Raise SelfplayError unless episodes that are played in parallel are independent of each other."""
    for one in trial.paid(trial.played("alone")):
        [other] = trial.paid(trial.played("alone", [one.index]))
        if difference := _difference(one, other):
            raise SelfplayError(
                f"episode {one.index} of {trial.game.name} differs between parallel and single play ({difference}); "
                "keep the state in local variables of play, not in the game"
            )


def check_payoffs(trial: Trial) -> None:
    """Raise SelfplayError unless each turn has one finite, deterministic payoff, which is 0 for chance."""
    for episode in trial.paid(trial.played("paid")):
        first, again = [turn.payoff for turn in episode.turns], [float(p) for p in trial.game.payoffs(episode)]
        if first != again:
            raise SelfplayError(
                f"{trial.game.name}.payoffs returned {first} and then {again} for the same episode; make it a function "
                "of the episode"
            )
        earned = [turn.payoff for turn in episode.turns if turn.ask.role == "chance" and turn.payoff != 0.0]
        if earned:
            raise SelfplayError(f"{trial.game.name}.payoffs paid {earned[0]:g} to 'chance'; pay it 0")


def check_any_reply(trial: Trial) -> None:
    """Raise SelfplayError unless the game handles any reply, including those that are not an option.

    It may refuse replies of chance, because the player in that seat may not know the game.
    """
    unasked = {role: Unasked(player) for role, player in trial.seats().items() if role != "chance"}
    for index in range(4 * trial.episodes):
        trial.paid(play(trial.game, trial.seats() | unasked, [index], key="unasked"))
        if "chance" in trial.game.roles:
            try:
                play(trial.game, trial.seats() | {"chance": Unasked(trial.seats()["chance"])}, [index], key="chance")
            except ChanceRefused:
                continue


def check_every_history(trial: Trial, nodes: int) -> tuple[int | None, tuple[str, ...], str]:
    """Raise SelfplayError unless the rules hold in every history, if the game can be enumerated.

    Returns:
        The number of histories, the roles without perfect recall, and ""; or None, (), and why it is not enumerable.
    """
    game = observed(trial.game.game)
    game.check_rng = False
    try:
        tree = enumerate_game(game, nodes)
    except NotEnumerable as error:
        return None, (), str(error)
    except ChanceRefused as error:
        raise SelfplayError(
            f"{trial.game.name} refused one of the options that it gave to 'chance' ({error}); fix its options"
        ) from error
    return len(tree), tuple(tree.forgets), ""


def _difference(one: Episode, other: Episode) -> str:
    """The first difference between two episodes, in words; "" where there is none."""
    for number, (here, there) in enumerate(zip(one.turns, other.turns, strict=False)):
        if here.ask != there.ask:
            return f"turn {number} asked {_named(here.ask)} and then {_named(there.ask)}"
        if here.reply != there.reply:
            return f"turn {number} replied '{here.reply.text}' and then '{there.reply.text}'"
    if len(one.turns) != len(other.turns):
        return f"it had {len(one.turns)} turns and then {len(other.turns)}"
    if one.returns != other.returns:
        return f"it returned {one.returns} and then {other.returns}"
    paid = [[turn.payoff for turn in episode.turns] for episode in (one, other)]
    return f"it paid {paid[0]} and then {paid[1]}" if str(paid[0]) != str(paid[1]) else ""


def _named(ask: Ask) -> str:
    return f"'{ask.role}' '{ask.prompt}' with {len(ask.options)} options and the group {ask.group!r}"
