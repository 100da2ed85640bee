"""One HTTP request that ends in time, whatever the server does: no redirect is followed, no body is endless."""

import re
import socket
import ssl
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
LONGEST = 1 << 24  # bytes of an answer


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: of HTTP.
        retry_after: the header of that name, "" where there is none.
        body: the whole of it.
    """

    status: int
    retry_after: str
    body: bytes


def address(url: str) -> SplitResult:
    """A base URL in its parts.

    Raises:
        SelfplayError: it is none, or it holds a password or a query, which config.yaml would then show.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        whole = False
    if not whole or re.search(r"[^!-~]", url):
        raise SelfplayError(f"the endpoint's url '{url}' is none; give one such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SelfplayError(
            "the endpoint's url has more than a host and a path; put a key into the environment, and the name of its "
            "variable into endpoint.key"
        )
    return parts


def post(url: SplitResult, path: str, headers: dict[str, str], body: bytes, seconds: float) -> Answer:
    """POST to `url` and the path behind it.

    Raises:
        OSError: nobody is there, or the whole took longer than `seconds` (TimeoutError).
        HTTPException: what came back is no HTTP, or ended too early, or is too long.
    """
    connection, prefix = _connection(url, seconds)
    late = Event()

    def cut() -> None:
        late.set()
        if connection.sock is not None:
            with suppress(OSError):  # it may be closed already
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # wakes whoever reads, also below TLS

    watch = Timer(seconds, cut)  # a socket's own time-out starts anew with every byte that drips in
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", f"{prefix}{url.path.rstrip('/')}{path}", body, headers)
        response = connection.getresponse()
        read = response.read(LONGEST + 1)
        if len(read) > LONGEST:
            raise HTTPException(f"an answer of more than {LONGEST} bytes")
        if late.is_set():
            raise TimeoutError
        return Answer(response.status, response.getheader("Retry-After", ""), read)
    except (OSError, HTTPException, ValueError, AttributeError):
        if late.is_set():
            raise TimeoutError(f"no whole answer in {seconds:g} s") from None
        raise
    finally:
        watch.cancel()
        connection.close()


def side_by_side(calls: Sequence[Callable[[], T]], parallel: int) -> Iterator[tuple[int, T | Exception]]:
    """The place and the result of each call, or what it raised, as they come; as many calls at once as `parallel`.

    Whoever stops asking leaves the calls behind: their threads are daemons, so that a process which is interrupted
    while a server hangs does not wait for it.
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
                except Exception as error:  # whatever it is, it is raised again in the thread that asked
                    done.put((place, error))

    for _ in range(min(parallel, len(calls))):
        Thread(target=work, daemon=True).start()
    for _ in calls:
        yield done.get()


def _connection(url: SplitResult, seconds: float) -> tuple[HTTPConnection, str]:
    """A connection, through the proxy of the environment where there is one, and what stands before the path."""
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
