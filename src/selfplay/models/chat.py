"""Token ids of conversations by the model's chat template, with protection against special-token injection.

A template renders messages as text, and a tokenizer parses the name of a special token anywhere in it: an answer that
contains <|im_end|> would end its own message. Here the names of special tokens inside messages are encoded with
ordinary tokens; otherwise the ids equal those of `apply_chat_template`. Markers that are plain text to the tokenizer,
such as [INST] of Llama 2, cannot be distinguished from message content and are not protected.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from selfplay.core import Message, SelfplayError

QUIET = {"verbose": False}  # no warning about long texts: the caller checks the length


class Chat:
    """A tokenizer's chat template.

    Args:
        tokenizer: a tokenizer with a chat template.
        options: further template arguments, such as date_string or enable_thinking.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.options = tokenizer, dict(options)
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        # a reasoning model's <think> is not a special token, but its template may use it as structure
        written = {t.content for t in added if t.content.strip() and t.content in str(tokenizer.chat_template)}
        self.marks = sorted(special | written, key=lambda mark: (-len(mark), mark))
        self._special, self._any = _one_of(special), _one_of(self.marks)

    def ids(self, messages: Sequence[Message], generate: bool) -> tuple[int, ...]:
        """The token ids of a conversation.

        Args:
            messages: the conversation.
            generate: whether to append the header of the assistant's next message.

        Raises:
            SelfplayError: the template rejects the messages.
        """
        messages = [{**m, "content": _encodable(m["content"])} for m in messages]
        text = "".join(message["content"] for message in messages)
        if not self._any.search(text):
            return tuple(self._template(messages, generate, tokenize=True)["input_ids"])
        secret = hashlib.sha256(text.encode()).hexdigest()  # no message can contain it
        rendered = self._template([self._hidden(m, secret) for m in messages], generate, tokenize=False)
        ids: list[int] = []
        for i, piece in enumerate(re.split(rf"{secret}(\d{{6}})", rendered)):
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
                f"the chat template of '{self.tokenizer.name_or_path}' rejects messages with the roles "
                f"{roles} ({error}); play a game without such messages, or choose another model"
            ) from error

    def _hidden(self, message: Message, secret: str) -> Message:
        """Replace marks by placeholders; assistants may use marks that are not special tokens (<think>)."""
        marks = self._special if message["role"] == "assistant" else self._any
        text = marks.sub(lambda found: f"{secret}{self.marks.index(found[0]):06d}", message["content"])
        return {**message, "content": text}

    def _spelt(self, mark: str) -> list[int]:
        """Encode a mark with ordinary tokens."""
        if len(mark) > 1 and self._any.search(mark):
            return self._spelt(mark[:1]) + self._spelt(mark[1:])
        return self._encode(mark)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, **QUIET)) if text else []


def _encodable(text: str) -> str:
    """Replace lone surrogates, which data sets may contain and no tokenizer accepts, by "?"."""
    return text.encode("utf-8", "replace").decode()


def _one_of(words: Sequence[str] | set[str]) -> re.Pattern[str]:
    """A pattern that matches any of the words, preferring longer ones; without words it matches nothing."""
    ordered = sorted((re.escape(word) for word in words), key=lambda word: (-len(word), word))
    return re.compile("|".join(ordered) or r"(?!)")
