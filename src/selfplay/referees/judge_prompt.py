"""Judge prompts that delimit untrusted texts with marks that the texts cannot forge."""

import hashlib
import json
import re
from collections.abc import Sequence

from selfplay.core import SelfplayError, at_least

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates


class JudgePrompt:
    """A judge's prompt with placeholders such as {question} and {answer}, and {mark} for the code in the marks.

    Each text is enclosed in `<answer CODE>` and `</answer CODE>`. CODE is a hash of all texts, so no text can contain
    it, and equal texts give equal prompts.

    Args:
        template: the prompt template.
        places: names of the placeholders, all of which the template must contain.
        max_characters: longer texts are shortened in the middle to this length, with a note.

    Raises:
        SelfplayError: a placeholder is missing.
    """

    def __init__(self, template: str, places: tuple[str, ...], max_characters: int) -> None:
        at_least(2, max_characters=max_characters)
        if missing := [name for name in places if f"{{{name}}}" not in template]:
            raise SelfplayError(f"the judge's prompt has no placeholder {{{missing[0]}}}; add it to the prompt")
        self.template, self.places, self.max_characters = template, places, max_characters

    def filled(self, texts: Sequence[str]) -> str:
        """The prompt with all placeholders filled; a text cannot inject a placeholder or close its own mark."""
        code = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
        shown = {
            name: f"<{name} {code}>\n{self._shown(text, code)}\n</{name} {code}>"
            for name, text in zip(self.places, texts, strict=True)
        } | {"mark": code}
        return re.sub(rf"\{{({'|'.join(shown)})\}}", lambda found: shown[found[1]], self.template)

    def cuts(self, text: str) -> bool:
        """Whether a text exceeds `max_characters`."""
        return len(text) > self.max_characters

    def _shown(self, text: str, code: str) -> str:
        if self.cuts(text):
            head = self.max_characters // 2
            tail = self.max_characters - head
            left_out = f"\n[{code}: {len(text) - self.max_characters} characters are left out here]\n"
            text = text[:head] + left_out + text[-tail:]
        return UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))
