"""Programming tasks: questions that ask for Python code, judged by tests."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

from selfplay.core import SelfplayError
from selfplay.options import Name, Range
from selfplay.sandbox.sandbox import Outcome, Sandbox, Test, code_in
from selfplay.tasks.task import Item, Task

PACKAGED = Path(__file__).with_name("programs.jsonl")


class Programs(Task):
    """Questions with tests, from a JSONL file; a reply scores the share of tests that its code passes.

    Each line has `question`; `tests`, a list of assertions ("assert add(1, 2) == 3") or examples ({"stdin": "1 2\\n",
    "stdout": "3"}); and optionally `answer`, code that passes them, and `labels`, see `Item`.

    Args:
        path: the file; None for the few problems that come with selfplay.
        held_out: share of held-out questions, chosen by a hash of their text.
        sandbox: runs the code; None for one with the default limits.

    Raises:
        SelfplayError: the file cannot be read, a line is invalid, or the training or held-out set is empty.
    """

    def __init__(
        self,
        path: Name | None = None,
        held_out: Annotated[float, Range(0, 1, above=True, below=True)] = 0.4,
        sandbox: Sandbox | None = None,
    ) -> None:
        if not 0 < held_out < 1:
            raise SelfplayError(f"task.held_out is {held_out}; give a share between 0 and 1")
        self.sandbox = sandbox or Sandbox()
        self.path = PACKAGED if path is None else Path(path)
        self.items: dict[str, Item] = {}
        self.tests: dict[str, tuple[Test, ...]] = {}
        for number, line in enumerate(self._lines(), start=1):
            self._read(line, number)
        kept = {question for question in self.items if _place(question) < held_out}
        self._train = [question for question in self.items if question not in kept]
        self._held_out = [item for question, item in self.items.items() if question in kept]
        if not self._train or not self._held_out:
            raise SelfplayError(
                f"{self.path} has {len(self.items)} questions, of which task.held_out={held_out} leaves "
                f"{len(self._train)} for training; add more, or choose another share"
            )

    def _lines(self) -> list[str]:
        try:
            return [line for line in self.path.read_text(encoding="utf-8").split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise SelfplayError(
                f"the programs in {self.path} cannot be read ({reason}); set task.path to a JSONL file"
            ) from None

    def _read(self, line: str, number: int) -> None:
        try:
            record = json.loads(line)
            question, tests = record["question"], tuple(_test(test) for test in record["tests"])
            if not isinstance(question, str) or not tests:
                raise ValueError("it needs a question string and at least one test")
            item = Item(question, str(record.get("answer", "")), _labels(record.get("labels", {})))
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
            raise SelfplayError(
                f"line {number} of {self.path} is not a problem with tests ({type(error).__name__}: {error}); fix it, "
                "see docs/referees.md"
            ) from None
        if question in self.items:
            raise SelfplayError(f"line {number} of {self.path} repeats the question '{question[:60]}'; remove it")
        self.items[question], self.tests[question] = item, tests

    def draw(self, rng: Random) -> str:
        return rng.choice(self._train)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def item(self, question: str) -> Item | None:
        return self.items.get(question)

    def correct(self, item: Item, reply: str) -> float:
        return self.sandbox.run(code_in(reply), self.tests[item.question]).share

    def outcome(self, question: str, reply: str, sandbox: Sandbox) -> Outcome | None:
        """The test results of the code in a reply; None if the question is unknown."""
        return sandbox.run(code_in(reply), self.tests[question]) if question in self.tests else None


def _place(question: str) -> float:
    """A hash of the text as a number in [0, 1)."""
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / (1 << 32)


def _test(test: object) -> Test:
    if isinstance(test, str):
        compile(test, "<test>", "exec")
        return test
    if isinstance(test, Mapping) and isinstance(test["stdin"], str) and isinstance(test["stdout"], str):
        return test["stdin"], test["stdout"]
    raise ValueError("a test must be an assertion, or have stdin and stdout")


def _labels(labels: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in labels.items()}
