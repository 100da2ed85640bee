"""A causal language model in a seat: full fine-tuning, or LoRA over frozen weights."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from selfplay.core import Ask, Batch, Message, Policy, Reply, SelfplayError, at_least, option_index
from selfplay.engines.llama.layers import can_pack, has_own_layers
from selfplay.engines.llama.writer import can_decode, forget_writer, writer
from selfplay.engines.logprobs import Menu, choice_logprobs, next_logprobs, reply_logprobs
from selfplay.engines.rounding import of_menus, of_replies
from selfplay.engines.sampling import choose as draw
from selfplay.engines.sampling import sample, uniforms
from selfplay.engines.transformers.decode import way_of
from selfplay.engines.transformers.gradient_checkpointing import checkpointed, prepare
from selfplay.engines.truncation import Truncation
from selfplay.models import checkpoints
from selfplay.models.adapters import Adapter
from selfplay.models.architecture import check_architecture
from selfplay.models.base_model import load_base, tokenizer_at
from selfplay.models.chat import Chat
from selfplay.models.trial import forget
from selfplay.options import Count, Dtype, Expression, Name, OneOf, Range, Seed, Temperature, Unlike, Whole, applies

CHOOSE = ("likelihood", "text")
READ = 2000  # characters of a reply in which `pattern` is looked for


@applies(pattern={"choose": "text"})
class LanguageModel(Policy):
    """Any Hugging Face chat model as a policy.

    Args:
        path: hub id, folder, `asset:<name>` or `cache:smollm2`: a model, or a LoRA adapter, which goes on where it was
            over the model that it names.
        temperature: of sampling; log-probabilities are those of the tempered and truncated distribution.
        top_k, top_p, min_p: which tokens may be said, see `selfplay.engines.truncation`.
        stop: texts that end a reply; the text that the game reads ends before the first of them.
        max_tokens: longest reply.
        batch_size: replies sampled side by side; lower it when memory runs out.
        lora: arguments of `peft.LoraConfig`, or None for full fine-tuning; where `path` is an adapter, None takes it
            as it is. The adapter is in float32 whatever the weights under it are.
        choose: what is done with an ask's options: "likelihood" takes one of them, each as likely as the model finds it
            (all its words and the end, after the prompt) among the options; "text" lets the model write, and the
            game decides what an illegal reply costs.
        pattern: with choose="text", a regular expression; the reply that the game reads is its first group, or its
            whole match, within the first 2,000 characters; what does not match is read as it is. None reads the text as
            it is.
        chat: what the chat template is told beside the messages.
        attention: the kernel: "sdpa", "eager" or "flash_attention_2". The last knows no mask of ours, so replies to one
            prompt do not share its reading there (see `selfplay.engines.packing`).
        gradient_checkpointing: whether layers are run again in the backward pass instead of remembered: less
            memory, more time.
        dtype: of the weights, a name such as "float32".
        compute_dtype: of the products of float32 weights, "bfloat16" where the processor has it (learning keeps float32
            weights); None: as the weights.
        device: "cpu", "cuda", ...
        seed: of the adapter's initial weights.

    Raises:
        SelfplayError: the model or its tokenizer cannot be loaded or used.
    """

    def __init__(
        self,
        path: Name,
        temperature: Temperature = 1.0,
        top_k: Annotated[Whole, Unlike(1, "0 for all tokens, or 2 or more: of one alone nothing could be learnt")] = 0,
        top_p: Annotated[float, Range(0.01, 1)] = 1.0,
        min_p: Annotated[float, Range(0, 1, below=True)] = 0.0,
        stop: Sequence[Name] = (),
        max_tokens: Count = 256,
        batch_size: Count = 64,
        choose: Annotated[str, OneOf("likelihood", "text")] = "likelihood",
        pattern: Annotated[str, Expression()] | None = None,
        lora: Mapping[str, Any] | None = None,
        chat: Mapping[str, Any] | None = None,
        attention: str = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Dtype = "float32",
        compute_dtype: str | None = None,
        device: Name = "cpu",
        seed: Seed = 0,
    ) -> None:
        if temperature <= 0:
            raise SelfplayError(f"player.temperature is {temperature}; a learner explores, so it must be above 0")
        at_least(1, max_tokens=max_tokens, batch_size=batch_size)
        if choose not in CHOOSE:
            raise SelfplayError(f"player.choose is '{choose}'; take one of {', '.join(CHOOSE)}")
        self.choose, self.pattern = choose, _compiled(pattern)
        if lora is not None and lora.get("lora_dropout"):
            raise SelfplayError(
                f"player.lora.lora_dropout is {lora['lora_dropout']}, but a policy learns from what it said without "
                "dropout; leave it out"
            )
        if lora is not None:
            _check_lora(lora)
        self.truncation, self.stop = Truncation(top_k, top_p, min_p), tuple(stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise SelfplayError(f"player.stop is {list(stop)}; give texts of at least one character")
        self.compute_dtype = _compute(compute_dtype, dtype)
        self.tokenizer: PreTrainedTokenizerBase = tokenizer_at(path)
        base, saved, missing = load_base(AutoModelForCausalLM, path, dtype, device, attention)
        self.model: PreTrainedModel = base
        check_architecture(self.model, path)
        self.chat, self.gradient_checkpointing = Chat(self.tokenizer, chat or {}), gradient_checkpointing
        if gradient_checkpointing:
            prepare(self.model, path)
        self.adapter: Adapter | None = None
        if lora is not None or saved is not None:
            self.adapter = Adapter(base, lora, seed, None if saved is None else path, missing)
            self.model = self.adapter.model
        else:
            checkpoints.check_kept(base, path)
        if not can_decode(self.model):
            way_of(self.model)  # refused now, where none is right
        self.temperature, self.max_tokens, self.batch_size = temperature, max_tokens, batch_size
        self.frozen_adapter: dict[str, Tensor] | None = None
        self._rendered: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}
        self._encoded: dict[str, tuple[int, ...]] = {}

    # --- playing ------------------------------------------------------------------------------------------------------

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply an ask: one of its options by their likelihood, or text written token by token."""
        prompts = [self.render(ask.messages) for ask in asks]
        chosen = [i for i, ask in enumerate(asks) if ask.options and self.choose == "likelihood"]
        written = sorted(set(range(len(asks))) - set(chosen))
        replies: dict[int, Reply] = {}
        if chosen:
            picked = self._pick([asks[i] for i in chosen], [prompts[i] for i in chosen])
            replies |= dict(zip(chosen, picked, strict=True))
        if written:
            with self._passes():
                sampled = sample(
                    writer(self.model, self.compute_dtype, keep=self.frozen_adapter is None),
                    [prompts[i] for i in written],
                    [asks[i].key for i in written],
                    self.temperature,
                    self.max_tokens,
                    self.stop_ids,
                    self.pad_id,
                    self.batch_size,
                    self.truncation,
                    self._stopped if self.stop else None,
                )
            for i, s in zip(written, sampled, strict=True):
                replies[i] = Reply(self._read(asks[i], self._text(s.ids)), prompts[i], s.ids, s.logprobs)
        return [replies[i] for i in range(len(asks))]

    def _stopped(self, ids: list[int]) -> bool:
        """Whether one of the stop texts has come; it is in the last tokens, each of a byte at least."""
        last = max(len(text.encode()) for text in self.stop) + 4
        end = str(self.tokenizer.decode(ids[-last:], skip_special_tokens=True))
        return any(text in end for text in self.stop)

    def _text(self, ids: Sequence[int]) -> str:
        """A reply's tokens as text, up to the first stop text."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        if self.choose != "likelihood":
            raise SelfplayError(
                "a language model with player.choose=text cannot say how likely each option is; "
                "use player.choose=likelihood, or play episodes instead"
            )
        menus = [self._menu(ask, self.render(ask.messages)) for ask in asks]
        found = [p.double().softmax(0) for p in self._menu_logprobs(menus)]
        if self.temperature == 0:
            found = [torch.nn.functional.one_hot(p.argmax(), len(p)).double() for p in found]
        return [tuple(p.tolist()) for p in found]

    def _pick(self, asks: Sequence[Ask], prompts: Sequence[tuple[int, ...]]) -> list[Reply]:
        """One of the options each, by their likelihood: one action, whatever the number of its tokens."""
        menus = [self._menu(ask, prompt) for ask, prompt in zip(asks, prompts, strict=True)]
        replies = []
        for ask, (prompt, choices), logp in zip(asks, menus, self._menu_logprobs(menus), strict=True):
            token, taken = draw(logp[None], torch.from_numpy(uniforms(ask.key, 1)), float(self.temperature > 0))
            replies.append(Reply(ask.options[int(token)], prompt, (int(token),), (float(taken),), choices))
        return replies

    def reply_with(self, asks: Sequence[Ask], places: Sequence[int]) -> list[Reply]:
        menus = [self._menu(ask, self.render(ask.messages)) for ask in asks]
        return [
            Reply(ask.options[place], prompt, (place,), (float(logp[place]),), choices)
            for ask, place, (prompt, choices), logp in zip(asks, places, menus, self._menu_logprobs(menus), strict=True)
        ]

    @torch.no_grad()
    def _menu_logprobs(self, menus: Sequence[Menu]) -> list[Tensor]:
        with self._passes():
            return [p.cpu() for p in choice_logprobs(self.model, menus, self.temperature or 1.0, self.batch_size)]

    def encode_reply(self, ask: Ask, text: str) -> Reply:
        prompt, ids = self.render(ask.messages), self._option(text)
        if ask.options and self.choose == "likelihood":
            return Reply(text, prompt, (option_index(ask, text),), (), self._menu(ask, prompt)[1])
        if len(ids) > self.max_tokens:
            raise SelfplayError(
                f"a reply of {len(ids)} tokens is to be learnt, '{text[:40]}...', but player.max_tokens is "
                f"{self.max_tokens}; raise it, or let the teacher be shorter (task.longest)"
            )
        return Reply(text, prompt, ids)

    def _menu(self, ask: Ask, prompt: tuple[int, ...]) -> Menu:
        """The options' token ids, each with the end token."""
        if not ask.options:
            raise SelfplayError(f"the role '{ask.role}' was asked for free text, which has no list of options")
        return prompt, tuple(self._option(option) for option in ask.options)

    def _option(self, text: str) -> tuple[int, ...]:
        if text not in self._encoded:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            self._encoded[text] = (*ids, int(self.tokenizer.eos_token_id))
        return self._encoded[text]

    def _read(self, ask: Ask, text: str) -> str:
        """What the game reads of a text that answers an ask with options."""
        found = self.pattern.search(text[:READ]) if ask.options and self.pattern else None
        if found is None:
            return text
        return found[1] if self.pattern and self.pattern.groups else found[0]

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids after the chat template.

        Raises:
            SelfplayError: prompt and longest reply do not fit the model's context, or the template refuses the
                messages.
        """
        key = tuple((m["role"], m["content"]) for m in messages)
        if key not in self._rendered:
            if len(self._rendered) > 8192:
                self._rendered.clear()
            self._rendered[key] = self.chat.ids(messages, generate=True)
        length, context = len(self._rendered[key]), getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and 0 < context < length + self.max_tokens:
            raise SelfplayError(
                f"a prompt of {length} tokens and player.max_tokens={self.max_tokens} exceed the model's "
                f"context of {context}; lower player.max_tokens or shorten the prompt"
            )
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
        with self._passes():
            return next_logprobs(self.model, prompts, self.batch_size)

    # --- learning -----------------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch) -> Tensor:
        chosen, how = torch.tensor([bool(c) for c in batch.choices]), (self.temperature, self.truncation)
        if torch.is_grad_enabled():
            forget_writer()  # its memory is needed now
        with (
            self._passes(),
            checkpointed(self.model) if self.gradient_checkpointing else nullcontext(),
        ):
            if not chosen.any():
                return reply_logprobs(self.model, batch.prompts, batch.replies, batch.mask, *how)
            out = torch.zeros(batch.replies.shape, device=self.model.device)
            picks, texts = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
            menus = [(tuple(batch.prompts[i].tolist()), batch.choices[i]) for i in picks.tolist()]
            every = choice_logprobs(self.model, menus, self.temperature, self.batch_size)
            taken = [p[i] for p, i in zip(every, batch.replies[picks, 0].tolist(), strict=True)]
            out[picks, 0] = torch.stack(taken)
            if len(texts):
                part = batch.rows(texts)
                written = reply_logprobs(self.model, part.prompts, part.replies, part.mask, *how)
                out[texts, : written.shape[1]] = written
            return out

    def rounding(self, batch: Batch) -> Tensor:
        """Measured, see `selfplay.engines.rounding`."""
        chosen = torch.tensor([bool(c) for c in batch.choices], dtype=torch.bool)
        found, mask = torch.zeros(batch.replies.shape), batch.mask & ~chosen[:, None]
        with self._passes():
            if bool(mask.any()):
                part = batch.rows((~chosen).nonzero()[:, 0])
                given = part.prompts, part.replies, part.mask, self.temperature, self.truncation
                found[~chosen, : part.mask.shape[1]] = of_replies(self.model, *given)
            if bool(chosen.any()):
                picks = chosen.nonzero()[:, 0].tolist()
                menus = [(tuple(batch.prompts[i].tolist()), batch.choices[i]) for i in picks]
                found[chosen, 0] = of_menus(self.model, menus, self.temperature)
        return found

    def ways(self, again: bool = False) -> dict[str, str]:
        if again:
            forget_writer()
            forget(self.model)
        packed = can_pack(self.model)
        layers = (
            "own layers"
            if packed and has_own_layers(self.model) and not self.gradient_checkpointing
            else "transformers' modules"
        )
        return {
            "sampling": "own layers" if can_decode(self.model) else "transformers' modules",
            "log-probabilities": layers,
            "prompts": "one reading for all replies" if packed else "a reading for each reply",
        }

    def parameters(self) -> list[Parameter]:
        if self.frozen_adapter is not None:
            return []
        return [p for p in self.model.parameters() if p.requires_grad]

    def snapshot(self) -> "LanguageModel":
        """A frozen copy. With LoRA it shares the frozen weights and owns only a copy of the adapter."""
        twin = copy.copy(self)
        if self.adapter is not None:
            with self._weights():
                twin.frozen_adapter = {n: p.detach().clone() for n, p in self.adapter.weights.items()}
        else:
            twin.model = copy.deepcopy(self.model).requires_grad_(False).eval()
        return twin

    @torch.no_grad()
    def restore(self, snapshot: Policy) -> None:
        assert isinstance(snapshot, LanguageModel) and (snapshot.adapter is None) == (self.adapter is None)
        forget_writer()
        if self.adapter is None or snapshot.adapter is None:
            checkpoints.copy_weights(snapshot.model, self.model)
            return
        kept = snapshot.frozen_adapter or snapshot.adapter.weights
        for name, p in self.adapter.weights.items():
            p.copy_(kept[name])

    def with_temperature(self, temperature: float) -> "LanguageModel":
        twin = copy.copy(self)
        twin.temperature = temperature
        return twin

    @property
    def lora(self) -> bool:
        """Whether an adapter is trained, and not the model."""
        return self.adapter is not None

    @contextmanager
    def _weights(self) -> Iterator[None]:
        """The live weights, or for a LoRA snapshot: its own adapter for the time being, without gradient."""
        if self.frozen_adapter is None or self.adapter is None:
            yield
            return
        live = {n: p.data for n, p in self.adapter.weights.items()}
        with torch.no_grad():
            try:
                for n, p in self.adapter.weights.items():
                    p.data = self.frozen_adapter[n]
                yield
            finally:
                for n, p in self.adapter.weights.items():
                    p.data = live[n]

    @contextmanager
    def _passes(self) -> Iterator[None]:
        """Forward passes with this policy's weights, in its precision."""
        with (
            self._weights(),
            torch.autocast(self.model.device.type, self.compute_dtype, enabled=self.compute_dtype is not None),
        ):
            yield

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads as it is (with LoRA: an adapter folder for peft)."""
        with self._weights():
            if self.adapter is None:
                checkpoints.save(self.model, folder)
            else:
                self.adapter.save(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        forget_writer()
        if self.adapter is None:
            checkpoints.load(self.model, folder)
        else:
            self.adapter.load(folder)


def _compute(name: str | None, dtype: str) -> torch.dtype | None:
    if name is None or name == dtype:
        return None
    if (name, dtype) != ("bfloat16", "float32"):
        raise SelfplayError(
            f"player.compute_dtype is {name} over player.dtype={dtype}; take compute_dtype=bfloat16 over float32, or "
            "leave it out"
        )
    return torch.bfloat16


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise SelfplayError(f"player.pattern '{pattern}' is no regular expression ({error}); mend it") from error


def _check_lora(lora: Mapping[str, Any]) -> None:
    """Raise SelfplayError where an adapter would change nothing."""
    for name in ("r", "lora_alpha"):
        value = lora.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SelfplayError(
                f"player.lora.{name} is {value}, but it must be a number above 0, or the adapter would change nothing"
            )
