"""A conversation of a person with a player."""

from __future__ import annotations

from selfplay.core import Ask, Message, Player, SelfplayError, Turn
from selfplay.players.human import Left
from selfplay.screen import Screen
from selfplay.terminal.transcript import Transcript

ROLE = "assistant"


class Conversation:
    """Messages of a person, and the player's replies to all of them so far.

    Args:
        screen: the terminal.
        player: replies to free text.
        system: the first message; None for none.
        key: random seed.
        transcript: keeps each reply as a turn, each conversation as an episode; None: nothing is kept.
    """

    def __init__(
        self, screen: Screen, player: Player, system: str | None, key: str, transcript: Transcript | None
    ) -> None:
        self.screen, self.player, self.key, self.transcript = screen, player, key, transcript
        self.begin: tuple[Message, ...] = () if system is None else ({"role": "system", "content": system},)
        self.messages: tuple[Message, ...] = self.begin
        self.number = 0

    def hold(self, help_text: str) -> None:
        """Talk until the person leaves.

        Raises:
            Left: the person leaves.
        """
        replies = 0
        while True:
            try:
                entry = self.screen.read("you> ")
            except EOFError:
                raise Left from None
            if entry == "/quit":
                raise Left
            if entry == "/help":
                self.screen.say(help_text)
            elif entry == "/reset":
                self.number += self.messages != self.begin
                self.messages = self.begin
                self.screen.say("a new conversation", "dim")
            elif entry.startswith("/") and not entry.startswith("//"):
                self.screen.say(f"{entry.split()[0]} is no command; see /help, or begin with // to say it", "red")
            elif entry:
                replies += 1
                self._say(entry[1:] if entry.startswith("//") else entry, replies)

    def _say(self, text: str, count: int) -> None:
        messages = (*self.messages, {"role": "user", "content": text})
        ask = Ask(ROLE, messages, key=f"{self.key}/{count}")
        try:
            with self.screen.waiting("..."):
                [reply] = self.player.act([ask])
        except SelfplayError as error:
            self.screen.say(f"{error} (/reset begins a new conversation)", "red")
            return
        self.messages = (*messages, {"role": ROLE, "content": reply.text})
        self.screen.say(reply.text or "(an empty reply)", "cyan")
        if self.transcript is not None:
            self.transcript.add(self.number, [Turn(ask, reply, player="learner")])
