"""One side of a comparison, in a process of its own: one step for each line that it reads, and what the step took.

Started by bench.py. Every side has the same model, the same prompts (texts of exactly `--prompt` tokens, no chat
template), N x G replies of exactly `--reply` tokens (nothing ends early), a reward made of a reply's tokens, AdamW, and
one optimizer step a step. With `--dtype bfloat16` ours and TRL compute in it over float32 weights; `generate` loads the
weights in it.
"""

import argparse
import os
import sys

import stage
from ours import ours
from rivals import generate, trl

from selfplay.core import SelfplayError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "trl", "generate"])
    parser.add_argument("--model", default="asset:tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--reply", type=int, default=48)
    parser.add_argument("--micro-batch", type=int, default=0, help="replies in one backward pass; 0: all")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument(
        "--kl", action="store_true", help="a penalty on the divergence from the reference, on both sides"
    )
    parser.add_argument("--sample", action="store_true", help="ours: only play")
    parser.add_argument("--trl-defaults", action="store_true", help="only the sizes are ours")
    parser.add_argument("--override", nargs="*", default=[], help="more for ours' configuration")
    return parser.parse_args()


def main() -> None:
    stage.TOLD = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries print to the other
    os.dup2(2, 1)
    args = arguments()
    try:
        {"ours": ours, "trl": trl, "generate": generate}[args.side](args)
    except SelfplayError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
