"""Worker processes that take steps by turns, and medians of what the steps took, and how much arithmetic they are."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent


class Side:
    """A worker process, of this checkout or of another one."""

    def __init__(self, arguments: list[str], device: str, checkout: Path = HERE.parents[1]) -> None:
        worker = checkout / "experiments" / "bench" / "worker.py"
        self.process = subprocess.Popen(
            [sys.executable, str(worker), *arguments, "--device", device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(checkout / "src")},
        )  # fmt: skip
        self.facts = self._line()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            told = self.process.stderr.read().strip().splitlines()
            sys.exit(f"{' '.join(map(str, self.process.args))}\n{told[-1] if told else 'ended without a word'}")  # type: ignore[arg-type]
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        self.process.stderr.read()
        self.process.wait()


def by_turns(label: str, sides: dict[str, Side], pairs: int) -> dict[str, Any]:
    """What steps of each side take, one side after the other; the first step of each is not counted."""
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(pairs + 1):
        for name, side in sides.items():
            told = side.step()
            print(f"  {label} {number} {name}: {told['seconds']:.2f} s", flush=True)
            steps[name] += [told] if number else []
    for side in sides.values():
        side.end()
    return {name: of_side(taken, sides[name].facts) for name, taken in steps.items()}


def of_side(steps: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """Medians of what the steps took, and all seconds."""
    found: dict[str, Any] = {"seconds": [round(step["seconds"], 4) for step in steps]}
    found |= {
        name: median(step[name] for step in steps)
        for name in ("play", "update", "logprob_mismatch")
        if name in steps[0]
    }
    more = {"median": median(found["seconds"]), "peak": max(s["peak"] for s in steps), "tokens": steps[0]["tokens"]}
    return found | more | {name: value for name, value in facts.items() if name != "ready"}


def against(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times as long the other took: of the medians, and the least and the most of a pair; and its memory."""
    pairs = [b / a for a, b in zip(ours["seconds"], other["seconds"], strict=True)]
    return {
        "ratio": other["median"] / ours["median"],
        "least": min(pairs),
        "most": max(pairs),
        "memory": ours["peak"] / other["peak"],
    }


def work(side: dict[str, Any], arguments: list[str]) -> dict[str, float]:
    """GFLOP of an update and of sampling with each prompt read once: products with weights, forwards 2, training 6.

    Attention, and what is computed again to save memory, are not counted.
    """
    given = dict(pairwise(arguments))
    queries, answers, prompt, reply = (int(given[f"--{n}"]) for n in ("queries", "answers", "prompt", "reply"))
    said, read = queries * answers * reply, queries * prompt
    layers, head = side["parameters"] * (said + read), side["head"] * said
    return {"update": 6e-9 * (layers + head), "play": 2e-9 * (layers + head)}
