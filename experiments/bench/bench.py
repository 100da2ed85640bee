"""Steps of this project against TRL's and transformers', side by side on one machine: seconds, memory, growth.

    python experiments/bench/bench.py                     all of it: results.json and bench.png beside this file
    python experiments/bench/bench.py --only tiny         some cases; the others' results stay
    python experiments/bench/bench.py --table             the README's tables, from results.json
    python experiments/bench/bench.py --device cuda       on an accelerator: results-<its name>.json
    python experiments/bench/bench.py --quick --out /tmp  does it run at all

The sides of a case live side by side and take turns, a step each; the first step of each is not counted.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cases import CASES, GROWTH, QUICK, Case
from report import draw, tables

HERE = Path(__file__).parent
BANDWIDTH = 100_000_000  # floats that are copied
SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the matrices: an accelerator is not busy with small ones


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


def alternate(case: Case, pairs: int, device: str) -> dict[str, Any]:
    """Steps of each side by turns; seconds, medians, and ours against each other side."""
    sides = {name: Side(arguments, device) for name, arguments in case.sides.items()}
    found = by_turns(case.name, sides, pairs)
    first, *others = found
    return {
        "question": case.question,
        "arguments": case.sides,
        "sides": found,
        "ratios": {other: against(found[first], found[other]) for other in others},
    }


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


# --- what the machine can do ------------------------------------------------------------------------------------------


def best(call: Any, device: str, tries: int = 15, limit: float = 10.0) -> float:
    """The least seconds of a call, of so many tries or as many as there is time for."""
    taken: list[float] = []
    while len(taken) < tries and sum(taken) < limit:
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)


def ceilings(device: str, quick: bool = False) -> dict[str, float]:
    """Matrix products in GFLOP/s and copies in GB/s (read and written); `quick`: of small operands, to try it out."""
    found, square = {}, 256 if quick else SQUARE[device.split(":")[0]]  # bfloat16 in software is a hundred times slower
    size = BANDWIDTH // 100 if quick else BANDWIDTH
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(square, square, device=device).to(dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2e-9 * square**3 / best(lambda a=a, b=b: a @ b, device)
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    found["copy"] = 8e-9 * size / best(lambda: target.copy_(source), device)
    return found


def work(side: dict[str, Any], arguments: list[str]) -> dict[str, float]:
    """GFLOP of an update and of sampling with each prompt read once: products with weights, forwards 2, training 6.

    Attention, and what is computed again to save memory, are not counted.
    """
    given = dict(pairwise(arguments))
    queries, answers, prompt, reply = (int(given[f"--{n}"]) for n in ("queries", "answers", "prompt", "reply"))
    said, read = queries * answers * reply, queries * prompt
    layers, head = side["parameters"] * (said + read), side["head"] * said
    return {"update": 6e-9 * (layers + head), "play": 2e-9 * (layers + head)}


def shares(found: dict[str, Any], rates: dict[str, float]) -> None:
    """Write into ours of a case how many GFLOP/s it reached, and of the measured rate which share.

    Not of an update under LoRA: frozen weights have no gradient, so it is less work.
    """
    name, ours = next(iter(found["sides"].items()))
    arguments = found["arguments"][name]
    rate = rates["bfloat16" if "bfloat16" in arguments else "float32"]
    for part, gflop in work(ours, arguments).items():
        if part in ours and not (part == "update" and "--lora" in arguments):
            ours[f"{part}_gflops"] = gflop / ours[part]
            ours[f"{part}_share"] = gflop / ours[part] / rate


# --- growth -----------------------------------------------------------------------------------------------------------


def vocabulary(size: int, folder: Path) -> str:
    """A model of chance with so many words, in the folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from selfplay.models.load import resolve

    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    where = folder / str(size)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=size, **sizes, tie_word_embeddings=True)).save_pretrained(where)
    AutoTokenizer.from_pretrained(resolve("asset:tiny")).save_pretrained(where)
    return str(where)


def grow(device: str, quick: bool) -> dict[str, list[dict[str, float]]]:
    """Ours alone, a process a point: the median of three steps, and the peak."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for axis, (values, arguments) in GROWTH.items():
            if quick and "cache:smollm2" in arguments:
                continue
            for value in values[: 1 if quick else None]:
                name = vocabulary(value, Path(folder)) if axis == "vocabulary" else str(value)
                side = Side(["ours", *[part.replace("{}", name) for part in arguments]], device)
                steps = [side.step() for _ in range(2 if quick else 4)][1:]
                side.end()
                told = of_side(steps, {})
                found.setdefault(axis, []).append({"at": value, "seconds": told["median"], "peak": told["peak"]})
                print(f"  {axis} {value}: {told['median']:.2f} s, {told['peak'] / 1e9:.2f} GB", flush=True)
    return found


# --- all of it --------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """Where, when and of which commit something was measured."""
    name = torch.cuda.get_device_name() if device != "cpu" else _processor()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", *sys.argv]),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"results{slug(args.device)}.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cases = QUICK if args.quick else [case for case in CASES if not args.only or case.name in args.only]
    results |= machine(args.device)
    before = results["ceilings"] = ceilings(args.device, args.quick)
    for case in cases:
        found = alternate(case, 1 if args.quick else case.pairs or args.pairs, args.device)
        now = ceilings(args.device, args.quick)
        shares(found, {name: max(now[name], before[name]) for name in now})
        made = {name: results[name] for name in ("commit", "date")}
        results.setdefault("cases", {})[case.name] = found | made | {"ceilings": now}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not args.only:
        results["growth"] = grow(args.device, args.quick)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, path.with_name(f"bench{slug(args.device)}.png"))


def compare(checkout: Path, cases: list[Case], pairs: int, device: str) -> None:
    """Print how many times as long each case takes in another checkout as in this one; nothing is written."""
    print("case | this, s | other, s | other / this | of a pair")
    for case in cases:
        arguments = next(iter(case.sides.values()))
        sides = {"this": Side(arguments, device), "other": Side(arguments, device, checkout)}
        found = by_turns(case.name, sides, pairs)
        ratios = against(found["this"], found["other"])
        medians = " | ".join(f"{found[name]['median']:.3f}" for name in sides)
        print(f"{case.name} | {medians} | {ratios['ratio']:.3f} | {ratios['least']:.3f} to {ratios['most']:.3f}")


def slug(device: str) -> str:
    """What the files of an accelerator have in their names."""
    return "" if device == "cpu" else "-" + torch.cuda.get_device_name().lower().replace(" ", "-")


def show(out: Path, device: str) -> None:
    """Print the tables, and put those of a processor between the markers of the README beside them."""
    told = tables(json.loads((out / f"results{slug(device)}.json").read_text(encoding="utf-8")))
    print(told)
    readme = out / "README.md"
    if device == "cpu" and readme.is_file():
        begin, end = "<!-- table -->\n", "\n<!-- /table -->"
        head, rest = readme.read_text(encoding="utf-8").split(begin)
        readme.write_text(f"{head}{begin}{told}{end}{rest.split(end)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], choices=[case.name for case in CASES], metavar="CASE")
    parser.add_argument("--quick", action="store_true", help="the tiny model, one pair: does it run at all")
    parser.add_argument("--table", action="store_true", help="print the tables, fill the README's, measure nothing")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare ours with another checkout's instead")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.table:
        show(args.out, args.device)
        return
    if args.quick and args.out.resolve() == HERE:
        parser.error("--quick would write over what was measured here; give --out FOLDER")
    for package in ("trl", "datasets"):
        if find_spec(package) is None:
            sys.exit(f"error: {package} is not installed; install it with: pip install 'selfplay[bench]'")
    if args.against:
        cases = [case for case in CASES if not args.only or case.name in args.only]
        compare(args.against.resolve(), cases, args.pairs, args.device)
    else:
        run(args)


if __name__ == "__main__":
    main()
