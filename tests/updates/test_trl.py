"""TRL as an oracle: its own trainers' losses on the same tensors, for every variant that both have.

A GRPOTrainer of the embedded model samples, scores and computes its loss for real. The losses of the other trainers are
called with log-probabilities in the place of a model.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from batches import paired
from configs import config
from language_models import perturb
from torch import Tensor
from transformers import AutoModelForCausalLM

from selfplay.building import make_later
from selfplay.core import Batch
from selfplay.models.load import load_tokenizer, resolve
from selfplay.players.language_model import LanguageModel
from selfplay.updates.losses import Objective, cispo, clipped, gspo, reinforce, sapo
from selfplay.updates.preferences import dpo, ipo, kl_baseline, kto, sppo
from selfplay.updates.regularizers import k3

if TYPE_CHECKING:
    from trl import GRPOTrainer

PROMPTS, G, LENGTH, BETA = ("Write one question.", "sort cab", "who?"), 4, 12, 0.04
GATHER = SimpleNamespace(
    gather=lambda x: x,
    gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
    num_processes=1,
    device=torch.device("cpu"),
    sync_gradients=True,
)


# --- GRPO, all of it --------------------------------------------------------------------------------------------------


def reward(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """Something that differs from reply to reply."""
    return [float(sum(map(ord, c[0]["content"])) % 17) / 4 for c in completions]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    path = str(resolve("asset:tiny"))
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        per_device_train_batch_size=len(PROMPTS) * G,
        num_generations=G,
        max_completion_length=LENGTH,
        beta=BETA,
        use_bias_correction_kl=False,  # k3 as in GRPO's paper; TRL's default multiplies it by the ratio
        epsilon=0.2,
        epsilon_high=0.28,
        gradient_checkpointing=False,
        bf16=False,
        report_to=[],
    )
    chats = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    made = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(chats),
        processing_class=load_tokenizer(path),
    )
    made.current_gradient_accumulation_steps = 1
    return made


def sampled(trainer: GRPOTrainer, scale: str) -> tuple[dict[str, Tensor], list[float]]:
    """What TRL makes of a batch: tokens, log-probs, advantages; and the rewards."""
    trainer.scale_rewards = scale
    trainer.model.train()
    torch.manual_seed(3)
    inputs = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS for _ in range(G)]
    made = trainer._generate_and_score_completions(inputs)
    texts = trainer.processing_class.batch_decode(made["completion_ids"], skip_special_tokens=True)
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    attention = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    with torch.no_grad():
        made["old_per_token_logps"], *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, made["completion_ids"].shape[1]
        )
    return made, reward([[{"content": text}] for text in texts])


def as_batch(made: dict[str, Tensor], rewards: list[float]) -> Batch:
    mask = made["completion_mask"].bool()
    count = len(rewards)
    return Batch(
        prompts=tuple(p[m.bool()] for p, m in zip(made["prompt_ids"], made["prompt_mask"], strict=True)),
        replies=made["completion_ids"] * mask,
        mask=mask,
        logprobs=made["old_per_token_logps"] * mask,
        payoffs=torch.tensor(rewards),
        groups=torch.arange(count) // G,
        weights=torch.ones(count),
        roles=("solver",) * count,
        choices=((),) * count,
    )


VARIANTS = {  # update= -> TRL's loss_type, scale_rewards, epsilon, epsilon_high; our options if not the defaults
    "grpo": ("grpo", "group", 0.2, 0.2),
    "dr_grpo": ("dr_grpo", "none", 0.2, 0.2),
    "dapo": ("dapo", "group", 0.2, 0.28),
    "bnpo": ("bnpo", "group", 0.2, 0.2),
    "ppo": ("bnpo", "none", 0.2, 0.2),  # the first of its passes
    "gspo": ("grpo", "group", 3e-4, 4e-4),
    "cispo": ("cispo", "group", 0.2, 1.05, "update.objective.most=1.05"),
    "sapo": ("sapo", "group", 0.2, 0.2),
}
LEVELS = {"gspo": "sequence"}  # token otherwise


@pytest.mark.parametrize(
    ("ours", "masks"), [*((one, False) for one in VARIANTS), *((one, True) for one in ("grpo", "dr_grpo", "dapo"))]
)
def test_grpo_is_trls(
    trainer: GRPOTrainer, tiny: LanguageModel, ours: str, masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, gradient and advantages of a policy that has moved since it sampled, with the KL term k3.

    With `masks`, replies that were cut off are left out of the loss, but not of the comparison.
    """
    theirs, scale, low, high, *options = VARIANTS[ours]
    start = copy.deepcopy(trainer.model.state_dict())
    made, rewards = sampled(trainer, scale)
    batch = as_batch(made, rewards)
    if masks:
        monkeypatch.setattr(trainer, "mask_truncated_completions", True)
        made, again = sampled(trainer, scale)
        assert again == rewards  # the same replies
        assert 0 < int((made["completion_mask"].sum(1) == 0).sum()) < len(rewards)
    perturb(trainer.model, 0.005)
    changed = {"loss_type": theirs, "epsilon_low": low, "epsilon_high": high}
    for name, value in (changed | {"importance_sampling_level": LEVELS.get(ours, "token")}).items():
        monkeypatch.setattr(trainer, name, value)
    loss = trainer._compute_loss(trainer.model, made)
    expected = dict(
        zip(
            [n for n, _ in trainer.model.named_parameters()],
            torch.autograd.grad(loss, list(trainer.model.parameters())),
            strict=True,
        )
    )
    policy, reference = copy.copy(tiny), copy.copy(tiny)
    policy.model, reference.model = trainer.model, trainer.ref_model
    policy.max_tokens = LENGTH
    found: list[Tensor] = []

    class Capture(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            found.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    cfg = config(
        "game=dataset", f"update={ours}", "regularizer=kl_forward", f"regularizer.beta={BETA}", "reward=verifier",
        f"player.max_tokens={LENGTH}", "update.max_grad_norm=inf", "update.epochs=1", "update.minibatches=1",
        f"update.mask_truncated={masks}", *options,
    )  # fmt: skip
    update = make_later(cfg["update"], "update")(
        policy=policy, reference=reference, roles=("solver",), optimizer=Capture
    )
    learnt = update.step(batch)
    metrics = learnt.metrics
    trainer.model.load_state_dict(start)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["logprob_mismatch"] > 0.01  # it has moved
    torch.testing.assert_close(learnt.advantages, made["advantages"], atol=1e-5, rtol=0)
    assert float(learnt.advantages.abs().max()) > 0.5
    for ours_, right in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(ours_, right, atol=2e-5, rtol=1e-4)


# --- losses alone -----------------------------------------------------------------------------------------------------


def some(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def idle() -> torch.nn.Module:
    """A model that is asked for nothing but whether it is being trained."""
    made = torch.nn.Module().eval()
    made.is_gradient_checkpointing = False
    return made


def grpo_of_trl(
    kind: str, logp: Tensor, old: Tensor, ref: Tensor, mask: Tensor, advantages: Tensor, low: float, high: float,
    level: str = "token",
) -> Tensor:  # fmt: skip
    """GRPOTrainer._compute_loss with log-probs in a model's place."""
    from trl import GRPOTrainer

    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        importance_sampling_level=level, beta=BETA, loss_type=kind, epsilon_low=low, epsilon_high=high,
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=None, steps_per_generation=1,
            sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
        ),
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1, max_completion_length=9,
        accelerator=GATHER, _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(len(logp), 1), "prompt_mask": torch.ones(len(logp), 1),
        "completion_ids": torch.zeros_like(logp), "completion_mask": mask.long(), "advantages": advantages,
        "old_per_token_logps": old, "ref_per_token_logps": ref, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(stub, None, inputs)


CLIP, HIGHER = (0.2, 0.2), (0.2, 0.28)
NARROW = (3e-4, 4e-4)  # GSPO's
WIDE = (0.1, 0.2)
PARTS: list[tuple[str, str, tuple[float, float], Objective]] = [
    *((kind, "token", clip, partial(clipped, low=clip[0], high=clip[1]))
      for kind in ("grpo", "dr_grpo", "dapo", "bnpo") for clip in (CLIP, HIGHER)),
    *((kind, "sequence", clip, partial(gspo, low=clip[0], high=clip[1]))
      for kind in ("grpo", "luspo") for clip in (NARROW, WIDE)),
    ("grpo", "sequence", NARROW, gspo),
    ("cispo", "token", (0.2, 1.5), partial(cispo, most=1.5)),
    ("cispo", "token", (0.2, 5.0), cispo),
    ("sapo", "token", CLIP, sapo),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "level", "clip", "objective"), PARTS)
def test_grpos_losses_are_trls(kind: str, level: str, clip: tuple[float, float], objective: Objective) -> None:
    """Replies of 1 to 6 tokens whose ratios are far from 1, on both sides of every bound."""
    lengths = torch.tensor([1, 6, 3, 4, 2, 6])
    mask = torch.arange(6)[None] < lengths[:, None]
    logp, old, ref = (-some(seed, 6, 6).abs() * mask for seed in (0, 1, 2))
    advantages = some(3, 6)
    logp.requires_grad_()
    theirs = grpo_of_trl(kind, logp, old, ref, mask, advantages, *clip, level)
    mean, ones = 1 / lengths, torch.ones(6)
    known = {"grpo": mean, "sapo": mean, "dr_grpo": ones / 9, "luspo": ones}
    ours = (
        known.get(kind, ones * 6 / int(mask.sum())) * objective(logp, old, mask, advantages, BETA * k3(logp, ref))
    ).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    one, two = (torch.autograd.grad(loss, logp)[0] for loss in (ours, theirs))
    torch.testing.assert_close(one * mask, two * mask, atol=1e-6, rtol=0)
    assert float(one.abs().max()) > 1e-3


def dpo_of_trl(
    kind: str, logp: Tensor, ref: Tensor, beta: float, lengths: Tensor | None = None
) -> tuple[Tensor, dict[str, list[float]]]:
    """DPOTrainer._compute_loss, [2P, T] log-probs: P chosen replies, then P rejected ones; [2P] lengths, T if None."""
    from trl import DPOConfig, DPOTrainer

    count, width = logp.shape
    outputs = {"entropy": torch.zeros_like(logp), "mean_logits": torch.zeros_like(logp), "is_top1": logp > 0}
    stub = SimpleNamespace(
        model=idle(), ref_model=lambda **_: SimpleNamespace(log_probs=ref, **outputs),
        accelerator=GATHER, aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=False, beta=beta,
        f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0], use_weighting=False, label_smoothing=0.0,
        args=DPOConfig(output_dir="unused", bf16=False, use_cpu=True), _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    ids = torch.ones(count, width + 1, dtype=torch.int64)
    ends = torch.full((count,), width) if lengths is None else lengths
    columns = torch.arange(width + 1)[None]
    said = ((columns > 0) & (columns <= ends[:, None])).long()  # the first token is the prompt
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": said}

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=logp, **outputs)

    return DPOTrainer._compute_loss(stub, model, inputs, False), stub._metrics["eval"]


@pytest.mark.parametrize("beta", [0.1, 1.5])
def test_dpo_is_trls(beta: float) -> None:
    logp, ref = (-some(seed, 10, 7).abs() for seed in (0, 1))
    logp.requires_grad_()
    theirs, metrics = dpo_of_trl("sigmoid", logp, ref, beta)
    chosen, rejected = (logp - ref).sum(-1).chunk(2)
    ours = dpo(paired(chosen, rejected), beta).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    one, two = (torch.autograd.grad(loss, logp, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    assert metrics["rewards/margins"] == pytest.approx([float((beta * (chosen - rejected)).mean())], abs=1e-5)


def test_ipo_is_trls() -> None:
    """Replies of different lengths: TRL, too, divides by them; without `average`, a length of 1 is the same."""
    lengths = torch.tensor([7, 1, 3, 2, 5, 1, 6, 4, 2, 7])
    mask = torch.arange(7)[None] < lengths[:, None]
    logp, ref = (-some(seed, 10, 7).abs() * mask for seed in (0, 1))
    logp.requires_grad_()
    theirs, _ = dpo_of_trl("ipo", logp, ref, 0.3, lengths)
    pairs = paired(*(logp - ref).sum(-1).chunk(2), lengths=lengths.chunk(2))
    ours = ipo(pairs, 0.3).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    one, two = (torch.autograd.grad(loss, logp, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(one * mask, two * mask, atol=1e-6, rtol=0)
    assert ipo(pairs, 0.3, average=False).mean().item() != pytest.approx(theirs.item(), rel=0.1)
    single, _ = dpo_of_trl("ipo", logp[:, :1] * 1.0, ref[:, :1], 0.3)
    whole = ipo(paired(*(logp - ref)[:, 0].chunk(2)), 0.3, average=False).mean()
    assert whole.item() == pytest.approx(single.item(), abs=1e-5)


def test_sppo_is_trls_where_the_winner_is_sure() -> None:
    """TRL's sppo_hard has P = 1 and 0, and the sum of the squares where the paper has half of it."""
    logp, ref = (-some(seed, 10, 7).abs() for seed in (0, 1))
    theirs, _ = dpo_of_trl("sppo_hard", logp, ref, 0.3)
    ours = sppo(paired(*(logp - ref).sum(-1).chunk(2), wins=(1.0, 0.0)), 0.3)
    assert 2 * ours.mean().item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("shift", [0.0, 9.0], ids=["baseline 0", "baseline"])
def test_kto_is_trls(shift: float) -> None:
    """With lambdas 1 and 2, TRL's labels, and its mismatched pairs."""
    from trl import DPOConfig, KTOTrainer

    logp, ref, kl_logp, kl_ref = (-some(seed, 6, 7).abs() for seed in range(4))
    kl_logp = kl_logp + shift / 7
    good = torch.tensor([True, False, True, True, False, False])
    outputs = {"entropy": torch.zeros_like(logp), "mean_logits": torch.zeros_like(logp), "is_top1": logp > 0}
    stub = SimpleNamespace(
        model=idle(), accelerator=GATHER, aux_loss_enabled=False,
        ref_model=lambda **_: SimpleNamespace(log_probs=ref, **outputs), precompute_ref_logps=False, calculate_KL=True,
        loss_type="kto", beta=0.2, desirable_weight=1.0, undesirable_weight=2.0, _total_train_tokens=0, _tp_size=1,
        args=DPOConfig(output_dir="unused", bf16=False, use_cpu=True), _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=logp, **outputs)

    stub._compute_kl_logps = lambda who, batch: (kl_logp if who is model else kl_ref).sum(-1)
    ids = torch.ones(6, 8, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": ids, "label": good}
    theirs = KTOTrainer._compute_loss(stub, model, inputs, False)
    z = kl_baseline((kl_logp - kl_ref).sum(-1), torch.ones(6))
    assert (z > 1.0) == (shift > 0)
    ours = kto((logp - ref).sum(-1), good, z.expand(6), 0.2) * torch.where(good, 1.0, 2.0)
    assert ours.mean().item() == pytest.approx(theirs.item(), abs=1e-5)


def test_rloo_pulls_like_trls() -> None:
    """On-policy: TRL's clipped ratio of whole replies and `reinforce` have one value and one gradient."""
    from trl import RLOOTrainer

    mask = torch.arange(5)[None] < torch.tensor([5, 2, 3, 4])[:, None]
    logp, advantages = (-some(0, 4, 5).abs() * mask).requires_grad_(), some(1, 4)
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, epsilon_low=0.2, epsilon_high=0.2, model=SimpleNamespace(training=True),
        accelerator=GATHER, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(4, 1), "prompt_mask": torch.ones(4, 1), "completion_ids": torch.zeros(4, 5),
        "completion_mask": mask.long(), "advantages": advantages, "old_logps": logp.detach().sum(1),
    }  # fmt: skip
    theirs = RLOOTrainer._compute_loss(stub, None, inputs)
    ours = reinforce(logp, logp.detach(), mask, advantages, torch.zeros(4, 5)).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    one, two = (torch.autograd.grad(loss, logp, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(one * mask, two * mask, atol=1e-6, rtol=0)
