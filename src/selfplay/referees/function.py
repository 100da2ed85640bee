"""User-defined reward functions with the signature of TRL's trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.project import function_named
from selfplay.tasks.task import Task


class Function(Referee):
    """A reward function f(prompts, completions, **columns) -> list[float | None], with one number per turn.

    Prompts and completions are lists of strings or, with `conversational`, of message lists in TRL's format:
    [{"role": "user", "content": ...}] and [{"role": "assistant", "content": ...}]. The columns are the task's data on
    each question, None if unknown: `answer`, `demonstration` and the labels (`families` and `levels` in the tiny
    world). A function without **kwargs receives only the columns in its signature.

    Args:
        function: "my_module.f" from the current folder or an installed package, or the function itself.
        task: see `selfplay.tasks`.
        conversational: whether to pass messages instead of strings.
        missing: the score for None; if None, a missing score is an error.

    Raises:
        SelfplayError: the function does not exist.
        SelfplayError (when scoring): the function raises, or does not return one finite number per turn.
    """

    def __init__(
        self,
        function: str | Callable[..., Any],
        task: Task,
        conversational: bool = False,
        missing: float | None = None,
    ) -> None:
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        self.function = function_named(function) if isinstance(function, str) else function
        self.task, self.conversational, self.missing = task, conversational, missing
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # a C function without a signature
            parameters = []  # type: ignore[assignment]
        self.takes = None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        if not turns:
            return torch.zeros(0)
        prompts: list[Any] = [turn.ask.prompt for turn in turns]
        completions: list[Any] = [turn.reply.text for turn in turns]
        columns = self._columns(prompts)
        if self.conversational:
            prompts = [list(map(dict, turn.ask.messages)) for turn in turns]
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        try:
            given = self.function(prompts=prompts, completions=completions, **columns)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise SelfplayError(
                f"reward.function {self.name} raised {type(error).__name__} ({reason}) on {len(turns)} turns; fix it"
            ) from error
        return self._checked(given, len(turns))

    def _columns(self, questions: list[str]) -> dict[str, list[str | None]]:
        items = [self.task.item(question) for question in questions]
        names = ["answer", "demonstration", *{label: None for item in items if item for label in item.labels}]
        found: dict[str, list[str | None]] = {
            name: [
                None
                if item is None
                else {**item.labels, "answer": item.answer, "demonstration": item.demonstration}.get(name)
                for item in items
            ]
            for name in names
        }
        return {name: column for name, column in found.items() if self.takes is None or name in self.takes}

    def _checked(self, given: object, count: int) -> Tensor:
        values = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(values, list | tuple) or len(values) != count:
            what = f"{len(values)} values" if isinstance(values, list | tuple) else f"a {type(given).__name__}"
            raise SelfplayError(
                f"reward.function {self.name} returned {what} for {count} turns; return a list of {count}"
            )
        if self.missing is not None:
            values = [self.missing if value is None else value for value in values]
        for value in values:
            if isinstance(value, bool | int | float) and abs(float(value)) < float("inf"):
                continue
            more = ", or score None with reward.missing=0" if value is None else ""
            raise SelfplayError(
                f"reward.function {self.name} returned {value!r} for a turn; return a finite number for each{more}"
            )
        return torch.tensor([float(value) for value in values])
