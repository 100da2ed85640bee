"""Kernel launches and waits for the device, per token step and per micro-batch, counted on the pretend device.

    python experiments/gpu/counts.py --column after     writes counts.json and the table in README.md

The counts need no GPU: tests/support/pretend.py stands in for it. A wait is a point where the host cannot issue the
next kernel before the device has caught up. The model is the embedded one; only its number of layers matters here.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "src")]
FILE, README = HERE / "counts.json", HERE / "README.md"
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
Counts = tuple[float, float]  # launches, waits


def counted(do: Callable[[], object]) -> Counts:
    import pretend

    before = pretend.launches(), pretend.waits()
    do()
    return pretend.launches() - before[0], pretend.waits() - before[1]


def between(less: Counts, more: Counts, units: int) -> Counts:
    """Counts per unit, from two measurements that differ by `units`."""
    launches, waits = ((b - a) / units for a, b in zip(less, more, strict=True))
    return round(launches, 1), round(waits, 1)


def token_step(model: Any, replies: int, stop: tuple[int, ...] = ()) -> Counts:
    """A token step of `replies` replies to each of eight prompts of different lengths, without the prefill."""
    from selfplay.engines.engine import Sampling
    from selfplay.engines.sampling import sample

    prompts = [tuple(range(5, 9 + i)) for i in range(8) for _ in range(replies)]
    keys = [f"{i}" for i in range(len(prompts))]

    def written(count: int) -> tuple[Counts, int]:
        how, lengths = Sampling(count, stop_ids=stop, batch_size=len(prompts)), []
        found = counted(lambda: lengths.extend(len(one.ids) for one in sample(model, prompts, keys, how)))
        return found, max(lengths)

    written(1)  # trials run once
    (less, short), (more, long) = written(2), written(32)
    return between(less, more, long - short)


def measured() -> dict[str, Counts]:
    import pretend  # noqa: F401  (registers the device)
    import torch
    from language_models import batch_for, made, reader

    from selfplay.core import Ask, user
    from selfplay.out_of_memory import Rows
    from selfplay.updates.descent import frozen_logprobs
    from selfplay.updates.policy_gradient import PolicyGradient
    from selfplay.updates.regularizers import InLoss

    out: dict[str, Counts] = {}
    whole = made(device="pretend", compute_dtype="float32")
    decoder = reader(whole.model)
    out["token step, decoder, 8 rows"] = token_step(decoder, 1)
    out["token step, decoder, 64 rows that diverge and end"] = token_step(decoder, 8, tuple(range(30, 36)))
    out["token step, transformers' modules, 8 rows"] = token_step(whole.model, 1)
    asks = [Ask("solver", user(f"What is {a} + 4?"), key=f"{a}/{k}") for a in range(8) for k in range(4)]
    for name, policy in (("full", whole), ("LoRA", made(device="pretend", compute_dtype="float32", lora=LORA))):
        batch = batch_for(policy, asks)
        batch.payoffs.copy_(torch.arange(len(batch)))
        update = PolicyGradient(policy, policy.snapshot(), regularizer=InLoss(beta=0.0), measure_kl=False)

        def step(size: int, update: Any = update, batch: Any = batch) -> Counts:
            update.gradient_step.micro_batch = Rows(size, "update.micro_batch")
            return counted(lambda: update.step(batch))

        def frozen(size: int, policy: Any = policy, batch: Any = batch) -> Counts:
            return counted(lambda: frozen_logprobs(policy, batch, Rows(size, "update.micro_batch")))

        step(16)  # creates the optimizer's state
        out[f"micro-batch with gradient, {name}"] = between(step(16), step(4), 6)
        out[f"micro-batch without gradient, {name}"] = between(frozen(16), frozen(4), 6)
    return out


def table(found: dict[str, dict[str, Counts]]) -> str:
    lines = ["| per | launches before | after | waits before | after |", "| --- | --- | --- | --- | --- |"]
    for name in found["after"]:
        before, after = found["before"].get(name, ("", "")), found["after"][name]
        lines.append(f"| {name} | {before[0]} | {after[0]} | {before[1]} | {after[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=("before", "after"), default="after")
    args = parser.parse_args()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found[args.column] = measured()
    found.setdefault("after", found[args.column])
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    text = README.read_text() if README.exists() else "| per |\n"
    README.write_text(re.sub(r"(^\|.*\n)+", lambda _: table(found), text, count=1, flags=re.MULTILINE))
    print(table(found))


if __name__ == "__main__":
    main()
