"""The data of the training loop: an ask and its reply form a turn, turns an episode, a step's turns a batch.

An update returns `Learnt` for a batch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from selfplay.errors import SelfplayError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
ENDS, ELSEWHERE = -1, -2  # in `Batch.follows`


@dataclass(frozen=True)
class Ask:
    """A game's request for a reply from one role.

    Attributes:
        role: the role to reply. Chance events are asks to the role "chance": games contain no randomness of their own.
        messages: everything that this role observes, as chat messages.
        options: the legal replies; empty means free text.
        weights: the probability of each option in an ask of chance, up to a factor; empty means uniform.
        learnt_prompt: the messages behind which an update learns the reply, if not `messages` (context distillation).
        group: turns of the same role and group in an episode are compared; None compares across the batch.
        key: seeds all randomness of the reply; set by `play`. Equal keys give equal random numbers.
    """

    role: str
    messages: tuple[Message, ...] = ()
    options: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    group: Hashable = None
    key: str = ""
    learnt_prompt: tuple[Message, ...] = ()

    @property
    def prompt(self) -> str:
        """The content of the last message."""
        return self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True)
class Reply:
    """A reply, with the token ids that were sampled; text is never re-tokenized.

    Attributes:
        text: the reply as the game reads it.
        prompt_ids: the prompt's token ids.
        reply_ids: the sampled token ids, including the end token if it was sampled; or, if `choices` is not empty, a
            single number: the index of the choice.
        logprobs: log-probability of each of `reply_ids` under the distribution it was sampled from, in nats.
        choices: token ids of every option, if the reply was chosen among options instead of generated token by token.
    """

    text: str
    prompt_ids: tuple[int, ...] = ()
    reply_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()


@dataclass
class Turn:
    """An ask and its reply.

    Attributes:
        ask, reply: the request and the answer to it.
        scores: score name -> value, written by the referees.
        payoff: what the game pays for the turn; NaN until then.
        player: the name of the player that replied.
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
        index: its index among the step's episodes, from 0.
        turns: all turns, in the order of the asks.
        returns: role -> return, if the game itself determines the winner; None if referees do.
        weight: how many episodes it counts as; 1 if sampled.
        sampled: True if sampled, False if enumerated.
        seats: role -> name of its player, including roles that were not asked.
    """

    index: int
    turns: list[Turn]
    returns: dict[str, float] | None = None
    weight: float = 1.0
    sampled: bool = True
    seats: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """B turns as tensors; T is the length of the longest reply, in tokens.

    Attributes:
        prompts: B int64 vectors of token ids, of different lengths.
        replies: [B, T] int64 token ids, 0 outside the mask.
        mask: [B, T] bool, True on reply tokens.
        logprobs: [B, T] float32, the sampler's log-probs in nats, 0 outside the mask.
        payoffs: [B] float32.
        groups: [B] int64; turns with the same number are compared.
        weights: [B] float32, how many times each turn counts; 1 for sampled episodes.
        roles: B names.
        choices: B tuples, the `Reply.choices` of each turn; empty for replies generated token by token.
        sampled: True if the episodes were sampled, False if enumerated.
        off_policy: B flags, True for turns of other players, whose sampler log-probs are unknown and set to 0. Empty
            means that all turns are the learner's. A turn that is learnt behind another prompt is marked, too.
        follows: [B] int64, the row of the role's next turn in the episode; ENDS if there is none, ELSEWHERE if it is
            not in the batch. Turns that are compared within an episode are alternatives, so none follows them. None if
            unknown.
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
    follows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def on_policy(self) -> Tensor:
        """[B] bool: the learner's own turns."""
        return ~torch.tensor(self.off_policy or (False,) * len(self), dtype=torch.bool)

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """The turns of several batches, in order; turns of different batches are in different groups."""
        width, counts = max(part.mask.shape[1] for part in parts), [int(part.groups.max()) + 1 for part in parts]
        firsts = [sum(counts[:i]) for i in range(len(parts))]

        def columns(name: str) -> Tensor:
            return torch.cat([pad(getattr(part, name), (0, width - part.mask.shape[1])) for part in parts])

        flags = [part.off_policy or (False,) * len(part) for part in parts]
        return cls(
            tuple(prompt for part in parts for prompt in part.prompts),
            columns("replies"),
            columns("mask"),
            columns("logprobs"),
            torch.cat([part.payoffs for part in parts]),
            torch.cat([part.groups + first for part, first in zip(parts, firsts, strict=True)]),
            torch.cat([part.weights for part in parts]),
            tuple(role for part in parts for role in part.roles),
            tuple(choices for part in parts for choices in part.choices),
            all(part.sampled for part in parts),
            tuple(flag for some in flags for flag in some) if any(map(any, flags)) else (),
            _one_after_another([part.follows for part in parts]),
        )

    def rows(self, index: Tensor) -> Batch:
        """The turns at `index` (int64), with columns truncated to their longest reply."""
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
            None if self.follows is None else _selected(self.follows, index),
        )


def _one_after_another(parts: Sequence[Tensor | None]) -> Tensor | None:
    """`Batch.follows` of joined batches; unknown if it is unknown of one of them."""
    moved, first = [], 0
    for follows in parts:
        if follows is None:
            return None
        moved.append(torch.where(follows < 0, follows, follows + first))
        first += len(follows)
    return torch.cat(moved)


def _selected(follows: Tensor, index: Tensor) -> Tensor:
    """`Batch.follows` of the rows at `index`."""
    places = torch.full_like(follows, ELSEWHERE)
    places[index] = torch.arange(len(index))
    next_rows = follows[index]
    return torch.where(next_rows < 0, next_rows, places[next_rows.clamp(min=0)])


@dataclass(frozen=True)
class Learnt:
    """The result of an update's step.

    Attributes:
        metrics: finite values for the log.
        advantages: [B] the advantage of each turn of the batch, for the transcripts; None if the rule has none.
    """

    metrics: dict[str, float]
    advantages: Tensor | None = None

    def by_turn(self, turns: Sequence[tuple[Episode, Turn]]) -> dict[int, float]:
        """id(turn) -> its advantage, for the turns of the batch; empty if the rule has none."""
        if self.advantages is None:
            return {}
        return {id(turn): a for (_, turn), a in zip(turns, self.advantages.tolist(), strict=True)}

    @classmethod
    def of(cls, found: object) -> Learnt:
        """Convert the return value of a step, which may also be a plain mapping of metrics.

        Raises:
            SelfplayError: it is neither.
        """
        if isinstance(found, Mapping):
            return cls(dict(found))
        if not isinstance(found, cls):
            raise SelfplayError(
                f"an update's step returned a {type(found).__name__}; return Learnt(metrics, advantages), or "
                "a mapping of metrics"
            )
        return found


def following(turns: Sequence[tuple[Episode, Turn]]) -> Tensor:
    """`Batch.follows` of the turns."""
    follows, latest = [ENDS] * len(turns), dict[tuple[int, str], int]()
    for row, (episode, turn) in enumerate(turns):
        if turn.ask.group is None:
            mine = id(episode), turn.ask.role
            if mine in latest:
                follows[latest[mine]] = row
            latest[mine] = row
    return torch.tensor(follows)


def user(text: str) -> tuple[Message, ...]:
    """A single user message."""
    return ({"role": "user", "content": text},)


def option_index(ask: Ask, text: str) -> int:
    """The index of the text among the ask's options.

    Raises:
        SelfplayError: it is not one of them.
    """
    if text not in ask.options:
        raise SelfplayError(
            f"'{text}' is not a legal reply to '{ask.prompt}' (options: {', '.join(ask.options) or 'none'}); "
            "the player must return one of the options"
        )
    return ask.options.index(text)


def score(turn: Turn, name: str) -> float:
    """The score `name` of a turn.

    Raises:
        SelfplayError: no referee has set it.
    """
    if name not in turn.scores:
        written = ", ".join(turn.scores) or "none"
        raise SelfplayError(
            f"the game needs the score '{name}' of a {turn.ask.role} turn, but no referee set it "
            f"(scores: {written}); choose a referee, for example {name}=verifier"
        )
    return turn.scores[name]
