"""Judges behind a real socket: a fair one, and servers that misbehave."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


class Request:
    """What a server was sent, and the connection on which it may answer, or do worse."""

    def __init__(self, handler: BaseHTTPRequestHandler, number: int) -> None:
        self.number, self.path, self.headers = number, handler.path, dict(handler.headers)
        self.body: dict[str, Any] = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.prompt: str = self.body["messages"][-1]["content"]
        self.handler = handler

    def send(self, body: bytes | str, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
        self.handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def say(self, content: object) -> None:
        """A chat completion."""
        self.send(json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}))

    def drip(self, seconds: float) -> None:
        """A byte now and then, for so long."""
        end = time.monotonic() + seconds
        self.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while time.monotonic() < end:
            self.handler.wfile.write(b".")
            time.sleep(0.05)


class Server:
    """Listens on the loopback interface while the block lasts; `requests` are in the order of arrival."""

    def __init__(self, answer: Callable[[Request], None], port: int = 0) -> None:
        self.requests: list[Request] = []
        self.answer, self._lock = answer, Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                with outer._lock:
                    request = Request(self, len(outer.requests))
                    outer.requests.append(request)
                self.close_connection = True
                outer.answer(request)

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a client that went away

        self.listener = Listener(("127.0.0.1", port), Handler)
        self.port = self.listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        Thread(target=self.listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()


@contextmanager
def serving(answer: Callable[[Request], None], port: int = 0) -> Iterator[Server]:
    server = Server(answer, port)
    try:
        yield server
    finally:
        server.close()


def texts(prompt: str) -> list[str]:
    """What stands between the marks of a prompt, in order."""
    return [m.group(3) for m in re.finditer(r"<(\w+) ([0-9a-f]{16})>\n(.*?)\n</\1 \2>", prompt, re.DOTALL)]


def fair(request: Request) -> None:
    """The longer answer is the better one; alone, a character is a point."""
    _, *answers = texts(request.prompt)
    lengths = [len(answer) for answer in answers]
    if len(lengths) == 1:
        request.say(f"I count.\nScore: {min(lengths[0], 10)}")
    else:
        request.say(f"Verdict: {'A' if lengths[0] > lengths[1] else 'B' if lengths[1] > lengths[0] else 'tie'}")


@cache
def stand_in() -> str:
    """The url of a fair judge that serves until the tests end."""
    return Server(fair).url
