"""A causal language model in a seat: full fine-tuning, or LoRA over frozen weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from selfplay.core import Ask, Batch, Message, Policy, Reply, SelfplayError, at_least
from selfplay.lm.load import load_model, load_tokenizer
from selfplay.lm.logprobs import check_head, next_logprobs, reply_logprobs
from selfplay.lm.sample import sample


class LanguageModel(Policy):
    """Any Hugging Face chat model as a policy.

    Args:
        path: hub id, folder, or `asset:<name>`.
        temperature: of sampling; log-probabilities are those of the tempered distribution.
        max_tokens: longest reply.
        rows: replies sampled side by side; lower it when memory runs out.
        lora: arguments of `peft.LoraConfig`, or None for full fine-tuning.
        dtype: of the weights, a name such as "float32".
        device: "cpu", "cuda", ...
        seed: of the adapter's initial weights.

    Raises:
        SelfplayError: the model or its tokenizer cannot be loaded or used.
    """

    def __init__(
        self,
        path: str,
        temperature: float,
        max_tokens: int,
        rows: int,
        lora: Mapping[str, Any] | None,
        dtype: str,
        device: str,
        seed: int,
    ) -> None:
        if temperature <= 0:
            raise SelfplayError(f"player.temperature is {temperature}; a learner explores, so it must be above 0")
        at_least(1, max_tokens=max_tokens, rows=rows)
        if lora is not None and lora.get("lora_dropout"):
            raise SelfplayError(
                f"player.lora.lora_dropout is {lora['lora_dropout']}, but a policy learns from what it said without "
                "dropout; leave it out"
            )
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path)
        self.model: PreTrainedModel = load_model(AutoModelForCausalLM, path, dtype, device)
        if not check_head(self.model):
            raise SelfplayError(
                f"the model '{path}' scales or caps its logits after the head, which this policy would not see; "
                "choose an architecture without (Llama, Qwen, Mistral, SmolLM)"
            )
        self.lora = lora is not None
        if lora is not None:
            self.model = _with_adapter(self.model, lora, seed)
        self.temperature, self.max_tokens, self.rows = temperature, max_tokens, rows
        self.frozen_adapter: dict[str, Tensor] | None = None
        self._rendered: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    # --- playing ------------------------------------------------------------------------------------------------------

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """Sample one reply an ask; an ask's options are for the game to enforce."""
        prompts = [self.render(ask.messages) for ask in asks]
        order = sorted(range(len(asks)), key=lambda i: (len(prompts[i]), prompts[i]))
        replies: dict[int, Reply] = {}
        with self._weights():
            for start in range(0, len(order), self.rows):
                part = order[start : start + self.rows]
                sampled = sample(
                    self.model,
                    [prompts[i] for i in part],
                    [asks[i].key for i in part],
                    self.temperature,
                    self.max_tokens,
                    self.stop_ids,
                    self.pad_id,
                )
                for i, s in zip(part, sampled, strict=True):
                    text = self.tokenizer.decode(s.ids, skip_special_tokens=True)
                    replies[i] = Reply(str(text), prompts[i], s.ids, s.logprobs)
        return [replies[i] for i in range(len(asks))]

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids after the chat template.

        Raises:
            SelfplayError: prompt and longest reply do not fit the model's context.
        """
        key = tuple((m["role"], m["content"]) for m in messages)
        if key not in self._rendered:
            if len(self._rendered) > 8192:
                self._rendered.clear()
            encoded = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
            )
            ids = tuple(encoded["input_ids"])  # type: ignore[index, call-overload]
            context = getattr(self.model.config, "max_position_embeddings", None)
            if context is not None and len(ids) + self.max_tokens > context:
                raise SelfplayError(
                    f"a prompt of {len(ids)} tokens and player.max_tokens={self.max_tokens} exceed the model's "
                    f"context of {context}; lower player.max_tokens or shorten the prompt"
                )
            self._rendered[key] = ids
        return self._rendered[key]

    @property
    def stop_ids(self) -> list[int]:
        """Every token that ends a reply: the tokenizer's, and those that the generation config adds."""
        config = self.model.generation_config
        extra = config.eos_token_id if config is not None else None
        ids = extra if isinstance(extra, list) else [extra] if extra is not None else []
        return sorted({self.tokenizer.eos_token_id, *ids})

    @property
    def pad_id(self) -> int:
        """The padding token, or the end token where there is none (padding is masked out)."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def next_token(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """[N, V] log-probabilities of the token after each prompt, at temperature 1."""
        with self._weights():
            return next_logprobs(self.model, prompts, self.rows, self.pad_id)

    # --- learning -----------------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch) -> Tensor:
        with self._weights():
            return reply_logprobs(self.model, batch, self.temperature)

    def parameters(self) -> list[Parameter]:
        if self.frozen_adapter is not None:
            return []
        return [p for p in self.model.parameters() if p.requires_grad]

    def snapshot(self) -> "LanguageModel":
        """A frozen copy. With LoRA it shares the frozen weights and owns only a copy of the adapter."""
        twin = copy.copy(self)
        if self.lora:
            with self._weights():
                twin.frozen_adapter = {n: p.detach().clone() for n, p in self._adapter()}
        else:
            twin.model = copy.deepcopy(self.model).requires_grad_(False).eval()
        return twin

    def at(self, temperature: float) -> "LanguageModel":
        twin = copy.copy(self)
        twin.temperature = temperature
        return twin

    def _adapter(self) -> list[tuple[str, Parameter]]:
        """All that the adapter trains, in a fixed order: what it adds, and modules that it saves whole."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """The live weights, or for a LoRA snapshot: its own adapter for the time being, without gradient."""
        if self.frozen_adapter is None:
            yield
            return
        live = {n: p.data for n, p in self._adapter()}
        with torch.no_grad():
            try:
                for n, p in self._adapter():
                    p.data = self.frozen_adapter[n]
                yield
            finally:
                for n, p in self._adapter():
                    p.data = live[n]

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads as it is (with LoRA: an adapter folder for peft)."""
        with self._weights():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        name = "adapter_model.safetensors" if self.lora else "model.safetensors"
        weights: dict[str, Tensor] = {}
        files = sorted(folder.glob(name.replace(".safetensors", "*.safetensors")))
        if not files:
            raise SelfplayError(f"the checkpoint {folder} has no {name}; resume from another run or delete this folder")
        for file in files:
            try:
                weights |= load_file(file)
            except (SafetensorError, OSError) as error:
                raise SelfplayError(
                    f"the checkpoint file {file} is broken ({error}); delete {folder} to resume from the one before it"
                ) from error
        try:
            _assign(self.model, weights, self.lora, folder)
        except RuntimeError as error:  # torch, about shapes
            raise SelfplayError(
                f"the checkpoint {folder} does not fit the model ({str(error).strip().splitlines()[-1].strip()}); "
                "resume with the player it was made with"
            ) from error


def _with_adapter(model: PreTrainedModel, lora: Mapping[str, Any], seed: int) -> PreTrainedModel:
    """The model frozen under a fresh LoRA adapter, whose random half is a function of the seed."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora)).eval()  # type: ignore[return-value]


def _assign(model: PreTrainedModel, weights: dict[str, Tensor], lora: bool, folder: Path) -> None:
    if lora:
        from peft import set_peft_model_state_dict

        unexpected = set_peft_model_state_dict(model, weights).unexpected_keys
        trained = (n for n, p in model.named_parameters() if p.requires_grad)
        missing = [n for n in trained if n.replace(".default", "") not in weights]
    else:
        result = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        unexpected, missing = result.unexpected_keys, [k for k in result.missing_keys if k not in tied]
    if unexpected or missing:
        raise SelfplayError(
            f"the checkpoint {folder} does not fit the model ({len(missing)} weights missing, "
            f"{len(unexpected)} unknown); resume with the player it was made with"
        )
