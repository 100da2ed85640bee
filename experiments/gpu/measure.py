"""What this project reaches on an accelerator: rates, a step of a 3 B model against TRL's, memory, kernels a token.

    python experiments/gpu/measure.py                                  results-<the device's name>.json beside this file
    python experiments/gpu/measure.py --only decode step --override engine.cuda_graphs=true --out /tmp    with options
    python experiments/gpu/measure.py --device cpu --size tiny --out /tmp      a rehearsal without an accelerator

Each part runs in a process of its own with a deadline, and its result is written when it ends, so that a part that
fails costs only itself. The model has the shape of Llama 3.2 3B and random weights, which it takes from a config: no
hub is needed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "bench"), str(ROOT / "src")]

import torch  # noqa: E402
from machine import ceilings, facts, slug  # noqa: E402
from sides import Side, of_side, work  # noqa: E402

SIZES = {  # queries, answers, prompt, reply; turns in a micro-batch; turns sampled in parallel
    "3b": ([32, 8, 256, 256], 16, 256),
    "tiny": ([2, 2, 16, 8], 2, 4),
}
DEADLINES = {"ceilings": 40, "kernels": 60, "decode": 80, "step": 150, "step of TRL": 150}  # seconds
WARM = 1  # steps that are not counted


def model_of(size: str, folder: Path, device: str) -> Path:
    """A folder with a model of the shape and random weights in bfloat16, and the embedded model's tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from selfplay.models.load import resolve

    target = folder / size
    if not target.is_dir():
        tiny = resolve("asset:tiny")
        if size == "tiny":
            config = LlamaConfig.from_pretrained(tiny)
        else:
            config = LlamaConfig(**json.loads((HERE / "llama-3.2-3b.json").read_text(encoding="utf-8")))
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(tiny).save_pretrained(target)
    return target


def side(kind: str, args: argparse.Namespace, *more: str) -> tuple[Side, list[str]]:
    """A worker of the bench, and its arguments."""
    (queries, answers, prompt, reply), micro, rows = SIZES[args.size]
    sizes = {"queries": queries, "answers": answers, "prompt": prompt, "reply": reply, "micro-batch": micro}
    given = [kind, "--model", str(model_of(args.size, args.models, args.device)), "--dtype", "bfloat16"]
    given += [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    ours = ["--override", f"player.batch_size={rows}", *args.override] if kind == "ours" else []
    return Side([*given, *more, *ours], args.device), given


def steps_of(kind: str, args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Medians of steps, and the arithmetic of one."""
    worker, given = side(kind, args, *more)
    taken = [worker.step() for _ in range(WARM + args.steps)][WARM:]
    worker.end()
    found = of_side(taken, worker.facts)
    return found | {"gflop": work(found, given)}


# --- the parts --------------------------------------------------------------------------------------------------------


def rates(args: argparse.Namespace) -> dict[str, Any]:
    return dict(ceilings(args.device, quick=args.size == "tiny"))


def decode(args: argparse.Namespace) -> dict[str, Any]:
    """Sampling alone: tokens a second, and the bytes of weights and of keys and values that a token step must read."""
    found = steps_of("ours", args, "--sample")
    (queries, answers, prompt, reply), _, rows = SIZES[args.size]
    waves = -(-queries * answers // rows)
    config = json.loads((model_of(args.size, args.models, args.device) / "config.json").read_text(encoding="utf-8"))
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kv = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head  # bytes of a token, in bfloat16
    weights = 2 * (found["parameters"] + found["head"])
    read = waves * reply * weights + queries * answers * reply * kv * (reply / 2) + reply * queries * prompt * kv
    return found | {
        "tokens_per_second": found["tokens"] / found["median"],
        "gb_per_second": read / found["median"] / 1e9,
    }


def step(args: argparse.Namespace) -> dict[str, Any]:
    """A step of GRPO: play, collate, update. The update's rate counts 6 operations a weight and token."""
    found = steps_of("ours", args)
    return found | {"update_gflops": found["gflop"]["update"] / found["update"]}


def step_of_trl(args: argparse.Namespace) -> dict[str, Any]:
    """TRL's GRPOTrainer with the same sizes, precision and memory."""
    if find_spec("trl") is None:
        return {"skipped": "trl is not installed; install it with: pip install 'selfplay[bench]'"}
    return steps_of("trl", args)


def kernels(args: argparse.Namespace) -> dict[str, Any]:
    """Kernels and waits of a token step, as the profiler sees them: calls of replies that differ by 16 tokens."""
    from torch.profiler import ProfilerActivity, profile

    from selfplay.core import Ask, user
    from selfplay.players.language_model import LanguageModel

    class Endless(LanguageModel):
        stop_ids = property(lambda self: (-1,))  # type: ignore[assignment]

    player = Endless(str(model_of(args.size, args.models, args.device)), dtype="bfloat16", device=args.device)
    asks = [Ask("solver", user(f"What is {i} + 4?"), key=str(i)) for i in range(8)]

    def events(tokens: int) -> tuple[int, int]:
        player.max_tokens = tokens
        player.act(asks)
        with profile(activities=[ProfilerActivity.CPU, *cuda]) as found:
            player.act(asks)
        names = [event.name for event in found.events()]
        launches = sum("LaunchKernel" in name or "GraphLaunch" in name for name in names)
        waits = sum("Synchronize" in name for name in names)
        return launches, waits

    cuda = [ProfilerActivity.CUDA] if args.device.startswith("cuda") else []
    few, many = events(8), events(24)
    if not cuda:
        return {"skipped": "the profiler counts kernels on CUDA alone; counts.py counts them on the pretend device"}
    return {"launches": (many[0] - few[0]) / 16, "waits": (many[1] - few[1]) / 16}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ceilings": rates,
    "kernels": kernels,
    "decode": decode,
    "step": step,
    "step of TRL": step_of_trl,
}


# --- all of it --------------------------------------------------------------------------------------------------------


def shares(results: dict[str, Any]) -> dict[str, float]:
    """What share of the measured ceilings was reached, and how many times as long TRL took."""
    rate, ours, other = (results.get(name, {}) for name in ("ceilings", "step", "step of TRL"))
    found = {}
    if "update_gflops" in ours and "bfloat16" in rate:
        found["update / bfloat16 matrix product"] = ours["update_gflops"] / rate["bfloat16"]
    if "gb_per_second" in results.get("decode", {}) and "copy" in rate:
        found["decode / copy"] = results["decode"]["gb_per_second"] / rate["copy"]
    if "median" in ours and "median" in other:
        found["TRL's step / ours"] = other["median"] / ours["median"]
    return found


def run(args: argparse.Namespace) -> None:
    path = args.out / f"results{slug(args.device)}.json"
    results: dict[str, Any] = facts(args.device)
    with tempfile.TemporaryDirectory() as folder:
        models = args.models or Path(folder)
        for name in args.only or PARTS:
            own = ["--part", name, "--device", args.device, "--size", args.size, "--steps", str(args.steps)]
            command = [sys.executable, __file__, *own, "--models", str(models), "--override", *args.override]
            begun = time.perf_counter()
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINES[name] * args.patience)
                told = ended.stdout.strip().splitlines()
                found = json.loads(told[-1]) if ended.returncode == 0 else {"error": ended.stderr[-600:]}
            except subprocess.TimeoutExpired:
                found = {"error": f"not done within {DEADLINES[name] * args.patience:g} s"}
            results[name] = found
            results["shares"] = shares(results)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {time.perf_counter() - begun:.0f} s, {json.dumps(found)[:300]}", flush=True)
    print(json.dumps(results["shares"], indent=1))
    if failed := [name for name in PARTS if "error" in results.get(name, {})]:
        sys.exit(f"failed: {', '.join(failed)}; see {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=sorted(SIZES), default="3b")
    parser.add_argument("--steps", type=int, default=2, help="steps that count")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the deadlines, for a slow machine")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=[])
    parser.add_argument("--models", type=Path, help="a folder that keeps the model between calls")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--override", nargs="*", default=[], help="options of this project's side, as of a run")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        args.models.mkdir(parents=True, exist_ok=True)
        print(json.dumps(PARTS[args.part](args)))
    else:
        run(args)


if __name__ == "__main__":
    main()
