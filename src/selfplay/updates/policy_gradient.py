"""Policy gradients: an advantage, an objective, a regularizer make Language Self-Play's rule, GRPO, RLOO or PPO."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, at_least
from selfplay.options import Count, NotNegative, OneOf, Range, Share, Steps
from selfplay.updates.advantages import Advantage, Remembering, centred
from selfplay.updates.aggregations import Aggregation, sequence_sum
from selfplay.updates.gradient_step import (
    ALIKE,
    Compare,
    GradientStep,
    GradientUpdate,
    GradNorm,
    MakeOptimizer,
    check_compare,
    check_weights,
    groups_of,
    not_negative,
)
from selfplay.updates.losses import Objective, reinforce
from selfplay.updates.measures import by_role
from selfplay.updates.mismatch import check_mismatch, corrected, weighed
from selfplay.updates.optimizers import adamw
from selfplay.updates.regularizers import REVERSE_KL, Regularizer
from selfplay.updates.schedules import Schedule, constant


class PolicyGradient(GradientUpdate):
    """Steps on the sum over roles of weight x mean over the role's turns of objective, one a minibatch.

    With `centred`, `reinforce` and `sequence_sum` this is Language Self-Play (arXiv 2509.07414, equations 2-5,
    Algorithm 1); docs/updates.md lists the others.

    Args:
        policy: the learner.
        reference: the learner as it was before the first step, frozen.
        roles: those of the learner; None: nobody knows.
        optimizer: parameters -> optimizer.
        advantage: see `selfplay.updates.advantages`.
        compare: "group" compares the turns that the game groups, "prompt" all turns of a role that saw the same (for
            games with few information states: the baseline is then the state's).
        mixture: turns are compared with what the geometric mixture policy^(1 - mixture) reference^mixture would say,
            which weighs the turns that there are by (reference / policy)^mixture; 0 compares with the policy itself.
        objective: see `selfplay.updates.losses`.
        aggregation: see `selfplay.updates.aggregations`.
        regularizer: see `selfplay.updates.regularizers`.
        epochs: how often the batch is gone through; after the first step the objective's ratios are no longer 1.
        minibatches: steps an epoch, each on a share of the turns.
        schedule: number of the step, from 1 -> factor on the optimizer's learning rate.
        role_weights: role -> weight of its mean loss; the Challenger's is the paper's alpha_Ch.
        measure_kl: whether the divergence from the reference is logged also where nothing else needs the reference (no
            regularizer, no mixture); without, it is not read, and turns without an advantage are not, either.
        magnet_every: steps after which the regularizer's reference becomes the policy as it is then (the moving magnet
            of magnetic mirror descent, 2206.05825, and of R-NaD, 2206.15378); 0 keeps the one of the start.
        micro_batch: turns in one backward pass; changes memory and time, not the result.
        max_grad_norm: the gradient is scaled down to this norm; `.inf` leaves it as it is.
        mismatch, mismatch_clip: how gradients are corrected where the sampler's distribution is not exactly the
            learner's (`Policy.samples_exactly`), see `selfplay.updates.mismatch`.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str] | None = None,
        optimizer: MakeOptimizer = adamw,
        advantage: Advantage = centred,
        compare: Compare = "group",
        mixture: Share = 0.0,
        objective: Objective = reinforce,
        aggregation: Aggregation = sequence_sum,
        regularizer: Regularizer = REVERSE_KL,
        epochs: Count = 1,
        minibatches: Count = 1,
        schedule: Schedule = constant,
        role_weights: Mapping[str, NotNegative] = ALIKE,
        measure_kl: bool = True,
        magnet_every: Steps = 0,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
        mismatch: Annotated[str, OneOf("none", "token_truncate", "sequence_mask")] = "token_truncate",
        mismatch_clip: Annotated[float, Range(1, above=True)] = 2.0,
    ) -> None:
        at_least(1, **{"update.epochs": epochs, "update.minibatches": minibatches})
        at_least(0, **{"update.magnet_every": magnet_every})
        not_negative(**{"regularizer.beta": regularizer.beta})
        if not 0 <= mixture <= 1:
            raise SelfplayError(f"update.mixture is {mixture}, but it is a share; choose a number from 0 to 1")
        if epochs * minibatches > 1 and getattr(objective, "func", objective) is reinforce:
            raise SelfplayError(
                f"update.epochs={epochs} and update.minibatches={minibatches} leave the policy that spoke, but "
                "reinforce is on-policy; take update=ppo, or 1 of each"
            )
        check_compare(compare)
        check_mismatch(mismatch, mismatch_clip)
        check_weights(role_weights, roles)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.advantage, self.compare, self.mixture = advantage, compare, mixture
        self.objective, self.aggregation, self.regularizer = objective, aggregation, regularizer
        self.epochs, self.minibatches, self.magnet_every = epochs, minibatches, magnet_every
        self.mismatch = mismatch, mismatch_clip
        self.refers = measure_kl or regularizer.beta > 0 or mixture > 0

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        batch, tokens, told = self._corrected(batch)
        reference = self._reference(batch)
        paid = batch.payoffs + self.regularizer.payoff(batch.logprobs, reference, batch.mask)
        groups = groups_of(batch, self.compare)
        advantages = self.advantage(paid, groups, batch.roles, self._counts(batch, reference))
        passes = [
            self._descend(batch.rows(rows), advantages[rows], reference[rows], None if tokens is None else tokens[rows])
            for _ in range(self.epochs)
            for rows in self._split(len(batch))
        ]
        self.move_magnet(self.magnet_every)
        measured = by_role(batch, reference if self.refers else None)
        return Learnt(_together(passes) | rate | measured | told, advantages)

    def _corrected(self, batch: Batch) -> tuple[Batch, Tensor | None, dict[str, float]]:
        """The batch with the learner's own log-probs, and each token's weight; as it is where sampling is exact."""
        if self.policy.samples_exactly:
            return batch, None, {}
        batch, tokens, told = corrected(batch, self.gradient_step.logprobs(self.policy, batch), *self.mismatch)
        return batch, tokens, told | {"logprob_mismatch": told["mismatch/max"]}

    def _reference(self, batch: Batch) -> Tensor:
        """[B, T] log-probabilities of the reference; the sampler's, where nothing looks at them."""
        if not self.refers:
            return batch.logprobs
        return self.gradient_step.logprobs(self.magnet, batch)

    def _counts(self, batch: Batch, reference: Tensor) -> Tensor | None:
        """[B] how often each turn counts in a comparison, None where all count alike."""
        if not self.mixture:
            return None if batch.sampled else batch.weights
        ratio = ((reference - batch.logprobs) * batch.mask).sum(-1)
        return batch.weights * (self.mixture * ratio).exp()

    def _split(self, count: int) -> Sequence[Tensor]:
        """Row numbers of each minibatch; by the luck of the run, which a checkpoint holds."""
        if self.minibatches == 1:
            return [torch.arange(count)]
        return torch.randperm(count).tensor_split(min(self.minibatches, count))

    def _descend(self, batch: Batch, advantages: Tensor, reference: Tensor, tokens: Tensor | None) -> dict[str, float]:
        weights = self.gradient_step.weights(batch) * self.aggregation(batch)
        if not self.refers:  # then the advantage alone pulls; one turn stays, so that there is a gradient, of 0
            pulled = advantages.nonzero()[:, 0] if bool(advantages.any()) else torch.tensor([0])
            batch, weights, advantages = batch.rows(pulled), weights[pulled], advantages[pulled]
            reference, tokens = reference[pulled], None if tokens is None else tokens[pulled]

        def losses(rows: Tensor, logprobs: Tensor) -> Tensor:
            cut = slice(0, logprobs.shape[1])
            old, ref, mask = (x[rows, cut].to(logprobs.device) for x in (batch.logprobs, reference, batch.mask))
            if tokens is not None:
                logprobs = weighed(logprobs, tokens[rows, cut].to(logprobs.device))
            penalty = self.regularizer.loss(logprobs, ref)
            return self.objective(logprobs, old, mask, advantages[rows].to(logprobs.device), penalty)

        return self.gradient_step.descend(batch, weights, losses)

    def state_dict(self) -> dict[str, object]:
        remembered = self.advantage.state_dict() if isinstance(self.advantage, Remembering) else {}
        return {**super().state_dict(), "advantage": remembered}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        if isinstance(self.advantage, Remembering):
            self.advantage.load_state_dict(state["advantage"])  # type: ignore[arg-type]


def _together(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the passes; logprob_mismatch is of the first, before anything moved, shift of those after it."""
    found = {name: fmean([one[name] for one in passes]) for name in ("loss", "grad_norm")}
    found["logprob_mismatch"] = passes[0]["logprob_mismatch"]
    if len(passes) > 1:
        found["shift"] = max(one["logprob_mismatch"] for one in passes[1:])
    return found
