"""Questions that somebody wrote down: a file, or a Hugging Face dataset."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from random import Random
from typing import Annotated

from selfplay.core import SelfplayError
from selfplay.options import Count, Expression, Name, NotEmpty, Share
from selfplay.tasks.sources import Row
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Item, Task

Fields = str | Sequence[str]
LONGEST_NUMBER = 20  # places before or after the point of a number that is written out


class Records(Task):
    """Questions, and answers where there are any, from rows with named fields.

    Args:
        source: the rows, see `selfplay.tasks.sources`.
        question: the field that holds the question, or several, which are joined; empty ones are left out.
        answer: the field that holds the right answer; None where nobody knows it, and only other referees can judge.
        pattern: a regular expression with one group, the part of the answer that counts; None for all of it.
        demonstration: the field that holds a whole reply to learn from (update=sft, spin); None where it is the answer.
            Of rows with one question, the first one's.
        longest: characters of a demonstration; questions with a longer one are not drawn to train on. None for all.
        labels: fields by which accuracy is told, too.
        separator: what joins the fields of a question.
        match: (reply, answer) -> 0 to 1, see `selfplay.tasks.match`.
        held_out_rows: the rows to be judged by, from a source of their own; None to hold out a share of `source`.
        held_out_share: of the questions, chosen by a hash; without meaning where `held_out_rows` are given.
        most: held-out questions at most, the first ones; None for all.

    Raises:
        SelfplayError: there is no row, a row lacks a field or an answer, two rows answer one question differently, or
            no question is left to train on.
    """

    def __init__(
        self,
        source: Sequence[Row],
        question: Name | Annotated[Sequence[Name], NotEmpty()],
        answer: Name | None,
        pattern: Annotated[str, Expression(1)] | None,
        demonstration: str | None,
        longest: Count | None,
        labels: Sequence[str],
        separator: str,
        match: Callable[[str, str], float],
        held_out_rows: Sequence[Row] | None,
        held_out_share: Share,
        most: Count | None,
    ) -> None:
        check_share("task.held_out_share", held_out_share)
        self.fields = (question,) if isinstance(question, str) else tuple(question)
        self.answer, self.labels, self.separator, self.match = answer, tuple(labels), separator, match
        self.pattern, self.demonstration = _compiled(pattern), demonstration
        self.judges = answer is not None
        items = self._items(source)
        if held_out_rows is None:
            held = {q: item for q, item in items.items() if is_held_out(q, held_out_share)}
        else:
            held = self._items(held_out_rows)
        self._known = {**items, **held}
        fitting = [q for q, item in items.items() if longest is None or len(item.demonstration) <= longest]
        if not fitting:
            raise SelfplayError(f"task.longest is {longest}, but every demonstration is longer; raise it")
        self._training = [q for q in fitting if q not in held]
        self._held_out = list(held.values())[:most]
        if not self._training:
            raise SelfplayError(
                f"all {len(fitting)} questions of the task are held out, so there is none to train on; give more, or "
                "lower task.held_out_share"
            )

    def draw(self, rng: Random) -> str:
        return rng.choice(self._training)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def item(self, question: str) -> Item | None:
        return self._known.get(question)

    def correct(self, item: Item, reply: str) -> float:
        if not self.judges:
            raise SelfplayError(
                "the task's records have no answers (task.answer is null), so nobody can say which reply is right; use "
                "reward=rm or another referee, eval=win_rate or none, and probes.truth=null"
            )
        return self.match(reply, item.answer)

    def _items(self, rows: Iterable[Row]) -> dict[str, Item]:
        """Question -> item, in the order of the rows; each question once."""
        items: dict[str, Item] = {}
        for number, row in enumerate(rows, 1):
            parts = [self._text(row, name, number) for name in self.fields]
            question = self.separator.join(part for part in parts if part)
            if not question:
                raise SelfplayError(f"row {number} has an empty {' and '.join(self.fields)}; leave the row out")
            labels = {name: self._text(row, name, number) for name in self.labels}
            shown = "" if self.demonstration is None else self._text(row, self.demonstration, number).strip()
            item = Item(question, self._answer(row, number), labels, shown)
            other = items.setdefault(question, item)
            if other.answer != item.answer:
                raise SelfplayError(
                    f"row {number} answers '{question[:80]}' with '{item.answer[:40]}', an earlier row with "
                    f"'{other.answer[:40]}'; keep one of them"
                )
        if not items:
            raise SelfplayError("the task's source has no rows; give one with at least two questions")
        return items

    def _text(self, row: Row, name: str, number: int) -> str:
        if name not in row:
            raise SelfplayError(
                f"row {number} has no field '{name}' (its fields: {', '.join(map(str, row)) or 'none'}); "
                "name the right ones with task.question, task.answer, task.demonstration and task.labels"
            )
        return _written(row[name], f"row {number} has", name)

    def _answer(self, row: Row, number: int) -> str:
        if self.answer is None:
            return ""
        text = self._text(row, self.answer, number)
        if self.pattern is not None:
            found = self.pattern.search(text)
            if found is None:
                raise SelfplayError(
                    f"the answer of row {number} does not match task.pattern ('{text[-80:]}'); change one of them"
                )
            text = found[1]
        if not text.strip():
            raise SelfplayError(f"row {number} has an empty answer; leave the row out, or set task.answer=null")
        return text.strip()


def _written(value: object, where: str, name: str) -> str:
    """A field as text: nothing for null, "true" for true, a small or large number without an exponent.

    Raises:
        SelfplayError: it is NaN or infinite.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SelfplayError(f"{where} {value} as its '{name}', which is no number; correct it, or leave it out")
        exact = Decimal(repr(float(value)))
        return f"{exact:f}" if abs(exact.adjusted()) <= LONGEST_NUMBER else str(value)
    return str(value)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SelfplayError(f"task.pattern is '{pattern}', no regular expression ({error}); change it") from error
    if compiled.groups != 1:
        raise SelfplayError(f"task.pattern is '{pattern}', with {compiled.groups} groups; mark one part with (...)")
    return compiled
