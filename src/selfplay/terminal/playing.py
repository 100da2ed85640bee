"""Games at the terminal, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from selfplay import interrupts
from selfplay.core import Ask, Episode, Player, Policy, Reply, SelfplayError, Turn
from selfplay.opponents.matchmaker import Seats, rotated
from selfplay.players.human import Human
from selfplay.rollout import play, score_and_pay
from selfplay.screen import Screen
from selfplay.terminal.match import Match, adviser
from selfplay.terminal.results import HUMAN, Totals, show_end, show_turn
from selfplay.terminal.transcript import Transcript

OPPONENT = "opponent"


class _Followed(Player):
    """Reports each turn of a player as soon as it is taken."""

    def __init__(
        self,
        name: str,
        player: Player,
        report: Callable[[Turn], None],
        waiting: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        self.name, self.player, self.report, self.waiting = name, player, report, waiting

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        if isinstance(self.player, Policy):
            with self.waiting(f"{', '.join(dict.fromkeys(ask.role for ask in asks))} ({self.name}) ..."):
                replies = self.player.act(asks)
        else:
            replies = self.player.act(asks)
        for ask, reply in zip(asks, replies, strict=True):
            self.report(Turn(ask, reply, player=self.name))
        return replies


class Playing:
    """Plays episodes of a match one by one, shows and records them.

    Args:
        screen: the terminal.
        match: game, players, referees.
        transcript: where turns are kept.
        watch: whether the turns are shown to a spectator.
        seed: of all random numbers; episode i is a function of it, i and the players.
    """

    def __init__(self, screen: Screen, match: Match, transcript: Transcript, watch: bool, seed: int) -> None:
        self.screen, self.match, self.transcript, self.watch = screen, match, transcript, watch
        self.key, self.begun, self.totals = f"{seed}/play", 0, Totals()
        self.turns: list[Turn] = []  # of the episode that is being played
        self.players: dict[str, Player] = dict(match.players)
        self.seats: Callable[[int], Seats] = lambda index: match.seats

    def seat(self, roles: Sequence[str], rival: Policy | None, source: str, against: str | None) -> None:
        """Assign the roles.

        Args:
            roles: those of the person; with `watch`, those of the match's policies, or none for all of them in turn.
            rival: another policy, for roles that are left.
            source, against: what messages call the match's policies and the rival.

        Raises:
            SelfplayError: no role is left for one of them.
        """
        match, own = self.match, self.match.learner_roles
        taken = {role: HUMAN for role in roles if not self.watch}
        left = [role for role in own if role not in taken]
        if rival is not None:
            self.players[OPPONENT] = rival
            if len(left) < 2 or set(left) <= set(roles):
                raise SelfplayError(
                    f"of the roles of {source} ({', '.join(own)}) {', '.join(left) or 'none'} is left for it and for "
                    f"--against {against}; leave out --against, or add --watch without taking a role"
                )
            if self.watch and not roles:
                self.seats = lambda index: rotated(match.seats, own, index, lambda role: OPPONENT)
                return
            keeps = set(roles) if self.watch else {left[0]}
            taken |= {role: OPPONENT for role in left if role not in keeps}
        elif self.watch and roles:
            raise SelfplayError("--role with --watch says which roles SOURCE leaves to --against; give --against")
        seats = {**match.seats, **taken}
        if HUMAN in taken.values():
            model = next((match.seats[role] for role in taken if role in own), match.learners[0])
            self.players[HUMAN] = Human(adviser(match.players[model]), self.screen)
        self.seats = lambda index: seats

    def play(self, episodes: int | None) -> None:
        """Play a number of episodes; None: until the person has had enough, or one for a spectator.

        Raises:
            Left: the person leaves during an episode.
            SelfplayError: a player cannot reply.
        """
        followed = {
            name: _Followed(name, player, self._took, self.screen.waiting) for name, player in self.players.items()
        }
        last_words = self._keep_unfinished
        with interrupts.at_work(last_words):
            while True:
                [episode] = play(self.match.game, followed, [self.begun], self.key, self.seats)
                self._ended(episode)
                if self.begun == (episodes or (1 if self.watch else None)):
                    return
                if episodes is None and not self._again():
                    return

    def close(self) -> None:
        """Write an unfinished episode, and say where everything is."""
        self._keep_unfinished()
        if self.totals.games > 1:
            self.screen.say(self.totals.line({HUMAN: "you"}), "bold")
        for path in self.transcript.written:
            self.screen.say(f"transcript: {path}", "dim")

    def _took(self, turn: Turn) -> None:
        if self.watch:
            show_turn(self.screen, turn, self.turns[-1] if self.turns else None)
        self.turns.append(turn)

    def _ended(self, episode: Episode) -> None:
        match, paid = self.match, True
        try:
            with self.screen.waiting("scoring ..."):
                score_and_pay(match.game, [episode], match.referees, match.judges)
        except SelfplayError as error:
            self.screen.say(f"nothing is paid, since the game cannot be scored: {error}", "red")
            paid = False
        self.begun += 1
        show_end(self.screen, episode, self.begun, self.watch)
        if paid:
            self.totals.add(episode)
        self.transcript.add(episode.index, episode.turns, paid)
        self.turns = []

    def _keep_unfinished(self) -> None:
        turns, self.turns = self.turns, []
        self.transcript.add(self.begun, turns, finished=False)

    def _again(self) -> bool:
        while True:
            try:
                entry = self.screen.read("again? [y/n] ").casefold()
            except EOFError:
                return False
            if entry in ("", "y", "yes"):
                return True
            if entry in ("n", "no", "/quit", "q"):
                return False
            self.screen.say("type y for another game, or n", "red")
