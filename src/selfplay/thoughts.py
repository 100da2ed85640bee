"""Read replies: strip thinking, find the last match of a pattern, take a question out of the paper's tags."""

import re

READ = 1000  # characters
OPEN, CLOSE = (re.compile(rf"<{slash}(?:think|thinking|thought|reasoning)>", re.IGNORECASE) for slash in ("", "/"))
BEGUN, ENDED = r"\[\s*start generation\s*\]", r"\[\s*end generation\s*\]"  # tags in the paper's prompt


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


def question(written: str) -> str:
    """Extract the question from the Challenger's reply by removing the paper's generation tags.

    The question is the text after the last [Start Generation], if any, and before the first [End Generation] that
    follows, if any. A reply without tags is returned unchanged.
    """
    inner = re.split(BEGUN, written, flags=re.IGNORECASE)[-1]
    inner = re.split(ENDED, inner, flags=re.IGNORECASE)[0]
    return written if inner == written else inner.strip()
