"""Questions on disk, for the tasks that read them: small data sets with the fields of the real ones."""

import atexit
import json
import shutil
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

from selfplay.tasks.tiny_world import draw_text

COUNT = 40  # questions; of some share, so that a hash holds out a few and leaves most


@lru_cache(maxsize=1)
def _folder() -> Path:
    folder = Path(mkdtemp(prefix="selfplay-tasks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def rows(name: str, first: int, count: int) -> list[dict[str, Any]]:
    """Rows with the fields of a data set; the questions are numbered from `first`."""
    made = {
        "records": lambda i: {"question": f"what is {i}+1?", "answer": str(i + 1)},
        "huggingface": lambda i: {"question": f"what is {i}+1?", "answer": str(i + 1)},
        "gsm8k": lambda i: {
            "question": f"what is {i}+1?",
            "answer": f"{i} and 1 are <<{i}+1={i + 1}>>.\n#### 1,{i:03d}",
        },
        "math": lambda i: {
            "problem": f"what is $\\frac{{{i}}}{{7}}$?",
            "solution": "...",
            "answer": f"\\frac{{{i}}}{{7}}",
            "subject": ("Algebra", "Geometry")[i % 2],
            "level": i % 5 + 1,
        },
        "preferences": lambda i: {"prompt": f"what is {i}+1?", "chosen": str(i + 1), "rejected": str(i)},
        "alpaca": lambda i: {"instruction": f"say {i}", "input": ("", "and more")[i % 2], "output": "?", "text": "?"},
    }[name]
    return [made(i) for i in range(first, first + count)]


@cache
def path(name: str) -> str:
    """Where the data of `task=<name>` is: a jsonl file, or what save_to_disk wrote."""
    if name in ("records", "preferences"):
        file = _folder() / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(name, 0, COUNT)))
        return str(file)
    from datasets import Dataset, DatasetDict

    splits = {"train": rows(name, 0, COUNT), "test": rows(name, COUNT, 8)}
    DatasetDict({split: Dataset.from_list(made) for split, made in splits.items()}).save_to_disk(_folder() / name)
    return str(_folder() / name)


@cache
def log() -> str:
    """The folder of a run of `game=dataset game.answers=2`, with the transcript of two episodes."""
    said = [("chance", "", "add 3 and 4"), ("solver", "add 3 and 4", "7"), ("solver", "add 3 and 4", "8")]
    turns = [
        {"step": 1, "episode": episode, "role": role, "prompt": prompt, "reply": reply}
        for episode in range(2)
        for role, prompt, reply in said
    ]
    (_folder() / "episodes.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    return str(_folder())


@cache
def asked() -> str:
    """A finished run in which a Challenger asked."""
    folder = _folder() / "asked"
    folder.mkdir()
    (folder / "summary.json").write_text('{"status": "finished"}')
    rng = Random(0)
    turns = [{"step": 1 + i // 8, "role": "challenger", "reply": draw_text(rng), "payoff": i % 2} for i in range(COUNT)]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    return str(folder)


def needed(name: str) -> list[str]:
    """What `task=<name>` needs on the command line of a test."""
    if name == "alpaca":
        return [f"task.source.path={path(name)}", "task.held_out_share=0.2", "eval=none"]
    if name in ("records", "huggingface", "gsm8k", "math", "preferences"):
        return [f"task.source.path={path(name)}"]
    if name == "transcripts":
        return [f"task.path={asked()}"]
    return {"ifbench": ["task.longest=200"], "reasoning_gym": ["task.size=8", "task.held_out=2"]}.get(name, [])


def by_length(completions: list[str], **_: Any) -> list[float]:
    """A reward."""
    return [float(len(text)) for text in completions]
