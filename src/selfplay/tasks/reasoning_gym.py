"""Reasoning Gym (Stojanovski et al., arXiv 2505.24760): procedurally generated questions with verifiers."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from random import Random
from typing import Annotated, Any

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, Name, NotEmpty, Seed
from selfplay.sandbox.bounded import Bounded, Exceeded
from selfplay.tasks.safe_eval import harmless
from selfplay.tasks.scorers import Options, reasoning_gym_set
from selfplay.tasks.seeding import seeded
from selfplay.tasks.task import Item, Task
from selfplay.thoughts import said

LONGEST = 2000  # characters of an answer
COMPUTES = ("eval(", "parse_expr(")  # in the code of scorers that evaluate the answer
LAST = 4000  # characters at the end of a reply that are searched for an <answer>
NO_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)  # some scorers accept these within any tolerance
WORKER = Bounded("selfplay.tasks.scorers")


class ReasoningGym(Task):
    """Questions from data sets of Reasoning Gym; replies are scored from 0 to 1 by the data set's own scorer.

    The scorer gets the text in the reply's last <answer> tag, or the whole reply if there is none. Training and
    held-out questions come from different seeds; questions in both are held out. Scorers run in a separate process with
    limits of CPU time and memory (`selfplay.sandbox.bounded`); an answer that exceeds them scores 0. Scorers that call
    eval only get literals and plain arithmetic (`selfplay.tasks.safe_eval`).

    Args:
        names: data sets such as "chain_sum" and "leg_counting" (all are in `reasoning_gym.factory.DATASETS`).
        options: name -> parameters of that data set, for example {"chain_sum": {"max_terms": 3}};
            None leaves those of the package.
        size: training questions per data set.
        held_out: held-out questions per data set.
        seed: random seed of all questions.
        instruction: text appended to each question; null for none.

    Raises:
        SelfplayError: reasoning-gym is not installed, a data set or its parameters are unknown, or no training question
            is left.
    """

    def __init__(
        self,
        names: Annotated[Sequence[Name], NotEmpty()],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        size: Count = 500,
        held_out: Count = 50,
        seed: Seed = 0,
        instruction: str | None = "Give only the final answer in <answer></answer> tags.",
    ) -> None:
        options = options or {}
        at_least(1, **{"task.size": size, "task.held_out": held_out})
        if not names or len(set(names)) < len(names):
            raise SelfplayError(f"task.names is {list(names)}; give at least one data set, each once")
        if unknown := sorted(set(options) - set(names)):
            raise SelfplayError(f"task.options has '{unknown[0]}', which is not in task.names ({', '.join(names)})")
        self.instruction = instruction
        self._held: dict[str, _Entry] = {}
        trained: dict[str, dict[str, _Entry]] = {}
        for name in names:
            chosen = tuple(sorted((str(key), _plain(value)) for key, value in options.get(name, {}).items()))
            try:
                hash(chosen)
            except TypeError:
                raise SelfplayError(
                    f"task.options.{name} contains a mapping ({dict(options[name])}); use numbers, strings and lists"
                ) from None
            self._held |= self._asked(_entries(name, chosen, held_out, f"{seed}/held-out"))
            trained[name] = self._asked(_entries(name, chosen, size, f"{seed}/train"))
        self._known = {question: entry for entries in trained.values() for question, entry in entries.items()}
        self._known |= self._held
        self._training = {name: [q for q in entries if q not in self._held] for name, entries in trained.items()}
        if empty := [name for name, questions in self._training.items() if not questions]:
            raise SelfplayError(
                f"all {size} training questions of '{empty[0]}' are also held out, so none is left; raise "
                "task.size or make questions harder with task.options"
            )

    def draw(self, rng: Random) -> str:
        return rng.choice(self._training[rng.choice(tuple(self._training))])

    def held_out(self) -> Sequence[Item]:
        return [_item(question, entry) for question, entry in self._held.items()]

    def item(self, question: str) -> Item | None:
        entry = self._known.get(question)
        return None if entry is None else _item(question, entry)

    def correct(self, item: Item, reply: str) -> float:
        entry = self._known[item.question]
        answer = _answer(reply)
        if len(answer) > LONGEST or NO_NUMBER.fullmatch(answer) or (entry.computes and not harmless(answer)):
            return 0.0
        try:
            WORKER.prepare("reasoning_gym_set", *entry.dataset)
            score = float(WORKER.call("reasoning_gym_score", entry.dataset, entry.record, answer, item.question))
        except Exceeded:
            return 0.0
        return min(max(score, 0.0), 1.0)

    def answer_in(self, reply: str) -> str:
        return " ".join(_answer(reply).split())

    def _asked(self, entries: "tuple[_Entry, ...]") -> "dict[str, _Entry]":
        asked: dict[str, _Entry] = {}
        for entry in entries:
            text = str(entry.record["question"])
            asked.setdefault(f"{text}\n{self.instruction}" if self.instruction else text, entry)
        return asked


@dataclass(frozen=True)
class _Entry:
    """A question with everything that its scorer needs."""

    name: str
    record: Mapping[str, Any]
    dataset: tuple[Any, ...]  # the arguments of `reasoning_gym_set`
    computes: bool  # whether the scorer evaluates the answer, which must then be harmless


def _item(question: str, entry: _Entry) -> Item:
    answer = entry.record["answer"]
    return Item(question, "" if answer is None else str(answer), {"tasks": entry.name})


def _answer(reply: str) -> str:
    from reasoning_gym.utils import extract_answer

    final = said(reply)
    found = extract_answer(final[-LAST:])  # takes quadratic time
    return final.strip() if found is None else str(found)


@lru_cache(maxsize=64)
def _entries(name: str, options: Options, size: int, seed: str) -> tuple[_Entry, ...]:
    """Generate the questions of a data set (cached)."""
    known = _known()
    if name not in known:
        near = get_close_matches(name, known, n=5, cutoff=0.4) or sorted(known)[:5]
        raise SelfplayError(f"Reasoning Gym has no data set '{name}'; choose another, for example {', '.join(near)}")
    key = (name, options, size, Random(seed).randrange(2**31), f"{name}/{seed}")
    try:
        dataset = reasoning_gym_set(*key)
        with seeded(key[-1]):
            return tuple(_Entry(name, dataset[i], key, _computes(dataset)) for i in range(size))
    except (TypeError, ValueError, AssertionError, ImportError, OSError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SelfplayError(f"Reasoning Gym cannot generate '{name}' ({reason}); change task.options.{name}") from error


def _computes(dataset: Any) -> bool:
    """Whether the scorer of the data set, or of one of its parts, evaluates the answer."""
    code = inspect.getsource(type(dataset))
    return any(call in code for call in COMPUTES) or any(map(_computes, getattr(dataset, "datasets", {}).values()))


def _known() -> Mapping[str, Any]:
    """The package's data sets by name."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise SelfplayError(
            f"task=reasoning_gym needs the package reasoning-gym ({error}); "
            "install it with: pip install 'selfplay[reasoning-gym]'"
        ) from error
    return DATASETS  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Convert a parameter to a hashable value: lists become tuples."""
    return tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
