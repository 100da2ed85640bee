"""The interfaces of `selfplay`: Game, Player, Referee and Update.

    A game is a generator of asks; players answer in batches; referees score; the game pays; an update learns.

Every component that a user can swap implements one of these four interfaces and is selected by a Hydra group. The data
that they exchange is defined in `selfplay.records`.
Nothing here assumes a single process, machine or generation engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from selfplay.errors import SelfplayError, at_least
from selfplay.records import Ask, Batch, Episode, Learnt, Message, Reply, Turn, option_index, score, user

__all__ = (
    "Adaptive", "Ask", "Batch", "Episode", "Game", "Learnt", "Message", "Play", "Player", "Policy", "Referee",
    "Reply", "SelfplayError", "Turn", "Update", "at_least", "option_index", "score", "user",
)  # fmt: skip
Play = Generator[list[Ask], list[Reply], dict[str, float] | None]


class Game(ABC):
    """The rules: which role is asked what, and what each turn is paid.

    Attributes:
        roles: every role that `play` may ask.
        judged: roles whose turns referees score, unless a referee sets its own `roles`.
        zero_sum: whether the returns of every episode sum to 0 (checked by the conformance tests).
        bounds: the lowest and the highest return of a role when all replies are legal; None if unknown.
    """

    roles: tuple[str, ...]
    judged: tuple[str, ...] = ()
    zero_sum: bool = False
    bounds: tuple[float, float] | None = None

    @abstractmethod
    def play(self) -> Play:
        """Play one episode: yield lists of asks, receive lists of replies, return the returns by role or None.

        An episode must be a pure function of its replies. All asks in one list are answered simultaneously.
        """

    def payoffs(self, episode: Episode) -> list[float]:
        """The payoff of each turn, in order: the return of its role, else its "reward" score.

        Raises:
            SelfplayError: a turn of a role other than "chance" has neither.
        """
        returns = {"chance": 0.0} | dict(episode.returns or {})
        return [returns[turn.ask.role] if turn.ask.role in returns else score(turn, "reward") for turn in episode.turns]


class Player(ABC):
    """Anything that replies to asks: a language model, a table, a script, Nature.

    Attributes:
        stateful: whether acting changes the player; every process of a run then plays all episodes.
        concurrent: whether several threads may call `act` at a time, see `selfplay.threads`.
    """

    stateful: bool = False
    concurrent: bool = False

    @abstractmethod
    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """Return one reply per ask, in one batched call. A reply's randomness is seeded by its ask's key alone."""

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        """The exact probability that `act` assigns to each option of each ask, in order; used for enumeration.

        Raises:
            SelfplayError: the player has no such probabilities, or an ask has no options.
        """
        raise SelfplayError(f"{type(self).__name__} gives no probabilities of options; sample episodes instead")

    def reply_with(self, asks: Sequence[Ask], places: Sequence[int]) -> list[Reply]:
        """The reply that `act` would return if it chose the option at the given index of each ask."""
        return [Reply(ask.options[place]) for ask, place in zip(asks, places, strict=True)]


class Adaptive(Player):
    """A player that changes between steps but is not trained by an update, such as Nature with a strategy.

    It is saved in checkpoints. Within a step it must act like any player, as a function of the ask and its key.
    """

    def before(self, step: int, players: Mapping[str, Player]) -> None:
        """Prepare a step, which is counted from 1. Every process of a run calls it.

        Args:
            players: all players by name, including "learner" and "reference".
        """

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn from a step's scored episodes; return metrics."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, object]:
        """All state that the player keeps between steps, as tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


class Policy(Player):
    """A player that can be trained.

    Attributes:
        samples_exactly: whether the log-probs of `act` equal those of `logprobs` up to rounding. If not, updates
            correct for the difference.
    """

    samples_exactly: bool = True

    @abstractmethod
    def logprobs(self, batch: Batch) -> Tensor:
        """[B, T] log-probabilities of the batch's reply tokens, with gradient; 0 outside the mask."""

    def encode_reply(self, ask: Ask, text: str) -> Reply:
        """Another player's reply to the ask, encoded with this policy's tokens; it has no sampler log-probs.

        Raises:
            SelfplayError: the text is not one of the ask's options, or the policy cannot produce it.
        """
        return replace(self.reply_with([ask], [option_index(ask, text)])[0], logprobs=())

    def moved_reply(self, ask: Ask, reply: Reply) -> Reply | None:
        """This policy's own reply, encoded behind `ask.learnt_prompt` instead of `ask.messages`; no sampler log-probs.

        None if it cannot be learnt, such as a reply that was cut off.
        """
        return self.encode_reply(replace(ask, messages=ask.learnt_prompt), reply.text)

    def truncated(self, batch: Batch) -> Tensor:
        """[B] bool: the batch's replies that were cut off at the maximum length, before their end."""
        return torch.zeros(len(batch), dtype=torch.bool)

    def rounding(self, batch: Batch) -> Tensor:
        """[B, T] bound on the difference that rounding alone can make between two computations of the log-probs.

        Called only when `act` and `logprobs` differ by more than 1e-3 nats. 0 means at most 1e-3.
        """
        return torch.zeros(batch.replies.shape)

    def ways(self, again: bool = False) -> Mapping[str, str]:
        """The computation paths in use where there are several, operation -> path; recorded with the run.

        Args:
            again: repeat the check of which paths are correct, with the current weights.
        """
        return {}

    @abstractmethod
    def parameters(self) -> Iterable[Parameter]:
        """The parameters for the optimizer."""

    @abstractmethod
    def snapshot(self) -> Policy:
        """A frozen copy of the current policy; as cheap as possible (only the adapter, if there is one)."""

    @abstractmethod
    def restore(self, snapshot: Policy) -> None:
        """Restore the weights of a snapshot of this policy, in place."""

    @abstractmethod
    def with_temperature(self, temperature: float) -> Player:
        """The same policy, sharing its weights, sampled at another temperature (0 is greedy)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights for `load`, in a standard format if there is one (safetensors, PEFT)."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Load weights that `save` wrote, in place.

        Raises:
            SelfplayError: a file is missing or corrupt.
        """


class Referee(ABC):
    """Scores turns. Referees only measure; the game decides what is paid.

    Attributes:
        roles: the roles whose turns it scores; empty means the game's `judged` roles.
        metrics: further metrics of the last call, by name.
    """

    roles: tuple[str, ...] = ()
    metrics: Mapping[str, float] = {}

    @abstractmethod
    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[N] finite float32 scores, one per turn, in one batched call.

        `players` holds "learner" and "reference" (the learner before the first step). A referee that cannot score a
        turn raises; it never returns 0 instead.
        """


class Update(ABC):
    """A learning rule, independent of the game.

    Attributes:
        optimizer: the optimizer of the policy's parameters.
        frozen: policies that the rule keeps between steps, by name; saved in checkpoints with the learner.
        teachers: names of other players whose turns are also in the batch, marked `off_policy`.
        replays: whether the rule may learn from turns that an earlier policy sampled.
        parts: the rules that this rule applies, by name, each with its own optimizer of the same parameters.
    """

    optimizer: Optimizer
    frozen: Mapping[str, Policy] = {}
    teachers: tuple[str, ...] = ()
    replays: bool = False
    parts: Mapping[str, Update] = MappingProxyType({})

    @abstractmethod
    def step(self, batch: Batch) -> Learnt:
        """Update the policy on the batch; return metrics, and the advantage of each turn if there is one."""

    def state_dict(self) -> dict[str, object]:
        """All state that the rule keeps between steps, as tensors and plain values."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore the state that `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]

    def rebase(self) -> None:  # noqa: B027, optional
        """Make the current policy the reference of the rule, if it has one."""

    def store(self, folder: Path) -> None:  # noqa: B027, optional
        """Save what `state_dict` only refers to, in files that do not change; called before each checkpoint."""

    def fetch(self, folder: Path) -> None:  # noqa: B027, optional
        """Load what the state of `load_state_dict` refers to, from the folder that `store` wrote to."""
