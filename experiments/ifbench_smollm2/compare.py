"""SmolLM2's own replies to all of IFBench, judged twice: by eval=ifbench, and by the benchmark's own evaluation code.

    python experiments/ifbench_smollm2/compare.py --max-tokens 128 --out experiments/ifbench_smollm2

After `make smollm2`; needs pip install -e '.[ifbench]'. Writes replies.jsonl (with --judge-only it is read instead of
made) and results.json; ends with 1 where one verdict differs.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import nltk
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from selfplay.evaluations.answers import answers
from selfplay.evaluations.ifbench import InstructionFollowing
from selfplay.tasks.ifbench import UNREADABLE, IFBench, Prompt
from selfplay.tasks.seeding import seeded

ROOT = Path(__file__).parents[2]


def said(task: IFBench, max_tokens: int, dtype: str) -> list[str]:
    """Greedy replies to the benchmark's prompts."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", ["player=smollm2", f"player.max_tokens={max_tokens}", f"player.dtype={dtype}"])
    return answers(
        instantiate(cfg.player).with_temperature(0.0), [prompt.text for prompt in task.asked], "eval/ifbench"
    )


def by_the_benchmark(prompt: Prompt, reply: str, mode: str) -> list[bool] | None:
    """What the benchmark's own function says of each of a prompt's constraints; None where it stops with an error."""
    code: Any = import_module("ifbench.evaluation_lib")
    example = code.InputExample("", list(prompt.constraints), prompt.text, [dict(o) for o in prompt.options])
    try:
        with seeded(f"{prompt.text}/0"):  # one checker draws
            judged = getattr(code, f"test_instruction_following_{mode}")(example, {prompt.text: reply})
    except UNREADABLE as error:
        print(f"the benchmark's own code stops at {prompt.constraints}: {error!r}", file=sys.stderr)
        return None
    return [bool(flag) for flag in judged.follow_instruction_list]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--judge-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("experiments/ifbench_smollm2"))
    args = parser.parse_args()
    nltk.download = lambda *_, **__: True  # the benchmark's code asks for data with every reply
    task = IFBench(held_out_share=1.0, longest=None)
    file = args.out / "replies.jsonl"
    if not args.judge_only:
        made = said(task, args.max_tokens, args.dtype)
        rows = [{"prompt": place, "response": reply} for place, reply in enumerate(made)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    replies = [row["response"] for row in rows]
    summary = InstructionFollowing(task, 0.0, 1).summary(replies)
    same: dict[str, list[bool]] = {"strict": [], "loose": []}
    theirs: dict[str, list[bool]] = {"strict": [], "loose": []}
    for prompt, reply in zip(task.asked, replies, strict=True):
        if prompt.text not in task.whole:
            continue
        verdict = task.verdict(prompt, reply)
        for mode, flags in (("strict", verdict.strict), ("loose", verdict.loose)):
            benchmark = by_the_benchmark(prompt, reply, mode)
            if benchmark is not None:
                same[mode].append(list(flags) == benchmark)
                theirs[mode].append(all(benchmark))
    result = {
        "max_tokens": args.max_tokens,
        "dtype": args.dtype,
        "selfplay": {k: v for k, v in summary.items() if k != "correct"},
        "benchmark": {mode: sum(kept) / len(kept) for mode, kept in theirs.items()},
        "prompts_compared": {mode: len(flags) for mode, flags in same.items()},
        "prompts_that_differ": {mode: flags.count(False) for mode, flags in same.items()},
    }
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    sys.exit(any(result["prompts_that_differ"].values()))


if __name__ == "__main__":
    main()
