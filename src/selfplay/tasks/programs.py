"""Programs as a task: a question asks for Python, and tests say whether an answer is right."""

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
    """Questions with tests, from a JSONL file; a reply is worth the share of its tests that its code passes.

    A line holds `question`; `tests`, a list of assertions ("assert add(1, 2) == 3") or of examples ({"stdin": "1 2\\n",
    "stdout": "3"}); perhaps `answer`, code that passes them; and perhaps `labels`, see `Item`.

    Args:
        path: of the file; None for the few problems that come with selfplay.
        held_out: the share of the questions that is held out, by the hash of their text: the same ones always.
        sandbox: where the code is run.

    Raises:
        SelfplayError: the file cannot be read, a line is wrong, or no question is left to be trained on or held out.
    """

    def __init__(
        self, path: Name | None, held_out: Annotated[float, Range(0, 1, above=True, below=True)], sandbox: Sandbox
    ) -> None:
        if not 0 < held_out < 1:
            raise SelfplayError(f"task.held_out is {held_out}; give a share between 0 and 1")
        self.sandbox = sandbox
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
                f"{len(self._train)} to train on; give it more, or another share"
            )

    def _lines(self) -> list[str]:
        try:
            return [line for line in self.path.read_text(encoding="utf-8").split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise SelfplayError(
                f"the programs in {self.path} cannot be read ({reason}); give task.path a JSONL file"
            ) from None

    def _read(self, line: str, number: int) -> None:
        try:
            record = json.loads(line)
            question, tests = record["question"], tuple(_test(test) for test in record["tests"])
            if not isinstance(question, str) or not tests:
                raise ValueError("a question in words and a test at least")
            item = Item(question, str(record.get("answer", "")), _labels(record.get("labels", {})))
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
            raise SelfplayError(
                f"line {number} of {self.path} is no problem with tests ({type(error).__name__}: {error}); mend it, as "
                "docs/referees.md shows"
            ) from None
        if question in self.items:
            raise SelfplayError(f"line {number} of {self.path} asks '{question[:60]}' again; remove it")
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
        """How the code in a reply fared; None where the question is not one of these."""
        return sandbox.run(code_in(reply), self.tests[question]) if question in self.tests else None


def _place(question: str) -> float:
    """Where a text stands between 0 and 1: by chance, but always there."""
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / (1 << 32)


def _test(test: object) -> Test:
    if isinstance(test, str):
        compile(test, "<test>", "exec")
        return test
    if isinstance(test, Mapping) and isinstance(test["stdin"], str) and isinstance(test["stdout"], str):
        return test["stdin"], test["stdout"]
    raise ValueError("a test is an assertion, or has stdin and stdout")


def _labels(labels: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in labels.items()}
