"""vLLM's servers for engine=server and reward=rm_server: started, watched and ended together.

    selfplay serve asset:tiny                                   one server, at http://127.0.0.1:8000
    selfplay serve outputs/run/checkpoints/step-000060 --replicas 2
    selfplay serve cache:smollm2 --dtype bfloat16 -- --max-model-len 2048       vLLM's own flags after --
    selfplay serve asset:tiny-rm --reward                       a reward model, at http://127.0.0.1:8001

vLLM runs in an environment of its own (make vllm). Prints the options of a run that uses the servers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

from selfplay import interrupts
from selfplay.commandline import run_command
from selfplay.errors import SelfplayError, at_least

FOLDER = ".venv-vllm"  # where `make vllm` installs it
ADAPTERS, RANK = 4, 16  # defaults
PORT, REWARD_PORT = 8000, 8001


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay serve",
        usage="%(prog)s MODEL [options] [-- FLAGS OF VLLM]",
        description="Start vLLM's servers for engine=server, or one for reward=rm_server, print the options of a run "
        "that uses them, and end them when interrupted or when one of them ends.",
        epilog="Whoever can reach a server of engine=server can replace its weights, so it listens on 127.0.0.1 only. "
        "On GPUs each server gets GPUs of its own; CUDA_VISIBLE_DEVICES leaves some to the learner.",
    )
    add = found.add_argument
    add("model", metavar="MODEL", help="as player.path: a folder, a hub id, asset:tiny or cache:smollm2; for an "
        "adapter its base model")  # fmt: skip
    add("--reward", action="store_true", help="MODEL is a reward model, as reward.path")
    add("--replicas", type=int, metavar="N", help="number of servers (1)")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs per server (%(default)s)")
    add("--port", type=int, metavar="P", help=f"port of the first server; 0: any free ({PORT}, with --reward "
        f"{REWARD_PORT})")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights and computation (default: float32 on "
        "processors, bfloat16 on GPUs)")  # fmt: skip
    add("--adapters", type=int, metavar="N", help="LoRA adapters kept loaded, as engine.adapters; 0: whole models only "
        f"({ADAPTERS})")  # fmt: skip
    add("--rank", type=int, metavar="R", help=f"maximum rank of an adapter ({RANK})")
    add("--transfer", choices=("folder", "nccl"), help="how whole models come, as engine.transfer; nccl: between GPUs "
        "(folder)")  # fmt: skip
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
    from selfplay.engines.server.launch import NAMES, Options, Server, Servers, dealt, gpus_at
    from selfplay.engines.server.ports import claim, ports
    from selfplay.models.base_model import base_path

    args = _completed(args)
    if any(flag.partition("=")[0] == NAMES for flag in further):
        raise SelfplayError(f"{NAMES} is set by `selfplay serve`, which recognizes its servers by it; leave it out")
    python = args.python or environment_of_vllm()
    gpus = dealt(gpus_at(python, os.environ), args.replicas, args.tensor_parallel)
    on_cpu = gpus[0] is None
    if args.transfer == "nccl" and on_cpu:
        raise SelfplayError(f"--transfer nccl needs GPUs, but {python} sees none; take --transfer folder")
    options = Options(
        python,
        base_path(args.model),
        args.dtype or ("float32" if on_cpu else "bfloat16"),
        adapters=args.adapters,
        rank=args.rank,
        tensor_parallel=args.tensor_parallel,
        eager=on_cpu,
        reward=args.reward,
        further=tuple(further),
        transfer=args.transfer,
    )
    logs, begun, mark = _made(args.logs), time.monotonic(), f"selfplay-{token_hex(8)}"
    taken = ports(args.port, args.replicas)
    claims = claim(taken)
    servers = Servers(
        [
            Server(options.command(at, mark), options.variables(os.environ, mine), at, logs / f"vllm-{at}.log", mark)
            for at, mine in zip(taken, gpus, strict=True)
        ]
    )
    with interrupts.leaving(servers.end):
        try:
            say(f"starting vLLM for {options.model} in {options.dtype}, which takes minutes; what it prints: {logs}")
            servers.wait()
            say(f"ready after {time.monotonic() - begun:.0f} s; Ctrl-C ends it. Use it with:")
            urls = [server.url for server in servers.servers]
            say(use_reward(urls[0], args.model) if args.reward else use(urls, args.adapters, args.transfer))
            servers.watch()
        finally:
            servers.end()
            for one in claims:
                one.close()


def _completed(args: argparse.Namespace) -> argparse.Namespace:
    """The command line with its defaults.

    Raises:
        SelfplayError: an option is out of range or does not apply, or MODEL is no reward model with --reward.
    """
    defaults: dict[str, Any] = {"replicas": 1, "adapters": ADAPTERS, "rank": RANK, "transfer": "folder"}
    defaults["port"] = REWARD_PORT if args.reward else PORT
    if args.reward:
        for name in ("replicas", "adapters", "rank", "transfer"):
            if getattr(args, name) is not None:
                raise SelfplayError(f"--{name} does not apply to --reward, which starts one whole model; leave it out")
        _check_reward_model(args.model)
    full = vars(args) | {name: value for name, value in defaults.items() if getattr(args, name) is None}
    at_least(1, **{f"--{name.replace('_', '-')}": full[name] for name in ("replicas", "tensor_parallel", "rank")})
    at_least(0, **{f"--{name}": full[name] for name in ("adapters", "port")})
    return argparse.Namespace(**full)


def _check_reward_model(path: str) -> None:
    from selfplay.models.base_model import model_config
    from selfplay.referees.reward_model import check_labels

    config, adapter = model_config(path)
    if adapter is not None:
        raise SelfplayError(f"the reward model '{path}' is an adapter; merge it into its base model with peft")
    check_labels(path, config.num_labels)


def use(urls: Sequence[str], adapters: int, transfer: str) -> str:
    """The options of a run that uses the servers."""
    more = f" engine.adapters={adapters}" if adapters not in (0, 4) else ""
    more += f" engine.transfer={transfer}" if transfer != "folder" else ""
    return f"engine=server 'engine.urls=[{','.join(urls)}]'{more}"


def use_reward(url: str, path: str) -> str:
    """The options of a run that uses a reward model's server."""
    return f"reward=rm_server reward.path={path} reward.url={url}"


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
