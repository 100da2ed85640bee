"""Conformance tests of a game: whether it keeps the rules that every game of selfplay keeps.

    from selfplay.testing import check_game

    def test_my_game():
        check_game(MyGame(rounds=3))

The game is played with random players in every seat, and with replies that nobody asked for. A game whose asks all have
options is enumerated, too, where it is small enough. Neither pytest nor a model is needed.
"""

import math
import random
import re
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfplay.core import Ask, Episode, Game, Play, Player, Policy, Referee, Reply, SelfplayError, Turn, at_least
from selfplay.players.nature import Nature, chances
from selfplay.rollout import play, score_and_pay
from selfplay.theory.size import NotEnumerable
from selfplay.theory.tree import enumerate_game

WAVES = 1000  # of an episode, at most
SCORES = {"reward": 1.0, "quality": 7.0}
SPEAKERS = ("system", "user", "assistant")
LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?"
UNASKED = ("", " \n", "no option", "{0} {} {word} %s \\1", "é\u2028漢\x00", "9" * 5000)  # replies nobody asked for


@dataclass(frozen=True)
class Conformance:
    """What was looked at of a game that keeps the rules.

    Attributes:
        game: the name of its class.
        episodes: how many were played for each property.
        turns: how many turns these had.
        nodes: histories of the whole game; None where it was not enumerated.
        forgets: the roles without perfect recall; nothing where the game was not enumerated.
        not_enumerated: why the game was not enumerated; "" where it was.
    """

    game: str
    episodes: int
    turns: int
    nodes: int | None
    forgets: tuple[str, ...]
    not_enumerated: str


def check_game(
    game: Game,
    *,
    episodes: int = 8,
    again: Game | None = None,
    players: Mapping[str, Player] | None = None,
    scores: Mapping[str, float] | None = None,
    nodes: int = 10_000,
) -> Conformance:
    """Check every property that a game must have; return what was looked at.

    Args:
        game: to be played; nothing of it is changed unless it changes itself.
        episodes: how many are played side by side for each property.
        again: a second game made of the same arguments, which must play the same; None plays `game` once more.
        players: by role, for seats in which random text would end every episode at once; a function of the ask's key
            alone. Without one, "chance" draws by its options' weights, and a role takes one of its options, or of the
            moves that its prompt names in brackets, or says a short random text.
        scores: name -> greatest value of the scores that the game's `payoffs` reads, drawn from 0 to that for every
            turn of its `judged` roles; None for "reward" up to 1 and "quality" up to 7.
        nodes: the most histories of a game that is enumerated.

    Raises:
        SelfplayError: at the first property that the game lacks, with the game, what it did, and the remedy.
    """
    at_least(1, episodes=episodes, nodes=nodes)
    for one in (game, *([] if again is None else [again])):
        _check_declared(one)
    _check_seats(game, players or {})
    trial = _Trial(_watched(game), _watched(again or game), players or {}, dict(scores or SCORES), episodes)
    turns = _check_roles_are_asked(trial)
    _check_purity(trial)
    _check_neighbours(trial)
    _check_payoffs(trial)
    _check_any_reply(trial)
    size, forgets, reason = _check_every_history(trial, nodes)
    return Conformance(type(game).__name__, episodes, turns, size, forgets, reason)


# --- Players and referees ---------------------------------------------------------------------------------------------


class Babbler(Player):
    """One of the ask's options, or a short random text: a function of the ask's key."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        moves = ask.options or re.findall(r"\[[\w ]+\]", ask.prompt)  # TextArena names its moves in brackets, in words
        text = rng.choice(moves) if moves else babble(rng)
        return Reply(text, (1, 2), tuple(rng.randrange(9) for _ in range(rng.randint(1, 4))))


class Unasked(Player):
    """Now what another player says, now what nobody asked for: a function of the ask's key."""

    def __init__(self, player: Player) -> None:
        self.player = player

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        said = self.player.act(asks)
        return [self._one(Random(f"{ask.key}/unasked"), reply) for ask, reply in zip(asks, said, strict=True)]

    def _one(self, rng: Random, reply: Reply) -> Reply:
        return Reply(rng.choice(UNASKED)) if rng.random() < 0.5 else reply


class Parrot(Player):
    """Says what was said before under the ask's key."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.said = {turn.ask.key: turn.reply for episode in episodes for turn in episode.turns}

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [self.said.get(ask.key, Reply("")) for ask in asks]


class Dice(Referee):
    """A random number from 0 to `top`, a function of the ask's key."""

    def __init__(self, top: float) -> None:
        self.top = top

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[N] float32."""
        return torch.tensor([self.top * Random(f"{self.top}/{turn.ask.key}").random() for turn in turns])


def babble(rng: Random) -> str:
    """A random text of up to six characters."""
    return "".join(rng.choices(LETTERS, k=rng.randint(0, 6)))


# --- A game under observation -----------------------------------------------------------------------------------------


class _ChanceRefused(SelfplayError):
    """The game says that what chance replied is none of its outcomes, which it may."""


class _Watched(Game):
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
                _check_unchanged(self.name, [ask for ask, _ in turns], shown)
                if not turns:
                    raise SelfplayError(f"{self.name} ended without asking anybody; yield at least one list of asks")
                self._check_returns(given)
                return given  # type: ignore[return-value]
            asks = _checked_wave(self.name, self.roles, given)
            shown += map(_shown, asks)
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
            return _ChanceRefused(str(error))
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


def _watched(game: Game) -> _Watched:
    """The game under observation; its class has the game's name, which is what errors tell."""
    kind: type[_Watched] = type(type(game).__name__, (_Watched,), {})
    return kind(game)


def _checked_wave(name: str, roles: Sequence[str], wave: object) -> list[Ask]:
    """What a game yielded, if it is a list of asks that can be answered."""
    if not isinstance(wave, list | tuple) or not all(isinstance(ask, Ask) for ask in wave):
        what = type(wave).__name__ if not isinstance(wave, list | tuple) else f"{wave}"
        raise SelfplayError(f"{name} yielded {what} where a list of asks belongs; yield [Ask(...)]")
    for ask in wave:
        if ask.role not in roles:
            raise SelfplayError(f"{name} asked the role '{ask.role}', which is not in its roles; list it there")
        _check_ask(f"{name} asked '{ask.role}'", ask)
    return list(wave)


def _check_ask(told: str, ask: Ask) -> None:
    """Raise SelfplayError unless the ask is what it should be; `told` begins the sentence."""
    for field in ("messages", "options", "weights"):
        value = getattr(ask, field)
        if not isinstance(value, tuple):
            raise SelfplayError(f"{told} with {field} that are no tuple but {value!r}; a tuple of one is (x,)")
    for message in ask.messages:
        if not isinstance(message, dict) or message.get("role") not in SPEAKERS or not _is_text(message.get("content")):
            raise SelfplayError(
                f"{told} with the message {message!r}; give {{'role': ..., 'content': <text>}} with one of the roles "
                f"{', '.join(SPEAKERS)}, or use selfplay.user(text)"
            )
    if not all(map(_is_text, ask.options)) or len(set(ask.options)) < len(ask.options):
        raise SelfplayError(f"{told} with the options {ask.options}; give texts, each of them once")
    if not isinstance(ask.group, Hashable):
        raise SelfplayError(
            f"{told} with the group {ask.group!r}, which cannot be hashed; give a number, text or tuple"
        )
    _check_weights(told, ask)


def _check_weights(told: str, ask: Ask) -> None:
    """Raise SelfplayError unless weights are chance's, one an option."""
    if not ask.weights:
        return
    if ask.role != "chance":
        raise SelfplayError(f"{told} with the weights {ask.weights}; leave them out, they are for 'chance' alone")
    try:
        chances(ask)
    except (SelfplayError, TypeError) as error:
        raise SelfplayError(
            f"{told} with {len(ask.options)} options and the weights {ask.weights}; give one number an option, none "
            "below 0 and not all 0"
        ) from error


def _check_unchanged(name: str, asked: Sequence[Ask], shown: Sequence[object]) -> None:
    """Raise SelfplayError where the game has changed an ask that it made earlier."""
    for ask, before in zip(asked, shown, strict=True):
        if _shown(ask) != before:
            raise SelfplayError(
                f"{name} changed the messages of an ask of '{ask.role}' after it had been asked; make new messages for "
                "each ask"
            )


def _shown(ask: Ask) -> object:
    return tuple(tuple(sorted(message.items())) for message in ask.messages)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _cut(reply: Reply) -> str:
    """What was said, or its beginning."""
    return repr(reply.text if len(reply.text) <= 40 else f"{reply.text[:40]}...")


def _global_luck() -> object:
    """The state of the generators that everybody shares."""
    numbers: Any = np.random.get_state()
    return random.getstate(), numbers[1].tobytes(), numbers[2:], torch.get_rng_state().numpy().tobytes()


# --- The properties ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A game, and how it is played."""

    game: _Watched
    again: _Watched
    players: Mapping[str, Player]
    scores: Mapping[str, float]
    episodes: int

    def seats(self) -> dict[str, Player]:
        """The players by role: those that were given, Nature, and babblers."""
        babbler = Babbler()
        return {role: Nature(babble) if role == "chance" else babbler for role in self.game.roles} | dict(self.players)

    def played(self, key: str, indices: Sequence[int] | None = None) -> list[Episode]:
        return play(self.game, self.seats(), range(self.episodes) if indices is None else indices, key=key)

    def settled(self, episodes: list[Episode]) -> list[Episode]:
        score_and_pay(self.game, episodes, {name: Dice(top) for name, top in self.scores.items()}, {})
        return episodes


def _check_declared(game: Game) -> None:
    """Raise SelfplayError unless it is a game with roles, and who is judged has one."""
    if not isinstance(game, Game):
        shown = f"the class {game.__name__}" if isinstance(game, type) else repr(game)
        raise SelfplayError(f"{shown} is no game; give an instance of a subclass of selfplay.Game")
    name, roles = type(game).__name__, getattr(game, "roles", None)
    if not isinstance(roles, tuple) or not roles or not all(map(_is_text, roles)) or len(set(roles)) < len(roles):
        raise SelfplayError(f"{name}.roles is {roles!r}; give a tuple of different names, such as ('first', 'second')")
    strangers = sorted(set(game.judged) - set(roles) | set(game.judged) & {"chance"})
    if strangers:
        raise SelfplayError(
            f"{name}.judged is {game.judged!r}, but '{strangers[0]}' is no role that can be judged (roles: "
            f"{', '.join(roles)}); take it out"
        )


def _check_seats(game: Game, players: Mapping[str, Player]) -> None:
    for role in players:
        if role not in game.roles:
            raise SelfplayError(
                f"players has '{role}', but {type(game).__name__} has the roles {', '.join(game.roles)}; take it out"
            )


def _check_roles_are_asked(trial: _Trial) -> int:
    """Raise SelfplayError unless every role has its say; return how many turns there were."""
    turns = [turn for episode in trial.played("asked") for turn in episode.turns]
    silent = [role for role in trial.game.roles if role not in {turn.ask.role for turn in turns}]
    if silent:
        raise SelfplayError(
            f"{trial.game.name} has the role '{silent[0]}', but asked it in none of {trial.episodes} episodes; take it "
            "out of roles, or give more episodes or better players"
        )
    return len(turns)


def _check_purity(trial: _Trial) -> None:
    """Raise SelfplayError unless an episode is a function of its replies, whoever gave them."""
    first = trial.played("replay")
    parrot = dict.fromkeys(trial.game.roles, Parrot(first))
    for game, players in (trial.game, trial.seats()), (trial.again, parrot):
        for one, other in zip(first, play(game, players, range(trial.episodes), key="replay"), strict=True):
            if difference := _difference(one, other):
                raise SelfplayError(
                    f"{trial.game.name} played on differently after the same replies ({difference}); an episode must "
                    "be a function of its replies, so ask the role 'chance' for luck and keep nothing from one episode "
                    "to the next"
                )


def _check_neighbours(trial: _Trial) -> None:
    """Raise SelfplayError unless episodes that are played side by side leave one another alone."""
    for one in trial.settled(trial.played("alone")):
        [other] = trial.settled(trial.played("alone", [one.index]))
        if difference := _difference(one, other):
            raise SelfplayError(
                f"episode {one.index} of {trial.game.name} goes differently beside others than alone ({difference}); "
                "keep what happens in local variables of play, not in the game"
            )


def _check_payoffs(trial: _Trial) -> None:
    """Raise SelfplayError unless each turn has one finite pay-off, always the same, and chance earns nothing."""
    for episode in trial.settled(trial.played("paid")):
        first, again = [turn.payoff for turn in episode.turns], [float(p) for p in trial.game.payoffs(episode)]
        if first != again:
            raise SelfplayError(
                f"{trial.game.name}.payoffs gave {first} and then {again} for one episode; make it a function of the "
                "episode"
            )
        earned = [turn.payoff for turn in episode.turns if turn.ask.role == "chance" and turn.payoff != 0.0]
        if earned:
            raise SelfplayError(
                f"{trial.game.name}.payoffs paid {earned[0]:g} to 'chance', which earns nothing; pay it 0"
            )


def _check_any_reply(trial: _Trial) -> None:
    """Raise SelfplayError unless the game can do with any reply, also one that is no option.

    It may refuse what chance replies, for somebody who does not know the game may sit there.
    """
    unasked = {role: Unasked(player) for role, player in trial.seats().items() if role != "chance"}
    for index in range(4 * trial.episodes):
        trial.settled(play(trial.game, trial.seats() | unasked, [index], key="unasked"))
        if "chance" in trial.game.roles:
            try:
                play(trial.game, trial.seats() | {"chance": Unasked(trial.seats()["chance"])}, [index], key="chance")
            except _ChanceRefused:
                continue


def _check_every_history(trial: _Trial, nodes: int) -> tuple[int | None, tuple[str, ...], str]:
    """Raise SelfplayError unless the rules hold wherever the game can go, where that can be enumerated.

    Returns:
        how many histories there are and which roles forget, or None, nothing, and why it cannot be enumerated.
    """
    game = _watched(trial.game.game)
    game.luck = False
    try:
        tree = enumerate_game(game, nodes)
    except NotEnumerable as error:
        return None, (), str(error)
    except _ChanceRefused as error:
        raise SelfplayError(
            f"{trial.game.name} refused one of the options that it gave to 'chance' ({error}); mend its options"
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
