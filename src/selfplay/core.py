"""The interfaces of `selfplay`: what a game, a player, a referee and an update are.

    A game is a generator of asks; players answer in batches; referees score; the game pays; an update learns.

Everything that a user can swap is one of the four interfaces below, chosen on the command line by a Hydra group. What
flows between them is in `selfplay.records`.
Nothing here assumes one process, one machine, or one engine that generates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from selfplay.errors import SelfplayError, at_least
from selfplay.records import Ask, Batch, Episode, Learnt, Message, Reply, Turn, option_index, score, user

__all__ = (
    "Ask", "Batch", "Episode", "Game", "Learnt", "Message", "Play", "Player", "Policy", "Referee", "Reply",
    "SelfplayError", "Turn", "Update", "at_least", "option_index", "score", "user",
)  # fmt: skip
Play = Generator[list[Ask], list[Reply], dict[str, float] | None]


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
        returns = {"chance": 0.0} | dict(episode.returns or {})
        return [returns[turn.ask.role] if turn.ask.role in returns else score(turn, "reward") for turn in episode.turns]


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
        frozen: policies that the rule remembers between steps, by name; a checkpoint holds them beside the learner.
        teachers: names of players, beside the learner, whose turns the rule is given, too; a batch marks them
            `off_policy`.
    """

    optimizer: Optimizer
    frozen: Mapping[str, Policy] = {}
    teachers: tuple[str, ...] = ()

    @abstractmethod
    def step(self, batch: Batch) -> Learnt:
        """Learn from the batch; return what is worth logging, and each turn's advantage where there are any."""

    def state_dict(self) -> dict[str, object]:
        """All that the rule remembers between steps, as tensors and plain values."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Remember what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
