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
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from cases import CASES, GROWTH, QUICK, Case
from machine import ceilings, facts, slug
from report import draw, tables
from sides import Side, against, by_turns, of_side, work

HERE = Path(__file__).parent


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


# --- what the machine can do ------------------------------------------------------------------------------------------


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


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"results{slug(args.device)}.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cases = QUICK if args.quick else [case for case in CASES if not args.only or case.name in args.only]
    results |= facts(args.device)
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
