"""Every architecture that the installed transformers knows, in small, with the embedded model's tokenizer."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from language_models import batch_for, made, perturb
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from selfplay.core import Ask, Batch, SelfplayError, user
from selfplay.models.load import resolve
from selfplay.players.language_model import LanguageModel
from selfplay.referees.reward_model import RewardModel

KINDS = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
REWARD_KINDS = tuple(sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES))
VOCABULARY, POSITIONS, WINDOW = 128, 512, 16
RULES: tuple[tuple[str, int], ...] = (  # what an option is called -> its size; the first that fits holds
    (r"\w*vocab_size(_per_layer_input)?|n_vocab|bucket_size", VOCABULARY),
    (
        r"max_(position_embeddings|target_positions|source_positions|seq_len)|n_positions|n_ctx|context_length",
        POSITIONS,
    ),
    (r"model_max_length|max_sequence_length|original_max_position_embeddings", POSITIONS),
    (r"(attention_|local_)?(sliding_)?window(_size)?|attention_chunk_size", WINDOW),
    (r"(mamba_)?chunk_size|block_size", 16),
    (r"num_(hidden_)?layers|n_layers?|(encoder|decoder)_layers|num_(encoder|decoder)_layers|depth|num_blocks", 2),
    (r"\w*num_key_value_heads|num_kv_heads|\w*num_global_key_value_heads|linear_num_key_heads", 2),
    (r"\w*attention_heads|n_heads?|num_heads|\w*linear_num_value_heads|encoder_attention_heads", 4),
    (r"(hidden_size|d_model|n_embd|dim|emb_dim|embedding_size|embedding_dim|lru_width|embed_dim)", 32),
    (r"\w*head_dim|d_kv|attention_head_size|\w*_head_size|head_size|dim_head|v_head_dim|index_head_dim|d_head", 8),
    (
        r"intermediate_size_mlp|\w*(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|dff|n_inner|dim_ff|d_inner|feed_forward_size)",
        48,
    ),
    (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts", 4),
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts", 2),
    (r"\w*lora_rank|\w*_rank|index_topk|index_n_heads", 8),
    (r"n_group|num_expert_group", 2),
    (r"topk_group", 1),
)


MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
SHARED = ["sliding_attention", "full_attention"] * 2
SPECIAL: dict[str, dict[str, Any]] = {  # what a kind needs beside
    "bailing_hybrid": {"linear_num_heads": 4, "linear_head_dim": 8},
    "bamba": {**MAMBA2, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]}
    | {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": None,
        }
    },
    "deepseek_v2": {"topk_method": "greedy", "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    "blt": {"encoder_hash_byte_group_vocab": 64}
    | {f"{part}_config": {"hidden_size_global": 32} for part in ("encoder", "decoder")},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}}
    | {"ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    | {"first_k_dense_replace": 1},
    "dots3_note_text": {f"swa_{name}_rank": 8 for name in ("q_lora", "kv_lora")}
    | {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 16}
    | {"swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8},
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32, "mlp_layer_types": ["dense", "sparse"]},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
    "esm": {"vocab_list": None, "vocab_size": VOCABULARY, "mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4, "vocab_size": VOCABULARY},
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_hidden_layers": 4, "layer_types": SHARED, "num_kv_shared_layers": 2, "laurel_rank": 8}
    | {"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [48] * 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {**MAMBA2, "layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "full_attn_idxs": [1]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
    "llama4_text": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "moe_layers": [1, 3]}
    | {"layer_types": ["chunked_attention"] * 3 + ["full_attention"]},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "visual_embed": False},
    "lilt": {"hidden_size": 48, "num_attention_heads": 4, "channel_shrink_ratio": 2},
    "longcat_flash": {"qk_head_dim": 16, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8},
    "mllama_text_model": {"num_hidden_layers": 2, "cross_attention_layers": [1]},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8}
    | {"indexer_compress_ratio": 4},
    "perceiver": {"d_latents": 32, "num_self_attends_per_block": 2},  # of 26 of width 1280 float32 keeps no digit
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_shape": [16, 32]}
    | {"axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "num_buckets": 4},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128}
    | {"shape_embed_dim": 8, "pronunciation_embed_dim": 8},
    "xlstm": {"num_heads": 4, "hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]}
    | {"num_hidden_layers": 4, "attention_head_dim": 16},
}
UNBUILT = {  # kinds that are not made here, and why
    "gemma3n": "needs the package timm",
    "gemma4_assistant": "drafts tokens from the states of another model",
    "gemma4_unified_assistant": "drafts tokens from the states of another model",
    "layoutlmv2": "needs the package detectron2",
    "musicgen": "writes audio; transformers builds no language model from its config",
    "musicgen_melody": "writes audio; transformers builds no language model from its config",
}


def config_of(kind: str) -> PretrainedConfig:
    """A small config of a kind, with each type of layer that its own default has."""
    made = CONFIG_MAPPING[kind]
    return made(**_merged(sizes_of(made()), SPECIAL.get(kind, {})))


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The second's options over the first's, nested ones too."""
    both = {
        n: _merged(one[n], v) if isinstance(v, dict) and isinstance(one.get(n), dict) else v for n, v in other.items()
    }
    return {**one, **both}


def sizes_of(config: PretrainedConfig) -> dict[str, Any]:
    """The options that make a config small; nested configs as mappings."""
    fields = {field.name for field in dataclasses.fields(config)}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    found: dict[str, Any] = {name: token for name, token in tokens.items() if name in fields}
    for name in fields | {name for name, value in vars(config).items() if isinstance(value, PretrainedConfig)}:
        value = vars(config).get(name, vars(config).get(config.attribute_map.get(name, "")))
        if isinstance(value, PretrainedConfig):
            found[name] = {
                "model_type": value.model_type,
                **_merged(sizes_of(value), SPECIAL.get(value.model_type, {})),
            }
        elif name == "head_dim" and value is None:
            found[name] = 8
        elif type(value) is int:
            size = next((size for rule, size in RULES if re.fullmatch(rule, name)), None)
            if size is not None and value > size:
                found[name] = size
    if "qk_rope_head_dim" in fields and "num_key_value_heads" in fields:  # latent attention
        found["num_key_value_heads"] = found["num_attention_heads"]
    layers = getattr(config, "num_hidden_layers", None)
    lists = {n: v for n, v in vars(config).items() if isinstance(v, list) and v and len(v) == layers and n in fields}
    lists = {name: values for name, values in lists.items() if len(set(map(str, values))) < len(values)}
    if lists:
        kept = list(dict.fromkeys(zip(*lists.values(), strict=True)))
        kept = kept * 2 if len(kept) == 1 else kept
        found |= {name: [row[i] for row in kept] for i, name in enumerate(lists)}
        found[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    return found


def model_of(kind: str, reward: bool = False, seed: int = 0) -> PreTrainedModel:
    """A small model of a kind with weights of chance, far from where a model begins: windows, caps and masks matter."""
    config = config_of(kind)
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    if reward:
        config.num_labels = 1
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32).eval()
    perturb(model, 0.2, seed)
    return model


def saved(kind: str, folder: Path, reward: bool = False, seed: int = 0) -> PreTrainedModel:
    """Such a model in a folder, with the tokenizer of the embedded one."""
    model = model_of(kind, reward, seed)
    model.save_pretrained(folder)
    for file in Path(resolve("asset:tiny")).glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(Path(resolve("asset:tiny")) / "chat_template.jinja", folder)
    return model


def player_of(folder: Path, **changes: Any) -> LanguageModel:
    """A player of such a folder, by the kernel that its architecture has."""
    try:
        return made(path=str(folder), **changes)
    except SelfplayError as error:
        if "attention=eager" not in str(error):
            raise
        return made(path=str(folder), attention="eager", **changes)


def reward_of(folder: Path) -> RewardModel:
    """A reward model of such a folder."""
    options: dict[str, Any] = {"batch_size": 3, "chat": {}, "truncate": False, "dtype": "float32", "device": "cpu"}
    try:
        return RewardModel(str(folder), attention="sdpa", **options)
    except SelfplayError as error:
        if "attention=eager" not in str(error):
            raise
        return RewardModel(str(folder), attention="eager", **options)


# --- what a policy says against plain forward passes ------------------------------------------------------------------

TEXTS = ("add 3 and 4", "", "reverse the word abcdefg", "add 3 and 4", "sort 9 1 5 3", "add 3 and 4")
ASKS = [Ask("solver", user(text), key=f"{i} {text}") for i, text in enumerate(TEXTS)]


def alone(model: Any, batch: Batch) -> Tensor:
    """[B, T] log-probabilities of the replies, each read by itself: no padding, no cache, nothing of ours."""
    found = []
    for prompt, reply, there in zip(batch.prompts, batch.replies, batch.mask, strict=True):
        said = reply[there]
        logits = model(input_ids=torch.cat([prompt, said])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits.float(), -1).gather(-1, said[:, None])[:, 0]
        found.append(torch.nn.functional.pad(logp, (0, len(reply) - len(said))))
    return torch.stack(found)


@dataclasses.dataclass(frozen=True)
class Apart:
    """How far it is from plain forward passes: what is sampled, what is learnt, and the gradient (relative)."""

    batch: Batch = dataclasses.field(repr=False)
    sampler: float
    learner: float
    gradient: float

    @property
    def agrees(self) -> bool:
        return max(self.sampler, self.learner) < 1e-4 and self.gradient < 1e-3


def apart(player: LanguageModel) -> Apart:
    """Of one batch, ragged, with several replies to one prompt."""
    batch = batch_for(player, ASKS)
    learnt, right = player.logprobs(batch), alone(player.model, batch)
    slopes, wanted = _gradient(player, learnt), _gradient(player, right)
    far = [float((x.detach() - right.detach())[batch.mask].abs().max()) for x in (batch.logprobs, learnt)]
    return Apart(batch, *far, float((slopes - wanted).norm() / wanted.norm()))


def _gradient(player: LanguageModel, logprobs: Tensor) -> Tensor:
    """Of their sum by all parameters, side by side."""
    found = torch.autograd.grad(logprobs.sum(), player.parameters(), allow_unused=True)
    pairs = zip(player.parameters(), found, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def step(player: LanguageModel, batch: Batch) -> None:
    """A step of an optimizer on a batch of `ASKS`, far enough to be seen."""
    optimizer = torch.optim.Adam(player.parameters(), lr=0.02)
    (player.logprobs(batch) * torch.linspace(-1, 1, len(ASKS))[:, None]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
