"""The checks around each update of a learner."""

from collections.abc import Callable, Mapping, Sequence

import torch

from selfplay.checks import FirstUpdate
from selfplay.comparisons import Silence, check_batch
from selfplay.core import Batch, Episode, Policy, SelfplayError, Turn, Update
from selfplay.trainee import Trainee
from selfplay.updates.gradient_step import GradientStep
from selfplay.updates.imitation import off_policy
from selfplay.updates.pairs import demonstrated


class UpdateChecks:
    """Checks that a learner's first batch can be compared, that its weights change, and that gradients are not 0.

    Args:
        trainee: the learner and its update.
        fresh: whether the run is new, so that the learner still equals its reference.
        tell: called with each message for the user.
    """

    def __init__(self, trainee: Trainee, fresh: bool, tell: Callable[[str], None]) -> None:
        self.update, self.tell = trainee.update, tell
        self.first, self.silence, self.begun = FirstUpdate(trainee.learner, fresh, tell), Silence(), False

    def before(self, episodes: Sequence[Episode], own: Sequence[tuple[Episode, Turn]], batch: Batch) -> None:
        """Call right before an update.

        Args:
            episodes: all episodes of the step.
            own: the learner's own turns, with their episodes.
            batch: what the update will learn from.

        Raises:
            SelfplayError: the rule cannot learn replies behind another prompt, has nothing to compare, or would learn
                replies of a teacher that are worse than others.
        """
        if any(turn.ask.learnt_prompt for _, turn in own):
            _check_moved(self.update)
        if not self.begun:
            check_batch(episodes, own, self.update)
            _check_paid_alike(self.update, episodes)
        self.begun = True
        self.first.before(self._mismatch(batch) if self.first.fresh else 0.0)

    def after(self, metrics: Mapping[str, float]) -> None:
        """Call right after the update, with its metrics."""
        self.first.after(metrics)
        if note := self.silence.after(metrics):
            self.tell(note)

    def _mismatch(self, batch: Batch) -> float:
        """The largest difference between sampler and learner on the learner's own turns, if it may matter.

        In float32 it is far below what `check_reference` allows.
        """
        rule, own = self.update.gradient_step if hasattr(self.update, "gradient_step") else None, batch.on_policy
        if not isinstance(rule, GradientStep) or not _is_half(self.first.learner) or not own.any():
            return 0.0
        part = batch.rows(own.nonzero()[:, 0])
        return float((rule.logprobs(self.first.learner, part) - part.logprobs).abs().max())


def _is_half(learner: Policy) -> bool:
    """Whether the learner computes in half precision."""
    kinds = getattr(learner, "compute_dtype", None), getattr(getattr(learner, "model", None), "dtype", None)
    return bool({torch.bfloat16, torch.float16} & set(kinds))


def _check_paid_alike(update: Update, episodes: Sequence[Episode]) -> None:
    """Raise SelfplayError if a rule learns all of a teacher's replies, though some of a group are paid less."""
    for part in update.parts.values():
        _check_paid_alike(part, episodes)
    if getattr(rule := getattr(update, "keep", None), "func", rule) is not off_policy:
        return
    paid: dict[object, set[float]] = {}
    for episode in episodes:
        for turn in episode.turns:
            if turn.player in update.teachers and turn.ask.group is not None:
                paid.setdefault((episode.index, turn.ask.role, turn.ask.group), set()).add(turn.payoff)
    if unequal := next((payoffs for payoffs in paid.values() if len(payoffs) > 1), None):
        amounts = " and ".join(f"{payoff:g}" for payoff in sorted(unequal, reverse=True))
        raise SelfplayError(
            f"the teacher's replies to a question are paid {amounts}, but {type(update).__name__} would learn all of "
            "them; use update=rejection, which learns the best, or update=dpo"
        )


def _check_moved(update: Update) -> None:
    """Raise SelfplayError if a rule cannot learn the learner's own replies behind another prompt."""
    for part in update.parts.values():
        _check_moved(part)
    rules = {getattr(rule, "func", rule) for rule in (getattr(update, name, None) for name in ("keep", "pairs"))}
    if not update.replays or rules & {demonstrated, off_policy}:
        why = "takes them for a teacher's" if update.replays else "needs them to be sampled there"
        raise SelfplayError(
            f"this game's replies are learnt behind another prompt, but {type(update).__name__} {why}; use a rule such "
            "as weighted_sft, rejection, dpo or kto"
        )
