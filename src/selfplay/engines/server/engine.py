"""The server engine: vLLM generates in its own processes; this one sends prompts, and weights when they change."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp
from threading import BoundedSemaphore
from typing import Annotated, Any
from weakref import finalize, ref

from torch.nn import Module

from selfplay.clients.transport import side_by_side
from selfplay.core import SelfplayError, at_least
from selfplay.engines.engine import Completion, Engine, Mixture, Prompt, Sampling, Weights
from selfplay.engines.server.client import AGAIN, FRESH, Client, Reply
from selfplay.engines.server.nccl import Nccl
from selfplay.engines.server.residents import Residents
from selfplay.engines.server.transfer import FOLDER, NCCL, Folder, Transfer
from selfplay.files import to_disk
from selfplay.models.structure import bare
from selfplay.options import Count, Name, OneOf, Positive
from selfplay.parallel import current

POLL = 0.05  # seconds between two looks at a server whose weights another process sends


class ServerEngine(Engine):
    """Samples with vLLM's server, or any server with the same routes (`selfplay.engines.server.client`).

    Weights are sent at the first call that needs them: a model's as `transfer` says, a LoRA adapter's
    by loading it under a name that is used once. Every completion must carry the label of the model's
    weights; below an adapter these are the ones that the server was started with. A prompt goes to the server that a
    hash of it names, so that replies to one prompt share its prefix there.

    Args:
        urls: the servers; each holds the same model.
        requests: maximum number of requests per server at a time.
        seconds: deadline of each request.
        folder: where weights are passed on, readable by every server; created if it is missing. None: a temporary
            folder.
        adapters: how many adapters a server keeps loaded (its --max-loras).
        transfer: how whole models reach the servers, as `selfplay serve --transfer`: "folder", or "nccl" between GPUs
            (not tried on GPUs). Adapters always go through the folder.
    """

    exact = False
    concurrent = True

    def __init__(
        self,
        urls: Sequence[Name] = ("http://127.0.0.1:8000",),
        requests: Count = 64,
        seconds: Positive = 600.0,
        folder: str | None = None,
        adapters: Count = 4,
        transfer: Annotated[str, OneOf(FOLDER, NCCL)] = FOLDER,
    ) -> None:
        at_least(1, **{"engine.requests": requests, "engine.adapters": adapters})
        if not urls:
            raise SelfplayError("engine.urls is empty; name a server, such as engine.urls=[http://127.0.0.1:8000]")
        self.clients = [Client(url, seconds) for url in urls]
        self.requests, self.seconds, self.adapters = requests, seconds, adapters
        self.run = current().lead(lambda: uuid.uuid4().hex[:12])  # labels of another run never mean this one's weights
        self.folder = Path(current().lead(lambda: _inside(folder)))
        if current().rank == 0:
            finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._transfer: Transfer = Nccl(seconds) if transfer == NCCL else Folder(self.folder / "weights")
        self._models = Residents(1)
        self._adapters = Residents(adapters)
        self._slots = BoundedSemaphore(requests * len(urls))
        self._model: ref[Module] | None = None

    def way(self, model: Any) -> str:
        return f"{len(self.clients)} vLLM server{'s' * (len(self.clients) > 1)}"

    def generate(
        self, weights: Weights | Mixture, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        if isinstance(weights, Mixture):
            raise SelfplayError("engine=server cannot sample from a mixture of two models; take engine=embedded")
        if sampling.truncation.top_p < 1 and sampling.truncation.min_p > 0:
            raise SelfplayError(
                f"player.top_p={sampling.truncation.top_p:g} and player.min_p={sampling.truncation.min_p:g} cannot be "
                "combined with engine=server, since vLLM applies min_p before top_p and the learner after it; set "
                "one of them"
            )
        if not prompts:
            return []
        label = f"{self.run}/{weights.uid}"
        name = None if bare(weights.model) is weights.model else _name(label)
        with self._holding(label, name, weights):
            calls = [
                partial(self._complete, self._client(prompt), _request(prompt, key, sampling, name))
                for prompt, key in zip(prompts, keys, strict=True)
            ]
            found: dict[int, Reply] = {}
            for place, reply in side_by_side(calls, self.requests * len(self.clients)):
                if isinstance(reply, Exception):
                    raise reply
                if reply.versions != {label if name is None else FRESH}:
                    raise SelfplayError(_other_weights(self._client(prompts[place]).url, reply.versions, label, name))
                found[place] = reply
        return [_cut(found[place].completion, sampling.ended) for place in range(len(prompts))]

    def _holding(self, label: str, name: str | None, weights: Weights) -> AbstractContextManager[None]:
        """A block in which every server holds the weights, of a model or of the adapter `name`."""
        if name is None:
            self._check_single(weights.model)
            return self._models.using(label, lambda: self._send(label, weights), lambda _: None)
        self._check_base(label)
        return self._adapters.using(name, lambda: self._adopt(name, weights), self._drop)

    def _complete(self, client: Client, request: dict[str, Any]) -> Reply:
        with self._slots:
            return client.generate(request)

    def _client(self, prompt: Prompt) -> Client:
        return self.clients[_number(str(prompt)) % len(self.clients)]

    def _send(self, label: str, weights: Weights) -> None:
        """Let every server load the weights of a model; the first process of the run sends them for all."""
        if current().rank == 0:
            self._transfer.send(weights, label, self.clients)
        else:
            self._await(label)

    def _await(self, label: str) -> None:
        """Wait until every server generates with the weights that the first process sends."""
        end = time.monotonic() + self.seconds
        for client in self.clients:
            while client.label() != label or client.paused():  # its label is new before it goes on
                if time.monotonic() > end:
                    raise SelfplayError(
                        f"the server {client.url} has not got the weights {label} within {self.seconds:g} s; look at "
                        "the first process of the run, or raise engine.seconds"
                    )
                time.sleep(POLL)

    def _check_single(self, model: Module) -> None:
        """Raise SelfplayError if several processes sample from more than one whole model, which they would not do in
        step."""
        self._model = self._model or ref(model)
        if current().size > 1 and self._model() is not model:
            raise SelfplayError(
                "with several processes, engine=server samples from one whole model, but this run has a second one "
                "(such as a past self); train an adapter (player.lora), take engine=embedded, or one process"
            )

    def _check_base(self, label: str) -> None:
        """Raise SelfplayError if a server has other weights than those it was started with, before it is asked."""
        for client in self.clients:
            if (found := client.label()) != FRESH:
                raise SelfplayError(_other_weights(client.url, frozenset({found}), label, label))

    def _adopt(self, name: str, weights: Weights) -> None:
        """Let every server load an adapter."""
        target = self.folder / name
        with weights.placed():
            weights.model.save_pretrained(target)
        for client in self.clients:
            client.adopt(name, target)

    def _drop(self, name: str) -> None:
        """Let every server unload an adapter."""
        for client in self.clients:
            client.drop(name)
        shutil.rmtree(self.folder / name, ignore_errors=True)


def _inside(folder: str | None) -> str:
    """A new folder for the weights of this run."""
    if folder is None:
        return mkdtemp(prefix="selfplay-weights-")
    place = Path(folder).absolute()  # servers have their own working directories
    with to_disk(place):
        place.mkdir(parents=True, exist_ok=True)
        return mkdtemp(prefix="selfplay-weights-", dir=place)


def _name(label: str) -> str:
    """The name under which servers load an adapter, which is this process's own."""
    return f"{label}/{current().rank}".replace("/", "-").replace("@", "-")


def _request(prompt: Prompt, key: str, sampling: Sampling, name: str | None) -> dict[str, Any]:
    """The body of a request; its key, which names the completion, seeds it."""
    how = sampling.truncation
    return {
        "request_id": key,
        "token_ids": list(prompt),
        **({} if name is None else {"model": name}),
        "sampling_params": {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_k": how.top_k or -1,
            "top_p": how.top_p,
            "min_p": how.min_p,
            "seed": _number(key) % 2**63,
            "logprobs": 0,
            "stop_token_ids": list(sampling.stop_ids),
            "ignore_eos": True,  # what ends a completion is in stop_token_ids
            "detokenize": False,
        },
    }


def _other_weights(url: str, versions: frozenset[str], label: str, adapter: str | None) -> str:
    """The error for a completion by other weights than those asked for."""
    found = " and ".join(sorted(versions)) or "of no label"
    if adapter is None:
        return (
            f"the server {url} sampled with the weights {found} instead of {label}; let no other run use it, then go "
            "on with resume=<this run's folder>"
        )
    return (
        f"the server {url} has the weights {found}, which a run sent, below an adapter, instead of the model that it "
        f"was started with; {AGAIN}"
    )


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _cut(found: Completion, ended: Callable[[list[int]], bool] | None) -> Completion:
    """The completion up to the token after which it ends; the server knows only tokens that end one."""
    for length in range(1, len(found.ids) if ended is not None else 0):
        if ended is not None and ended(list(found.ids[:length])):
            return Completion(found.ids[:length], found.logprobs[:length], "stop")
    return found
