"""One server that generates: vLLM's routes for tokens in and out, for new weights, and for adapters.

    /inference/v1/generate                     tokens and log-probabilities (started with --enable-scale-out)
    /pause, /init_weight_transfer_engine, /start_weight_update, /update_weights, /finish_weight_update, /resume,
    /weight_info, /is_paused, /get_world_size, /shutdown_weight_transfer_engine
                                               new weights (VLLM_SERVER_DEV_MODE=1)
    /v1/load_lora_adapter, /v1/unload_lora_adapter (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)

Any failure is a SelfplayError with the server, the route and the reason; nothing is retried, since a run resumes from
its last checkpoint.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from selfplay.clients.keys import message_of, one_line
from selfplay.clients.transport import address, send
from selfplay.core import SelfplayError
from selfplay.engines.engine import Completion

GENERATE = "/inference/v1/generate"
FRESH = "default"  # the label of the weights that a server was started with
AGAIN = "start it again (selfplay serve), then go on with resume=<this run's folder>"
REMEDY = f"look at what the server printed, {AGAIN}"


@dataclass(frozen=True)
class Reply:
    """A completion, and the labels of the weights that sampled it."""

    completion: Completion
    versions: frozenset[str]


class Client:
    """A server.

    Args:
        url: its base URL, such as http://127.0.0.1:8000.
        seconds: deadline of each request.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds
        self._address = address(self.url)

    def generate(self, request: dict[str, Any]) -> Reply:
        """One completion; `request` is the body of vLLM's GenerateRequest."""
        return _reply(self._call("POST", GENERATE, request), self.url)

    def pause(self) -> None:
        """Let it finish what it generates, and begin nothing until `finish`."""
        self._call("POST", "/pause?mode=wait", {})

    def paused(self) -> bool:
        """Whether it generates nothing, from `pause` to the end of `finish`."""
        return bool(self._call("GET", "/is_paused", None).get("is_paused"))

    def workers(self) -> int:
        """The number of its processes that hold weights."""
        found = self._call("GET", "/get_world_size", None).get("world_size")
        if not isinstance(found, int) or found < 1:
            raise SelfplayError(f"the server {self.url} has a world size of {found!r}; {REMEDY}")
        return found

    def prepare(self, transfer: str, info: dict[str, Any]) -> None:
        """Get ready for weights.

        Args:
            transfer: how they will come, as engine.transfer.
            info: what its weight-transfer engine has to know.
        """
        try:
            self._call("POST", "/init_weight_transfer_engine", {"init_info": info})
        except SelfplayError as error:
            raise SelfplayError(
                f"{error}; engine.transfer={transfer} needs servers of selfplay serve --transfer {transfer}"
            ) from error

    def leave(self) -> None:
        """Give up what a run before prepared, if any."""
        self._call("POST", "/shutdown_weight_transfer_engine", {})

    def receive(self, info: dict[str, Any]) -> None:
        """Load weights; `info`: what its weight-transfer engine has to know about them."""
        self._call("POST", "/start_weight_update", {})
        self._call("POST", "/update_weights", {"update_info": info})

    def finish(self, label: str) -> None:
        """Generate with the weights that were loaded, under a label."""
        self._call("POST", "/finish_weight_update", {"weight_version": label})
        self._call("POST", "/resume", {})

    def label(self) -> str:
        """The label of the weights that the server has."""
        return str(self._call("GET", "/weight_info", None).get("weight_version"))

    def adopt(self, name: str, folder: Path) -> None:
        """Load an adapter from a folder in peft's format, under a name that was never used before."""
        self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def drop(self, name: str) -> None:
        """Unload an adapter."""
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            answer = send(method, self._address, path, headers, data, self.seconds)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise SelfplayError(f"the server {self.url} does not answer {path} ({reason}); {REMEDY}") from error
        if answer.status != 200:
            message = one_line(message_of(answer.body), "") or "no reason given"
            raise SelfplayError(f"the server {self.url} refused {path} (status {answer.status}: {message}); {REMEDY}")
        try:
            found = json.loads(answer.body)
        except ValueError:
            found = {"message": answer.body.decode(errors="replace")}  # adapters are answered in plain text
        return found if isinstance(found, dict) else {"found": found}


def _reply(found: dict[str, Any], url: str) -> Reply:
    try:
        [choice] = found["choices"]
        ids = tuple(int(token) for token in choice["token_ids"])
        logprobs = tuple(float(token["logprob"]) for token in choice["logprobs"]["content"])
        reason = choice["finish_reason"]
        versions = frozenset(str(span["version"]) for span in choice.get("weight_versions") or ())
    except (KeyError, TypeError, ValueError) as error:
        raise SelfplayError(
            f"the server {url} gave a completion without {error}; start it with the flags of selfplay serve"
        ) from error
    fits = bool(ids) and len(ids) == len(logprobs) and all(map(math.isfinite, logprobs))
    if not fits or reason not in ("stop", "length"):
        raise SelfplayError(
            f"the server {url} gave a completion of {len(ids)} tokens with {len(logprobs)} log-probabilities and the "
            f"finish_reason '{reason}'; {REMEDY}"
        )
    return Reply(Completion(ids, logprobs, reason), versions)
