"""Set-ups that would train nothing, or train away from the wrong place, are refused at the start.

For every kind of policy; a step's cost is two readings of its weights, until the first update that moved them.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from selfplay.core import Batch, Policy, SelfplayError

LIMIT = 1e-3  # nats by which float32 may take sampler and learner apart; in practice it is 1e-5
SILENT = 1e-6  # a gradient of this norm may be rounding alone


def check_trainable(learner: Policy) -> None:
    """Raise SelfplayError unless the learner has something to train, in a precision that takes up small steps."""
    parameters = list(learner.parameters())
    name = type(learner).__name__
    if not any(p.requires_grad and p.numel() for p in parameters):
        raise SelfplayError(
            f"the learner ({name}) has no trainable parameter, so nothing could be learnt; choose another player, or "
            "look at player.lora"
        )
    coarse = [p.dtype for p in parameters if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    if coarse:
        raise SelfplayError(
            f"the learner ({name}) would train weights of {str(coarse[0]).removeprefix('torch.')}, too coarse to take "
            "up small steps; take player.dtype=float32, or train an adapter over them: player.lora"
        )


class Mismatch:
    """Stops a step whose batch was sampled from another distribution than the one that learns.

    Before the first gradient of a step both are one policy, so their log-probabilities of a token differ by rounding
    alone. Differences up to LIMIT are let pass; where there is a larger one, the policy says what its precision
    explains of these very turns (`Policy.rounding`: in bfloat16 its log-probabilities are compared with those in
    float32). That is measured anew only when a difference exceeds what was explained last.

    Args:
        policy: the learner.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.limit = policy, LIMIT

    def __call__(self, batch: Batch, logprobs: Tensor) -> None:
        """Compare the learner's log-probabilities [B, T] with the sampler's; what others said has no part in it.

        Raises:
            SelfplayError: they differ by more than rounding explains.
        """
        own = batch.mask & batch.on_policy[:, None]
        apart = ((logprobs.detach().cpu() - batch.logprobs).abs() * own).double()
        if not bool((apart > self.limit).any()):
            return
        allowed = self.policy.rounding(batch).double().clamp(min=LIMIT)
        if bool((apart > allowed).any()):
            worst = int((apart / allowed).argmax())
            name = type(self.policy).__name__
            raise SelfplayError(
                f"the learner ({name}) gives a token {float(apart.view(-1)[worst]):.3g} nats more or less than its "
                f"sampler did (logprob_mismatch), and rounding explains "
                f"at most {float(allowed.view(-1)[worst]):.2g}, so what is "
                "sampled is not what learns; look for what the model computes besides its plain layers (an adapter, a "
                "cache, a mask), try player.attention=eager or another player.lora, or choose another architecture"
            )
        self.limit = float(allowed[own].min())


class FirstUpdate:
    """Watches a run until an update has moved the learner's weights.

    A step whose gradient is zero (all turns were paid alike) moves nothing rightly, and says nothing: the next one is
    then the first.

    Args:
        learner: the policy that learns.
        fresh: whether no step was done before; a resumed learner has left its reference.
        tell: what is done with a sentence that a person should read.

    Once weights have moved, the learner finds out anew how it may compute (`Policy.ways`).
    """

    def __init__(self, learner: Policy, fresh: bool, tell: Callable[[str], None] = print) -> None:
        self.learner, self.unmoved, self.fresh, self.tell = learner, True, fresh, tell
        self.was: list[tuple[float, float]] = []

    def before(self) -> None:
        """Right before an update."""
        if self.unmoved:
            self.was = fingerprint(self.learner)

    def after(self, metrics: Mapping[str, float]) -> None:
        """Right after it, with what it reported.

        Raises:
            SelfplayError: the reference was not the learner, or a gradient left every weight as it was.
        """
        if self.fresh:
            check_reference(metrics)
        self.fresh = False
        if not self.unmoved:
            return
        self.unmoved = fingerprint(self.learner) == self.was
        if self.unmoved and metrics.get("grad_norm", 0.0) > SILENT:
            raise SelfplayError(
                "the first update left every weight as it was although its gradient has the norm "
                f"{metrics['grad_norm']:.3g} (the learning rate is {metrics.get('learning_rate', math.nan):.3g}); "
                "raise update.optimizer.lr, or look at the optimizer"
            )
        if not self.unmoved:
            self._look_again()

    def _look_again(self) -> None:
        before = self.learner.ways()
        after = self.learner.ways(again=True)
        for what, way in after.items():
            if way != before[what]:
                self.tell(f"note: the first update showed that {what} by {before[what]} is wrong; from now on: {way}")


def check_reference(metrics: Mapping[str, float]) -> None:
    """Raise SelfplayError unless the divergence from the reference was 0 on the first batch.

    The sampler's log-probabilities differ from the learner's by at most the mismatch d, so those of a reference that is
    the learner do too, and no term of k3 exceeds exp(d) - d - 1.
    """
    mismatch = metrics.get("logprob_mismatch", math.inf)
    rounding = math.expm1(mismatch) - mismatch if mismatch < 1 else math.inf
    for name, value in metrics.items():
        if name.endswith("/kl") and value > rounding + 1e-6:
            raise SelfplayError(
                f"{name} is {value:.3g} nats a token before the first update, so the reference is not the learner as "
                "it starts; the player's snapshot() must be an exact copy (no dropout, no luck of its own)"
            )


def fingerprint(policy: Policy) -> list[tuple[float, float]]:
    """Sum and norm of each parameter in float64: alike if and, but for coincidence, only if no weight has moved."""
    with torch.no_grad():
        return [
            (float(p.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(p, dtype=torch.float64)))
            for p in policy.parameters()
        ]
