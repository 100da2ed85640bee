"""How much a reply differs from earlier texts: ROUGE-L, the longest common subsequence of words.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004). LANCE (2412.15151) drops a text whose precision,
recall or F-measure to the original or to a sibling exceeds 0.7.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.options import Name, OneOf
from selfplay.parallel import current
from selfplay.tasks.overlap import rouge_l


class Novelty(Referee):
    """1 - the largest ROUGE-L of a reply with another text: 1 if it shares no word with any, 0 if it repeats one.

    The other texts are the messages of its ask and earlier replies of the scored roles, of the episode or of the step.
    Nothing is kept from step to step, so a resumed run equals an uninterrupted one.

    Args:
        roles: the roles whose turns are scored; empty for those that the game judges.
        among: the replies to compare with: those of the same "episode", or of all episodes of the "step".
        earlier: whether to compare only with replies before it, so that the first of several equal ones is novel; if
            false, with all others.
        prompt: whether to compare with the messages that the role was sent.
        measure: "f" for the F-measure, or "any" for the larger of precision and recall, as in LANCE.

    Raises (when scoring):
        SelfplayError: the turns are not of sampled episodes, or `among` is "step" in a run of several processes, each
            of which scores a part of the step.
    """

    def __init__(
        self,
        roles: Sequence[Name] = (),
        among: Annotated[str, OneOf("episode", "step")] = "episode",
        earlier: bool = True,
        prompt: bool = True,
        measure: Annotated[str, OneOf("f", "any")] = "f",
    ) -> None:
        for name, value, known in (("among", among, ("episode", "step")), ("measure", measure, ("f", "any"))):
            if value not in known:
                raise SelfplayError(f"novelty's {name} is '{value}'; choose one of {', '.join(known)}")
        self.roles, self.among, self.earlier, self.prompt, self.measure = tuple(roles), among, earlier, prompt, measure

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        if self.among == "step" and current().size > 1:
            raise SelfplayError(
                f"novelty with among=step compares all replies of a step, but each of {current().size} processes "
                "scores a part of them; use among=episode, or one process"
            )
        alike = lru_cache(maxsize=None)(self._alike)  # texts repeat
        return torch.tensor([1 - max((alike(*pair) for pair in pairs), default=0.0) for pairs in self._compared(turns)])

    def _alike(self, text: str, other: str) -> float:
        overlap = rouge_l(text, other)
        return overlap.f if self.measure == "f" else overlap.most

    def _compared(self, turns: Sequence[Turn]) -> Iterator[list[tuple[str, str]]]:
        """For each turn, its reply with each of the texts to compare it with."""
        together: dict[str, list[str]] = {}
        places = []
        for turn in turns:
            replies = together.setdefault(self._episode(turn), [])
            places.append((replies, len(replies)))
            replies.append(turn.reply.text)
        for turn, (replies, place) in zip(turns, places, strict=True):
            others = replies[:place] if self.earlier else replies[:place] + replies[place + 1 :]
            shown = [message["content"] for message in turn.ask.messages] if self.prompt else []
            yield [(turn.reply.text, other) for other in dict.fromkeys(others + shown)]

    def _episode(self, turn: Turn) -> str:
        episode, _, number = turn.ask.key.rpartition("/")
        if not number:
            raise SelfplayError(
                "novelty needs sampled episodes, but a turn has no key (every outcome of a game is no step of play); "
                "use rollout=sampled, or another referee"
            )
        return episode if self.among == "episode" else ""
