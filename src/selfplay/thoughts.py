"""Read replies: strip the thinking of reasoning models, and find the last match of a pattern."""

import re

READ = 1000  # characters
OPEN, CLOSE = (re.compile(rf"<{slash}(?:think|thinking|thought|reasoning)>", re.IGNORECASE) for slash in ("", "/"))


def said(reply: str) -> str:
    """The reply after its last thinking block; empty if it was cut off within one.

    A block is delimited by <think> and </think> (or thinking, thought, reasoning). The opening tag may be missing, as
    some chat templates put it into the prompt.
    """
    ends = [found.end() for found in CLOSE.finditer(reply)]
    rest = reply[ends[-1] :] if ends else reply
    return "" if OPEN.search(rest) else rest


def last_match(pattern: re.Pattern[str], verdict: str) -> str | None:
    """The stripped group of the pattern's last match in the last `READ` characters of a verdict; None without a match.

    The limit bounds the running time of patterns that backtrack.
    """
    found = pattern.findall(verdict, max(0, len(verdict) - READ))
    return str(found[-1]).strip() if found else None
