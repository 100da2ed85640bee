"""Optimizer steps over a batch in micro-batches, shared by all updates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Batch, Policy, SelfplayError, Update, at_least
from selfplay.options import Range
from selfplay.out_of_memory import Rows
from selfplay.updates.descent import Forward, TurnLosses, descend, frozen_logprobs
from selfplay.updates.schedules import Schedule

MakeOptimizer = Callable[[Iterable[Parameter]], torch.optim.Optimizer]
GradNorm = Annotated[float, Range(0, above=True)]
ALIKE: Mapping[str, float] = MappingProxyType({})  # role_weights: every role has weight 1


class GradientStep:
    """An optimizer with learning-rate schedule, role weights, micro-batches and gradient clipping.

    Args:
        policy: the policy to train.
        roles: the learner's roles; None if unknown.
        optimizer: parameters -> optimizer.
        schedule: step number, from 1 -> factor on the optimizer's learning rate.
        role_weights: role -> weight of its mean loss; 1 by default.
        micro_batch: turns per backward pass; affects memory and time, not the result. Halved when memory runs out.
        max_grad_norm: maximum gradient norm, for clipping; `.inf` disables it.

    Attributes:
        steps: number of steps begun so far.
        compare: called with the turns of a step's first pass and the policy's log-probabilities of them, before any
            weight changes; a run sets it to `selfplay.checks.Mismatch`.

    Raises:
        SelfplayError: a number is out of range, or a weight is for a role that is not the learner's.
    """

    def __init__(
        self,
        policy: Policy,
        roles: Sequence[str] | None,
        optimizer: MakeOptimizer,
        schedule: Schedule,
        role_weights: Mapping[str, float],
        micro_batch: int,
        max_grad_norm: float,
    ) -> None:
        at_least(1, micro_batch=micro_batch)
        not_negative(**{"update.max_grad_norm": max_grad_norm})
        for role, weight in role_weights.items():
            if weight != 1 and roles is not None and role not in roles:  # 1 is the default and changes nothing
                raise SelfplayError(
                    f"update.role_weights names '{role}', but the learner's roles are {', '.join(roles)}; "
                    f"remove it with ~update.role_weights.{role} or assign that role to the learner"
                )
        schedule(1)  # raises early if an option is out of range
        self.policy, self.optimizer = policy, optimizer(policy.parameters())
        self.schedule, self.rates = schedule, [group["lr"] for group in self.optimizer.param_groups]
        for rate in self.rates:
            if not 0 < float(rate) < float("inf"):
                raise SelfplayError(f"the learning rate is {float(rate):g}, so nothing can be learnt; set lr above 0")
        self.role_weights, self.max_grad_norm = dict(role_weights), max_grad_norm
        self.micro_batch = Rows(micro_batch, "update.micro_batch")
        self.steps = 0
        self.compare: Callable[[Batch, Tensor], None] | None = None
        self.unchanged = False

    def begin(self) -> dict[str, float]:
        """Begin the next step: set its learning rate, and return it as a metric."""
        self.steps += 1
        self.unchanged = True
        factor = self.schedule(self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}  # some optimizers make it a tensor

    def weights(self, batch: Batch) -> Tensor:
        """[B] the weight of each turn in the loss, see `role_weights`."""
        return role_weights(batch, self.role_weights)

    def descend(
        self, batch: Batch, weights: Tensor, losses: TurnLosses, values: Forward | None = None
    ) -> dict[str, float]:
        """One optimizer step, see `descend`; an empty batch changes nothing.

        Only in the first pass of a step is the policy still the sampler, so only that pass is passed to `compare`.
        """
        if len(batch) == 0:
            return {"loss": 0.0, "grad_norm": 0.0, "logprob_mismatch": 0.0}
        compare, self.unchanged = self.compare if self.unchanged else None, False
        return descend(
            self.policy, self.optimizer, batch, weights, losses, self.micro_batch, self.max_grad_norm, compare, values
        )

    def logprobs(self, policy: Policy, batch: Batch) -> Tensor:
        """[B, T] log-probabilities without gradient, see `frozen_logprobs`."""
        return frozen_logprobs(policy, batch, self.micro_batch)


class GradientUpdate(Update):
    """Base class of gradient-based updates: the policy's optimizer, and a reference that may follow the policy.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen.
        gradient_step: performs the optimizer steps.
    """

    def __init__(self, policy: Policy, reference: Policy, gradient_step: GradientStep) -> None:
        self.policy, self.reference, self.gradient_step = policy, reference, gradient_step
        self.optimizer = gradient_step.optimizer

    @property
    def magnet(self) -> Policy:
        """The policy that regularization pulls towards: the reference, or a more recent snapshot."""
        return self.frozen.get("magnet", self.reference)

    def move_magnet(self, every: int) -> None:
        """Call at the end of a step: every `every` steps, set the magnet to the current policy; 0 for never."""
        if every and self.gradient_step.steps % every == 0:
            self.rebase()

    def rebase(self) -> None:
        self.frozen = {"magnet": self.policy.snapshot()}

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "steps": self.gradient_step.steps}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        self.gradient_step.steps = state["steps"]  # type: ignore[assignment]


def not_negative(**options: object) -> None:
    """Raise SelfplayError unless every option is a number of at least 0."""
    for name, value in options.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise SelfplayError(
                f"{name} is {value}, but it must be a number of at least 0; change it (inf disables clipping)"
            )


def check_weights(weights: Mapping[str, float], roles: Sequence[str] | None) -> None:
    """Raise SelfplayError if all of the learner's roles have weight 0; having no role is fine, with teachers."""
    if roles and all(weights.get(role, 1.0) == 0 for role in roles):
        raise SelfplayError(
            f"update.role_weights is 0 for all of the learner's roles ({', '.join(roles)}), so nothing can be "
            "learnt; give one of them a weight above 0"
        )


def check_teachers(teachers: Sequence[str], needed: bool) -> None:
    """Raise SelfplayError if a needed teacher is missing, or the learner or reference is named as one."""
    if needed and not teachers:
        raise SelfplayError(
            "update.teachers is empty, but this update learns from a teacher; name one, for example "
            "update.teachers=[teacher] with game=demonstrations"
        )
    if "learner" in teachers or "reference" in teachers:
        raise SelfplayError(
            f"update.teachers is {list(teachers)}, but the learner and its reference cannot teach; name another player"
        )


def role_weights(batch: Batch, weights: Mapping[str, float]) -> Tensor:
    """[B] the weight of each turn in the loss: its role's weight (1 by default) x its share of the role's turns.

    The loss is then the weighted sum of the roles' mean losses (Language Self-Play, equations 4-5 and L_Self-Play).
    Roles without turns in this step contribute nothing.
    """
    return batch.weights * shares(batch.roles, batch.weights, weights)


def shares(roles: Sequence[str], counts: Tensor, weights: Mapping[str, float]) -> Tensor:
    """[N] the weight of each item's role, divided by the sum of that role's counts [N]."""
    sums = dict.fromkeys(roles, 0.0)
    for role, count in zip(roles, counts.tolist(), strict=True):
        sums[role] += count
    return torch.tensor([weights.get(role, 1.0) / sums[role] if sums[role] else 0.0 for role in roles])
