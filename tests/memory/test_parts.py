"""The calculated memory against real models: exact where tensors are counted, else within a factor."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import made, moved
from live_tensors import LiveTensors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from selfplay.core import SelfplayError
from selfplay.devices import ACCELERATOR, PROCESSOR
from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.kv_sharing import PrefixShared
from selfplay.memory import parts
from selfplay.memory.model import Model, Weight, llama_of, model_of
from selfplay.memory.optimizer_state import Blocks, optimizer_state
from selfplay.memory.parts import Texts
from selfplay.models.load import resolve
from selfplay.players.language_model import LanguageModel
from selfplay.records import Batch
from selfplay.updates.optimizers import adamw

LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
ATTENTION = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
SIZES: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 5 M parameters with random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve("asset:tiny")).save_pretrained(folder)
    return folder


def sizes(policy: LanguageModel, **options: Any) -> Model:
    """The sizes that are calculated for the policy's model."""
    config = LlamaConfig(**SIZES)
    options = {name: options[name] for name in ("attention", "compute_dtype", "lora") if name in options}
    dtype = str(next(p for p in policy.model.parameters() if not p.requires_grad or not policy.lora).dtype)
    return model_of(AutoModelForCausalLM, config, dtype.removeprefix("torch."), True, **options)


def size(tensors: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": adamw,
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "amsgrad": lambda parameters: adamw(parameters, amsgrad=True),
    "adafactor": torch.optim.Adafactor,
}


@pytest.mark.parametrize("lora", [None, LORA, ATTENTION], ids=["full", "lora", "lora of attention"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_gradients_and_optimizer_state_are_exact(name: str, lora: Any, folder: Path) -> None:
    policy = made(path=str(folder), lora=lora)
    model, make = sizes(policy, lora=lora), OPTIMIZERS[name]
    trained = policy.parameters()
    assert parts.weights(model) == size(policy.model.parameters())
    for p in trained:
        p.grad = torch.randn_like(p)
    assert parts.gradients(model) == size(p.grad for p in trained)
    optimizer = make(trained)
    optimizer.step()
    moved(policy, 1)
    state = [x for kept in optimizer.state.values() for x in kept.values() if isinstance(x, torch.Tensor)]
    assert parts.optimizer_state(model, optimizer_state(make, model.trained)) == size(state)
    assert (name == "plain") == (not state)
    if lora is not None:
        frozen = policy.snapshot().frozen_adapter
        assert frozen is not None and parts.adapter(model) == size(frozen.values())


class Blockwise(torch.optim.Optimizer):
    """Keeps one byte per element of large parameters and a scale of each 256 of them, and a map of four numbers."""

    block_size = 256

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            large = p.numel() >= 4096 and p.numel() % 256 == 0
            found = {"codes": p.to(torch.uint8), "scale": torch.zeros(p.numel() // 256), "map": torch.zeros(4)}
            self.state[p] = found if large else {"average": torch.zeros_like(p)}


def test_state_in_blocks_is_counted_by_the_size_of_a_parameter() -> None:
    """4,096 elements are 4,096 codes and 16 scales; one row less is not divisible, and half of them too few."""
    state = optimizer_state(Blockwise, [Weight((5, 7), 4, True), Weight((5,), 4, True)])
    assert state.blocks == Blocks(4096, 256, 1 + 4 / 256, 16)
    assert state.bytes([Weight((64, 64), 4, True)]) == 4096 + 16 * 4 + 16
    assert state.bytes([Weight((63, 67), 4, True)]) == 4 * 63 * 67
    assert state.bytes([Weight((64, 64), 4, True)], processes=2) == 4 * 64 * 32
    assert state.bytes([Weight((8192,), 4, True)]) == 8192 + 32 * 4 + 16
    assert optimizer_state(adamw, [Weight((5, 7), 4, True)]).blocks is None


def test_half_precision_weights_under_a_float32_adapter(folder: Path) -> None:
    policy = made(path=str(folder), lora=LORA, dtype="bfloat16")
    model = sizes(policy, lora=LORA)
    assert parts.weights(model) == size(policy.model.parameters())
    assert parts.adapter(model) == size(policy.parameters()) and model.own_layers


def test_tied_embeddings_count_once() -> None:
    tied, untied = (model_of(AutoModelForCausalLM, llama_of(None, 2, 64, 96, 4, 2, 500, tied), "float32", True)
                    for tied in (True, False))  # fmt: skip
    assert untied.parameters - tied.parameters == 500 * 64


def test_a_process_s_part_is_rounded_up() -> None:
    """Three processes hold 4, 4 and 2 rows of ten, as FSDP2 splits them."""
    weight = Weight((10, 7), 2, True)
    assert (weight.bytes(), weight.bytes(3), Weight((), 4, True).bytes(2)) == (140, 56, 4)


# --- playing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA, ATTENTION], ids=["full", "lora", "lora of attention"])
@pytest.mark.parametrize(
    ("dtype", "compute"), [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]
)
def test_the_decoder_s_copies_are_exact(dtype: str, compute: str, lora: Any, folder: Path) -> None:
    """On the meta device every matrix that is not the model's own; on a CPU the large ones too."""
    policy = made(path=str(folder), lora=lora, dtype=dtype, compute_dtype=compute)
    decoder = Decoder(policy.model, getattr(torch, compute))
    own = {p.data_ptr() for p in policy.model.parameters()}
    products = [getattr(layer, name) for layer in decoder.layers for name in ("read", "write", "gate", "up", "down")]
    products += [decoder.head]
    copies = [p.weight for p in products if p.laid_out or p.weight.data_ptr() not in own]
    copies += [factor for p in products for factor in p.factors or ()]
    assert sizes(policy, lora=lora, dtype=dtype, compute_dtype=compute).decoder == size(copies)
    assert isinstance(EmbeddedEngine().reader(policy.weights), Decoder)


@pytest.mark.parametrize(("prompt", "reply", "rows", "group"), [(30, 20, 8, 4), (100, 40, 8, 8), (10, 64, 4, 1)])
def test_keys_and_values(prompt: int, reply: int, rows: int, group: int, folder: Path) -> None:
    """The cache of a decoder that writes replies of full length, with the copies that exist while it grows."""
    policy = made(path=str(folder))
    state = PrefixShared(Decoder(policy.model, torch.float32), reply)
    texts = Texts(rows, prompt, reply, group)
    generator = torch.Generator().manual_seed(0)
    prompts = [tuple(torch.randint(1, 90, (prompt,), generator=generator).tolist()) for _ in range(texts.prompts)]
    with torch.inference_mode():
        state.admit(prompts)
        state.keep(torch.arange(texts.prompts).repeat_interleave(group)[:rows])
        peak = 0
        for _ in range(reply):
            before = size([state.new])
            state.step(torch.ones(rows, dtype=torch.int64))
            grown = before if size([state.new]) > before else 0
            peak = max(peak, size([state.old, state.new]) + grown)
    calculated = parts.key_values(sizes(policy), texts, on_cpu=True)
    assert peak <= calculated <= 1.6 * peak


# --- updating ---------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[Texts, dict[str, Any]]] = {
    "several answers": (Texts(8, 60, 40, 8), {}),
    "one answer": (Texts(4, 100, 80), {}),
    "lora": (Texts(8, 60, 40, 4), {"lora": LORA}),
    "checkpointing": (Texts(4, 60, 40, 4), {"gradient_checkpointing": True}),
    "eager": (Texts(4, 60, 40, 4), {"attention": "eager"}),
    "compute in bfloat16": (Texts(2, 30, 20, 2), {"compute_dtype": "bfloat16"}),
    "lora in bfloat16": (Texts(2, 30, 20, 2), {"dtype": "bfloat16", "lora": LORA}),
    "lora, compute in bfloat16": (Texts(2, 30, 20, 2), {"compute_dtype": "bfloat16", "lora": LORA}),
}


def batch_of(texts: Texts) -> Batch:
    """Random texts of full length."""
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(1, 90, (texts.prompt,), generator=generator) for _ in range(texts.prompts)]
    replies, zeros = torch.randint(1, 90, (texts.rows, texts.reply), generator=generator), torch.zeros(texts.rows)
    return Batch(
        prompts=tuple(prompts[i // texts.group] for i in range(texts.rows)),
        replies=replies,
        mask=torch.ones(replies.shape, dtype=torch.bool),
        logprobs=torch.zeros(replies.shape),
        payoffs=zeros,
        groups=zeros.long(),
        weights=zeros,
        roles=("solver",) * texts.rows,
        choices=((),) * texts.rows,
    )


@pytest.mark.parametrize("case", CASES)
def test_what_an_update_holds_besides_its_weights(case: str, folder: Path) -> None:
    """The peak of all tensors that a forward and a backward pass make, with gradients from an earlier pass in place."""
    texts, options = CASES[case]
    policy, batch = made(path=str(folder), **options), batch_of(texts)
    checkpointing = bool(options.get("gradient_checkpointing"))
    policy.logprobs(batch).sum().backward()
    moved(policy, 1)
    gc.collect()
    with LiveTensors() as live:
        policy.logprobs(batch).sum().backward()
    model = sizes(policy, **options)
    calculated = (
        parts.activations(model, texts, checkpointing)
        + parts.mask(texts, model.compute)
        + parts.casts(model, checkpointing)
        + max(parts.head(model, texts), parts.backward(model, texts, checkpointing))
    )
    assert 0.85 * live.peak < calculated < 1.3 * live.peak, calculated / live.peak


def test_the_sizes_of_a_llama_by_hand() -> None:
    """Llama 3.1 8B from its published number of parameters."""
    config = llama_of(8.03e9, layers=32, hidden=4096)
    assert (config.num_attention_heads, config.num_key_value_heads) == (32, 8)
    assert config.intermediate_size == pytest.approx(14336, abs=2)
    model = model_of(AutoModelForCausalLM, llama_of(None, 32, 4096, 14336), "bfloat16", False)
    assert model.parameters == 8_030_261_248 and parts.weights(model) == 2 * 8_030_261_248


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameters": 1e6, "layers": 4, "hidden": 256}, "the model's intermediate would be -"),
        ({"parameters": None, "layers": 4, "hidden": 256}, "the size of the MLP is unknown"),
        ({"parameters": 1e9, "layers": 4, "hidden": 100, "heads": 3}, "do not divide it"),
    ],
)
def test_sizes_that_contradict_one_another(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SelfplayError, match=words):
        llama_of(**given)


def test_an_accelerator_computes_more_at_once(folder: Path) -> None:
    """Its chunks of logits are larger: 4,096 tokens x 102 words fit into one, on a CPU as well; of 10^6 they do not."""
    model = sizes(made(path=str(folder)))
    large = replace(model, vocabulary=1_000_000)
    texts = {work: Texts(16, 64, 256, 4, work) for work in (PROCESSOR, ACCELERATOR)}
    assert parts.head(model, texts[ACCELERATOR]) == parts.head(model, texts[PROCESSOR])
    more = parts.head(large, texts[ACCELERATOR]) - parts.head(large, texts[PROCESSOR])
    assert more == 3 * 4 * (ACCELERATOR.logits - PROCESSOR.logits)
    assert texts[ACCELERATOR].width == 64 + 4 * 256 and texts[PROCESSOR].width == 2 * (64 + 256)
