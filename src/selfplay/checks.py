"""Early checks that training changes the weights and starts from the right policy.

They apply to every kind of policy. The cost is two passes over the weights per step, until an update has changed them.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from selfplay.core import Batch, Policy, SelfplayError
from selfplay.parallel import current

LIMIT = 1e-3  # nats; tolerated sampler-learner difference in float32, where about 1e-5 is typical
SILENT = 1e-6  # gradient norms up to this may be rounding error


def check_trainable(learner: Policy) -> None:
    """Raise SelfplayError unless the learner has trainable parameters in a precision that can represent small steps."""
    parameters = list(learner.parameters())
    name = type(learner).__name__
    if not any(p.requires_grad and p.numel() for p in parameters):
        raise SelfplayError(
            f"the learner ({name}) has no trainable parameters, so nothing can be learnt; choose another player, or "
            "check player.lora"
        )
    coarse = [p.dtype for p in parameters if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    if coarse:
        raise SelfplayError(
            f"the learner ({name}) has {str(coarse[0]).removeprefix('torch.')} weights, too coarse to train with small "
            "steps; set player.dtype=float32, or train an adapter on top of them with player.lora"
        )


class Mismatch:
    """Stops a step if the batch was sampled from a distribution other than the learner's.

    Before the first gradient of a step the two are the same policy, so their token log-probabilities may differ only by
    rounding. Differences up to LIMIT pass. For a larger one, the policy estimates the rounding error on these turns
    (`Policy.rounding`, which for bfloat16 compares with float32). A new estimate is made only when a
    difference exceeds the last estimate.

    Args:
        policy: the learner.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.limit = policy, LIMIT

    def __call__(self, batch: Batch, logprobs: Tensor) -> None:
        """Compare the learner's log-probabilities [B, T] with the sampler's, on the learner's own turns.

        Raises:
            SelfplayError: they differ by more than rounding can explain.
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
                f"the learner ({name}) and its sampler disagree by {float(apart.view(-1)[worst]):.3g} nats on a token "
                f"(logprob_mismatch), of which rounding explains at most {float(allowed.view(-1)[worst]):.2g}, so the "
                "sampled policy is not the one being trained; check what the model computes besides its plain layers "
                "(an adapter, a cache, a mask), try player.attention=eager or another player.lora, or choose another "
                "architecture"
            )
        self.limit = float(allowed[own].min())


class FirstUpdate:
    """Watches a run until an update has changed the learner's weights.

    A step with zero gradient (all payoffs equal) is expected to change nothing and proves nothing, so the next step is
    checked instead. Once the weights have changed, the learner re-checks its computation paths (`Policy.ways`).

    Args:
        learner: the policy that learns.
        fresh: whether this is the first step of the run; a resumed learner already differs from its reference.
        tell: called with each message for the user.
    """

    def __init__(self, learner: Policy, fresh: bool, tell: Callable[[str], None] = print) -> None:
        self.learner, self.unchanged, self.fresh, self.tell = learner, True, fresh, tell
        self.was: list[tuple[float, float]] = []
        self.mismatch = 0.0

    def before(self, mismatch: float = 0.0) -> None:
        """Call right before an update.

        Args:
            mismatch: see `check_reference`.
        """
        self.mismatch = mismatch
        if self.unchanged:
            self.was = fingerprint(self.learner)

    def after(self, metrics: Mapping[str, float]) -> None:
        """Call right after the update, with its metrics.

        Raises:
            SelfplayError: the reference did not equal the learner, or a non-zero gradient changed no weight.
        """
        if self.fresh:
            check_reference(metrics, self.mismatch)
        self.fresh = False
        if not self.unchanged:
            return
        self.unchanged = not current().highest(fingerprint(self.learner) != self.was)
        if self.unchanged and metrics.get("grad_norm", 0.0) > SILENT:
            raise SelfplayError(
                f"the first update changed no weight although the gradient norm is {metrics['grad_norm']:.3g} "
                f"(learning rate {metrics.get('learning_rate', math.nan):.3g}); "
                "raise update.optimizer.lr, or check the optimizer"
            )
        if not self.unchanged:
            self._recheck_paths()

    def _recheck_paths(self) -> None:
        with current().whole():
            before = self.learner.ways()
            after = self.learner.ways(again=True)
        for what, way in after.items():
            if way != before[what]:
                self.tell(f"note: after the first update, {what} by {before[what]} is wrong; using {way} from now on")


def check_reference(metrics: Mapping[str, float], mismatch: float = 0.0) -> None:
    """Raise SelfplayError unless the divergence from the reference is 0 on the first batch.

    The sampler's log-probabilities differ from the learner's, and so from those of an identical reference, by at most
    the mismatch d. Each k3 term is then at most exp(d) - d - 1.

    Args:
        metrics: of the update.
        mismatch: d of all turns of the learner. A rule compares only the turns that it learns from, but measures the
            divergence on all of them.
    """
    d = max(mismatch, metrics.get("logprob_mismatch", math.inf))
    rounding = math.expm1(d) - d if d < 1 else math.inf
    for name, value in metrics.items():
        if name.endswith("/kl") and value > rounding + 1e-6:
            raise SelfplayError(
                f"{name} is {value:.3g} nats per token before the first update, so the reference differs from the "
                "initial learner; the player's snapshot() must be an exact copy (no dropout, no other randomness)"
            )


def fingerprint(policy: Policy) -> list[tuple[float, float]]:
    """Sum and norm of each parameter in float64; unchanged weights give the same values, changed ones almost never."""
    with torch.no_grad():
        return [
            (float(p.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(p, dtype=torch.float64)))
            for p in map(current().own, policy.parameters())
        ]
