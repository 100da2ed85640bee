"""Policy gradients: advantage, objective and regularizer together define LSP, GRPO, RLOO, PPO and others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, at_least
from selfplay.devices import sent
from selfplay.options import Count, NotNegative, OneOf, Range, Share, Steps
from selfplay.parallel import current
from selfplay.updates.advantages import Advantage, Remembering, centred
from selfplay.updates.aggregations import Aggregation, sequence_sum
from selfplay.updates.gradient_step import (
    ALIKE,
    GradientStep,
    GradientUpdate,
    GradNorm,
    MakeOptimizer,
    check_weights,
    not_negative,
)
from selfplay.updates.groups import Compare, check_compare, groups_of
from selfplay.updates.losses import Objective, reinforce
from selfplay.updates.measures import by_role
from selfplay.updates.mismatch import check_mismatch, corrected, weighed
from selfplay.updates.optimizers import adamw
from selfplay.updates.regularizers import REVERSE_KL, Regularizer
from selfplay.updates.schedules import Schedule, constant


class PolicyGradient(GradientUpdate):
    """One optimizer step per minibatch on the sum over roles of weight x mean objective of the role's turns.

    With `centred`, `reinforce` and `sequence_sum` this is Language Self-Play (arXiv 2509.07414, equations 2-5,
    Algorithm 1); docs/updates.md lists the others.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen.
        roles: the learner's roles; None if unknown.
        optimizer: parameters -> optimizer.
        advantage: see `selfplay.updates.advantages`.
        compare: the turns that are compared: "group" (of the game) or "prompt" (same role and prompt; for games with
            few information states, which gives a baseline per state).
        mixture: compare turns with replies of the geometric mixture policy^(1 - mixture) reference^mixture instead of
            the policy's, by importance weights (reference / policy)^mixture; 0 compares with the policy itself.
        objective: see `selfplay.updates.losses`.
        aggregation: see `selfplay.updates.aggregations`.
        regularizer: see `selfplay.updates.regularizers`.
        epochs: passes over the batch; after the first optimizer step the objective's ratios are no longer 1.
        minibatches: optimizer steps per epoch, each on a random part of the turns.
        schedule: step number, from 1 -> factor on the optimizer's learning rate.
        role_weights: role -> weight of its mean loss; the Challenger's is the paper's alpha_Ch.
        measure_kl: log the KL from the reference even if neither regularizer nor mixture needs it. If False and
            unneeded, the reference is not evaluated, and turns with advantage 0 are skipped.
        magnet_every: steps between updates of the regularizer's reference to the current policy (the moving magnet of
            magnetic mirror descent, 2206.05825, and of R-NaD, 2206.15378); 0 keeps the initial one.
        mask_truncated: whether to leave replies that were cut off at the maximum length out of the loss (overlong
            filtering, DAPO, 2503.14476, section 3.4), though not out of comparisons. `truncated` is their share.
        micro_batch: turns per backward pass; affects memory and time, not the result.
        max_grad_norm: maximum gradient norm, for clipping; `.inf` disables it.
        mismatch, mismatch_clip: correction for a sampler that is not exact (`Policy.samples_exactly`), see
            `selfplay.updates.mismatch`.
        most_mismatch: largest mean difference between such a sampler's and the learner's log-probabilities in nats per
            token, above which a step raises an error; `.inf` disables it.
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
        mask_truncated: bool = False,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
        mismatch: Annotated[str, OneOf("none", "token_truncate", "sequence_mask")] = "token_truncate",
        mismatch_clip: Annotated[float, Range(1, above=True)] = 2.0,
        most_mismatch: Annotated[float, Range(0, above=True)] = 0.1,
    ) -> None:
        at_least(1, **{"update.epochs": epochs, "update.minibatches": minibatches})
        at_least(0, **{"update.magnet_every": magnet_every})
        not_negative(**{"regularizer.beta": regularizer.beta})
        if not 0 <= mixture <= 1:
            raise SelfplayError(f"update.mixture is {mixture}; choose a number from 0 to 1")
        if epochs * minibatches > 1 and getattr(objective, "func", objective) is reinforce:
            raise SelfplayError(
                f"update.epochs={epochs} and update.minibatches={minibatches} train off-policy, but "
                "reinforce is on-policy; use update=ppo, or 1 of each"
            )
        check_compare(compare)
        check_mismatch(mismatch, mismatch_clip, most_mismatch)
        check_weights(role_weights, roles)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.advantage, self.compare, self.mixture = advantage, compare, mixture
        self.objective, self.aggregation, self.regularizer = objective, aggregation, regularizer
        self.epochs, self.minibatches, self.magnet_every = epochs, minibatches, magnet_every
        self.mask_truncated = mask_truncated
        self.mismatch = mismatch, mismatch_clip, most_mismatch
        self.refers = measure_kl or regularizer.beta > 0 or mixture > 0

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        batch, tokens, correction = self._corrected(batch)
        reference = self._reference(batch)
        paid = batch.payoffs + self.regularizer.payoff(batch.logprobs, reference, batch.mask)
        groups = groups_of(batch, self.compare)
        advantages = self.advantage(paid, groups, batch.roles, self._counts(batch, reference))
        kept, masked = self._without_truncated(batch)
        passes = [
            self._descend(kept.rows(rows), advantages[rows], reference[rows], None if tokens is None else tokens[rows])
            for _ in range(self.epochs)
            for rows in self._split(len(batch))
        ]
        self.move_magnet(self.magnet_every)
        measured = by_role(batch, reference if self.refers else None)
        return Learnt(_mean_metrics(passes) | rate | measured | correction | masked, advantages)

    def _corrected(self, batch: Batch) -> tuple[Batch, Tensor | None, dict[str, float]]:
        """The batch with the learner's log-probs, token weights and metrics; unchanged if sampling is exact."""
        if self.policy.samples_exactly:
            return batch, None, {}
        batch, tokens, metrics = corrected(batch, self.gradient_step.logprobs(self.policy, batch), *self.mismatch)
        return batch, tokens, metrics | {"logprob_mismatch": metrics["mismatch/max"]}

    def _reference(self, batch: Batch) -> Tensor:
        """[B, T] log-probabilities of the reference; the sampler's as a placeholder if nothing uses them."""
        if not self.refers:
            return batch.logprobs
        return self.gradient_step.logprobs(self.magnet, batch)

    def _without_truncated(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """The batch with an empty mask for truncated replies, and their share; unchanged if they are learnt."""
        if not self.mask_truncated:
            return batch, {}
        cut = self.policy.truncated(batch)
        return replace(batch, mask=batch.mask & ~cut[:, None]), {"truncated": float(cut.float().mean())}

    def _counts(self, batch: Batch, reference: Tensor) -> Tensor | None:
        """[B] the weight of each turn in comparisons; None if all are equal."""
        if not self.mixture:
            return None if batch.sampled else batch.weights
        ratio = ((reference - batch.logprobs) * batch.mask).sum(-1)
        return batch.weights * (self.mixture * ratio).exp()

    def _split(self, count: int) -> Sequence[Tensor]:
        """Row numbers of each minibatch; shuffled by torch's RNG, whose state is checkpointed."""
        if self.minibatches == 1:
            return [torch.arange(count)]
        order = current().lead(lambda: torch.randperm(count))
        return order.tensor_split(min(self.minibatches, count))

    def _descend(self, batch: Batch, advantages: Tensor, reference: Tensor, tokens: Tensor | None) -> dict[str, float]:
        weights = self.gradient_step.weights(batch) * self.aggregation(batch)
        used = batch.mask.any(1)  # all but truncated ones that are left out
        if not self.refers:  # only advantages give gradient; keep one turn for a gradient of 0
            paid = used & (advantages != 0)
            used = paid if bool(paid.any()) else used & (used.cumsum(0) == 1)
        if not bool(used.all()):
            batch, weights, advantages = batch.rows(used.nonzero()[:, 0]), weights[used], advantages[used]
            reference, tokens = reference[used], None if tokens is None else tokens[used]

        def losses(rows: Tensor, logprobs: Tensor) -> Tensor:
            cut = slice(0, logprobs.shape[1])
            old, ref, mask = (sent(x[rows, cut], logprobs.device) for x in (batch.logprobs, reference, batch.mask))
            if tokens is not None:
                logprobs = weighed(logprobs, sent(tokens[rows, cut], logprobs.device))
            penalty = self.regularizer.loss(logprobs, ref)
            return self.objective(logprobs, old, mask, sent(advantages[rows], logprobs.device), penalty)

        return self.gradient_step.descend(batch, weights, losses)

    def state_dict(self) -> dict[str, object]:
        remembered = self.advantage.state_dict() if isinstance(self.advantage, Remembering) else {}
        return {**super().state_dict(), "advantage": remembered}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        if isinstance(self.advantage, Remembering):
            self.advantage.load_state_dict(state["advantage"])  # type: ignore[arg-type]


def _mean_metrics(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the passes; logprob_mismatch of the first one, before any step; `shift` is its maximum afterwards."""
    found = {name: fmean([one[name] for one in passes]) for name in ("loss", "grad_norm")}
    found["logprob_mismatch"] = passes[0]["logprob_mismatch"]
    if len(passes) > 1:
        found["shift"] = max(one["logprob_mismatch"] for one in passes[1:])
    return found
