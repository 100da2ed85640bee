"""The on-policy update: an advantage, an objective and a regularizer make Language Self-Play's rule, or GRPO's."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Batch, Policy, SelfplayError, Update, at_least
from selfplay.updates.advantages import Advantage, Remembering
from selfplay.updates.descent import descend, frozen_logprobs, role_weights
from selfplay.updates.losses import Objective
from selfplay.updates.regularizers import Regularizer, k3
from selfplay.updates.schedules import Schedule

COMPARE = ("group", "prompt")


class PolicyGradient(Update):
    """One optimizer step a batch on sum over roles of weight x mean over the role's turns of objective.

    With `centred` and `reinforce` this is Language Self-Play (arXiv 2509.07414, equations 2-5, Algorithm 1); with
    `standardised` and `clipped` GRPO (2402.03300) with one step a batch.

    Args:
        policy: the learner.
        reference: the learner as it was before the first step, frozen.
        roles: those of the learner.
        optimizer: parameters -> optimizer.
        advantage: see `selfplay.updates.advantages`.
        compare: "group" compares the turns that the game groups, "prompt" all turns of a role that saw the same (for
            games with few information states: the baseline is then the state's).
        objective: see `selfplay.updates.losses`.
        regularizer: see `selfplay.updates.regularizers`.
        schedule: number of the step, from 1 -> factor on the optimizer's learning rate.
        role_weights: role -> weight of its mean loss; the Challenger's is the paper's alpha_Ch.
        magnet_every: steps after which the regularizer's reference becomes the policy as it is then (the moving magnet
            of magnetic mirror descent, 2206.05825, and of R-NaD, 2206.15378); 0 keeps the one of the start.
        micro_batch: turns in one backward pass; changes memory and time, not the result.
        max_grad_norm: the gradient is scaled down to this norm; `.inf` leaves it as it is.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str],
        optimizer: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        advantage: Advantage,
        compare: str,
        objective: Objective,
        regularizer: Regularizer,
        schedule: Schedule,
        role_weights: Mapping[str, float],
        magnet_every: int,
        micro_batch: int,
        max_grad_norm: float,
    ) -> None:
        at_least(1, micro_batch=micro_batch)
        at_least(0, **{"update.magnet_every": magnet_every})
        for name, value in (("regularizer.beta", regularizer.beta), ("update.max_grad_norm", max_grad_norm)):
            if not isinstance(value, int | float) or value < 0:
                raise SelfplayError(f"{name} is {value}, but it must be a number, at least 0 (.inf clips nothing)")
        for role in set(role_weights) - set(roles):
            raise SelfplayError(
                f"update.role_weights names '{role}', but the learner's roles are {', '.join(roles)}; "
                f"remove it with ~update.role_weights.{role} or seat the learner there"
            )
        schedule(1)  # a number out of range is told now
        if compare not in COMPARE:
            raise SelfplayError(f"update.compare is '{compare}'; take one of {', '.join(COMPARE)}")
        self.policy, self.reference, self.regularizer = policy, reference, regularizer
        self.optimizer = optimizer(policy.parameters())
        self.advantage, self.compare, self.objective = advantage, compare, objective
        self.role_weights, self.micro_batch, self.max_grad_norm = dict(role_weights), micro_batch, max_grad_norm
        self.magnet_every, self.steps = magnet_every, 0
        self.schedule, self.rates = schedule, [group["lr"] for group in self.optimizer.param_groups]

    def step(self, batch: Batch) -> dict[str, float]:
        magnet = self.frozen.get("magnet", self.reference)
        reference = frozen_logprobs(magnet, batch, self.micro_batch)
        paid = batch.payoffs + self.regularizer.payoff(batch.logprobs, reference, batch.mask)
        groups = batch.groups if self.compare == "group" else same_prompts(batch)
        advantages = self.last_advantages = self.advantage(
            paid, groups, batch.roles, None if batch.drawn else batch.weights
        )

        def losses(rows: Tensor, logprobs: Tensor) -> Tensor:
            cut = slice(0, logprobs.shape[1])
            old, ref, mask = (x[rows, cut].to(logprobs.device) for x in (batch.logprobs, reference, batch.mask))
            penalty = self.regularizer.loss(logprobs, ref)
            return self.objective(logprobs, old, mask, advantages[rows].to(logprobs.device), penalty)

        weights = role_weights(batch, self.role_weights)
        factor = self.schedule(self.steps + 1)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        metrics = descend(self.policy, self.optimizer, batch, weights, losses, self.micro_batch, self.max_grad_norm)
        self.steps += 1
        if self.magnet_every and self.steps % self.magnet_every == 0:
            self.frozen = {"magnet": self.policy.snapshot()}
        return metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]} | _by_role(batch, reference)

    def state_dict(self) -> dict[str, object]:
        remembered = self.advantage.state_dict() if isinstance(self.advantage, Remembering) else {}
        return {**super().state_dict(), "steps": self.steps, "advantage": remembered}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]  # type: ignore[assignment]
        if isinstance(self.advantage, Remembering):
            self.advantage.load_state_dict(state["advantage"])  # type: ignore[arg-type]


def same_prompts(batch: Batch) -> Tensor:
    """[B] int64: turns of one role and one prompt have the same number."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    seen = ((role, tuple(prompt.tolist())) for role, prompt in zip(batch.roles, batch.prompts, strict=True))
    return torch.tensor([numbers.setdefault(state, len(numbers)) for state in seen])


def _by_role(batch: Batch, reference: Tensor) -> dict[str, float]:
    """Nats a token, from the sampled tokens: entropy (minus the mean log-prob) and KL to the reference (mean k3)."""
    out = {}
    for role in sorted(set(batch.roles)):
        rows = torch.tensor([r == role for r in batch.roles])
        counts = batch.mask[rows] * batch.weights[rows][:, None]
        out[f"{role}/entropy"] = float(-(batch.logprobs[rows] * counts).sum() / counts.sum())
        out[f"{role}/kl"] = float((k3(batch.logprobs[rows], reference[rows]) * counts).sum() / counts.sum())
    return out
