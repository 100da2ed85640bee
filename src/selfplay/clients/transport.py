"""HTTP requests with a hard deadline and a size limit; redirects are not followed."""

import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Event, Thread, Timer
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from selfplay.core import SelfplayError

T = TypeVar("T")
LONGEST = 1 << 24  # maximum size of a response body in bytes


@dataclass(frozen=True)
class Answer:
    """A server's response.

    Attributes:
        status: HTTP status code.
        retry_after: the Retry-After header, or "".
        body: the response body.
    """

    status: int
    retry_after: str
    body: bytes


def address(url: str) -> SplitResult:
    """Parse a base URL.

    Raises:
        SelfplayError: the URL is invalid, or it contains credentials, a query or a fragment, which could leak a key
            into config.yaml.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        valid = False
    if not valid or re.search(r"[^!-~]", url):
        raise SelfplayError(f"the endpoint's url '{url}' is invalid; give one such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SelfplayError(
            "the endpoint's url has more than a host and a path; put a key into an environment variable, and name the "
            "variable with the option `key` beside the url"
        )
    return parts


def post(url: SplitResult, path: str, headers: dict[str, str], body: bytes, seconds: float) -> Answer:
    """Send one POST request; see `send`."""
    return send("POST", url, path, headers, body, seconds)


def send(method: str, url: SplitResult, path: str, headers: dict[str, str], body: bytes, seconds: float) -> Answer:
    """Send one request.

    Args:
        method: "GET" or "POST".
        url: base URL.
        path: appended to the path of `url`.
        headers: request headers.
        body: request body.
        seconds: deadline of the whole request, to the last byte of the response.

    Raises:
        OSError: the connection failed, or the request took longer than `seconds` in total (TimeoutError).
        HTTPException: the response is malformed, incomplete or too long.
    """
    connection, prefix = _connection(url, seconds)
    late = Event()

    def cut() -> None:
        late.set()
        if connection.sock is not None:
            with suppress(OSError):  # it may already be closed
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # unblocks a pending read, also below TLS

    watch = Timer(seconds, cut)  # a socket's own timeout restarts with every byte received
    watch.daemon = True
    watch.start()
    try:
        connection.request(method, f"{prefix}{url.path.rstrip('/')}{path}", body, headers)
        response = connection.getresponse()
        read = response.read(LONGEST + 1)
        if len(read) > LONGEST:
            raise HTTPException(f"a response of more than {LONGEST} bytes")
        if late.is_set():
            raise TimeoutError
        return Answer(response.status, response.getheader("Retry-After", ""), read)
    except (OSError, HTTPException, ValueError, AttributeError) as error:
        timed_out = isinstance(error, TimeoutError) and error.errno is None  # by the socket, before `cut` had its turn
        if late.is_set() or timed_out:
            raise TimeoutError(f"no complete response within {seconds:g} s") from None
        raise
    finally:
        watch.cancel()
        connection.close()


def side_by_side(
    calls: Sequence[Callable[[], T]], parallel: int, end: float = math.inf
) -> Iterator[tuple[int, T | Exception]]:
    """Run calls concurrently; yield the index and the result or exception of each as it completes.

    A consumer that stops early abandons the remaining calls. Their threads are daemons, so an interrupted process does
    not wait for a hanging server.

    Args:
        calls: the calls, started in order.
        parallel: maximum number of concurrent calls.
        end: when to give up, on the monotonic clock.

    Raises:
        TimeoutError: a call has not ended by then.
    """
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, T | Exception]] = SimpleQueue()
    for place in range(len(calls)):
        todo.put(place)

    def work() -> None:
        with suppress(Empty):
            while True:
                place = todo.get_nowait()
                try:
                    done.put((place, calls[place]()))
                except Exception as error:  # handed to the consumer
                    done.put((place, error))

    for _ in range(min(parallel, len(calls))):
        Thread(target=work, daemon=True).start()
    for _ in calls:
        try:
            yield done.get(timeout=None if end == math.inf else max(0.0, end - time.monotonic()))
        except Empty:
            raise TimeoutError from None


def _connection(url: SplitResult, seconds: float) -> tuple[HTTPConnection, str]:
    """A connection, through the environment's proxy if one applies, and the prefix of the request path."""
    host = url.hostname or ""
    proxy = getproxies().get(url.scheme)
    if proxy is None or _is_loopback(host) or proxy_bypass(host):
        if url.scheme == "https":
            return HTTPSConnection(host, url.port, timeout=seconds, context=ssl.create_default_context()), ""
        return HTTPConnection(host, url.port, timeout=seconds), ""
    via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if url.scheme == "https":
        tunnel = HTTPSConnection(via.hostname or "", via.port, timeout=seconds, context=ssl.create_default_context())
        tunnel.set_tunnel(host, url.port)
        return tunnel, ""
    return HTTPConnection(via.hostname or "", via.port, timeout=seconds), f"http://{url.netloc}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
