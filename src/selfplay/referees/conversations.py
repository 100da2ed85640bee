"""Questions and answers as the token ids that a reward model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfplay.core import SelfplayError
from selfplay.engines.scores import LONG
from selfplay.models.chat import Chat
from selfplay.referees.deduplicate import Pair

Ids = tuple[int, ...]


class Conversations:
    """Conversations of a user's question and an assistant's answer, in a chat template.

    Args:
        tokenizer: a tokenizer with a chat template.
        chat: extra variables for the chat template.
        context: the maximum number of tokens; None if unlimited.
        truncate: whether to shorten a pair that exceeds the context, first at the end of the answer, then of the
            question. If false, such a pair is an error.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat: Mapping[str, Any], context: int | None, truncate: bool
    ) -> None:
        self.chat, self.context, self.truncate = Chat(tokenizer, chat), context, truncate

    def all_fitted(self, pairs: Sequence[Pair]) -> tuple[list[Ids], float]:
        """The token ids of pairs, and the share of pairs that were truncated; see `fitted`."""
        found = [self.fitted(pair) for pair in pairs]
        return [ids for ids, _ in found], sum(cut for _, cut in found) / len(found)

    def fitted(self, pair: Pair) -> tuple[Ids, bool]:
        """The pair's token ids, and whether it was truncated to fit the context.

        Raises:
            SelfplayError: the pair exceeds the context and cannot be truncated.
        """
        question, answer = pair
        while self._exceeds(ids := self.ids(question, answer)):
            over = len(ids) - self.context  # type: ignore[operator]
            if not self.truncate:
                raise SelfplayError(
                    f"a question and an answer of {len(ids)} tokens exceed the reward model's context of "
                    f"{self.context}; lower player.max_tokens, or set reward.truncate=true"
                )
            if not question and not answer:
                raise SelfplayError(
                    f"the reward model's chat template alone takes {len(ids)} tokens of its context of {self.context}; "
                    "choose another model with reward.path"
                )
            question, answer = (question, answer[:-over]) if answer else (question[:-over], answer)
        return ids, (question, answer) != pair

    def ids(self, question: str, answer: str) -> Ids:
        """The token ids of a pair, of any length."""
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self.chat.ids(messages, generate=False)

    def examples(self) -> tuple[list[Ids], list[Ids]]:
        """Test conversations that fit the context: four short ones, two of them of equal length, and two long ones."""
        most = min(self.context or LONG, LONG)
        short = [self.ids("What is 3 + 4?", answer) for answer in ("7", "8", "It is seven.", "")]
        words = "What is it? "
        alone, more = len(self.ids("", "yes")), len(self.ids(10 * words, "yes"))
        each = max(1.0, (more - alone) / 10)
        long = [self.ids(int((share * most - alone) / each) * words, "yes") for share in (0.7, 0.95)]
        return [ids for ids in short if not self._exceeds(ids)], [ids for ids in long if not self._exceeds(ids)]

    def _exceeds(self, ids: Ids) -> bool:
        return self.context is not None and len(ids) > self.context
