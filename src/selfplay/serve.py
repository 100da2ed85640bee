"""vLLM's servers for engine=server: started, watched and ended together.

    selfplay serve asset:tiny                                   one server, at http://127.0.0.1:8000
    selfplay serve outputs/run/checkpoints/step-000060 --replicas 2
    selfplay serve cache:smollm2 --dtype bfloat16 -- --max-model-len 2048       vLLM's own flags after --

vLLM runs in an environment of its own (make vllm). Prints the options of a run that uses the servers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from selfplay import interrupts
from selfplay.commandline import run_command
from selfplay.errors import SelfplayError, at_least

FOLDER = ".venv-vllm"  # where `make vllm` installs it


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay serve",
        usage="%(prog)s MODEL [options] [-- FLAGS OF VLLM]",
        description="Start vLLM's servers for engine=server, print the options of a run that uses them, and end them "
        "when interrupted or when one of them ends.",
        epilog="Whoever can reach a server can replace its weights, so it listens on 127.0.0.1 only. On GPUs each "
        "server gets GPUs of its own; CUDA_VISIBLE_DEVICES leaves some to the learner.",
    )
    add = found.add_argument
    add("model", metavar="MODEL", help="as player.path: a folder, a hub id, asset:tiny or cache:smollm2; for an "
        "adapter its base model")  # fmt: skip
    add("--replicas", type=int, default=1, metavar="N", help="number of servers (%(default)s)")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs per server (%(default)s)")
    add("--port", type=int, default=8000, metavar="P", help="port of the first server; 0: any free (%(default)s)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights and computation (default: float32 on "
        "processors, bfloat16 on GPUs)")  # fmt: skip
    add("--adapters", type=int, default=4, metavar="N", help="LoRA adapters kept loaded, as engine.adapters; 0: whole "
        "models only (%(default)s)")  # fmt: skip
    add("--rank", type=int, default=16, metavar="R", help="maximum rank of an adapter (%(default)s)")
    add("--transfer", choices=("folder", "nccl"), default="folder", help="how whole models come, as engine.transfer; "
        "nccl: between GPUs (%(default)s)")  # fmt: skip
    add("--python", type=Path, metavar="FILE", help=f"Python of an environment with vLLM (default: that of {FOLDER})")
    add("--logs", type=Path, metavar="FOLDER", help="folder for what the servers print (default: a temporary one)")
    return found


def serve(args: argparse.Namespace, further: Sequence[str]) -> None:
    """Start the servers, and watch them until this process is interrupted.

    Args:
        args: the parsed command line.
        further: flags of vLLM.

    Raises:
        SelfplayError: vLLM or the model is not there, or a server has ended.
    """
    from selfplay.console import say
    from selfplay.engines.server.launch import Options, Server, Servers, dealt, environment, gpus_at, ports
    from selfplay.models.base_model import base_path

    at_least(1, **{"--replicas": args.replicas, "--tensor-parallel": args.tensor_parallel, "--rank": args.rank})
    at_least(0, **{"--adapters": args.adapters, "--port": args.port})
    python = args.python or environment_of_vllm()
    gpus = dealt(gpus_at(python, os.environ), args.replicas, args.tensor_parallel)
    if args.transfer == "nccl" and gpus[0] is None:
        raise SelfplayError(f"--transfer nccl needs GPUs, but {python} sees none; take --transfer folder")
    dtype = args.dtype or ("float32" if gpus[0] is None else "bfloat16")
    limits = (args.adapters, args.rank, args.tensor_parallel)
    options = Options(python, base_path(args.model), dtype, 0, *limits, gpus[0] is None, tuple(further), args.transfer)
    logs, begun = _made(args.logs), time.monotonic()
    servers = Servers(
        [
            Server(options.command(port), environment(python, os.environ, mine), port, logs / f"vllm-{port}.log")
            for port, mine in zip(ports(args.port, args.replicas), gpus, strict=True)
        ]
    )
    with interrupts.leaving(servers.end):
        try:
            say(f"starting vLLM for {options.model} in {dtype}, which takes minutes; what it prints: {logs}")
            servers.wait()
            say(f"ready after {time.monotonic() - begun:.0f} s; Ctrl-C ends it. Use it with:")
            say(use([server.url for server in servers.servers], args.adapters, args.transfer))
            servers.watch()
        finally:
            servers.end()


def use(urls: Sequence[str], adapters: int, transfer: str) -> str:
    """The options of a run that uses the servers."""
    more = f" engine.adapters={adapters}" if adapters not in (0, 4) else ""
    more += f" engine.transfer={transfer}" if transfer != "folder" else ""
    return f"engine=server 'engine.urls=[{','.join(urls)}]'{more}"


def environment_of_vllm() -> Path:
    """The Python that `make vllm` installed, in this folder or in the clone that this package is in; else our own."""
    places = (Path.cwd(), Path(__file__).parents[2])
    found = (place / FOLDER / "bin" / "python" for place in places)
    return next((python for python in found if python.exists()), Path(sys.executable))


def _made(folder: Path | None) -> Path:
    """The folder for logs."""
    if folder is None:
        return Path(mkdtemp(prefix="selfplay-serve-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SelfplayError(
            f"the folder {folder} cannot be created ({error.strerror}); choose another --logs"
        ) from error
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; on a user error, print one line on stderr and exit with 1."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    cut = typed.index("--") if "--" in typed else len(typed)
    args = parser().parse_args(typed[:cut])
    run_command(lambda: serve(args, typed[cut + 1 :]))


if __name__ == "__main__":
    main()
