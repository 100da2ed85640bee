"""API keys of servers, and servers' messages as a part of ours, without the key."""

import json
import os
import re

from selfplay.core import SelfplayError

LONGEST = 20000  # bytes of an error body that are parsed


def key_of(name: str | None, option: str) -> str:
    """The value of the environment variable; "" for None.

    Args:
        name: the variable's name.
        option: the option that gives the name, for the messages.

    Raises:
        SelfplayError: `name` is not a valid name (it may be a key, so the message omits it), or the variable does not
            hold a key.
    """
    if name is None:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise SelfplayError(
            f"{option} must be the name of an environment variable in capital letters, never the key itself; set "
            f"an environment variable, for example JUDGE_API_KEY, and pass {option}=JUDGE_API_KEY"
        )
    value = os.environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]+", value):
        raise SelfplayError(
            f"the environment variable {name}, named by {option}, holds no key; set it, or use {option}=null"
        )
    return value


def headers(key: str) -> dict[str, str]:
    """The headers of a request in JSON, with the key if there is one."""
    found = {"Content-Type": "application/json", "Accept": "application/json"}
    return {**found, "Authorization": f"Bearer {key}"} if key else found


def redacted(text: str, key: str) -> str:
    """The text without the key."""
    return text.replace(key, "***") if key else text


def one_line(text: str, key: str) -> str:
    """A server's message for an error message: one line, shortened, without the key."""
    printable = "".join(c if c.isprintable() else " " for c in redacted(text, key))
    return " ".join(printable.split())[:200].rstrip(". ")


def message_of(body: bytes) -> str:
    """The message of an error body in OpenAI's or FastAPI's format, else the beginning of the body."""
    text = body[:LONGEST].decode(errors="replace")
    try:
        found = json.loads(text)
        error = found["error"] if "error" in found else found["detail"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        return text
