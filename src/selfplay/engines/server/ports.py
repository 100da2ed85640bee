"""Ports for servers on this machine: which are free, and which another command has claimed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from selfplay.core import SelfplayError

HOST = "127.0.0.1"


def ports(first: int, count: int) -> list[int]:
    """Free ports of this machine: `first` and those after it, or any for 0.

    Raises:
        SelfplayError: one is in use.
    """
    found = []
    sockets = []
    try:
        for port in [first + i if first else 0 for i in range(count)]:
            sockets.append(socket.socket())
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            try:
                sockets[-1].bind((HOST, port))
            except (OSError, OverflowError) as error:
                raise SelfplayError(
                    f"port {port} cannot be used ({error}); choose another first one with --port"
                ) from error
            found.append(sockets[-1].getsockname()[1])
    finally:
        for one in sockets:
            one.close()
    return found


def claim(taken: Sequence[int]) -> list[socket.socket]:
    """Claims of ports among the commands of this machine, held until they are closed or this process ends.

    vLLM binds its port when it starts, listens minutes later, and lets others of the same user bind it as well, so two
    servers could share one. Claims are abstract sockets, which Linux alone has.

    Raises:
        SelfplayError: another command has claimed one.
    """
    found: list[socket.socket] = []
    for port in taken if sys.platform == "linux" else ():
        found.append(socket.socket(socket.AF_UNIX))
        try:
            found[-1].bind(f"\0selfplay-serve-{port}")
        except OSError as error:
            for one in found:
                one.close()
            raise SelfplayError(
                f"another `selfplay serve` uses port {port}; choose another first one with --port"
            ) from error
    return found
