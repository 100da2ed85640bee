"""User-defined reward functions: of one reply, or of lists of them with the signature of TRL's trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.project import function_named
from selfplay.tasks.task import Item, Task

TRL = {"prompts", "completions"}  # parameters by which a function with TRL's signature is known


class Function(Referee):
    """A function of one reply, f(question, answer, ...) -> float, or of all of them with TRL's signature.

    A function of one reply takes any of these by name: `question` and `answer`, the texts; `reference`, the task's
    answer; `demonstration`; and every column of the question's record (in the tiny world `families` and `levels`).

    A function with a parameter `prompts` or `completions`, or with no other than **kwargs, is called as TRL does:
    f(prompts, completions, **columns) -> list[float | None], with one number per turn. Prompts and completions are
    lists of strings or, with `conversational`, of message lists in TRL's format: [{"role": "user", "content": ...}] and
    [{"role": "assistant", "content": ...}]. The columns are lists: `answer`, the task's answer, `demonstration`, and
    the columns of the records. A function without **kwargs receives only the columns in its signature.

    A value that a question lacks is None, as is everything on a question that the task does not know.

    Args:
        function: "my_module.f" from the current folder or an installed package, or the function itself.
        task: see `selfplay.tasks`.
        conversational: whether to pass messages instead of strings; for TRL's signature.
        missing: the score for None; if None, a missing score is an error.

    Raises:
        SelfplayError: the function does not exist.
        SelfplayError (when scoring): the function needs a column that the task does not have, raises, or does not
            return a finite number for each turn.
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
            parameters = list(inspect.signature(self.function).parameters.values())
        except ValueError:  # a C function without a signature
            parameters = []
        named = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        self.takes = None if any(p.kind is p.VAR_KEYWORD for p in parameters) else named or TRL
        self.needs = [p.name for p in parameters if p.name in named and p.default is p.empty]
        self.batched = not named or bool(TRL & named)
        if conversational and not self.batched:
            raise SelfplayError(
                f"reward.conversational is true, but {self.name} has neither of TRL's parameters prompts and "
                "completions; add them, or set reward.conversational=false"
            )

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        if not turns:
            return torch.zeros(0)
        prompts: list[Any] = [turn.ask.prompt for turn in turns]
        completions: list[Any] = [turn.reply.text for turn in turns]
        columns = self._columns(prompts)
        if self.conversational:
            prompts = [list(map(dict, turn.ask.messages)) for turn in turns]
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        texts = ("prompts", "completions") if self.batched else ("question", "answer")
        given = self._given(columns | dict(zip(texts, (prompts, completions), strict=True)))
        try:
            if self.batched:
                found = self.function(**given)
            else:
                found = [self.function(**{name: given[name][i] for name in given}) for i in range(len(turns))]
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise SelfplayError(
                f"reward.function {self.name} raised {type(error).__name__} ({reason}) on {len(turns)} turns; fix it"
            ) from error
        return self._checked(found, len(turns))

    def _columns(self, questions: list[str]) -> dict[str, list[Any]]:
        """Column -> its values, of every column that the task has for one of the questions."""
        rows = [None if (item := self.task.item(question)) is None else self._row(item) for question in questions]
        known = [*filter(None, rows), *([] if all(rows) else map(self._row, self.task.held_out()[:1]))]
        names = dict.fromkeys(name for row in (self._row(Item("")), *known) for name in row)
        return {name: [None if row is None else row.get(name) for row in rows] for name in names}

    def _row(self, item: Item) -> dict[str, Any]:
        """What the task has on a question; a record's own columns are as they are in the file."""
        shown = {"demonstration": item.demonstration, **item.labels, **item.columns}
        return shown | {"answer": item.answer} if self.batched else {"reference": item.answer} | shown

    def _given(self, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns that the function takes."""
        if missing := [name for name in self.needs if name not in columns]:
            raise SelfplayError(
                f"reward.function {self.name} takes {', '.join(missing)}, but the columns are {', '.join(columns)}; "
                "rename the parameter, or add the column to the task's records"
            )
        return {name: column for name, column in columns.items() if self.takes is None or name in self.takes}

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
