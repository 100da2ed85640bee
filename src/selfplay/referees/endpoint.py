"""A language model behind an OpenAI-compatible chat-completions endpoint: vLLM, `transformers serve`, a provider."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from random import Random
from threading import Event
from typing import Annotated, Any

from omegaconf import OmegaConf

from selfplay.core import SelfplayError, at_least, user
from selfplay.options import Name, Range, Seed
from selfplay.referees.cache import Cache
from selfplay.referees.transport import Answer, address, post, side_by_side

AGAIN = (408, 409, 425, 429)  # and 500 or more: the same request may be answered later


class Passing(Exception):
    """A trouble that may be over soon; `after` is how many seconds the server asks to be left alone."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def pause(stop: Event, seconds: float) -> None:
    """Wait, unless it is over before."""
    stop.wait(seconds)


PARAMETERS: Mapping[str, object] = {"temperature": 0.0, "max_tokens": 512}


class Endpoint:
    """Asks many prompts at once and keeps every reply.

    Args:
        url: up to the version, such as http://localhost:8000/v1.
        model: as the server names it.
        key: the NAME of the environment variable that holds the key; None where the server wants none. Its value is
            written nowhere, and taken out of all that the server says.
        parameters: sent with each request, such as temperature and max_tokens.
        timeout: seconds that one request may take, to its last byte.
        retries: how many more times a request is sent after a time-out, a lost connection, an answer that is no chat
            completion, or a status of AGAIN or at least 500.
        wait: seconds before the first of them; each further wait is twice as long, shortened by chance by up to a half.
        longest_wait: seconds; also where the server asks for more in Retry-After.
        parallel: requests under way at once.
        cache: file of replies, see `Cache`; None asks everything anew.
        seed: of the waits.

    Raises:
        SelfplayError: a wrong option, or an environment without the key.
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
                raise SelfplayError(f"endpoint.{name} is {value}; give seconds, above 0 and below a day")
        self.url, self.model, self._key = address(url), model, key_of(key)
        plain = OmegaConf.to_container(OmegaConf.create(dict(parameters)), resolve=True)
        assert isinstance(plain, dict)
        self.parameters: dict[Any, Any] = plain
        if wrong := {"model", "messages", "stream", "n"} & set(self.parameters):
            raise SelfplayError(f"endpoint.parameters.{min(wrong)} is not for you to choose; leave it out")
        self.timeout, self.retries, self.parallel, self.seed = timeout, retries, parallel, seed
        self.wait, self.longest_wait = wait, longest_wait
        self.cache = None if cache is None else Cache(cache)
        self.asked = self.retried = 0

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The reply to each prompt, asked alone; "" where the model said nothing. Alike prompts are asked once.

        `asked` and `retried` then hold how many requests this call needed, and how many more it sent in vain.

        Raises:
            SelfplayError: one of them got no answer. All that were answered are in the cache.
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
                    replies[names[place]], vain = found
                    self.retried += vain
                    if self.cache is not None:
                        self.cache.keep(names[place], found[0])
        finally:
            stop.set()
        if failure is not None:
            raise failure
        return [replies[key] for key in keys]

    def forget(self, prompts: Sequence[str]) -> None:
        """Ask these anew next time."""
        if self.cache is not None:
            self.cache.forget(self._name(self._body(prompt)) for prompt in prompts)

    def _body(self, prompt: str) -> bytes:
        return json.dumps({"model": self.model, "messages": list(user(prompt)), **self.parameters}).encode()

    def _name(self, body: bytes) -> str:
        return hashlib.sha256(self.url.geturl().encode() + b"\0" + body).hexdigest()

    def _answered(self, key: str, body: bytes, stop: Event) -> tuple[str, int] | None:
        """The reply to one request, and how often it was sent in vain; None if all stopped before it was answered."""
        try:
            return self._tried(key, body, stop)
        except SelfplayError:
            stop.set()  # what is under way is waited for and kept, nothing more is sent
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
        kept = "" if self.cache is None else f"; what it has answered is in {self.cache.path} and not asked again"
        raise SelfplayError(
            f"the judge at {self.url.geturl()} gave no answer in {self.retries + 1} tries (the last: {last}); see to "
            f"it, then go on with resume=<this run's folder>{kept}"
        )

    def _delay(self, key: str, attempt: int, after: float) -> float:
        chance = Random(f"{self.seed}/{key}/{attempt}").uniform(0.5, 1.0)
        return min(max(self.wait * 2.0**attempt * chance, after), self.longest_wait)

    def _send(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            answer = post(self.url, "/chat/completions", headers, body, self.timeout)
        except (OSError, HTTPException) as error:
            raise Passing(self._told(str(error) or type(error).__name__)) from None
        if answer.status == 200:
            return self._content(answer)
        reason = f"status {answer.status}: {self._told(_message(answer.body))}"
        if answer.status in AGAIN or answer.status >= 500:
            raise Passing(reason, seconds_of(answer.retry_after))
        raise SelfplayError(f"the judge at {self.url.geturl()} refused a request ({reason}); look at reward.endpoint")

    def _content(self, answer: Answer) -> str:
        try:
            content = json.loads(answer.body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = answer
        if content is None:
            content = ""  # a model that thought to the end of its tokens, or refused
        if not isinstance(content, str):
            raise Passing(f"no chat completion: {self._told(_message(answer.body))}")
        return self._hidden(content).encode(errors="replace").decode()

    def _told(self, text: str) -> str:
        """What a server said, as a part of a sentence, without the key."""
        return " ".join("".join(c if c.isprintable() else " " for c in self._hidden(text)).split())[:200].rstrip(". ")

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def key_of(name: str | None) -> str:
    """The value of the environment variable; "" for None.

    Raises:
        SelfplayError: `name` is no name (it may be a key, so it is not repeated), or its value is none.
    """
    if name is None:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise SelfplayError(
            "endpoint.key must be the name of an environment variable in capital letters, never a key itself; put the "
            "key into the environment, for example as JUDGE_API_KEY, and give endpoint.key=JUDGE_API_KEY"
        )
    value = os.environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]+", value):
        raise SelfplayError(
            f"the environment variable {name}, which endpoint.key names, holds no key; set it, or use endpoint.key=null"
        )
    return value


def seconds_of(retry_after: str) -> float:
    """What a Retry-After header asks for, in seconds or as a date; 0 where it says nothing."""
    try:
        return max(0.0, float(retry_after)) if retry_after else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _message(body: bytes) -> str:
    """What an error's body says: the message of OpenAI's form, else the beginning of it all."""
    text = body[:20000].decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        return text
