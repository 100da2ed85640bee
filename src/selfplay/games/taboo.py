"""Adversarial Taboo, the game of SPAG (Cheng et al., arXiv 2404.10642)."""

import re
from collections.abc import Sequence
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import chance_outcome
from selfplay.options import Holding, Name, NotEmpty, Range, Share

GUESS = re.compile(r"\bI know the word\b(?:\W+It is\W+(\w+))?", re.IGNORECASE)
ATTACKER = "Make me say the word '{word}' without noticing. Never say it yourself. If I guess it, you lose. Begin."
DEFENDER = "Find out my secret word. Do not say it by accident. When you are sure, say: I know the word! It is ..."


class Taboo(Game):
    """The attacker knows a word and tries to make the defender say it unknowingly; the defender tries to guess it.

    They alternate, and the attacker starts. The defender ends the game with "I know the word! It is ...": it wins with
    the right word and loses with a wrong one. It also loses if it says the word in any other way. If the attacker says
    the word or announces a guess, or if the turns run out, both earn 0. The word is matched as a whole word, ignoring
    case ("Cats" is not "cat").

    The winner's return is 1, the loser's -1. With `decay`, turns are paid as in SPAG: the winner's utterances share a
    total of 1, each with `decay` times the weight of the next, and the loser's earn 0. Unlike in SPAG, ties and rule
    violations stay in the batch with payoff 0, and `update.role_weights` weights the roles.

    Args:
        words: the target words, each a single word; chance samples one.
        turns: maximum number of utterances per player.
        decay: decay of the winner's utterance weights (0.8 in SPAG); None pays every turn its role's return.
        attacker: the attacker's instruction, with the placeholder {word}.
        defender: the defender's instruction, which the attacker's first utterance follows.

    Raises:
        SelfplayError: there are no words, a target is not a single word, the decay is not in (0, 1], or the attacker's
            instruction lacks {word}.
        SelfplayError (when playing): chance replies with a word that is not a target.
    """

    roles = ("chance", "attacker", "defender")
    zero_sum = True

    def __init__(
        self,
        words: Annotated[Sequence[str], NotEmpty()],
        turns: Annotated[int, Range(1, 1000)] = 5,
        decay: Share | None = 0.8,
        attacker: Annotated[str, Holding("word")] = ATTACKER,
        defender: Name = DEFENDER,
    ) -> None:
        at_least(1, turns=turns)
        for word in words:
            if not isinstance(word, str) or not re.fullmatch(r"\w+", word):
                raise SelfplayError(f"game.words contains '{word}', but a target must be a single word; change it")
        if not words:
            raise SelfplayError("game.words is empty; give at least one target word")
        if decay is not None and not 0 < decay <= 1:
            raise SelfplayError(f"game.decay is {decay}, but it must be above 0 and at most 1, or null; change it")
        if "{word}" not in attacker:
            raise SelfplayError(f"game.attacker is '{attacker}', which lacks the placeholder {{word}}; add it")
        self.words, self.turns, self.decay = tuple(words), turns, decay
        self.attacker, self.defender = attacker, defender

    def play(self) -> Play:
        ask = Ask("chance", options=self.words)
        [reply] = yield [ask]
        target = chance_outcome(ask, reply)
        word = re.compile(rf"\b{re.escape(target)}\b", re.IGNORECASE)
        utterances: list[str] = []
        for _ in range(self.turns):
            [clue] = yield [Ask("attacker", _dialogue(self.attacker.replace("{word}", target), utterances))]
            if word.search(clue.text) or GUESS.search(clue.text):
                return _returns(0.0)
            utterances.append(clue.text)
            [answer] = yield [Ask("defender", _dialogue(f"{self.defender}\n{utterances[0]}", utterances[1:]))]
            if guess := GUESS.search(answer.text):
                return _returns(-1.0 if guess[1] and word.fullmatch(guess[1]) else 1.0)
            if word.search(answer.text):
                return _returns(1.0)
            utterances.append(answer.text)
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


def _dialogue(instruction: str, utterances: Sequence[str]) -> tuple[Message, ...]:
    """The instruction, then the utterances: own ones as the assistant, the other player's as the user, alternating."""
    speakers = ("assistant", "user")
    return (*user(instruction), *({"role": speakers[i % 2], "content": text} for i, text in enumerate(utterances)))


def _returns(attacker: float) -> dict[str, float]:
    return {"attacker": attacker, "defender": 0.0 - attacker}
