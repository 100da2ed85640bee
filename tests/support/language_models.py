"""Language models to be trained, saved and broken by tests."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForSequenceClassification, PreTrainedModel

from selfplay.core import Ask, Batch, Episode, Turn, user
from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.engine import Completion, Sampling, Weights
from selfplay.engines.sampling import sample
from selfplay.engines.truncation import ALL, Truncation
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate

ASKS = [Ask("solver", user(text), key=text) for text in ("add 3 and 4", "reverse abc", "")]

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def made(**changes: object) -> LanguageModel:
    return LanguageModel(**{"path": "asset:tiny", "max_tokens": 8, "batch_size": 512, **changes})  # type: ignore[arg-type]


def adapted(seed: int = 0) -> LanguageModel:
    return made(lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, seed=seed)


def moved(policy: LanguageModel, seed: int) -> None:
    """As if it had been trained: what may be changed is changed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    policy.version.raise_by_one()


def reader(model: Any, dtype: torch.dtype | None = None) -> Any:
    """What the embedded engine reads texts with: a decoder, or the model itself."""
    return EmbeddedEngine().reader(Weights("any", model, nullcontext, dtype))


def sampled(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    keys: Sequence[str],
    temperature: float,
    max_tokens: int,
    stop: Sequence[int],
    pad: int,
    rows: int,
    truncation: Truncation = ALL,
    ended: Callable[[list[int]], bool] | None = None,
) -> list[Completion]:
    """`sample` with its options in a row."""
    how = Sampling(max_tokens, temperature, truncation, tuple(stop), pad, rows, ended)
    return sample(model, prompts, keys, how)


def batch_of(policy: LanguageModel) -> Batch:
    return batch_for(policy, ASKS)


def batch_for(policy: LanguageModel, asks: list[Ask]) -> Batch:
    turns = [Turn(ask, reply, {}, 0.0) for ask, reply in zip(asks, policy.act(asks), strict=True)]
    return collate([(Episode(0, []), turn) for turn in turns])


def logprobs(policy: LanguageModel, batch: Batch) -> Tensor:
    return policy.logprobs(batch).detach()


def same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b))


def plain_logprobs(model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """[T] log-probabilities of a reply's tokens by one unpadded call of the model, nothing of ours."""
    ids = torch.tensor([[*prompt, *reply]])
    logp = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    return logp[len(prompt) - 1 : -1].gather(-1, torch.tensor(reply)[:, None])[:, 0]


def perturb(model: PreTrainedModel, scale: float, seed: int = 0) -> None:
    """Move every parameter a little, at random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator)


def saved_reward_model(
    tiny: LanguageModel, folder: Path, labels: int = 1, **changes: object
) -> LlamaForSequenceClassification:
    """A reward model of the embedded model's sizes with weights of chance, in a folder."""
    sizes = type(tiny.model.config)(
        **{**tiny.model.config.to_dict(), "id2label": dict.fromkeys(range(labels), ""), **changes}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(sizes).eval()
    perturb(model, 0.1)
    model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return model
