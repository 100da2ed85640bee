"""The learner with its update, which opponent rules can restart, set aside and bring back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from selfplay.core import Policy, Update
from selfplay.parallel import current

Change = Literal["restart", "set_aside", "bring_back"]
ASIDE = "main-"  # name prefix of the frozen policies of a learner that is set aside


class Trainee:
    """The one set of weights that learns, and the state of its optimizer.

    Args:
        learner: the policy that is trained.
        base: the learner before the first step.
        update: its learning rule; a restart restores the state that the rule has now.

    Attributes:
        frozen: policies that a checkpoint must store for a learner that is set aside, by name.
    """

    def __init__(self, learner: Policy, base: Policy, update: Update) -> None:
        self.learner, self.base, self.update = learner, base, update
        self._fresh = copy.deepcopy(update.state_dict())
        self._aside: tuple[Policy, dict[str, Any]] | None = None
        self.frozen: Mapping[str, Policy] = {}

    def follow(self, change: Change | None, main: Policy | None = None) -> None:
        """Apply a change requested by an opponent rule.

        Args:
            change: "restart" resets the learner to the base; "set_aside" also does, and saves the main learner;
                "bring_back" restores the main learner; None changes nothing.
            main: a frozen copy of the main learner, for "set_aside".
        """
        if change == "set_aside":
            assert main is not None
            self._aside = main, copy.deepcopy(self.update.state_dict())
            self.frozen = {ASIDE + name: policy for name, policy in self.update.frozen.items()}
        if change in ("restart", "set_aside"):
            self.learner.restore(self.base)
            self.update.load_state_dict(copy.deepcopy(self._fresh))
            self.scatter()
            self.update.frozen = {}
        if change == "bring_back":
            assert self._aside is not None
            self.learner.restore(self._aside[0])
            self.update.load_state_dict(self._aside[1])
            self.scatter()
            self.update.frozen = {name.removeprefix(ASIDE): policy for name, policy in self.frozen.items()}
            self._aside, self.frozen = None, {}

    def scatter(self) -> None:
        """Give each process its part of the optimizers' state, which was loaded whole."""
        for update in (self.update, *self.update.parts.values()):
            current().scatter(update.optimizer)

    def read(self, folder: Path) -> Policy:
        """Load a frozen policy of the learner's class from a folder that `save` wrote; the learner is unchanged."""
        current = self.learner.snapshot()
        try:
            self.learner.load(folder)
            return self.learner.snapshot()
        finally:
            self.learner.restore(current)

    def state_dict(self) -> dict[str, Any] | None:
        """The state of the update that is set aside, or None; its weights are those of the newest main member."""
        return None if self._aside is None else self._aside[1]

    def load_state_dict(self, state: dict[str, Any] | None, main: Policy | None, frozen: Mapping[str, Policy]) -> None:
        """Restore the result of `state_dict` and `frozen`; `frozen` also contains the update's own policies."""
        if state is not None:
            assert main is not None
            self._aside = main, state
            self.frozen = {name: policy for name, policy in frozen.items() if name.startswith(ASIDE)}
        self.update.frozen = {name: policy for name, policy in frozen.items() if name not in self.frozen}
