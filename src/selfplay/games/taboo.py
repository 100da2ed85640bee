"""Adversarial Taboo, the game of SPAG (Cheng et al., arXiv 2404.10642)."""

import re
from collections.abc import Sequence
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import drawn
from selfplay.options import Holding, Name, NotEmpty, Range, Share

GUESS = re.compile(r"\bI know the word\b(?:\W+It is\W+(\w+))?", re.IGNORECASE)


class Taboo(Game):
    """The attacker knows a word and must make the defender say it unknowingly; the defender must find it out.

    They speak in turn, the attacker first. The defender ends the game by "I know the word! It is ...": it wins if the
    word is right and loses if not; it loses as well when it says the word otherwise. When the attacker says the word
    or announces a guess, or when nobody has won after all turns, nobody earns anything. A word counts as a whole,
    upper or lower case ("Cats" is not "cat").

    The winner's return is 1, the loser's -1. With `decay`, turns are paid as SPAG does: the winner's utterances share
    1, each weighing `decay` times the one after it, and the loser's earn 0. Unlike SPAG, ties and broken rules stay in
    the batch (paid 0 there), and the roles are weighted by `update.role_weights`.

    Args:
        words: the target words, each one word; chance draws one.
        turns: utterances a player.
        decay: of the weights of a winner's utterances (SPAG: 0.8); None pays every turn its role's return.
        attacker: the attacker's instruction, with the placeholder {word}.
        defender: the defender's instruction; the attacker's first utterance follows it.

    Raises:
        SelfplayError: no words, a target that is not one word, a decay that is not above 0 and at most 1, or an
            attacker who is not told the word.
        SelfplayError (when playing): chance draws what is no target.
    """

    roles = ("chance", "attacker", "defender")
    zero_sum = True

    def __init__(
        self,
        words: Annotated[Sequence[str], NotEmpty()],
        turns: Annotated[int, Range(1, 1000)],
        decay: Share | None,
        attacker: Annotated[str, Holding("word")],
        defender: Name,
    ) -> None:
        at_least(1, turns=turns)
        for word in words:
            if not isinstance(word, str) or not re.fullmatch(r"\w+", word):
                raise SelfplayError(f"game.words has '{word}', but a target must be a single word; change it")
        if not words:
            raise SelfplayError("game.words is empty; give at least one target word")
        if decay is not None and not 0 < decay <= 1:
            raise SelfplayError(f"game.decay is {decay}, but it must be above 0 and at most 1, or null; change it")
        if "{word}" not in attacker:
            raise SelfplayError(f"game.attacker is '{attacker}', without the placeholder {{word}}; add it")
        self.words, self.turns, self.decay = tuple(words), turns, decay
        self.attacker, self.defender = attacker, defender

    def play(self) -> Play:
        luck = Ask("chance", options=self.words)
        [reply] = yield [luck]
        target = drawn(luck, reply)
        word = re.compile(rf"\b{re.escape(target)}\b", re.IGNORECASE)
        said: list[str] = []
        for _ in range(self.turns):
            [clue] = yield [Ask("attacker", _dialogue(self.attacker.replace("{word}", target), said))]
            if word.search(clue.text) or GUESS.search(clue.text):
                return _returns(0.0)
            said.append(clue.text)
            [answer] = yield [Ask("defender", _dialogue(f"{self.defender}\n{said[0]}", said[1:]))]
            if guess := GUESS.search(answer.text):
                return _returns(-1.0 if guess[1] and word.fullmatch(guess[1]) else 1.0)
            if word.search(answer.text):
                return _returns(1.0)
            said.append(answer.text)
        return _returns(0.0)

    def payoffs(self, episode: Episode) -> list[float]:
        returns = episode.returns
        if self.decay is None or returns is None:
            return super().payoffs(episode)
        roles = [turn.ask.role for turn in episode.turns]
        weights = [
            self.decay ** roles[i + 1 :].count(role) if returns.get(role, 0.0) > 0 else 0.0
            for i, role in enumerate(roles)
        ]
        total = sum(weights) or 1.0
        return [weight / total for weight in weights]


def _dialogue(instruction: str, said: Sequence[str]) -> tuple[Message, ...]:
    """The instruction, then what was said: one's own as the assistant, the other's as the user, in turn."""
    speakers = ("assistant", "user")
    return (*user(instruction), *({"role": speakers[i % 2], "content": text} for i, text in enumerate(said)))


def _returns(attacker: float) -> dict[str, float]:
    return {"attacker": attacker, "defender": 0.0 - attacker}
