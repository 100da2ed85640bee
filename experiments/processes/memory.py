"""Bytes of weights, gradients and optimizer state in each process, and its peak memory, for each way to share a run.

    python experiments/processes/memory.py [--processes 2] [-- OVERRIDES]     writes memory.json beside this file

The learner is a Llama of 34 M parameters with random weights and the embedded model's tokenizer. Each side makes a run
of two steps; hooks of the optimizer count the tensors at the second one, after the gradients have been summed. The
bytes are those of the process's own tensors; the peak is its VmHWM.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDES = ("none", "ddp", "fsdp")
SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
RUN = (  # a short step of Language Self-Play
    "player=tiny", "game.answers=2", "episodes=2", "steps=2", "eval=none", "player.max_tokens=12",
    "player.batch_size=16", "update.micro_batch=10", "checkpoint.every=1000",
)  # fmt: skip


def made(folder: Path) -> None:
    """Write the model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from selfplay.models.load import resolve

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("asset:tiny"))
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def local_bytes(tensors: Any) -> int:
    """Bytes that this process holds of tensors, which may be sharded."""
    parts = [x.to_local() if hasattr(x, "to_local") else x for x in tensors]
    return sum(x.numel() * x.element_size() for x in parts)


def process(out: Path, overrides: list[str]) -> None:
    """One process of a run: count, and write the counts to a file of its own."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from selfplay.main import main

    found: dict[str, int] = {}

    def before(optimizer: Any, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found["weights"] = local_bytes(parameters)
        found["gradients"] = local_bytes([p.grad for p in parameters if p.grad is not None])

    def after(optimizer: Any, *_: Any) -> None:
        found["optimizer state"] = local_bytes([x for state in optimizer.state.values() for x in state.values()])

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
    sys.argv[1:] = overrides
    main()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found["peak"] = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    (out / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def measured(side: str, processes: int, model: Path, more: list[str]) -> list[dict[str, int]]:
    """The counts of each process of a run."""
    with tempfile.TemporaryDirectory() as folder:
        own = [*RUN, *more, f"player.path={model}", f"hydra.run.dir={folder}/run", f"parallel={side}"]
        start = [] if side == "none" else ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        start += [] if side == "none" else ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
        command = [sys.executable, *start, str(Path(__file__).resolve()), "--process", folder, "--", *own]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        files = sorted(Path(folder).glob("*.json"))
        assert len(files) == (1 if side == "none" else processes)
        return [json.loads(file.read_text()) for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "memory.json")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help="overrides of every run")
    args = parser.parse_args()
    if args.process is not None:
        process(args.process, args.more)
        return
    found = {}
    with tempfile.TemporaryDirectory() as model:
        made(Path(model))
        for side in SIDES:
            found[side] = measured(side, args.processes, Path(model), args.more)
            for rank, counts in enumerate(found[side]):
                print(side, rank, *(f"{name}: {size / 2**20:.1f} MiB" for name, size in counts.items()), flush=True)
    told = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "model": SIZES,
        "run": [*RUN, *args.more],
    }
    args.out.write_text(json.dumps({**told, "bytes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
