"""Every kind of language model on another device: the tokens, log-probabilities and gradients of the CPU."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import batch_for
from language_models import made as whole

from selfplay.core import Ask, Turn, user
from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.llama.layers import can_pack, has_own_layers
from selfplay.engines.llama.trial import can_decode
from selfplay.players.language_model import LanguageModel
from selfplay.referees.reward_model import RewardModel
from selfplay.referees.selfjudge import WrittenScore
from selfplay.updates.optimizers import adamw

DEVICE = os.environ["DEVICE"]
ASKS = [Ask("solver", user(f"What is {a} + 4?"), key=f"{a}/{k}") for a in (3, 12) for k in range(3)]
ASKS += [Ask("solver", user("pick"), options=("yes", "no", "perhaps"), key=str(k)) for k in range(3)]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
EXACT = {"compute_dtype": "float32"}  # on an accelerator, "auto" is bfloat16
KINDS: dict[str, dict[str, Any]] = {
    "full": EXACT,
    "bfloat16 products": {"compute_dtype": "bfloat16"},
    "gradient checkpointing": {"gradient_checkpointing": True, **EXACT},
    "truncated": {"top_k": 5, "top_p": 0.9, "stop": ("7",), **EXACT},
    "LoRA": {"lora": LORA, **EXACT},
    "LoRA over bfloat16": {"lora": LORA, "dtype": "bfloat16"},
}


Made = Callable[..., LanguageModel]


@pytest.fixture
def made(shallow: dict[str, Path]) -> Made:
    return lambda **changes: whole(path=str(shallow["asset:tiny"]), **changes)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_that_of_the_cpu(name: str, made: Made) -> None:
    kind = KINDS[name]
    here, there = made(**kind), made(device=DEVICE, **kind)
    coarse = "bfloat16" in kind.values()
    said, batch = there.act(ASKS), batch_for(here, ASKS)
    if not coarse:
        assert [r.reply_ids for r in said] == [r.reply_ids for r in here.act(ASKS)]
    reference, optimizer = there.snapshot(), adamw(there.parameters(), lr=1e-2)
    one, other = there.logprobs(batch), here.logprobs(batch)
    assert one.device.type == torch.device(DEVICE).type
    torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0.2 if coarse else 1e-4)
    one.sum().backward()
    other.sum().backward()
    if not coarse:
        for p, q in zip(there.parameters(), here.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            torch.testing.assert_close(p.grad.cpu(), q.grad, rtol=1e-3, atol=1e-3)
    optimizer.step()
    assert reference.act(ASKS) == said != there.act(ASKS)
    there.restore(reference)
    assert [r.reply_ids for r in there.act(ASKS)] == [r.reply_ids for r in said]


@pytest.mark.parametrize("name", KINDS)
def test_no_fast_path_is_given_up(name: str, made: Made) -> None:
    """A trial answers "not equal" where a fast path mixes devices or precisions, and that would only be slow."""
    policy = made(device=DEVICE, **KINDS[name])
    assert can_pack(policy.model)
    assert can_decode(policy.model) and has_own_layers(policy.model)


def test_what_cuda_alone_has(made: Made) -> None:
    """Recorded token steps and flash attention are taken there (of an A100 or later) and nowhere else."""
    cuda, engine = torch.device(DEVICE).type == "cuda", EmbeddedEngine(cuda_graphs=True)
    fast = made(device=DEVICE, compute_dtype="bfloat16", packed_attention="flash", max_tokens=24, engine=engine)
    batch = batch_for(fast, ASKS)
    assert engine.cuda_graphs is cuda and fast.ways()["packed attention"] == ("flash" if cuda else "mask")
    apart = (fast.logprobs(batch).detach().cpu() - batch.logprobs)[batch.mask]
    assert float(apart.abs().max()) < 0.2


def test_referees_with_models(made: Made) -> None:
    policy = made()
    turns = [Turn(ask, reply, {}, 0.0) for ask, reply in zip(ASKS[:6], policy.act(ASKS[:6]), strict=True)]
    one, other = (RewardModel("asset:tiny-rm", device=device).score(turns, {}) for device in (DEVICE, "cpu"))
    torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)
    judged = []
    for device in (DEVICE, "cpu"):
        judge = WrittenScore("{question} {answer}", r"(\d)", unreadable=3.0, max_tokens=4)
        judged.append(judge.score(turns, {"reference": made(device=device, **EXACT)}).cpu())
    assert torch.equal(*judged)


@pytest.mark.parametrize("name", ["full", "LoRA"])
def test_a_checkpoint_is_read_on_either_device(name: str, made: Made, tmp_path: Path) -> None:
    there = made(device=DEVICE, **KINDS[name])
    with torch.no_grad():
        for p in there.parameters():
            p += 0.01
    there.version.raise_by_one()
    there.save(tmp_path)
    for device in (DEVICE, "cpu"):
        again = made(device=device, **KINDS[name])
        again.load(tmp_path)
        for p, q in zip(there.parameters(), again.parameters(), strict=True):
            assert q.device.type == torch.device(device).type and torch.equal(p.detach().cpu(), q.detach().cpu())
        assert [r.reply_ids for r in again.act(ASKS)] == [r.reply_ids for r in there.act(ASKS)]
