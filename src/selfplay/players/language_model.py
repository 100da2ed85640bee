"""A causal language model as a policy, with full fine-tuning or LoRA."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from selfplay.core import Ask, Batch, Message, Reply, SelfplayError, at_least, option_index
from selfplay.devices import products_in, sent
from selfplay.engines.embedded import resolve
from selfplay.engines.engine import Engine, Mixture, Sampling, Weights
from selfplay.engines.logprobs import Menu, choice_logprobs, next_logprobs, reply_logprobs
from selfplay.engines.rounding import of_menus, of_replies
from selfplay.engines.sampling import choose as draw
from selfplay.engines.sampling import uniforms
from selfplay.engines.truncation import Truncation
from selfplay.engines.versions import Version
from selfplay.engines.ways import check_readable, prefer, ways_of
from selfplay.models import checkpoints
from selfplay.models.adapters import Adapter
from selfplay.models.architecture import check_architecture
from selfplay.models.base_model import load_base, tokenizer_at
from selfplay.models.chat import Chat
from selfplay.models.gradient_checkpointing import checkpointed, prepare
from selfplay.models.lora_options import check_lora
from selfplay.models.precision import compute_dtype_of
from selfplay.models.structure import through
from selfplay.options import Count, Dtype, Expression, Name, OneOf, Range, Seed, Temperature, Unlike, Whole, applies
from selfplay.out_of_memory import Rows
from selfplay.players.texts import ONE_AT_A_TIME, Texts
from selfplay.players.trained_model import TrainedModel

CHOOSE = ("likelihood", "text")


@applies(pattern={"choose": "text"})
class LanguageModel(TrainedModel):
    """Any Hugging Face chat model as a policy.

    Args:
        path: hub id, folder, `asset:<name>` or `cache:smollm2` of a model, or of a LoRA adapter, whose training
            continues over the model that it names.
        temperature: sampling temperature; log-probabilities are those of the tempered and truncated distribution.
        top_k, top_p, min_p: truncated sampling, see `selfplay.engines.truncation`.
        stop: texts that end a reply; the game receives the text before the first of them.
        max_tokens: maximum length of a reply.
        batch_size: replies sampled in parallel; halved, with the same replies, when memory runs out.
        lora: arguments of `peft.LoraConfig`, or None for full fine-tuning; if `path` is an adapter, None uses its own
            config. Adapter weights are float32, whatever the dtype of the model.
        choose: how asks with options are answered: "likelihood" samples an option by its likelihood after the prompt
            (of all its tokens and the end token), normalised over the options; "text" generates free text.
        pattern: with choose="text", a regular expression searched in the first 2,000 characters; the game receives its
            first group, or its whole match without groups, or the reply unchanged if there is no match or no pattern.
        chat: further arguments of the chat template.
        attention: "sdpa", "eager" or "flash_attention_2", which does not let replies share their prompt's computation.
        packed_attention: "mask", or "flash" where it exists and trials find it right (`selfplay.engines.llama.varlen`).
        gradient_checkpointing: whether to recompute layers in the backward pass, to save memory at the cost of time.
        dtype: of the weights, such as "float32".
        compute_dtype: of matrix products with float32 weights: "bfloat16", "float32", or "auto" for bfloat16 on an
            accelerator that supports it, else float32. Weights stay float32. None: as `dtype`.
        device: "cpu", "cuda", ...
        engine: generates replies, see `selfplay.engines.engine`; None: the embedded engine.
        seed: seed of the adapter's initial weights.

    Raises:
        SelfplayError: the model or its tokenizer cannot be loaded or used.
    """

    def __init__(
        self,
        path: Name,
        temperature: Temperature = 1.0,
        top_k: Annotated[Whole, Unlike(1, "0 for all tokens, or at least 2, since 1 leaves nothing to learn")] = 0,
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
        packed_attention: Annotated[str, OneOf("mask", "flash")] = "mask",
        gradient_checkpointing: bool = False,
        dtype: Dtype = "float32",
        compute_dtype: str | None = "auto",
        device: Name = "cpu",
        seed: Seed = 0,
        engine: Engine | None = None,
    ) -> None:
        if temperature <= 0:
            raise SelfplayError(f"player.temperature is {temperature}; a learner must explore, so take one above 0")
        at_least(1, max_tokens=max_tokens, batch_size=batch_size)
        if choose not in CHOOSE:
            raise SelfplayError(f"player.choose is '{choose}'; take one of {', '.join(CHOOSE)}")
        self.choose, self.truncation, self.engine = choose, Truncation(top_k, top_p, min_p), resolve(engine)
        if lora is not None:
            check_lora(lora)
        self.compute_dtype = compute_dtype_of(compute_dtype, dtype, device)
        self.tokenizer: PreTrainedTokenizerBase = tokenizer_at(path)
        base, saved, missing = load_base(AutoModelForCausalLM, path, dtype, device, attention)
        self.model: PreTrainedModel = base
        check_architecture(self.model, path)
        self.gradient_checkpointing = gradient_checkpointing
        context = getattr(base.config, "max_position_embeddings", None)
        self.texts = Texts(self.tokenizer, Chat(self.tokenizer, chat or {}), stop, pattern, context)
        prefer(self.model, packed_attention)
        if gradient_checkpointing:
            prepare(self.model, path)
        self.adapter: Adapter | None = None
        if lora is not None or saved is not None:
            self.adapter = Adapter(base, lora, seed, None if saved is None else path, missing)
            self.model = self.adapter.model
        else:
            checkpoints.check_kept(base, path)
        check_readable(self.model)
        self.temperature, self.max_tokens = temperature, max_tokens
        self.rows = Rows(batch_size, "player.batch_size")
        self.frozen_adapter: dict[str, Tensor] | None = None
        self.version = Version(self.model)

    # --- playing ------------------------------------------------------------------------------------------------------

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per ask: an option sampled by likelihood, or generated text."""
        chosen = [i for i, ask in enumerate(asks) if ask.options and self.choose == "likelihood"]
        free = sorted(set(range(len(asks))) - set(chosen))
        replies = dict(zip(chosen, self._pick([asks[i] for i in chosen]), strict=True)) if chosen else {}
        if free:
            replies |= dict(zip(free, self.write([asks[i] for i in free], self.weights), strict=True))
        return [replies[i] for i in range(len(asks))]

    def write(self, asks: Sequence[Ask], weights: Weights | Mixture) -> list[Reply]:
        """Generate one text per ask from the given weights, with this player's sampling options."""
        prompts, keys, texts = [self.render(ask.messages) for ask in asks], [ask.key for ask in asks], self.texts
        how = self.max_tokens, self.temperature, self.truncation, self.stop_ids
        sampling = Sampling(*how, texts.pad_id, self.rows.most, texts.stopped if texts.stop else None)
        found = self.rows.halving(
            lambda rows: self.engine.generate(weights, prompts, keys, replace(sampling, batch_size=rows)),
            len(asks),
            self.engine.rest,
        )
        return [
            Reply(texts.reply(ask, one.ids), prompt, one.ids, one.logprobs)
            for ask, prompt, one in zip(asks, prompts, found, strict=True)
        ]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply: the tokenizer's end token and those of the generation config."""
        config = self.model.generation_config
        extra = config.eos_token_id if config is not None else None
        more = extra if isinstance(extra, list) else [extra] if extra is not None else []
        return tuple(sorted({self.texts.end, *more}))

    @property
    def weights(self) -> Weights:
        """The current weights, for an engine."""
        live = self.frozen_adapter is None
        return Weights(self.version.uid, self.model, self.forward_passes, self.compute_dtype, live, self.version.frozen)

    @property
    def samples_exactly(self) -> bool:  # type: ignore[override]
        return self.engine.exact

    @property
    def concurrent(self) -> bool:  # type: ignore[override]
        return self.engine.concurrent

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        if self.choose != "likelihood":
            raise SelfplayError(
                "a language model with player.choose=text has no exact probabilities of options; "
                "use player.choose=likelihood, or play episodes instead"
            )
        menus = [self._menu(ask, self.render(ask.messages)) for ask in asks]
        found = [p.double().softmax(0) for p in self._menu_logprobs(menus)]
        if self.temperature == 0:
            found = [torch.nn.functional.one_hot(p.argmax(), len(p)).double() for p in found]
        return [tuple(p.tolist()) for p in found]

    def _pick(self, asks: Sequence[Ask]) -> list[Reply]:
        """Sample one option per ask by likelihood, as a single action whatever its number of tokens."""
        menus, replies = [self._menu(ask, self.render(ask.messages)) for ask in asks], []
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
        with ONE_AT_A_TIME, self.forward_passes():
            every = self.rows.halving(
                lambda rows: choice_logprobs(self.model, menus, self.temperature or 1.0, rows),
                sum(len(choices) for _, choices in menus),
            )
        return list(torch.cat(every).cpu().split([len(p) for p in every]))  # one copy from the device

    def encode_reply(self, ask: Ask, text: str) -> Reply:
        prompt = self.render(ask.messages)
        if ask.options and self.choose == "likelihood":
            return Reply(text, prompt, (option_index(ask, text),), (), self._menu(ask, prompt)[1])
        return Reply(text, prompt, self.texts.target(text, self.max_tokens))

    def moved_reply(self, ask: Ask, reply: Reply) -> Reply | None:
        if reply.choices:
            return super().moved_reply(ask, reply)
        cut_off = self._cut_off(reply.reply_ids)
        return None if cut_off else Reply(reply.text, self.render(ask.learnt_prompt), reply.reply_ids)

    def truncated(self, batch: Batch) -> Tensor:
        replies = [ids[mask].tolist() for ids, mask in zip(batch.replies, batch.mask, strict=True)]
        return torch.tensor([not c and self._cut_off(ids) for c, ids in zip(batch.choices, replies, strict=True)])

    def _cut_off(self, ids: Sequence[int]) -> bool:
        return len(ids) == self.max_tokens and ids[-1] not in self.stop_ids and not self.texts.stopped(list(ids))

    def _menu(self, ask: Ask, prompt: tuple[int, ...]) -> Menu:
        """The options' token ids, each with the end token."""
        if not ask.options:
            raise SelfplayError(f"the role '{ask.role}' was asked for free text, which has no options; play episodes")
        return prompt, tuple(self.texts.option(option) for option in ask.options)

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's token ids by the chat template, see `Texts.prompt`."""
        return self.texts.prompt(messages, self.max_tokens)

    def next_token(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """[N, V] next-token log-probabilities after each prompt, at temperature 1."""
        with self.forward_passes():
            return self.rows.halving(lambda rows: next_logprobs(self.model, prompts, rows), len(prompts))

    def with_temperature(self, temperature: float) -> "LanguageModel":
        twin = copy.copy(self)
        twin.temperature = temperature
        return twin

    # --- learning -----------------------------------------------------------------------------------------------------

    def logprobs(self, batch: Batch) -> Tensor:
        if torch.is_grad_enabled():
            self.engine.rest()
        with (
            self.forward_passes(),
            checkpointed(self.model) if self.gradient_checkpointing else nullcontext(),
        ):
            found: Tensor = through(self.model, lambda _: self._logprobs(batch))
            return found

    def _logprobs(self, batch: Batch) -> Tensor:
        chosen, how = torch.tensor([bool(c) for c in batch.choices]), (self.temperature, self.truncation)
        if not chosen.any():
            return reply_logprobs(self.model, batch.prompts, batch.replies, batch.mask, *how)
        device = self.model.device
        out = torch.zeros(batch.replies.shape, device=device)
        picks, texts = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
        menus = [(tuple(batch.prompts[i].tolist()), batch.choices[i]) for i in picks.tolist()]
        every = choice_logprobs(self.model, menus, self.temperature, self.rows.most)
        taken = [p[i] for p, i in zip(every, batch.replies[picks, 0].tolist(), strict=True)]
        out[sent(picks, device), 0] = torch.stack(taken)
        if len(texts):
            part = batch.rows(texts)
            written = reply_logprobs(self.model, part.prompts, part.replies, part.mask, *how)
            out[sent(texts, device), : written.shape[1]] = written
        return out

    def rounding(self, batch: Batch) -> Tensor:
        """The measured rounding error, see `selfplay.engines.rounding`."""
        chosen = torch.tensor([bool(c) for c in batch.choices], dtype=torch.bool)
        found, mask = torch.zeros(batch.replies.shape), batch.mask & ~chosen[:, None]
        with self.forward_passes():
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
            self.engine.rest()
        kind = self.model.device.type
        ways = ways_of(self.model, self.engine, again, self.gradient_checkpointing)
        return ways | {"matrix products": f"{products_in(self.compute_dtype or self.model.dtype, kind)} on {kind}"}
