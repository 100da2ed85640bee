"""Client for OpenAI-compatible chat-completions endpoints: vLLM, `transformers serve`, or a provider."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from random import Random
from threading import Event
from typing import Annotated, Any

from omegaconf import OmegaConf

from selfplay.clients.keys import headers, key_of, message_of, one_line, redacted
from selfplay.clients.transport import Answer, address, post, side_by_side
from selfplay.core import SelfplayError, at_least, user
from selfplay.options import Name, Range, Seed
from selfplay.referees.cache import Cache

AGAIN = (408, 409, 425, 429)  # statuses worth a retry, besides 500 and above


class Passing(Exception):
    """A transient failure; `after` is the delay in seconds that the server requests before a retry."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def pause(stop: Event, seconds: float) -> None:
    """Wait, or return early when `stop` is set."""
    stop.wait(seconds)


PARAMETERS: Mapping[str, object] = {"temperature": 0.0, "max_tokens": 512}


class Endpoint:
    """Sends prompts concurrently, with retries, and caches every reply.

    Args:
        url: base URL including the version, such as http://localhost:8000/v1.
        model: the server's name for the model.
        key: NAME of the environment variable that holds the API key; None if the server needs none. The key itself is
            never written to disk, and is redacted from everything that the server sends.
        parameters: request parameters, such as temperature and max_tokens.
        timeout: deadline of one request in seconds, to its last byte.
        retries: number of retries after a timeout, a lost connection, a response that is not a chat completion, or a
            status that is in `AGAIN` or at least 500.
        wait: seconds before the first retry; the delay doubles with each retry, with random jitter that shortens it by
            up to a half.
        longest_wait: upper bound on each delay in seconds, including those that Retry-After requests.
        parallel: maximum number of concurrent requests.
        cache: file of cached replies, see `Cache`; None disables caching.
        seed: seed of the jitter.

    Raises:
        SelfplayError: an argument is invalid, or the environment variable does not hold a key.
    """

    def __init__(
        self,
        url: Name,
        model: Name,
        key: str | None = None,
        parameters: Mapping[str, object] = PARAMETERS,
        timeout: Annotated[float, Range(0, 86400, above=True, below=True)] = 120.0,
        retries: Annotated[int, Range(0, 1000)] = 6,
        wait: Annotated[float, Range(0, 86400, above=True, below=True)] = 1.0,
        longest_wait: Annotated[float, Range(0, 86400, above=True, below=True)] = 60.0,
        parallel: Annotated[int, Range(1, 1000)] = 16,
        cache: Name | None = None,
        seed: Seed = 0,
    ) -> None:
        at_least(0, **{"endpoint.retries": retries})
        at_least(1, **{"endpoint.parallel": parallel})
        for name, value in (("timeout", timeout), ("wait", wait), ("longest_wait", longest_wait)):
            if not 0 < value < 86400:
                raise SelfplayError(f"endpoint.{name} is {value}; give a number of seconds above 0 and below one day")
        self.url, self.model, self._key = address(url), model, key_of(key, "endpoint.key")
        plain = OmegaConf.to_container(OmegaConf.create(dict(parameters)), resolve=True)
        assert isinstance(plain, dict)
        self.parameters: dict[Any, Any] = plain
        if wrong := {"model", "messages", "stream", "n"} & set(self.parameters):
            raise SelfplayError(f"endpoint.parameters.{min(wrong)} is set by selfplay; leave it out")
        self.timeout, self.retries, self.parallel, self.seed = timeout, retries, parallel, seed
        self.wait, self.longest_wait = wait, longest_wait
        self.cache = None if cache is None else Cache(cache)
        self.asked = self.retried = 0

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The reply to each prompt, each sent in its own conversation; "" if the reply is empty.

        Identical prompts are sent once. Afterwards, `asked` holds the number of distinct uncached prompts and `retried`
        the number of failed attempts before their replies.

        Raises:
            SelfplayError: a prompt got no reply. The replies to all others that were answered are in the cache.
        """
        bodies = [self._body(prompt) for prompt in prompts]
        keys = [self._name(body) for body in bodies]
        replies = {} if self.cache is None else self.cache.known(dict.fromkeys(keys))
        fresh = {key: body for key, body in zip(keys, bodies, strict=True) if key not in replies}
        self.asked, self.retried = len(fresh), 0
        stop, failure, names = Event(), None, list(fresh)
        try:
            calls = [partial(self._answered, key, body, stop) for key, body in fresh.items()]
            for place, found in side_by_side(calls, self.parallel):
                if isinstance(found, Exception):
                    failure = failure or found
                elif found is not None:
                    replies[names[place]], failed = found
                    self.retried += failed
                    if self.cache is not None:
                        self.cache.keep(names[place], found[0])
        finally:
            stop.set()
        if failure is not None:
            raise failure
        return [replies[key] for key in keys]

    def forget(self, prompts: Sequence[str]) -> None:
        """Remove the replies to these prompts from the cache."""
        if self.cache is not None:
            self.cache.forget(self._name(self._body(prompt)) for prompt in prompts)

    def _body(self, prompt: str) -> bytes:
        return json.dumps({"model": self.model, "messages": list(user(prompt)), **self.parameters}).encode()

    def _name(self, body: bytes) -> str:
        return hashlib.sha256(self.url.geturl().encode() + b"\0" + body).hexdigest()

    def _answered(self, key: str, body: bytes, stop: Event) -> tuple[str, int] | None:
        """The reply to one request and its number of failed attempts; None if stopped before it was answered."""
        try:
            return self._tried(key, body, stop)
        except SelfplayError:
            stop.set()  # requests in flight finish and are cached; no further ones are sent
            raise

    def _tried(self, key: str, body: bytes, stop: Event) -> tuple[str, int] | None:
        last = ""
        for attempt in range(self.retries + 1):
            if stop.is_set():
                return None
            try:
                return self._send(body), attempt
            except Passing as trouble:
                last = str(trouble)
                if attempt < self.retries:
                    pause(stop, self._delay(key, attempt, trouble.after))
        kept = "" if self.cache is None else f"; its replies so far are cached in {self.cache.path}"
        raise SelfplayError(
            f"the judge at {self.url.geturl()} gave no answer in {self.retries + 1} attempts (the last: {last}); fix "
            f"the endpoint, then continue with resume=<this run's folder>{kept}"
        )

    def _delay(self, key: str, attempt: int, after: float) -> float:
        jitter = Random(f"{self.seed}/{key}/{attempt}").uniform(0.5, 1.0)
        return min(max(self.wait * 2.0**attempt * jitter, after), self.longest_wait)

    def _send(self, body: bytes) -> str:
        try:
            answer = post(self.url, "/chat/completions", headers(self._key), body, self.timeout)
        except (OSError, HTTPException) as error:
            raise Passing(one_line(str(error) or type(error).__name__, self._key)) from None
        if answer.status == 200:
            return self._content(answer)
        reason = f"status {answer.status}: {one_line(message_of(answer.body), self._key)}"
        if answer.status in AGAIN or answer.status >= 500:
            raise Passing(reason, seconds_of(answer.retry_after))
        raise SelfplayError(f"the judge at {self.url.geturl()} refused a request ({reason}); check reward.endpoint")

    def _content(self, answer: Answer) -> str:
        try:
            content = json.loads(answer.body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = answer
        if content is None:
            content = ""  # the model refused, or used up its tokens while thinking
        if not isinstance(content, str):
            raise Passing(f"not a chat completion: {one_line(message_of(answer.body), self._key)}")
        return redacted(content, self._key).encode(errors="replace").decode()


def seconds_of(retry_after: str) -> float:
    """The delay in seconds that a Retry-After header (seconds or a date) requests; 0 if it is absent or invalid."""
    try:
        return max(0.0, float(retry_after)) if retry_after else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
