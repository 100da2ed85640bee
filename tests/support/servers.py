"""Doubles of vLLM's server: its routes over a socket of the standard library, and our own sampler behind them.

The key of a completion is the `request_id`, so its replies are those of the embedded engine.
tests/support/reward_servers.py has the double of a reward model's server.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
import wires
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.engine import Sampling, Weights
from selfplay.engines.truncation import Truncation
from selfplay.models.load import resolve

LOADING = Lock()  # transformers loads one model at a time
Misbehaviour = Callable[[Any, BaseHTTPRequestHandler, str], bool]


class Routes:
    """A server's state, and what it does wrong.

    Attributes:
        calls: the routes that were called, in order.
        misbehaves: (server, handler, route) -> whether it has dealt with the request.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.misbehaves: Misbehaviour = lambda *_: False
        self.lock, self.url, self.closed = Lock(), "", False

    def answer(self, route: str, body: dict[str, Any]) -> tuple[int, object]:
        """Status and content of a response."""
        raise NotImplementedError


class Double(Routes):
    """A server that generates.

    Attributes:
        label: of its weights.
        paused: whether it refuses to generate.
        link: its workers' side of NCCL, in memory; None: it takes weights from folders.
    """

    def __init__(self, path: str = "asset:tiny", link: wires.Link | None = None) -> None:
        super().__init__()
        self.link, self.names = link, (path,)
        self.model: Any = AutoModelForCausalLM.from_pretrained(resolve(path), dtype=torch.float32).eval()
        self.label, self.drafted = "default", ""
        self.adapters: dict[str, Any] = {}
        self.engine, self.version, self.paused = EmbeddedEngine(), 0, False

    def answer(self, route: str, body: dict[str, Any]) -> tuple[int, object]:
        with self.lock:
            if self.closed:
                return 503, {"error": {"message": "closed"}}
            if route == "/inference/v1/generate" and self.paused:  # as vLLM 0.33; 0.32 lets it wait
                return 503, {"error": {"message": "Generation is paused. Please retry after it resumes."}}
            if route == "/inference/v1/generate":
                return self._generate(body)
            if route in ("/pause", "/resume"):
                self.paused = route == "/pause"
            if route == "/is_paused":
                return 200, {"is_paused": self.paused}
            if route == "/get_world_size":
                return 200, {"world_size": 1 if self.link is None else self.link.workers}
            if route == "/init_weight_transfer_engine" and (self.link is not None or body["init_info"]):
                if self.link is None or not body["init_info"]:
                    return 500, {"error": {"message": "Invalid init_info"}}
                self.link.join(body["init_info"])
            if route == "/update_weights":
                self.model = self._updated(body["update_info"])
            if route == "/finish_weight_update":
                self.label, self.version = body["weight_version"], self.version + 1
            if route == "/v1/models":
                return 200, {"object": "list", "data": [{"id": name, "root": self.names[0]} for name in self.names]}
            if route == "/weight_info":
                return 200, {"weight_version": self.label}
            if route == "/v1/load_lora_adapter":
                name = body["lora_name"]
                if name in self.adapters:
                    return 400, {"error": {"message": f"{name} is loaded already"}}
                self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.model), body["lora_path"]).eval()
            if route == "/v1/unload_lora_adapter":
                del self.adapters[body["lora_name"]]
        return 200, {"message": "done"}

    def _updated(self, info: dict[str, Any]) -> Any:
        """The model with the weights of a folder, or those that the workers receive."""
        received = None if self.link is None else self.link.receive(info)
        with LOADING, TemporaryDirectory() as own:
            folder = info["folder"] if received is None else own
            if received is not None:
                self.model.config.save_pretrained(own)
                save_file(received, Path(own) / "model.safetensors", {"format": "pt"})
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def _generate(self, body: dict[str, Any]) -> tuple[int, object]:
        name, how = body.get("model"), body["sampling_params"]
        if name is not None and name not in self.adapters:
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        sampling = Sampling(
            how["max_tokens"],
            how["temperature"],
            Truncation(max(0, how["top_k"]), how["top_p"], how["min_p"]),
            tuple(how["stop_token_ids"]),
        )
        model = self.model if name is None else self.adapters[name]
        weights = Weights(name or f"{self.label}/{self.version}", model, nullcontext)
        [found] = self.engine.generate(weights, [tuple(body["token_ids"])], [body["request_id"]], sampling)
        choice = {
            "index": 0,
            "token_ids": found.ids,
            "finish_reason": found.finish_reason,
            "logprobs": {
                "content": [{"token_id": t, "logprob": p} for t, p in zip(found.ids, found.logprobs, strict=True)]
            },
            "weight_versions": [{"version": self.label, "start": 0, "end": len(found.ids)}],
        }
        return 200, {"request_id": body["request_id"], "choices": [choice]}


Served = TypeVar("Served", bound=Routes)


@contextmanager
def serving(double: Served, port: int = 0) -> Iterator[Served]:
    """The double at `double.url`, for the duration of the block; `port` 0: any free one."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            route = urlsplit(self.path).path
            data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.body = json.loads(data or b"{}")
            double.calls.append(route)
            if double.misbehaves(double, self, route):
                return
            try:
                status, found = double.answer(route, self.body)
            except wires.GivenUp:
                status, found = 500, {"error": {"message": "the other ranks are not there"}}
            self.reply(status, found)

        def reply(self, status: int, found: object) -> None:
            told = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            return

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # connections beyond it are reset: a client opens as many as it has requests

    server = Listener(("127.0.0.1", port), Handler)
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        double.closed = True
        with double.lock:  # what it is generating ends first: a process that exits in between is aborted by torch
            pass
