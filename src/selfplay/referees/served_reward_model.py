"""Reward models on a server, which reads their weights; here are only the tokenizer and the config."""

from collections.abc import Mapping, Sequence
from functools import partial
from threading import Event
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from selfplay.clients.classifier import Classifier, Served
from selfplay.clients.keys import key_of
from selfplay.clients.transport import side_by_side
from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.engines.scores import context_of
from selfplay.models.base_model import model_config, tokenizer_at
from selfplay.models.load import quiet
from selfplay.options import Count, Name, Range
from selfplay.parallel import current
from selfplay.referees.conversations import Conversations, Ids
from selfplay.referees.deduplicate import Pair, score_deduplicated
from selfplay.referees.reward_model import check_labels

WORDS = "What is 3 + 4? Sort cab, and say why: it's as easy as ABC.\n\n1. é"  # tokenizers differ on such texts
EFFECT = 0.05  # a larger difference between scores with and without an activation is not rounding


class ServedRewardModel(Referee):
    """The rewards of `RewardModel`, computed by vLLM's server, to which conversations are sent as token ids.

    The server is tried at the start: it must have the model's tokenizer and context, give each text one score, and
    give logits, without an activation such as a sigmoid.

    Args:
        path: hub id, folder, or `asset:<name>` of the served model; its weights are not read.
        url: base URL of the server.
        model: the server's name for the model; None: the only one that it has.
        key: NAME of the environment variable that holds the API key; None if the server needs none. The key itself is
            never written to disk, and is redacted from everything that the server sends.
        context: the maximum number of tokens of a conversation; None: the model's.
        truncate: whether to shorten a pair that exceeds the context, first at the end of the answer, then of the
            question; their fraction is logged as `<score>/truncated`. If false, such a pair is an error.
        chat: extra variables for the chat template.
        batch_size: pairs per request.
        parallel: maximum number of concurrent requests.
        timeout: deadline of one request in seconds, to its last byte.

    Raises:
        SelfplayError: the tokenizer or the config cannot be loaded, the model does not have exactly one label, or the
            server does not pass its trial.
    """

    def __init__(
        self,
        path: Name,
        url: Name,
        model: Name | None = None,
        key: str | None = None,
        context: Count | None = None,
        truncate: bool = True,
        chat: Mapping[str, Any] | None = None,
        batch_size: Count = 32,
        parallel: Annotated[int, Range(1, 1000)] = 16,
        timeout: Annotated[float, Range(0, 86400, above=True, below=True)] = 120.0,
    ) -> None:
        at_least(1, batch_size=batch_size, parallel=parallel)
        tokenizer = tokenizer_at(path)
        config, adapter = model_config(path)
        if adapter is None:  # its base model may lack a head
            check_labels(path, config.num_labels)
        own = _context(config)
        if context is not None and own is not None and context > own:
            raise SelfplayError(f"reward.context is {context}, but '{path}' takes at most {own} tokens; lower it")
        self.conversations = Conversations(tokenizer, chat or {}, context or own, truncate)
        self.classifier = Classifier(url, key_of(key, "reward.key"), timeout)
        self.batch_size, self.parallel = batch_size, parallel
        self.served: Served = current().lead(lambda: self._tried(path, model))

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_deduplicated(turns, self.logits)

    def logits(self, pairs: list[Pair]) -> Tensor:
        """[N] logits of question-answer pairs.

        Raises:
            SelfplayError: a pair exceeds the context and cannot be truncated, or the server fails.
        """
        texts, truncated = self.conversations.all_fitted(pairs)
        self.metrics = {"truncated": truncated}
        parts = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        stop, scores = Event(), dict[int, list[float]]()
        try:
            for place, found in side_by_side([partial(self._scores, part, stop) for part in parts], self.parallel):
                if isinstance(found, Exception):
                    raise found
                scores[place] = found
        finally:
            stop.set()
        return torch.tensor([score for place in range(len(parts)) for score in scores[place]])

    def _scores(self, texts: Sequence[Ids], stop: Event) -> list[float]:
        """The scores of one request, which is not sent once another one has failed."""
        try:
            return [] if stop.is_set() else self.classifier.scores(self.served, texts)
        except SelfplayError:
            stop.set()
            raise

    def _tried(self, path: str, name: str | None) -> Served:
        """The model on the server, after a trial.

        Raises:
            SelfplayError: it is another model than the one at `path`, or its scores are not logits.
        """
        served, url = self.classifier.served(name), self.classifier.url
        own = tuple(self.conversations.chat.tokenizer.encode(WORDS, add_special_tokens=False))
        if self.classifier.tokens(served, WORDS) not in (None, own):
            raise SelfplayError(
                f"the tokenizer of the server {url} is not that of '{path}'; set reward.path to the model that it "
                "serves, or reward.url to the server of that model"
            )
        most = self.conversations.context
        if served.context is not None and (most is None or most > served.context):
            longest = "of any length" if most is None else f"of up to {most} tokens"
            raise SelfplayError(
                f"the server {url} takes texts of up to {served.context} tokens, but '{path}' {longest}; start it with "
                f"a longer --max-model-len, or truncate at its limit with reward.context={served.context}"
            )
        texts = [ids for kind in self.conversations.examples() for ids in kind]
        if not texts:
            raise SelfplayError(f"reward.context is {most}, too short for a question and an answer; raise it")
        raw, activated = (self.classifier.scores(served, texts, activation) for activation in (False, True))
        differ = max(abs(one - other) for one, other in zip(raw, activated, strict=True)) > EFFECT
        if not differ and all(-1 <= score <= 1 for score in raw):
            raise SelfplayError(
                f"the server {url} gives scores such as {raw[0]:.3g}, with an activation and without, so they may be "
                "probabilities instead of logits; use vLLM 0.32 or newer, or load the model here with reward=rm"
            )
        return served


def _context(config: PreTrainedConfig) -> int | None:
    """The maximum sequence length of a model with this config, as `context_of` finds it."""
    try:
        with torch.device("meta"), quiet():
            return context_of(AutoModelForSequenceClassification.from_config(config))
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(
            f"a reward model of the type {config.model_type} cannot be built from its config ({reason}); choose "
            "another model with reward.path"
        ) from error
