"""Strip the thinking of reasoning models from replies, so that only the final answer is judged."""

import re

OPEN, CLOSE = (re.compile(rf"<{slash}(?:think|thinking|thought|reasoning)>", re.IGNORECASE) for slash in ("", "/"))


def said(reply: str) -> str:
    """The reply after its last thinking block; empty if it was cut off within one.

    A block is delimited by <think> and </think> (or thinking, thought, reasoning). The opening tag may be missing, as
    some chat templates put it into the prompt.
    """
    ends = [found.end() for found in CLOSE.finditer(reply)]
    rest = reply[ends[-1] :] if ends else reply
    return "" if OPEN.search(rest) else rest
