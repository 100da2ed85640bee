"""Optimizer steps over a batch in micro-batches: what every update shares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Batch, Policy, SelfplayError, Update, at_least
from selfplay.options import OneOf, Range
from selfplay.updates.schedules import Schedule

TurnLosses = Callable[[Tensor, Tensor], Tensor]  # (row numbers [b], log-probs [b, t]) -> losses [b]
MakeOptimizer = Callable[[Iterable[Parameter]], torch.optim.Optimizer]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
COMPARE = ("group", "prompt")
Compare = Annotated[str, OneOf(*COMPARE)]
GradNorm = Annotated[float, Range(0, above=True)]
ALIKE: Mapping[str, float] = MappingProxyType({})  # role_weights: every role weighs 1


class GradientStep:
    """An optimizer with its schedule, its micro-batches and its longest gradient.

    Args:
        policy: what is trained.
        roles: those of the learner; None: nobody knows.
        optimizer: parameters -> optimizer.
        schedule: number of the step, from 1 -> factor on the optimizer's learning rate.
        role_weights: role -> weight of its mean loss.
        micro_batch: turns in one backward pass; changes memory and time, not the result.
        max_grad_norm: the gradient is scaled down to this norm; `.inf` leaves it as it is.

    Attributes:
        steps: how many steps were begun.
        compare: is given the turns of a step's first pass, before anything moves, and the policy's log-probabilities
            of them; a run puts `selfplay.checks.Mismatch` there.

    Raises:
        SelfplayError: a number out of its range, or a weight for a role that is not the learner's.
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
        for role in role_weights:
            if roles is not None and role not in roles:
                raise SelfplayError(
                    f"update.role_weights names '{role}', but the learner's roles are {', '.join(roles)}; "
                    f"remove it with ~update.role_weights.{role} or seat the learner there"
                )
        schedule(1)  # a number out of range is told now
        self.policy, self.optimizer = policy, optimizer(policy.parameters())
        self.schedule, self.rates = schedule, [group["lr"] for group in self.optimizer.param_groups]
        for rate in self.rates:
            if not 0 < float(rate) < float("inf"):
                raise SelfplayError(
                    f"the learning rate is {float(rate):g}, so nothing could be learnt; give lr above 0"
                )
        self.role_weights, self.micro_batch, self.max_grad_norm = dict(role_weights), micro_batch, max_grad_norm
        self.steps = 0
        self.compare: Callable[[Batch, Tensor], None] | None = None
        self.unmoved = False

    def begin(self) -> dict[str, float]:
        """Begin the next step of the run: set its learning rate, and return it for the log."""
        self.steps += 1
        self.unmoved = True
        factor = self.schedule(self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def weights(self, batch: Batch) -> Tensor:
        """[B] how much a turn counts, see `role_weights`."""
        return role_weights(batch, self.role_weights)

    def descend(self, batch: Batch, weights: Tensor, losses: TurnLosses) -> dict[str, float]:
        """See `descend`; a batch without a turn changes nothing.

        The first one of a step is of the policy that spoke, so that one is compared.
        """
        if len(batch) == 0:
            return {"loss": 0.0, "grad_norm": 0.0, "logprob_mismatch": 0.0}
        compare, self.unmoved = self.compare if self.unmoved else None, False
        return descend(
            self.policy, self.optimizer, batch, weights, losses, self.micro_batch, self.max_grad_norm, compare
        )

    def logprobs(self, policy: Policy, batch: Batch) -> Tensor:
        """[B, T] without gradient, see `frozen_logprobs`."""
        return frozen_logprobs(policy, batch, self.micro_batch)


class GradientUpdate(Update):
    """What updates that follow a gradient share: the policy's optimizer, and a reference that may follow the policy.

    Args:
        policy: the learner.
        reference: the learner as it was before the first step, frozen.
        gradient_step: how it is optimized.
    """

    def __init__(self, policy: Policy, reference: Policy, gradient_step: GradientStep) -> None:
        self.policy, self.reference, self.gradient_step = policy, reference, gradient_step
        self.optimizer = gradient_step.optimizer

    @property
    def magnet(self) -> Policy:
        """What the policy is held near: the reference, or the policy as it was some steps ago."""
        return self.frozen.get("magnet", self.reference)

    def move_magnet(self, every: int) -> None:
        """At the end of a step: every so many steps the magnet becomes the policy as it is; 0 for never."""
        if every and self.gradient_step.steps % every == 0:
            self.frozen = {"magnet": self.policy.snapshot()}

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "steps": self.gradient_step.steps}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        self.gradient_step.steps = state["steps"]  # type: ignore[assignment]


def not_negative(**options: object) -> None:
    """Raise SelfplayError unless every option is a number, at least 0."""
    for name, value in options.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise SelfplayError(
                f"{name} is {value}, but it must be a number, at least 0 (inf on the command line clips nothing)"
            )


def check_weights(weights: Mapping[str, float], roles: Sequence[str] | None) -> None:
    """Raise SelfplayError where all of the learner's roles have the weight 0; a learner without a role is taught."""
    if roles and all(weights.get(role, 1.0) == 0 for role in roles):
        raise SelfplayError(
            f"update.role_weights is 0 for all of the learner's roles ({', '.join(roles)}), so nothing could be "
            "learnt; give one of them a weight above 0"
        )


def check_teachers(teachers: Sequence[str], needed: bool) -> None:
    """Raise SelfplayError where a rule that learns what others say has no teacher, or the learner for one."""
    if needed and not teachers:
        raise SelfplayError(
            "update.teachers is empty, but this update learns what a teacher says; name one, for example "
            "update.teachers=[teacher] with game=demonstrations"
        )
    if "learner" in teachers or "reference" in teachers:
        raise SelfplayError(f"update.teachers is {list(teachers)}, but a teacher is somebody else; name another player")


def groups_of(batch: Batch, compare: str) -> Tensor:
    """[B] int64: turns that are compared with one another have the same number.

    Args:
        compare: "group": those that the game groups; "prompt": all turns of a role that saw the same.
    """
    return batch.groups if compare == "group" else same_prompts(batch, batch.roles)


def same_prompts(batch: Batch, roles: Sequence[str] = ()) -> Tensor:
    """[B] int64: turns with one prompt have the same number, if they are of the same role where roles [B] are given."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    seen = zip(roles or ("",) * len(batch), (tuple(prompt.tolist()) for prompt in batch.prompts), strict=True)
    return torch.tensor([numbers.setdefault(state, len(numbers)) for state in seen])


def check_compare(compare: str) -> None:
    """Raise SelfplayError unless `groups_of` knows it."""
    if compare not in COMPARE:
        raise SelfplayError(f"update.compare is '{compare}'; take one of {', '.join(COMPARE)}")


def role_weights(batch: Batch, weights: Mapping[str, float]) -> Tensor:
    """[B] how much a turn counts: its role's weight (1 unless named), times the turn's share of the role's turns.

    So the loss is the weighted sum of the roles' mean losses (Language Self-Play, equations 4-5 and L_Self-Play).
    A role that was not asked in this step has no loss.
    """
    return batch.weights * shares(batch.roles, batch.weights, weights)


def shares(roles: Sequence[str], counts: Tensor, weights: Mapping[str, float]) -> Tensor:
    """[N] the weight of each one's role over the sum of the counts [N] of that role."""
    sums = dict.fromkeys(roles, 0.0)
    for role, count in zip(roles, counts.tolist(), strict=True):
        sums[role] += count
    return torch.tensor([weights.get(role, 1.0) / sums[role] for role in roles])


@torch.no_grad()
def frozen_logprobs(policy: Policy, batch: Batch, micro_batch: int) -> Tensor:
    """[B, T] log-probabilities of the batch under a policy that is not being trained."""
    out = torch.zeros_like(batch.logprobs)
    for rows in by_prompt(batch, micro_batch):
        part = batch.rows(rows)
        out[rows, : part.replies.shape[1]] = policy.logprobs(part).cpu()
    return out


def by_prompt(batch: Batch, micro_batch: int) -> list[Tensor]:
    """Row numbers in micro-batches: turns with one prompt together, prompts of like length together.

    So what a policy shares between replies to one prompt is shared, and little is padding.
    """
    prompts, lengths = [p.tolist() for p in batch.prompts], batch.mask.sum(1).tolist()
    order = sorted(range(len(batch)), key=lambda row: (len(prompts[row]), prompts[row], lengths[row]))
    return list(torch.split(torch.tensor(order), micro_batch))


def descend(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weights: Tensor,
    losses: TurnLosses,
    micro_batch: int,
    max_grad_norm: float,
    compare: Callable[[Batch, Tensor], None] | None = None,
) -> dict[str, float]:
    """Minimise the sum of weight x loss over all turns by one optimizer step; return loss, grad_norm, logprob_mismatch.

    `logprob_mismatch` is the largest difference between the policy's and the sampler's log-probability of a token;
    before the step they are the same distribution, so it shows template, alignment and precision mistakes. Turns of
    other players are left out. `compare` is given some turns and the policy's log-probabilities of them, before the
    step.

    Raises:
        SelfplayError: `compare` raised it, memory ran out, or the loss or its gradient is not finite; the weights are
            then untouched.
    """
    optimizer.zero_grad(set_to_none=True)
    total, mismatch = 0.0, 0.0
    try:
        for rows in by_prompt(batch, micro_batch):
            part = batch.rows(rows)
            logprobs = policy.logprobs(part)
            loss = (weights[rows].to(logprobs.device) * losses(rows, logprobs)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            apart = (logprobs.detach().cpu() - part.logprobs)[part.on_policy].abs()
            mismatch = max(mismatch, float(apart.max()) if apart.numel() else 0.0)
            if compare is not None:
                compare(part, logprobs)
    except SelfplayError:
        optimizer.zero_grad(set_to_none=True)
        raise
    except (RuntimeError, MemoryError) as error:
        optimizer.zero_grad(set_to_none=True)
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise SelfplayError(
            f"memory ran out in an update of {len(batch)} turns; "
            f"lower update.micro_batch (now {micro_batch}) or episodes"
        ) from error
    norm = float(torch.nn.utils.clip_grad_norm_(list(policy.parameters()), max_grad_norm))
    if not (torch.isfinite(torch.tensor(total)) and torch.isfinite(torch.tensor(norm))):
        optimizer.zero_grad(set_to_none=True)
        raise SelfplayError(
            f"the loss is {total} and its gradient's norm {norm}; the weights were left as they were: start a new "
            "run with a lower update.optimizer.lr"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total, "grad_norm": norm, "logprob_mismatch": mismatch}
