"""What flows through the loop: an ask and its reply are a turn, turns make an episode, a step's turns are a batch.

What an update gives back of a batch is `Learnt`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfplay.errors import SelfplayError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True)
class Ask:
    """A game's request that one role speak now.

    Attributes:
        role: who is asked. "chance" is a role too: luck is asked for, never drawn inside a game.
        messages: all that this role sees, as chat messages.
        options: the legal replies; empty means free text.
        weights: how likely each option is, where chance is asked; empty means alike.
        group: turns of one role and group are compared with one another; None compares across the batch.
        key: the only source of luck for the reply, filled in by `play`: the same key, the same dice.
    """

    role: str
    messages: tuple[Message, ...] = ()
    options: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    group: Hashable = None
    key: str = ""

    @property
    def prompt(self) -> str:
        """What was said to this role last."""
        return self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True)
class Reply:
    """What was said, with the very tokens that it was made of: nothing is decoded and encoded again.

    Attributes:
        text: the reply as the game reads it.
        prompt_ids: the prompt's token ids.
        reply_ids: the sampled token ids, the end token included when it was sampled; or, when `choices` is not empty,
            one number: which of the choices was taken.
        logprobs: natural-log probability of each of `reply_ids` under the distribution it was sampled from.
        choices: token ids of all that could be chosen, where the reply was one choice and not word after word.
    """

    text: str
    prompt_ids: tuple[int, ...] = ()
    reply_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()


@dataclass
class Turn:
    """An ask and its reply; the referees write `scores`, the game's `payoffs` are written to `payoff`.

    `player` is the name of who replied.
    """

    ask: Ask
    reply: Reply
    scores: dict[str, float] = field(default_factory=dict)
    payoff: float = math.nan
    player: str = ""


@dataclass
class Episode:
    """One play of a game, from the first ask to the end.

    Attributes:
        index: which of the step's episodes it is, from 0.
        turns: every turn in the order of asking.
        returns: role -> return, where the game itself knows who won; None where only referees can say.
        weight: how many episodes it stands for; 1 where it was drawn.
        sampled: whether it was drawn, or is one of all outcomes.
        seats: role -> name of the player in it, also of roles that were not asked.
    """

    index: int
    turns: list[Turn]
    returns: dict[str, float] | None = None
    weight: float = 1.0
    sampled: bool = True
    seats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """B turns as tensors; T tokens in the longest reply; column t is about `replies[:, t]`.

    Attributes:
        prompts: B ragged int64 vectors.
        replies: [B, T] int64, 0 off the mask.
        mask: [B, T] bool, true on the tokens that were sampled.
        logprobs: [B, T] float32, the sampler's, 0 off the mask.
        payoffs: [B] float32.
        groups: [B] int64; turns with the same number are compared.
        weights: [B] float32, how often each turn counts; 1 where episodes were drawn.
        roles: B names.
        choices: B tuples, `Reply.choices` of each turn; empty where the reply was written word after word.
        sampled: whether the turns were drawn, or are of all outcomes.
        off_policy: B flags, true where somebody else than the learner said it: nothing is known of its sampling, so its
            `logprobs` are 0. Empty: the learner said all of it.
    """

    prompts: tuple[Tensor, ...]
    replies: Tensor
    mask: Tensor
    logprobs: Tensor
    payoffs: Tensor
    groups: Tensor
    weights: Tensor
    roles: tuple[str, ...]
    choices: tuple[tuple[tuple[int, ...], ...], ...]
    sampled: bool = True
    off_policy: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def on_policy(self) -> Tensor:
        """[B] bool: the learner's own turns."""
        return ~torch.tensor(self.off_policy or (False,) * len(self), dtype=torch.bool)

    def rows(self, index: Tensor) -> Batch:
        """The turns at `index` (int64), with columns cut to their longest reply."""
        width = int(self.mask[index].sum(1).max()) if len(index) else 0
        return Batch(
            tuple(self.prompts[i] for i in index.tolist()),
            self.replies[index, :width],
            self.mask[index, :width],
            self.logprobs[index, :width],
            self.payoffs[index],
            self.groups[index],
            self.weights[index],
            tuple(self.roles[i] for i in index.tolist()),
            tuple(self.choices[i] for i in index.tolist()),
            self.sampled,
            tuple(self.off_policy[i] for i in index.tolist()) if self.off_policy else (),
        )


@dataclass(frozen=True)
class Learnt:
    """What an update's step gives back.

    Attributes:
        metrics: what is worth logging, finite.
        advantages: [B] what each turn of the batch was pulled with, for the transcripts; None where there is no such
            thing.
    """

    metrics: dict[str, float]
    advantages: Tensor | None = None

    @classmethod
    def of(cls, found: object) -> Learnt:
        """What a step returned; metrics alone, as a plain mapping, are enough.

        Raises:
            SelfplayError: it is neither.
        """
        if isinstance(found, Mapping):
            return cls(dict(found))
        if not isinstance(found, cls):
            raise SelfplayError(
                f"an update's step returned a {type(found).__name__}; let it return Learnt(metrics, advantages), or "
                "the metrics alone"
            )
        return found


def user(text: str) -> tuple[Message, ...]:
    """The messages of somebody who is told one thing."""
    return ({"role": "user", "content": text},)


def option_index(ask: Ask, text: str) -> int:
    """Which of the ask's options the text is.

    Raises:
        SelfplayError: it is none.
    """
    if text not in ask.options:
        raise SelfplayError(
            f"'{text}' is no reply to '{ask.prompt}', where the options are {', '.join(ask.options) or 'none'}; "
            "let whoever says it take one of them"
        )
    return ask.options.index(text)


def score(turn: Turn, name: str) -> float:
    """The score `name` of a turn.

    Raises:
        SelfplayError: no referee wrote it.
    """
    if name not in turn.scores:
        written = ", ".join(turn.scores) or "none"
        raise SelfplayError(
            f"the game needs the score '{name}' of a {turn.ask.role} turn, but no referee wrote it "
            f"(written: {written}); choose one, for example {name}=verifier"
        )
    return turn.scores[name]
