"""A double of vLLM's server of a reward model: its routes, and `reward=rm`'s own model and batches behind them."""

import atexit
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from servers import Routes, serving
from transformers import AutoModelForSequenceClassification

from selfplay.engines.scores import Scorer
from selfplay.models.load import load_tokenizer, resolve


class RewardServer(Routes):
    """A server that scores.

    Attributes:
        names: of its model.
        texts: the token ids of each request, in the order in which they were answered.
    """

    def __init__(self, path: str = "asset:tiny-rm", *names: str) -> None:
        super().__init__()
        place = resolve(path)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
        self.tokenizer, self.root, self.names = load_tokenizer(path), place, names or (path,)
        self.context = int(self.model.config.max_position_embeddings)
        self.scorer = Scorer(self.model, 512, 0, [(3, 4), (3, 5), (4, 5, 6)], []) if self._labels == 1 else None
        self.texts: list[list[list[int]]] = []

    @property
    def _labels(self) -> int:
        return int(self.model.config.num_labels)

    def answer(self, route: str, body: dict[str, Any]) -> tuple[int, object]:
        with self.lock:
            if self.closed:
                return 503, {"error": {"message": "closed"}}
            if route == "/v1/models":
                return 200, {"object": "list", "data": [self._card(name) for name in self.names]}
            if route == "/tokenize":
                ids = self.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
                return 200, {"count": len(ids), "max_model_len": self.context, "tokens": ids}
            if route == "/classify":
                return self._classified(body)
        return (200, {}) if route == "/health" else (404, {"detail": "Not Found"})

    def _card(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "root": self.root, "parent": None, "max_model_len": self.context}

    def _classified(self, body: dict[str, Any]) -> tuple[int, object]:
        texts, name = body["input"], body.get("model") or self.names[0]
        if name not in self.names:
            return 404, {"error": {"message": f"The model `{name}` does not exist.", "type": "NotFoundError"}}
        if max(map(len, texts)) > self.context:
            return 400, {"error": {"message": f"This model's maximum context length is {self.context} tokens."}}
        self.texts.append(texts)
        rows = self.logits(texts)
        if body.get("use_activation") is not False:
            rows = rows.sigmoid() if rows.shape[1] == 1 else rows.softmax(1)
        data = [
            {"index": i, "label": f"LABEL_{int(row.argmax())}", "probs": row.tolist(), "num_classes": len(row)}
            for i, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": sum(map(len, texts)), "completion_tokens": 0}
        return 200, {"object": "list", "model": self.names[0], "data": data, "usage": usage}

    @torch.no_grad()
    def logits(self, texts: list[list[int]]) -> torch.Tensor:
        """[N, labels] logits."""
        if self.scorer is not None:
            return self.scorer([tuple(text) for text in texts])[:, None]
        return torch.cat([self.model(input_ids=torch.tensor([text])).logits for text in texts])


@cache
def stand_in() -> str:
    """The url of a server of the embedded reward model that serves until the tests end."""
    stack = ExitStack()
    atexit.register(stack.close)  # later, at the end of the interpreter, its thread would not answer any more
    return stack.enter_context(serving(RewardServer())).url
