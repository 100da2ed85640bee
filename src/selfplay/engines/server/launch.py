"""Starts vLLM's servers in an environment of their own, waits until they answer, and ends them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from selfplay.clients.transport import address, send
from selfplay.core import SelfplayError
from selfplay.engines.server.ports import HOST

NAMES, KEY = "--served-model-name", "--api-key"
SCRIPT = Path(__file__).with_name("vllm_process.py")
PROBE = """
import sys
from importlib.util import find_spec
if find_spec("vllm") is None:
    sys.exit("there is no module vllm")
import torch
print(torch.cuda.device_count())
"""
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # GiB; replicas share the cores
POLL = 0.5  # seconds between two looks at the servers
PATIENCE = 20.0  # seconds that a server has to end by itself
HEALTH = 5.0  # deadline of a look at a server in seconds


@dataclass(frozen=True)
class Options:
    """What every server is started with.

    Attributes:
        python: the Python of an environment with vLLM.
        model: a folder or a hub id.
        dtype: of the weights and the computation.
        seed: vLLM's own; replies depend on the seeds of requests only.
        adapters: how many adapters are kept loaded; 0: none can be.
        rank: the maximum rank of an adapter.
        tensor_parallel: GPUs per server.
        eager: whether nothing is compiled, which on processors takes minutes and gains little.
        reward: whether the model is a reward model, which scores texts instead of writing them.
        further: further arguments, which win over those before.
        transfer: how the weights of whole models come, as engine.transfer.
    """

    python: Path
    model: str
    dtype: str
    seed: int = 0
    adapters: int = 4
    rank: int = 16
    tensor_parallel: int = 1
    eager: bool = False
    reward: bool = False
    further: tuple[str, ...] = ()
    transfer: str = "folder"

    def command(self, port: int, mark: str) -> list[str]:
        """The command line of a server.

        Args:
            port: where it will answer.
            mark: a second name of the model, by which the server is recognized.
        """
        found = [str(self.python), "-I", str(SCRIPT), "--model", self.model, "--host", HOST, "--port", str(port)]
        found += [NAMES, self.model, mark]
        found += ["--dtype", self.dtype, "--seed", str(self.seed), "--tensor-parallel-size", str(self.tensor_parallel)]
        found += ["--runner", "pooling"] if self.reward else self._generating()
        found += ["--enforce-eager"] * self.eager
        return [*found, *self.further]

    def _generating(self) -> list[str]:
        found = ["--enable-scale-out", "--generation-config", "vllm"]  # no sampling parameters from the model's folder
        found += ["--logprobs-mode", "processed_logprobs"]  # those of the distribution that is sampled from
        found += ["--weight-transfer-config", json.dumps({"backend": self.transfer})]
        if self.adapters:
            found += ["--enable-lora", "--max-loras", str(self.adapters + 1), "--max-lora-rank", str(self.rank)]
        return found

    def variables(self, given: Mapping[str, str], gpus: Sequence[str] | None) -> dict[str, str]:
        """The environment variables of a server.

        Args:
            given: the variables of this process.
            gpus: the server's own; None: it computes on processors.
        """
        found = {
            **given,
            "PATH": os.pathsep.join([str(self.python.parent), given.get("PATH", "")]),  # programs beside it come first
            "VLLM_NO_USAGE_STATS": given.get("VLLM_NO_USAGE_STATS", "1"),
        }
        if not self.reward:  # whose weights a run may replace
            found |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        return {**ON_CPU, **found} if gpus is None else {**found, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def gpus_at(python: Path, given: Mapping[str, str]) -> list[str]:
    """The names of the GPUs that an environment with vLLM sees, as CUDA_VISIBLE_DEVICES has them.

    Raises:
        SelfplayError: vLLM is not there.
    """
    remedy = (
        "install it with: make vllm (docs/scale.md), or name the Python of an environment that has it with --python"
    )
    try:
        done = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SelfplayError(
            f"vLLM is not there, because {python} cannot be run ({error.strerror}); {remedy}"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SelfplayError(f"vLLM is not there for {python} ({reason}); {remedy}")
    count = int(done.stdout)
    named = [name.strip() for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(i) for i in range(count)])[:count]


def dealt(gpus: Sequence[str], replicas: int, each: int) -> list[list[str] | None]:
    """The GPUs of each server; None for all of them if there is no GPU.

    Raises:
        SelfplayError: there are too few.
    """
    if not gpus:
        return [None] * replicas
    if replicas * each > len(gpus):
        raise SelfplayError(
            f"--replicas {replicas} with --tensor-parallel {each} need {replicas * each} GPUs, but there are "
            f"{len(gpus)} ({', '.join(gpus)}); lower one of them, or add GPUs to CUDA_VISIBLE_DEVICES"
        )
    return [list(gpus[i * each : (i + 1) * each]) for i in range(replicas)]


class Server:
    """One server, in a session of its own, so that Ctrl-C in the terminal does not reach it before us.

    Args:
        command: its command line.
        environment: its environment variables.
        port: where it will answer.
        log: the file that gets what it prints.
        mark: a name of its model that no other server has.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], port: int, log: Path, mark: str = ""
    ) -> None:
        self.url, self.log, self.mark, self._gone = f"http://{HOST}:{port}", log, mark, False
        key = command[command.index(KEY) + 1] if KEY in command[:-1] else environment.get("VLLM_API_KEY", "")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,  # closed when this process ends, in whatever way; the server then ends itself
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise SelfplayError if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise SelfplayError(
                f"the server {self.url} ended with status {code} ({_reason(self.log)}); all that it printed is in "
                f"{self.log}"
            )

    def answers(self) -> bool:
        """Whether it is ready.

        Raises:
            SelfplayError: another program answers in its place.
        """
        try:
            if send("GET", address(self.url), "/health", {}, b"", HEALTH).status != 200:
                return False
            listed = send("GET", address(self.url), "/v1/models", self.headers, b"", HEALTH)
        except (OSError, HTTPException):
            return False
        if listed.status != 200 or self.mark.encode() not in listed.body:
            raise SelfplayError(
                f"another program answers at {self.url}, where a server was being started (its /v1/models: status "
                f"{listed.status}); choose another port with --port"
            )
        return True

    def ask_to_end(self) -> None:
        """Ask it to end."""
        with suppress(OSError):
            self.process.terminate()

    def end(self, until: float) -> None:
        """Wait until it has ended, kill it after `until` (of the monotonic clock), and kill all that it left behind."""
        if self._gone:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, until - time.monotonic()))
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._gone = True


class Servers:
    """Servers that start and end together.

    Args:
        servers: them.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers

    def wait(self) -> None:
        """Wait until all of them answer.

        Raises:
            SelfplayError: one has ended.
        """
        missing = list(self.servers)
        while missing:
            time.sleep(POLL)
            self.check()
            missing = [server for server in missing if not server.answers()]

    def watch(self) -> None:
        """Wait until one has ended, and raise a SelfplayError then."""
        while True:
            self.check()
            time.sleep(POLL)

    def check(self) -> None:
        """Raise SelfplayError if one has ended."""
        for server in self.servers:
            server.check()

    def end(self) -> None:
        """End all of them."""
        for server in self.servers:
            server.ask_to_end()
        until = time.monotonic() + PATIENCE
        for server in self.servers:
            server.end(until)


def _reason(log: Path) -> str:
    """The last error in a log, or its last line."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [found[0] for line in lines if (found := re.search(r"\b(?:\w*Error|error): .*", line))]
    return (errors or [line.strip() for line in lines if line.strip()] or ["it printed nothing"])[-1][:300]
