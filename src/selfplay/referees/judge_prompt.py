"""The prompt of a judge: a template whose places hold hostile texts, each between marks that it cannot write itself."""

import hashlib
import json
import re
from collections.abc import Sequence

from selfplay.core import SelfplayError, at_least

READ = 1000  # characters
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates


def last_match(pattern: re.Pattern[str], verdict: str) -> str | None:
    """The group of a pattern's last match in the last `READ` characters of a verdict, stripped; None where it has none.

    The end alone, as nobody knows how a pattern's time grows with the length of what a judge writes.
    """
    found = pattern.findall(verdict, max(0, len(verdict) - READ))
    return str(found[-1]).strip() if found else None


class JudgePrompt:
    """A judge's prompt with the places {question}, {answer} and the like, and {mark} for the code in the marks.

    A text stands between `<answer CODE>` and `</answer CODE>`. The code is the hash of all the texts of the prompt, so
    none of them can hold it, and the same texts make the same prompt.

    Args:
        template: the prompt.
        places: the names that the template must hold.
        max_characters: the longest text that is shown whole; a longer one lacks its middle, and says so.

    Raises:
        SelfplayError: a place is missing.
    """

    def __init__(self, template: str, places: tuple[str, ...], max_characters: int) -> None:
        at_least(2, max_characters=max_characters)
        if missing := [name for name in places if f"{{{name}}}" not in template]:
            raise SelfplayError(f"the judge's prompt has no place {{{missing[0]}}}; put it where the text shall stand")
        self.template, self.places, self.max_characters = template, places, max_characters

    def filled(self, texts: Sequence[str]) -> str:
        """The prompt with a text in each place; nothing in a text can act as a place or end it."""
        code = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
        shown = {
            name: f"<{name} {code}>\n{self._shown(text, code)}\n</{name} {code}>"
            for name, text in zip(self.places, texts, strict=True)
        } | {"mark": code}
        return re.sub(rf"\{{({'|'.join(shown)})\}}", lambda found: shown[found[1]], self.template)

    def cuts(self, text: str) -> bool:
        """Whether a text is too long to be shown whole."""
        return len(text) > self.max_characters

    def _shown(self, text: str, code: str) -> str:
        if self.cuts(text):
            head = self.max_characters // 2
            tail = self.max_characters - head
            left_out = f"\n[{code}: {len(text) - self.max_characters} characters are left out here]\n"
            text = text[:head] + left_out + text[-tail:]
        return UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))
