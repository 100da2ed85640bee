"""The whole of `selfplay` in one file: what a game, a player, a referee and an update are, and what flows between them.

    A game is a generator of asks; players answer in batches; referees score; the game pays; an update learns.

Everything that a user can swap is one of the four interfaces below, chosen on the command line by a Hydra group.
Nothing here assumes one process, one machine, or one engine that generates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from selfplay.errors import SelfplayError as SelfplayError

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
Play = Generator[list["Ask"], list["Reply"], dict[str, float] | None]


def at_least(least: int, **options: object) -> None:
    """Raise SelfplayError unless every option is a whole number of at least `least`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise SelfplayError(f"{name} is {value}, but it must be a whole number, at least {least}; change it")


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


# --- The records ------------------------------------------------------------------------------------------------------


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


# --- The four interfaces ----------------------------------------------------------------------------------------------


class Game(ABC):
    """The rules: who is asked what, and who is paid what.

    Attributes:
        roles: every role that `play` may ask.
        judged: the roles whose turns referees score, unless a referee names its own.
        zero_sum: a claim, checked by the conformance tests: every episode's returns add up to 0.
    """

    roles: tuple[str, ...]
    judged: tuple[str, ...] = ()
    zero_sum: bool = False

    @abstractmethod
    def play(self) -> Play:
        """One episode, written as if it were alone: yield lists of asks, be sent lists of replies, return the returns.

        An episode must be a pure function of its replies. All asks of one list are answered at once.
        """

    def payoffs(self, episode: Episode) -> list[float]:
        """What each turn earned, in the order of the turns: its role's return, else its "reward" score.

        Raises:
            SelfplayError: neither is there for a turn of a role other than "chance".
        """
        return [self._payoff(turn, episode.returns) for turn in episode.turns]

    def _payoff(self, turn: Turn, returns: Mapping[str, float] | None) -> float:
        role = turn.ask.role
        if returns is not None and role in returns:
            return returns[role]
        if role == "chance":
            return 0.0
        return score(turn, "reward")


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


class Player(ABC):
    """Somebody who answers: a language model, a table, a script, Nature."""

    @abstractmethod
    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply an ask, in one batched call. The luck in a reply comes from its ask's key alone."""

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        """How likely `act` is to reply each of an ask's options, in their order: exact, for enumeration.

        Raises:
            SelfplayError: this player cannot say, or an ask has no options.
        """
        raise SelfplayError(
            f"{type(self).__name__} cannot say how likely each option is, so nothing exact can be computed of it; "
            "play episodes instead"
        )

    def reply_with(self, asks: Sequence[Ask], places: Sequence[int]) -> list[Reply]:
        """What `act` would give if it replied each ask's option at the given place."""
        return [Reply(ask.options[place]) for ask, place in zip(asks, places, strict=True)]


class Policy(Player):
    """A player that can be trained.

    Attributes:
        samples_exactly: whether the log-probs of `act` are those of `logprobs` up to rounding. Where they are not,
            updates correct for the difference.
    """

    samples_exactly: bool = True

    @abstractmethod
    def logprobs(self, batch: Batch) -> Tensor:
        """[B, T] log-probabilities of the batch's reply tokens, with gradient, 0 off the mask."""

    def encode_reply(self, ask: Ask, text: str) -> Reply:
        """What somebody else replied to the ask, in this policy's own tokens and without a sampler's log-probs.

        Raises:
            SelfplayError: the text is none of the ask's options, or the policy cannot say it.
        """
        return replace(self.reply_with([ask], [option_index(ask, text)])[0], logprobs=())

    def rounding(self, batch: Batch) -> Tensor:
        """[B, T] how far two computations of the batch's log-probabilities may be apart by rounding alone.

        It is asked for only where `act` and `logprobs` differ by more than a thousandth of a nat. 0: by less than that.
        """
        return torch.zeros(batch.replies.shape)

    def ways(self, again: bool = False) -> Mapping[str, str]:
        """How the policy computes where there are several ways: what -> by what; for the records of a run.

        Args:
            again: find out anew which are right, with the weights as they are now.
        """
        return {}

    @abstractmethod
    def parameters(self) -> Iterable[Parameter]:
        """What an optimizer may change."""

    @abstractmethod
    def snapshot(self) -> Policy:
        """A frozen copy of the policy as it is now; as cheap as can be (an adapter where there is one)."""

    @abstractmethod
    def restore(self, snapshot: Policy) -> None:
        """Take the weights of a snapshot of this policy, in place."""

    @abstractmethod
    def with_temperature(self, temperature: float) -> Player:
        """The same policy, live, sampled at another temperature (0 is greedy)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights so that `load` can read them, in the format of the field where there is one."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place.

        Raises:
            SelfplayError: the folder lacks a file or holds a broken one.
        """


class Referee(ABC):
    """Somebody who measures turns. Referees measure, games pay.

    Attributes:
        roles: whose turns it scores; empty means the game's `judged` roles.
        metrics: what the last call has to report beside its scores, by name.
    """

    roles: tuple[str, ...] = ()
    metrics: Mapping[str, float] = {}

    @abstractmethod
    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[N] finite float32, one a turn, in one batched call.

        `players` holds "learner" and "reference", the learner as it was before the first step. A referee that cannot
        score raises; it never returns 0 for what it could not judge.
        """


class Update(ABC):
    """A learning rule. It does not know which game it is learning.

    Attributes:
        optimizer: what changes the policy's parameters.
        last_advantages: [B] of the last step's batch, for the transcripts; None where there is no such thing.
        frozen: policies that the rule remembers between steps, by name; a checkpoint holds them beside the learner.
        teachers: names of players, beside the learner, whose turns the rule is given, too; a batch marks them
            `off_policy`.
    """

    optimizer: Optimizer
    last_advantages: Tensor | None = None
    frozen: Mapping[str, Policy] = {}
    teachers: tuple[str, ...] = ()

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, float]:
        """Learn from the batch; return what is worth logging, finite."""

    def state_dict(self) -> dict[str, object]:
        """All that the rule remembers between steps, as tensors and plain values."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Remember what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
