"""Learning in rounds from a buffer of turns: iterated offline learning, replay, and several rules in turn."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, Update
from selfplay.options import Count, Name, Seed, Whole
from selfplay.parallel import current
from selfplay.updates.buffer import Buffer
from selfplay.updates.gradient_step import GradientStep
from selfplay.updates.orders import Order

MISMATCH = "logprob_mismatch"


class MakeUpdate(Protocol):
    """(policy, reference, roles) -> a learning rule."""

    def __call__(self, policy: Policy, reference: Policy, roles: Sequence[str] | None, **options: Any) -> Update: ...


class Stages(Update):
    """Collects the turns of `hoard` steps, then lets each part in order make `fits` updates on turns of the buffer.

    The policy that samples is constant within such a round, so this is the iterated offline loop (ReST, 2308.08998;
    iterated DPO); with hoard=1 and room > 1 it is learning online with replay. Several parts are the stages of a round,
    such as supervised learning and then preferences (LANCE, 2412.15151).

    The metrics `loss` and `learning_rate` are those of the last update; 0 before the first.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen.
        roles: the learner's roles; None if unknown.
        parts: name -> (policy, reference, roles) -> a rule that may learn from turns of an earlier policy.
        hoard: steps of a round.
        room: the newest steps whose turns are in the buffer, at least `hoard`.
        fits: updates of each part per round.
        groups: number of groups of turns that each update learns from, drawn from the buffer without replacement; 0
            takes all.
        restart: begin each round's learning with the weights of the reference and new optimizers.
        order: (batch, logprobs, rng) -> a number per turn, see `selfplay.updates.orders`. The `fits` updates of a part
            then go through the buffer once, each with an equal share of its groups, in ascending order of the mean of
            these numbers.
        rebase: let the policy at the start of a round be the reference of the parts that have one.
        seed: of the groups that are drawn.
        shared: further options, given to every part in place of its own, such as the role weights of a game.

    Raises:
        SelfplayError: there are no parts, a part learns only from the current policy's turns, `room` is smaller than
            `hoard`, or both `groups` and `order` are given. When learning in an order: a round has fewer groups than
            `fits`.
    """

    replays = True

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str] | None = None,
        parts: Mapping[Name, MakeUpdate | None] = {},
        hoard: Count = 4,
        room: Count = 4,
        fits: Count = 4,
        groups: Whole = 0,
        order: Order | None = None,
        restart: bool = False,
        rebase: bool = False,
        seed: Seed = 0,
        **shared: Any,
    ) -> None:
        if room < hoard:
            raise SelfplayError(
                f"update.room is {room}, but a round collects the turns of update.hoard={hoard} steps; raise "
                "update.room"
            )
        if groups and order is not None:
            raise SelfplayError(
                f"update.groups is {groups}, but with update.order every update takes an equal share of the groups; "
                "set update.groups=0, or remove the order"
            )
        self.policy, self.reference = policy, reference
        self.parts: Mapping[str, Update] = {
            name: make(policy, reference, roles, **shared) for name, make in parts.items() if make is not None
        }
        if not self.parts:
            raise SelfplayError("update.parts is empty, so nothing would be learnt; name a rule, e.g. update=stages")
        for name, part in self.parts.items():
            if not part.replays:
                raise SelfplayError(
                    f"update.parts.{name} is {type(part).__name__}, which learns only from turns of the current "
                    "policy; take a rule that may replay turns, such as dpo, kto, rejection or sft"
                )
        self.optimizer = next(iter(self.parts.values())).optimizer
        self.teachers = tuple(dict.fromkeys(name for part in self.parts.values() for name in part.teachers))
        self.hoard, self.room, self.fits, self.groups = hoard, room, fits, groups
        self.order, self.restart, self.rebases, self.seed = order, restart, rebase, seed
        self.buffer, self.steps = Buffer(room), 0
        self.last = {"loss": 0.0, "learning_rate": 0.0}
        self._fresh = {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()}

    @property
    def gradient_step(self) -> GradientStep | None:
        """The first part's; a run checks there that sampler and learner agree."""
        found = getattr(next(iter(self.parts.values())), "gradient_step", None)
        return found if isinstance(found, GradientStep) else None

    def step(self, batch: Batch) -> Learnt:
        self.steps += 1
        self.buffer.add(batch)
        metrics = {"buffer/turns": float(len(self.buffer))}
        if not self._bare:
            metrics |= self._mismatch(batch)
        if self.steps % self.hoard:
            return Learnt(metrics | self.last)
        if self.restart:
            self._restart()
        if self.rebases:
            for part in self.parts.values():
                part.rebase()
        return self._round(batch, metrics)

    def _round(self, batch: Batch, metrics: dict[str, float]) -> Learnt:
        """Every part's updates."""
        advantages, steepest = None, 0.0
        for name, part in self.parts.items():
            key = f"{self.seed}/{self.steps}/{name}"
            shares = None if self.order is None else self._shares(self.order, key)
            for fit in range(self.fits):
                sample = shares[fit] if shares else batch if self._bare else self._sample(f"{key}/{fit}")
                learnt = Learnt.of(self._fit(part, sample, checked=self._bare and part is self._first and fit == 0))
                if self._bare and part is self._first and fit == 0:
                    advantages = learnt.advantages
                    metrics |= {MISMATCH: learnt.metrics.get(MISMATCH, 0.0)}
                steepest = max(steepest, learnt.metrics.get("grad_norm", 0.0))
            metrics |= self._named(name, learnt.metrics, metrics)
            self.last = {key: learnt.metrics.get(key, 0.0) for key in self.last}
        if self.room == self.hoard:
            self.buffer.clear()
        return Learnt(metrics | self.last | {"grad_norm": steepest}, advantages)

    def _named(self, name: str, found: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a part's last update; of several parts, those of the rule under the part's name.

        What is measured of a role's turns keeps its name and the first part's value.
        """
        if len(self.parts) == 1:
            return {key: value for key, value in found.items() if key != MISMATCH}
        rule = {f"{name}/{key}": value for key, value in found.items() if "/" not in key and key != MISMATCH}
        return rule | {key: value for key, value in found.items() if "/" in key and key not in others}

    @property
    def _bare(self) -> bool:
        """Whether the first update of a round is that of the part alone, on the turns just sampled."""
        return self.room == 1 and not self.groups and not self.restart and self.order is None

    @property
    def _first(self) -> Update:
        return next(iter(self.parts.values()))

    def _fit(self, part: Update, sample: Batch, checked: bool) -> object:
        """One update; the sampler is compared with the learner only if the learner is still the sampler."""
        gradient_step: Any = getattr(part, "gradient_step", None)
        if checked or gradient_step is None:
            return part.step(sample)
        compare, gradient_step.compare = gradient_step.compare, None
        try:
            return part.step(sample)
        finally:
            gradient_step.compare = compare

    def _mismatch(self, batch: Batch) -> dict[str, float]:
        """Compare the newest turns' sampler with the learner, whose weights have not moved since."""
        gradient_step = self.gradient_step
        if gradient_step is None:
            return {}
        logprobs = gradient_step.logprobs(self.policy, batch)
        if gradient_step.compare is not None:
            gradient_step.compare(batch, logprobs)
        own = batch.mask & batch.on_policy[:, None]
        return {MISMATCH: float(((logprobs - batch.logprobs).abs() * own).max())}

    def _sample(self, key: str) -> Batch:
        """The turns of all groups of the buffer, or of `groups` of them."""
        every = self.buffer.joined()
        names = sorted(set(every.groups.tolist()))
        if not self.groups or self.groups >= len(names):
            return every
        chosen = torch.tensor(Random(key).sample(names, self.groups))
        return every.rows(torch.isin(every.groups, chosen).nonzero()[:, 0])

    def _shares(self, order: Order, key: str) -> list[Batch]:
        """The buffer in order, in `fits` shares of whole groups whose numbers differ by at most one."""
        every = self.buffer.joined()
        numbers = order(every, lambda: self._logprobs(every), Random(key))
        means = {g: float(numbers[every.groups == g].mean()) for g in sorted(set(every.groups.tolist()))}
        names = sorted(means, key=lambda name: means[name])
        if len(names) < self.fits:
            raise SelfplayError(
                f"update.fits is {self.fits}, but a round has only {len(names)} groups of turns to share out in "
                "update.order; lower update.fits, or raise episodes"
            )
        cuts = [fit * len(names) // self.fits for fit in range(self.fits + 1)]
        rows = {name: (every.groups == name).nonzero()[:, 0] for name in names}
        return [every.rows(torch.cat([rows[name] for name in names[a:b]])) for a, b in pairwise(cuts)]

    def _logprobs(self, batch: Batch) -> Tensor:
        """[B, T] log-probabilities under the current policy, without gradient."""
        if (gradient_step := self.gradient_step) is not None:
            return gradient_step.logprobs(self.policy, batch)
        with torch.no_grad():
            return self.policy.logprobs(batch)

    def _restart(self) -> None:
        self.policy.restore(self.reference)
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(self._fresh[name]))
            current().scatter(part.optimizer)

    # --- what is kept -------------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> dict[str, Policy]:  # type: ignore[override]
        return {f"{name}-{kept}": p for name, part in self.parts.items() for kept, p in part.frozen.items()}

    @frozen.setter
    def frozen(self, found: Mapping[str, Policy]) -> None:
        for name, part in self.parts.items():
            part.frozen = {k.removeprefix(f"{name}-"): p for k, p in found.items() if k.startswith(f"{name}-")}

    def state_dict(self) -> dict[str, object]:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {"parts": parts, "steps": self.steps, "buffer": self.buffer.state_dict(), "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.steps, self.last = state["steps"], dict(state["last"])
        self.buffer.load_state_dict(**state["buffer"])

    def store(self, folder: Path) -> None:
        self.buffer.store(folder)

    def fetch(self, folder: Path) -> None:
        self.buffer.fetch(folder)
