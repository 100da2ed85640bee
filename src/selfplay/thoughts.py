"""What a reply says once its thoughts are left out: nobody is held to what it has only considered."""

import re

OPEN, CLOSE = (re.compile(rf"<{slash}(?:think|thinking|thought|reasoning)>", re.IGNORECASE) for slash in ("", "/"))


def said(reply: str) -> str:
    """The reply after its last thought; nothing where it was cut off within one.

    A thought stands between <think> and </think> (or thinking, thought, reasoning); a chat template may have written
    its beginning, so that only its end is in the reply.
    """
    ends = [found.end() for found in CLOSE.finditer(reply)]
    rest = reply[ends[-1] :] if ends else reply
    return "" if OPEN.search(rest) else rest
