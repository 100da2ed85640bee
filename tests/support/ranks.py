"""Processes that make runs together, as under torchrun: started once, then given one command line after the other."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cli


@dataclass(frozen=True)
class Joint:
    """How a run of several processes ended.

    Attributes:
        ended: exit code and output of each process, by rank.
        facts: what each of them counted: asks that its learner answered, elements of the weights that it held.
    """

    ended: list[cli.Ended]
    facts: list[dict[str, Any]]


class Ranks:
    """Processes under `torch.distributed`, a context manager."""

    def __init__(self, size: int = 2) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "WORLD_SIZE": str(size)}
        command = [sys.executable, "-u", str(Path(__file__)), "--serve"]
        self.processes = [
            subprocess.Popen(
                command, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def run(self, *args: str, breaks: str = "", timeout: float = 120.0) -> Joint:
        """`torchrun run.py ARGS`; `breaks` is Python that each process executes first, to break something."""
        task = json.dumps({"args": args, "breaks": breaks, "port": free_port(), "timeout": timeout})
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(task + "\n")
            process.stdin.flush()
        told = [self._line(process) for process in self.processes]
        return Joint([cli.Ended(*one["ended"]) for one in told], [one["facts"] for one in told])

    def _line(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"a process ended with {process.wait()}"
        return json.loads(line)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def serve() -> None:
    """Make the runs that are asked for, line by line."""
    import faulthandler
    import traceback

    import torch

    from selfplay.players.language_model import LanguageModel
    from selfplay.players.tabular import Tabular

    told = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries print to the other
    os.dup2(2, 1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    facts: dict[str, Any] = {}

    def counted(kind: Any) -> None:
        plain = kind.act

        def act(self: Any, asks: Any) -> Any:
            facts["asks"] = facts.get("asks", 0) + len(asks)
            return plain(self, asks)

        kind.act = act

    counted(LanguageModel)
    counted(Tabular)
    for line in sys.stdin:
        task = json.loads(line)
        os.environ["MASTER_PORT"] = str(task["port"])
        facts.clear()
        faulthandler.dump_traceback_later(task["timeout"], exit=True)  # a hang is shown where it hangs
        undo: list[Any] = []
        exec(task["breaks"], {"facts": facts, "undo": undo, "rank": int(os.environ["RANK"])})
        try:
            ended = cli.run(*task["args"])
        except Exception:  # as an interpreter ends with it
            ended = cli.Ended(1, "", traceback.format_exc())
        for back in undo:
            back()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"ended": [ended.code, ended.out, ended.err], "facts": facts}), file=told, flush=True)


if __name__ == "__main__":
    serve()
