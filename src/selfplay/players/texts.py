"""Conversion between a chat model's texts and token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import RLock
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfplay.core import Ask, Message, SelfplayError
from selfplay.models.chat import Chat

ONE_AT_A_TIME = RLock()  # held by a thread that uses a tokenizer or a model of this process
READ = 2000  # characters of a reply that `pattern` searches
REMEMBERED = 8192  # prompts in the cache of token ids


class Texts:
    """Encodes prompts and options and decodes replies with one tokenizer.

    Args:
        tokenizer: a tokenizer with a chat template and an end token.
        chat: its chat template.
        stop: texts that end a reply.
        pattern: see `selfplay.players.language_model.LanguageModel`.
        context: maximum sequence length of the model in tokens; None for no limit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat: Chat,
        stop: Sequence[str],
        pattern: str | None,
        context: int | None,
    ) -> None:
        if not all(isinstance(text, str) and text for text in stop):
            raise SelfplayError(f"player.stop is {list(stop)}; give texts of at least one character")
        self.tokenizer, self.chat, self.stop, self.context = tokenizer, chat, tuple(stop), context
        self.pattern = _compiled(pattern)
        eos: Any = tokenizer.eos_token_id
        pad: Any = tokenizer.pad_token_id
        self.end = int(eos)
        self.pad_id = self.end if pad is None else int(pad)  # padding is masked out
        self._prompts: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}
        self._options: dict[str, tuple[int, ...]] = {}

    def prompt(self, messages: Sequence[Message], max_tokens: int) -> tuple[int, ...]:
        """The prompt's token ids by the chat template.

        Raises:
            SelfplayError: the prompt and `max_tokens` exceed the model's context, or the template rejects the messages.
        """
        key = tuple((m["role"], m["content"]) for m in messages)
        with ONE_AT_A_TIME:
            if key not in self._prompts:
                if len(self._prompts) > REMEMBERED:
                    self._prompts.clear()
                self._prompts[key] = self.chat.ids(messages, generate=True)
            found = self._prompts[key]
        length = len(found)
        if self.context is not None and 0 < self.context < length + max_tokens:
            raise SelfplayError(
                f"a prompt of {length} tokens and player.max_tokens={max_tokens} exceed the model's "
                f"context of {self.context}; lower player.max_tokens or shorten the prompt"
            )
        return found

    def target(self, text: str, max_tokens: int) -> tuple[int, ...]:
        """The token ids of a reply that is to be learnt, with the end token.

        Raises:
            SelfplayError: there are more than `max_tokens`.
        """
        ids = self.option(text)
        if len(ids) > max_tokens:
            raise SelfplayError(
                f"the target reply '{text[:40]}...' has {len(ids)} tokens, but player.max_tokens is {max_tokens}; "
                "raise it, or shorten the teacher's replies (task.longest)"
            )
        return ids

    def option(self, text: str) -> tuple[int, ...]:
        """The token ids of a complete reply, with the end token."""
        with ONE_AT_A_TIME:
            if text not in self._options:
                self._options[text] = (*self.tokenizer.encode(text, add_special_tokens=False), self.end)
            return self._options[text]

    def stopped(self, ids: list[int]) -> bool:
        """Whether a stop text occurs in the last tokens; each token is at least one byte."""
        last = max((len(text.encode()) for text in self.stop), default=0) + 4
        with ONE_AT_A_TIME:
            tail = str(self.tokenizer.decode(ids[-last:], skip_special_tokens=True))
        return any(text in tail for text in self.stop)

    def reply(self, ask: Ask, ids: Sequence[int]) -> str:
        """The text passed to the game: cut at the first stop text; if there are options, matched by `pattern`."""
        with ONE_AT_A_TIME:
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        text = text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))]
        found = self.pattern.search(text[:READ]) if ask.options and self.pattern else None
        if found is None:
            return text
        return found[1] if self.pattern and self.pattern.groups else found[0]


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise SelfplayError(f"player.pattern '{pattern}' is not a regular expression ({error}); correct it") from error
