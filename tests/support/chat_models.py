"""Chat models of several families with weights of chance: their special tokens, templates and traps, in small."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from language_models import perturb
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM, AutoModelForSequenceClassification

WORDS = "What is the capital of France? The answer is: write one short question, 7 of 10 points for a clear response. "
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 8192,
}
CHATML = """{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a small model.<|im_end|>\n' }}
{%- endif %}{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"""


@dataclass(frozen=True)
class Family:
    """What a family's tokenizer and config look like."""

    config: type[PretrainedConfig]
    special: tuple[str, ...]
    eos: tuple[str, ...]  # the tokenizer's first; the generation config lists all
    template: str
    bos: str | None = None
    pad: str | None = None
    plain: tuple[str, ...] = ()  # added tokens that are not special
    sizes: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama3": Family(
        LlamaConfig,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("<|eot_id|>", "<|end_of_text|>"),
        """{{- bos_token }}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' }}
{{- date_string if date_string is defined else strftime_now('%d %b %Y') }}{{- '\n\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content']|trim }}{%- endif %}{{- '<|eot_id|>' }}
{%- for message in messages if message['role'] != 'system' %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""",
        bos="<|begin_of_text|>",
    ),
    "qwen2": Family(
        Qwen2Config,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<|im_end|>", "<|endoftext|>"),
        CHATML,
        pad="<|endoftext|>",
    ),
    "qwen3": Family(
        Qwen3Config,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        ("<|im_end|>", "<|endoftext|>"),
        CHATML,
        pad="<|endoftext|>",
        plain=("<think>", "</think>"),
    ),
    "mistral": Family(
        MistralConfig,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        ("</s>",),
        """{{- bos_token }}{%- for message in messages %}
{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + '[/INST]' }}
{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}
{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}{%- endfor %}""",
        bos="<s>",
        sizes={"sliding_window": None},
    ),
    "gemma2": Family(
        Gemma2Config,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        """{{- bos_token }}{%- for message in messages %}
{%- if message['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{{- '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}""",
        bos="<bos>",
        pad="<pad>",
    ),
}


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few merges, which puts the family's first token before a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(family.special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([WORDS] * 4, trainer)
    backend.add_tokens(list(family.plain))
    if family.bos is not None:  # the trap: a template writes it as well
        first = (family.bos, backend.token_to_id(family.bos))
        backend.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[first])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos[0],
        pad_token=family.pad,
        chat_template=family.template,
    )


def saved(name: str, folder: Path, reward: bool = False, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of a family, and its tokenizer, in a folder; a reward model has one label."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    stop = [tokenizer.convert_tokens_to_ids(token) for token in family.eos]
    config = family.config(
        **{**SIZES, **family.sizes, **changes},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
        **({"num_labels": 1} if reward else {}),
    )
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config).eval()
    perturb(model, 0.2, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


_STORE = TemporaryDirectory(prefix="selfplay-models-")


@functools.cache
def stand_in(reward: bool) -> str:
    """The folder of a small model of Llama 3.2's kind, to take the place of one that lies on a hub."""
    folder = Path(_STORE.name) / ("reward" if reward else "policy")
    saved("llama3", folder, reward=reward)
    return str(folder)
