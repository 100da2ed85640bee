"""One server of a sequence-classification model: vLLM's routes for its names, its tokens and its logits.

    /v1/models   the names under which it serves models, and the context of each
    /tokenize    a text's token ids
    /classify    the scores of texts, which are given as token ids; `use_activation` false: logits

Any failure is a SelfplayError with the server, the route and the reason; nothing is retried, since a run resumes from
its last checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, TypeVar

from selfplay.clients.keys import headers, message_of, one_line
from selfplay.clients.transport import Answer, address, send
from selfplay.core import SelfplayError

T = TypeVar("T")
MODELS, TOKENIZE, CLASSIFY = "/v1/models", "/tokenize", "/classify"
START = "start a reward model there with: selfplay serve MODEL --reward"
AGAIN = f"{START}; a run goes on with resume=<its folder>"


@dataclass(frozen=True)
class Served:
    """A model on a server.

    Attributes:
        name: its name in requests.
        names: the names that the server may give it in responses.
        context: the maximum number of tokens of a text; None if the server does not say.
    """

    name: str
    names: frozenset[str]
    context: int | None


class Classifier:
    """A server.

    Args:
        url: its base URL, such as http://127.0.0.1:8001, with or without /v1.
        key: its API key; "" if it needs none.
        seconds: deadline of each request, to its last byte.
    """

    def __init__(self, url: str, key: str, seconds: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._address, self._key, self.seconds = address(self.url), key, seconds

    def served(self, name: str | None) -> Served:
        """The model of this name; for None the only one.

        Raises:
            SelfplayError: there is no such model, or there are several; the server does not answer.
        """
        listed = self._read(MODELS, self._call("GET", MODELS, None), _listed)
        names = ", ".join(listed) or "none"
        if name is not None and name not in listed:
            raise SelfplayError(f"the server {self.url} has no model '{name}' (it has: {names}); change reward.model")
        if name is None and len({one.names for one in listed.values()}) != 1:
            raise SelfplayError(
                f"the server {self.url} has several models or none ({names}); choose one with reward.model"
            )
        return listed[name] if name is not None else next(iter(listed.values()))

    def tokens(self, model: Served, text: str) -> tuple[int, ...] | None:
        """The ids of a text's tokens, without special ones; None if the server does not tokenize."""
        body = {"model": model.name, "prompt": text, "add_special_tokens": False}
        answer = self._sent("POST", TOKENIZE, body)
        return self._read(TOKENIZE, answer, lambda found: tuple(found["tokens"])) if answer.status == 200 else None

    def scores(self, model: Served, texts: Sequence[Sequence[int]], activation: bool = False) -> list[float]:
        """One score per text.

        Args:
            model: the model that gives them.
            texts: token ids, at least one text.
            activation: whether the server applies the model's activation to the logits, such as a sigmoid.

        Raises:
            SelfplayError: the server failed, or its response does not have one finite number per text, is from another
                model, or counts other tokens than those sent.
        """
        body = {"model": model.name, "input": [list(text) for text in texts], "use_activation": activation}
        found = self._read(CLASSIFY, self._call("POST", CLASSIFY, body), _scored)
        if found.model not in model.names:
            raise SelfplayError(
                f"the server {self.url} answered with the model '{found.model}' instead of '{model.name}'; {AGAIN}"
            )
        if len(found.rows) != len(texts):
            raise SelfplayError(f"the server {self.url} gave {len(found.rows)} scores to {len(texts)} texts; {AGAIN}")
        for row, text in zip(found.rows, texts, strict=True):
            if len(row) != 1:
                raise SelfplayError(
                    f"the model '{found.model}' of the server {self.url} has {len(row)} labels; serve a reward model "
                    "with one label, trained on preference pairs"
                )
            if not _is_finite(row[0]):
                raise SelfplayError(
                    f"the server {self.url} gave the score {row[0]} to a text of {len(text)} tokens; check its model's "
                    "weights and its --dtype"
                )
        if found.tokens != (sent := sum(map(len, texts))):
            raise SelfplayError(
                f"the server {self.url} read {found.tokens} tokens where {sent} were sent; start it without flags that "
                "truncate texts or add tokens"
            )
        return [float(row[0]) for row in found.rows]

    def _call(self, method: str, path: str, body: object) -> Answer:
        """A response of status 200."""
        answer = self._sent(method, path, body)
        if answer.status != 200:
            message = one_line(message_of(answer.body), self._key) or "no reason given"
            remedy = "name the variable that holds its key with reward.key" if answer.status in (401, 403) else AGAIN
            raise SelfplayError(f"the server {self.url} refused {path} (status {answer.status}: {message}); {remedy}")
        return answer

    def _sent(self, method: str, path: str, body: object) -> Answer:
        data = b"" if body is None else json.dumps(body).encode()
        try:
            return send(method, self._address, path, headers(self._key), data, self.seconds)
        except (OSError, HTTPException) as error:
            reason = one_line(str(error) or type(error).__name__, self._key)
            raise SelfplayError(f"the server {self.url} does not answer {path} ({reason}); {AGAIN}") from None

    def _read(self, path: str, answer: Answer, read: Callable[[Any], T]) -> T:
        """What `read` finds in a response.

        Raises:
            SelfplayError: the response has another form.
        """
        try:
            return read(json.loads(answer.body))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            said = one_line(message_of(answer.body), self._key)[:80]
            raise SelfplayError(
                f"the server {self.url} answered {path} in another form than vLLM does ('{said}'); {AGAIN}"
            ) from None


@dataclass(frozen=True)
class _Scored:
    """A response of /classify: the model's name, the scores of each text, in order, and the number of tokens read."""

    model: object
    rows: list[list[Any]]
    tokens: object


def _scored(found: Any) -> _Scored:
    data = sorted(found["data"], key=lambda one: one["index"])
    if [one["index"] for one in data] != list(range(len(data))):
        raise ValueError("indices")
    rows = [one["probs"] for one in data]
    if not all(isinstance(row, list) for row in rows):
        raise TypeError("probs")
    return _Scored(found["model"], rows, found["usage"]["prompt_tokens"])


def _listed(found: Any) -> dict[str, Served]:
    """The models by name; a model with several names is listed under each."""
    models = {str(one["id"]): one for one in found["data"]}
    return {
        name: Served(name, frozenset(n for n, other in models.items() if _same(one, other)), _whole(one))
        for name, one in models.items()
    }


def _same(one: Any, other: Any) -> bool:
    place = (one.get("root"), one.get("parent"))
    return bool(one is other or (place[0] and place == (other.get("root"), other.get("parent"))))


def _whole(model: Any) -> int | None:
    context = model.get("max_model_len")
    return context if isinstance(context, int) else None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
