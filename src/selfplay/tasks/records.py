"""Questions from a file or a Hugging Face dataset."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from random import Random
from typing import Annotated

from selfplay.core import SelfplayError
from selfplay.options import Count, Expression, Name, NotEmpty, Share
from selfplay.tasks.conversation import asked, replied
from selfplay.tasks.match import answer_in, exact
from selfplay.tasks.sources import Row
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Item, Task

Fields = str | Sequence[str]
LONGEST_NUMBER = 20  # digits up to which numbers are written without an exponent


class Records(Task):
    """Questions, optionally with answers, from rows with named fields.

    A field may also hold a conversation, a list of messages (`selfplay.tasks.conversation`): as `question` its question
    is read, as `answer`, `demonstration` or `rejected` the assistant's reply, so all of them may name the same field.

    Args:
        source: the rows, see `selfplay.tasks.sources`.
        question: the field of the question, or several fields to join; empty ones are skipped.
        answer: the field of the reference answer; None if there is none, so that only other referees can judge.
        pattern: a regular expression whose single group is the part of the answer to compare; None: the whole answer.
        demonstration: the field of a full reply to learn from (update=sft, spin); None: the answer. If several rows
            have the same question, the first one's is used.
        rejected: the field of a reply that is worse than the demonstration (game=preferences); None: there is none.
        longest: maximum length of a demonstration in characters, and of a rejected reply; questions with a longer one
            are not used for training. None: no limit.
        labels: fields by which accuracy is also reported.
        separator: joins the fields of a question.
        match: (reply, answer) -> 0 to 1, see `selfplay.tasks.match`.
        held_out_rows: held-out rows from another source; None to hold out a share of `source`.
        held_out_share: share of held-out questions, chosen by a hash; unused if `held_out_rows` is given.
        most: maximum number of held-out questions, of which the first are kept; None: no limit.

    Raises:
        SelfplayError: there are no rows, a row lacks a field or an answer, two rows answer the same question
            differently, or no training question is left.
    """

    def __init__(
        self,
        source: Sequence[Row],
        question: Name | Annotated[Sequence[Name], NotEmpty()] = "question",
        answer: Name | None = "answer",
        pattern: Annotated[str, Expression(1)] | None = None,
        demonstration: str | None = None,
        rejected: str | None = None,
        longest: Count | None = None,
        labels: Sequence[str] = (),
        separator: str = "\n\n",
        match: Callable[[str, str], float] = exact,
        held_out_rows: Sequence[Row] | None = None,
        held_out_share: Share = 0.125,
        most: Count | None = None,
    ) -> None:
        check_share("task.held_out_share", held_out_share)
        self.fields = (question,) if isinstance(question, str) else tuple(question)
        self.answer, self.labels, self.separator, self.match = answer, tuple(labels), separator, match
        self.pattern, self.demonstration = _compiled(pattern), demonstration
        self.rejected = rejected
        self.judges = answer is not None
        items = self._items(source)
        if held_out_rows is None:
            held = {q: item for q, item in items.items() if is_held_out(q, held_out_share)}
        else:
            held = self._items(held_out_rows)
        self._known = {**items, **held}
        fitting = [q for q, item in items.items() if longest is None or _length(item) <= longest]
        if not fitting:
            raise SelfplayError(f"task.longest is {longest}, but every demonstration is longer; raise it")
        self._training = [q for q in fitting if q not in held]
        self._held, self._held_out = frozenset(held), list(held.values())[:most]
        if not self._training:
            raise SelfplayError(
                f"all {len(fitting)} questions of the task are held out, so none is left for training; add more, or "
                "lower task.held_out_share"
            )

    def draw(self, rng: Random) -> str:
        return rng.choice(self._training)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def holds_out(self, question: str) -> bool:
        return question in self._held

    def item(self, question: str) -> Item | None:
        return self._known.get(question)

    def correct(self, item: Item, reply: str) -> float:
        if not self.judges:
            raise SelfplayError(
                "the task's records have no answers (task.answer is null), so replies cannot be verified; use "
                "reward=rm or another referee, eval=win_rate or none, and probes.truth=null"
            )
        return self.match(reply, item.answer)

    def answer_in(self, reply: str) -> str:
        return answer_in(self.match, reply)

    def _items(self, rows: Iterable[Row]) -> dict[str, Item]:
        """Question -> item, in the order of the rows, without duplicates."""
        items: dict[str, Item] = {}
        for number, row in enumerate(rows, 1):
            where = getattr(row, "where", f"row {number}")
            parts = [self._text(row, name, where, asks=True) for name in self.fields]
            question = self.separator.join(part for part in parts if part)
            if not question:
                raise SelfplayError(f"{where} has an empty {' and '.join(self.fields)}; leave the row out")
            labels = {name: self._text(row, name, where) for name in self.labels}
            shown = "" if self.demonstration is None else self._text(row, self.demonstration, where).strip()
            item = Item(question, self._answer(row, where), labels, shown, self._worse(row, where, shown), row)
            other = items.setdefault(question, item)
            if other.answer != item.answer:
                raise SelfplayError(
                    f"{where} answers '{question[:80]}' with '{item.answer[:40]}', an earlier row with "
                    f"'{other.answer[:40]}'; keep one of them"
                )
        if not items:
            raise SelfplayError("the task's source has no rows; give one with at least two questions")
        return items

    def _text(self, row: Row, name: str, where: str, asks: bool = False) -> str:
        if name not in row:
            raise SelfplayError(
                f"{where} has no field '{name}' (its fields: {', '.join(map(str, row)) or 'none'}); name the right "
                "ones with task.question, task.answer, task.demonstration, task.rejected and task.labels"
            )
        value = row[name]
        if isinstance(value, list | dict) and name not in self.labels:
            return asked(value, where, name, self.separator) if asks else replied(value, where, name)
        return _written(value, f"{where} has", name)

    def _answer(self, row: Row, where: str) -> str:
        if self.answer is None:
            return ""
        text = self._text(row, self.answer, where)
        if self.pattern is not None:
            found = self.pattern.search(text)
            if found is None:
                raise SelfplayError(
                    f"the answer of {where} does not match task.pattern ('{text[-80:]}'); change one of them"
                )
            text = found[1]
        if not text.strip():
            raise SelfplayError(f"{where} has an empty answer; leave the row out, or set task.answer=null")
        return text.strip()

    def _worse(self, row: Row, where: str, shown: str) -> str:
        if self.rejected is None:
            return ""
        text = self._text(row, self.rejected, where).strip()
        if not text or not shown or text == shown:
            what = "equal replies" if text and shown else "an empty reply"
            raise SelfplayError(
                f"{where} has {what} as its '{self.demonstration}' and '{self.rejected}', so it has no preference; "
                "leave the row out, or name the fields with task.demonstration and task.rejected"
            )
        return text


def _length(item: Item) -> int:
    return max(len(item.demonstration), len(item.rejected))


def _written(value: object, where: str, name: str) -> str:
    """Convert a field to text: null to "", true to "true", floats without an exponent if possible.

    Raises:
        SelfplayError: the value is NaN or infinite.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SelfplayError(f"{where} {value} as its '{name}', which is not finite; fix it, or leave it out")
        exact = Decimal(repr(float(value)))
        return f"{exact:f}" if abs(exact.adjusted()) <= LONGEST_NUMBER else str(value)
    return str(value)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SelfplayError(f"task.pattern is '{pattern}', not a regular expression ({error}); change it") from error
    if compiled.groups != 1:
        raise SelfplayError(f"task.pattern is '{pattern}', with {compiled.groups} groups; use exactly one group (...)")
    return compiled
