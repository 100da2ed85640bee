"""The bytes of each part of a run, one function per part.

Symbols: H hidden size, I intermediate size, h heads, k key and value heads, d size of a head, V vocabulary, L layers of
a model; P tokens of a prompt, T of a reply; s bytes of an element of the weights, c of the matrix products. Weights,
gradients and optimizer states are exact. Activations, caches and temporary tensors are estimates, compared with
measurements in `tests/memory/`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from selfplay.devices import PROCESSOR, Sizes
from selfplay.engines.footprint import COLUMNS, LEAST
from selfplay.memory.model import Model, Weight
from selfplay.memory.optimizer_state import OptimizerState
from selfplay.parallel.distributed import BUCKET

WIDE = 4  # bytes of a float32
LOGITS = 4  # [rows, V] float32 tensors while a token is chosen: logits, tempered ones, their exponentials, these padded
CHUNK_COPIES = 3  # of a chunk of logits: logits, exponentials, a copy in the precision of products


@dataclass(frozen=True)
class Texts:
    """The texts of one forward pass.

    Attributes:
        rows: number of replies.
        prompt: P, tokens of a prompt.
        reply: T, tokens of a reply.
        group: replies to the same prompt.
        work: how much the device computes at once.
    """

    rows: int
    prompt: int
    reply: int
    group: int = 1
    work: Sizes = PROCESSOR

    @property
    def prompts(self) -> int:
        """The number of distinct prompts."""
        return math.ceil(self.rows / self.group)

    @property
    def replies(self) -> int:
        """M, the tokens of all replies."""
        return self.rows * self.reply

    @property
    def width(self) -> int:
        """Tokens of a packed row: a tree of a prompt with its replies, limited as in `selfplay.engines.packing`."""
        group = min(self.group, self.rows)
        return min(self.prompt + group * self.reply, max(self.work.tree, 2 * (self.prompt + self.reply)))

    @property
    def tokens(self) -> int:
        """Tokens of the forward pass: the replies, and the prompt of each tree."""
        replies_of_a_tree = max(1, (self.width - self.prompt) // self.reply)
        trees = self.prompts * math.ceil(min(self.group, self.rows) / replies_of_a_tree)
        return trees * self.prompt + self.replies


# --- weights, gradients, optimizer ------------------------------------------------------------------------------------


def weights(model: Model, processes: int = 1) -> int:
    """The model's weights. FSDP splits the first dimension of each among the processes; of a LoRA model, only that of
    the frozen ones, because the adapter is not split."""
    return sum(w.bytes(_split(model, w, processes)) for w in model.weights)


def gathered(model: Model) -> int:
    """The whole weights that FSDP gathers beside a process's own part: all that it splits."""
    return sum(w.bytes() for w in model.weights if _is_split(model, w))


def units(model: Model) -> int:
    """What FSDP holds whole during a pass: the weights outside of the blocks, the block in use and the one after it."""
    outside = sum(w.bytes() for w in model.weights if w.block < 0 and _is_split(model, w))
    return outside + 2 * _largest_block(model, model.weights)


def gradients(model: Model, processes: int = 1) -> int:
    """One element per trained element, in its precision; split like the weights."""
    return sum(w.bytes(_split(model, w, processes)) for w in model.trained)


def unreduced(model: Model) -> int:
    """Whole gradients under FSDP before they are summed: those outside of the blocks, and of two blocks."""
    if model.lora:
        return 0
    outside = sum(w.bytes() for w in model.trained if w.block < 0)
    return outside + 2 * _largest_block(model, model.trained)


def optimizer_state(model: Model, state: OptimizerState, processes: int = 1) -> int:
    """The optimizer's tensors, such as two per parameter for AdamW; split like the weights."""
    return sum(state.bytes([w], _split(model, w, processes)) for w in model.trained)


def adapter(model: Model) -> int:
    """The trained weights of a LoRA model: what each snapshot owns."""
    return sum(w.bytes() for w in model.trained)


def buckets(model: Model) -> int:
    """The flat copy in which `parallel=ddp` sums gradients: BUCKET elements, or the largest gradient if it has more."""
    sizes = [w.bytes() for w in model.trained]
    return min(sum(sizes), max(BUCKET * WIDE, *sizes))


def _split(model: Model, weight: Weight, processes: int) -> int:
    return processes if _is_split(model, weight) else 1


def _is_split(model: Model, weight: Weight) -> bool:
    return not (model.lora and weight.trained)


def _largest_block(model: Model, some: Iterable[Weight]) -> int:
    """Bytes of the block with the most of these weights, of those that FSDP splits."""
    sizes: dict[int, int] = {}
    for w in some:
        if w.block >= 0 and _is_split(model, w):
            sizes[w.block] = sizes.get(w.block, 0) + w.bytes()
    return max(sizes.values(), default=0)


# --- playing ----------------------------------------------------------------------------------------------------------


def key_values(model: Model, texts: Texts, on_cpu: bool, mixture: bool = False) -> int:
    """Keys and values: 2 L k d per token.

    The decoder keeps one copy of each prompt's, in float32 on a CPU, otherwise in the precision of products; and two of
    the replies' while the cache grows or rows leave it, with room for a multiple of COLUMNS tokens. transformers'
    modules keep the prompt of every row, and those of a mixture of two models twice as much.
    """
    token = 2 * model.layers * model.kv_heads * model.head_dim
    if model.decoder is None or mixture:
        return token * texts.rows * (texts.prompt + texts.reply) * model.compute * (2 if mixture else 1)
    columns = COLUMNS * math.ceil(texts.reply / COLUMNS)
    tokens = texts.prompts * texts.prompt + 2 * texts.rows * columns
    return token * tokens * (WIDE if on_cpu else model.compute)


def logits(model: Model, rows: int) -> int:
    """LOGITS tensors [rows, V] in float32."""
    return LOGITS * rows * model.vocabulary * WIDE


def prefill(model: Model, texts: Texts) -> int:
    """Temporary tensors of a pass over as many tokens of prompts as the device reads at once, see `forward`."""
    return forward(model, min(texts.work.prefill, texts.rows * texts.prompt))


def forward(model: Model, tokens: int) -> int:
    """A layer without gradient: three states of H in float32, queries, keys, values and attention outputs of
    2 (h + k) d, and two of the MLP's I."""
    wide = 3 * model.hidden * WIDE
    heads = 2 * (model.heads + model.kv_heads) * model.head_dim * WIDE
    return tokens * (wide + heads + 2 * model.intermediate * model.compute)


# --- updating ---------------------------------------------------------------------------------------------------------


def activations(model: Model, texts: Texts, checkpointing: bool) -> int:
    """What the layers save for the backward pass.

    With gradient checkpointing that is the input of each, H. Our own layers compute the last MLP only for the replies.
    """
    if checkpointing:
        return model.layers * texts.tokens * model.hidden * model.itemsize
    left_out = saved_by_mlp(model, texts.tokens - texts.replies, True) if model.own_layers else 0
    return model.layers * saved_by_layer(model, texts, model.own_layers) - left_out


def saved_by_layer(model: Model, texts: Texts, own: bool) -> int:
    """What one layer saves: `saved_by_attention` and `saved_by_mlp`, and the input of adapters if it is a copy."""
    copies = _adapter_inputs(model) * texts.tokens if model.lora else 0
    return saved_by_attention(model, texts, own) + saved_by_mlp(model, texts.tokens, own) + copies


def saved_by_attention(model: Model, texts: Texts, own: bool) -> int:
    """Per token: `saved_by_norm`; queries, keys and values repeated for every head, and the output, 4 h d in c bytes;
    and h sums in float32. Eager attention saves its weights instead, twice: h per token and token of the row."""
    sums = 2 * texts.width * WIDE if model.eager else WIDE
    heads = model.heads * (4 * model.head_dim * model.compute + sums)
    return texts.tokens * (saved_by_norm(model, own) + heads)


def saved_by_mlp(model: Model, tokens: int, own: bool) -> int:
    """Per token: `saved_by_norm`, and in c bytes 3 I (gate, up, their product) in our own layers, otherwise 4 I."""
    return tokens * (saved_by_norm(model, own) + (3 if own else 4) * model.intermediate * model.compute)


def saved_by_norm(model: Model, own: bool) -> int:
    """Per token: its input of H in float32 and its output in c bytes; transformers' modules also save the normed input
    before its scale, in s bytes."""
    return model.hidden * (WIDE + model.compute + (0 if own else model.itemsize))


def _adapter_inputs(model: Model) -> int:
    """Bytes per token of the inputs that peft casts for each adapted matrix of a layer, 5 H + h d + I, less those that
    frozen matrices then do not save; 0 if all is float32, because nothing is cast then."""
    if model.compute == WIDE:
        return 0
    width = WIDE if model.compute == model.itemsize else model.compute
    cast = (5 * model.hidden + model.heads * model.head_dim + model.intermediate) * width
    return cast - (2 * model.hidden + model.intermediate) * model.compute


def mask(texts: Texts, compute: int) -> int:
    """The mask [rows, 1, width, width] of packed texts: tokens x width elements."""
    return texts.tokens * texts.width * compute


def backward(model: Model, texts: Texts, checkpointing: bool) -> int:
    """Temporary tensors of the last layer, whose backward pass comes first: gradients of 4 I in c bytes and 2 H in
    float32 per token, in our own layers only for the replies; with gradient checkpointing also all that it saves."""
    own = model.own_layers and not checkpointing
    gradients = 4 * model.intermediate * model.compute + 2 * model.hidden * WIDE
    again = saved_by_layer(model, texts, False) if checkpointing else 0
    return again + (texts.replies if own else texts.tokens) * gradients


def head(model: Model, texts: Texts) -> int:
    """The head over the replies' tokens M: 4 states of H in float32, CHUNK_COPIES of a chunk of logits, and, if the
    head is trained, its gradient before it is added, V H."""
    tokens = texts.replies
    chunk = min(max(texts.work.logits, LEAST * tokens), tokens * model.vocabulary)
    own = 0 if model.lora else model.vocabulary * model.hidden * model.itemsize
    return 4 * tokens * model.hidden * WIDE + CHUNK_COPIES * chunk * WIDE + own


def casts(model: Model, checkpointing: bool) -> int:
    """Copies of the matrices in the precision of products, where `compute_dtype` differs from the weights'.

    Autocast keeps those of trained weights for the whole pass. Those of frozen ones are saved for the backward pass,
    layer by layer with gradient checkpointing.
    """
    if model.compute == model.itemsize:
        return 0
    inside = [w for w in model.weights if w.block >= 0 and len(w.shape) == 2]
    if model.lora and checkpointing:
        inside = [w for w in inside if w.block == 0]
    return sum(w.elements() * model.compute for w in inside)
