"""Conversations as token ids after a model's own chat template; what a message says is never read as its structure.

A template turns messages into text, and a tokenizer reads a special token wherever its name is written: an answer that
spells out <|im_end|> would end its own message. So names of special tokens inside a message are spelt with ordinary
tokens here; everything else is what `apply_chat_template` gives, id for id. Marks that are plain text to the tokenizer,
such as [INST] of Llama 2, cannot be told from what somebody said; nothing can be done about them here.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from selfplay.core import Message, SelfplayError

QUIET = {"verbose": False}  # who cuts what is too long, or refuses it, is not the tokenizer


class Chat:
    """A tokenizer's chat template.

    Args:
        tokenizer: with a chat template.
        options: what the template is told beside the messages, such as date_string or enable_thinking.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.options = tokenizer, dict(options)
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        # a reasoning model's <think> is no special token, but structure where its template writes it
        written = {t.content for t in added if t.content.strip() and t.content in str(tokenizer.chat_template)}
        self.marks = sorted(special | written, key=lambda mark: (-len(mark), mark))
        self._special, self._any = _one_of(special), _one_of(self.marks)

    def ids(self, messages: Sequence[Message], generate: bool) -> tuple[int, ...]:
        """The token ids of a conversation.

        Args:
            generate: whether the assistant's next message begins at the end.

        Raises:
            SelfplayError: the template refuses the messages.
        """
        messages = [{**m, "content": _encodable(m["content"])} for m in messages]
        said = "".join(message["content"] for message in messages)
        if not self._any.search(said):
            return tuple(self._template(messages, generate, tokenize=True)["input_ids"])
        secret = hashlib.sha256(said.encode()).hexdigest()  # which no message can hold
        text = self._template([self._hidden(m, secret) for m in messages], generate, tokenize=False)
        ids: list[int] = []
        for i, piece in enumerate(re.split(rf"{secret}(\d{{6}})", text)):
            ids += self._spelt(self.marks[int(piece)]) if i % 2 else self._encode(piece)
        return tuple(ids)

    def _template(self, messages: Sequence[Message], generate: bool, tokenize: bool) -> Any:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=generate,
                tokenize=tokenize,
                return_dict=tokenize,
                tokenizer_kwargs=QUIET,
                **self.options,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise SelfplayError(
                f"the chat template of '{self.tokenizer.name_or_path}' refuses messages of the roles {roles} "
                f"({error}); play a game without such messages, or choose another model"
            ) from error

    def _hidden(self, message: Message, secret: str) -> Message:
        """The message with a secret word for each mark; an assistant may use what is not special (its <think>)."""
        marks = self._special if message["role"] == "assistant" else self._any
        text = marks.sub(lambda found: f"{secret}{self.marks.index(found[0]):06d}", message["content"])
        return {**message, "content": text}

    def _spelt(self, mark: str) -> list[int]:
        """A mark in ordinary tokens."""
        if len(mark) > 1 and self._any.search(mark):
            return self._spelt(mark[:1]) + self._spelt(mark[1:])
        return self._encode(mark)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, **QUIET)) if text else []


def _encodable(text: str) -> str:
    """The text with "?" for half characters (lone surrogates), which a data set may hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def _one_of(words: Sequence[str] | set[str]) -> re.Pattern[str]:
    """A pattern that finds any of the words, the longest first; none where there are none."""
    ordered = sorted((re.escape(word) for word in words), key=lambda word: (-len(word), word))
    return re.compile("|".join(ordered) or r"(?!)")
