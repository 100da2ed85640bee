"""One contract for every engine: what it generates, with which log-probs, and with which weights."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cli
import pytest
import torch
from language_models import made, perturb, plain_logprobs
from scipy.stats import chisquare
from servers import Double, serving
from torch import Tensor, log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from selfplay.core import Ask, Episode, Reply, SelfplayError, Turn, user
from selfplay.engines import embedded
from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.engine import Engine, Mixture, Sampling, Weights
from selfplay.engines.server.engine import ServerEngine
from selfplay.engines.transformers.continuous import TransformersEngine
from selfplay.engines.truncation import Truncation
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate
from selfplay.updates.mismatch import corrected, weighed

ENGINES: dict[str, Callable[[], Engine]] = {"embedded": EmbeddedEngine, "transformers": TransformersEngine}
PROMPTS = [(5, 6, 7), (8, 9), (5, 6, 7), (10, 11, 12, 13, 14, 15), (5, 6), (20,)]
KEYS = [f"key/{i}" for i in range(len(PROMPTS))]


@pytest.fixture(params=[*ENGINES, "server"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine; the server's is a double with our own sampler (tests/support/servers.py)."""
    if request.param in ENGINES:
        yield ENGINES[request.param]()
        return
    with serving(Double()) as double:
        yield ServerEngine([double.url])


@pytest.fixture
def policy(engine: Engine) -> LanguageModel:
    """The embedded architecture with weights of chance, and moved from there: likely and unlikely tokens."""
    found = made(engine=engine)
    perturb(found.model, 0.1)
    found.version.raise_by_one()
    return found


def generated(policy: LanguageModel, prompts: list[tuple[int, ...]], keys: list[str], **how: object) -> list[object]:
    sampling = Sampling(**{"max_tokens": 12, "temperature": 0.8, "stop_ids": (1,), **how})  # type: ignore[arg-type]
    return policy.engine.generate(policy.weights, prompts, keys, sampling)  # type: ignore[return-value]


def test_a_completion_is_a_function_of_prompt_and_key(policy: LanguageModel) -> None:
    """Alone, in another order, with fewer side by side, and whatever the global generator."""
    together = generated(policy, PROMPTS, KEYS)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    others = [
        [generated(policy, [prompt], [key])[0] for prompt, key in zip(PROMPTS, KEYS, strict=True)],
        generated(policy, PROMPTS[::-1], KEYS[::-1])[::-1],
        generated(policy, PROMPTS, KEYS, batch_size=2),
    ]
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    for other in others:
        for one, two in zip(together, other, strict=True):
            assert one.ids == two.ids and one.finish_reason == two.finish_reason  # type: ignore[attr-defined]
            assert one.logprobs == pytest.approx(two.logprobs, abs=2e-5)  # type: ignore[attr-defined]
    assert len({one.ids for one in generated(policy, PROMPTS[:1] * 8, [str(i) for i in range(8)])}) > 1  # type: ignore[attr-defined]


def test_logprobs_are_those_of_a_plain_forward_pass(policy: LanguageModel) -> None:
    server = isinstance(policy.engine, ServerEngine)  # vLLM applies min_p and top_p in another order
    cut = [Truncation(5, 0.9, 0.0), Truncation(5, 1.0, 0.01)] if server else [Truncation(5, 0.9, 0.01)]
    for how in ({}, {"temperature": 1.5}, {"temperature": 0.0}, *({"truncation": one} for one in cut)):
        for prompt, one in zip(PROMPTS, generated(policy, PROMPTS, KEYS, **how), strict=True):
            ids = torch.tensor([[*prompt, *one.ids]])  # type: ignore[attr-defined]
            logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            truncation = how.get("truncation", Truncation(0, 1.0, 0.0))
            kept = truncation(logits.float() / (how.get("temperature", 0.8) or 1.0))  # type: ignore[operator]
            wanted = torch.log_softmax(kept, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
            torch.testing.assert_close(torch.tensor(one.logprobs), wanted.detach(), atol=2e-5, rtol=0)  # type: ignore[attr-defined]
            assert one.finish_reason == ("stop" if one.ids[-1] == 1 else "length")  # type: ignore[attr-defined]
            assert len(one.ids) == 12 or one.ids[-1] == 1  # type: ignore[attr-defined]


def test_the_law_is_that_of_the_softmax(engine: Engine) -> None:
    """Two tokens of a model with a vocabulary of six, enumerated: 3,000 fixed keys, and so a fixed p."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=0, eos_token_id=5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    perturb(model, 0.3)
    weights = Weights("one@0", model, torch.enable_grad)  # any context
    prompt, count = (1, 2, 3), 600 if isinstance(engine, ServerEngine) else 3000
    found = engine.generate(weights, [prompt] * count, [str(i) for i in range(count)], Sampling(2, batch_size=500))
    seen = Counter(one.ids for one in found)

    def logp(*ids: int) -> Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].double(), -1)

    law = {(a, b): float((logp()[a] + logp(a)[b]).exp()) for a in range(6) for b in range(6)}
    assert sum(law.values()) == pytest.approx(1)
    common = [ids for ids, p in law.items() if p * count >= 5]
    rest = count - sum(seen[ids] for ids in common)
    wanted = [law[ids] * count for ids in common]
    observed = [seen[ids] for ids in common]
    if rest or count - sum(wanted) > 1e-6:
        observed, wanted = [*observed, rest], [*wanted, count - sum(wanted)]
    assert len(common) > 10 and chisquare(observed, wanted).pvalue > 1e-3


def test_new_weights_after_an_update_and_others_beside_them(policy: LanguageModel) -> None:
    """After a step of any optimizer, a restore and a load; a snapshot keeps its own."""
    ask = [Ask("solver", user("add 3 and 4"), key="k")]

    def right(player: LanguageModel) -> tuple[float, ...]:
        [reply] = player.act(ask)
        alone = plain_logprobs(player.model, reply.prompt_ids, reply.reply_ids).detach()
        torch.testing.assert_close(torch.tensor(reply.logprobs), alone, atol=2e-5, rtol=0)
        return reply.logprobs

    first, snapshot = right(policy), policy.snapshot()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    batch = collate([(Episode(0, []), Turn(ask[0], policy.act(ask)[0], payoff=1.0, player="learner"))], "learner")
    policy.logprobs(batch).sum().backward()
    optimizer.step()
    second = right(policy)
    assert second != first and right(snapshot) == pytest.approx(first, abs=1e-6)
    policy.restore(snapshot)
    assert right(policy) == pytest.approx(first, abs=1e-6)


def test_memory_is_given_back_before_a_gradient(policy: LanguageModel) -> None:
    ask = [Ask("solver", user("add 3 and 4"), key="k")]
    batch = collate([(Episode(0, []), Turn(ask[0], policy.act(ask)[0], payoff=1.0, player="learner"))], "learner")
    if isinstance(policy.engine, ServerEngine):
        pytest.skip("its memory is another process's")
    assert policy.engine._kept  # type: ignore[attr-defined]
    policy.logprobs(batch).sum().backward()
    assert not policy.engine._kept  # type: ignore[attr-defined]
    assert policy.act(ask)


def test_an_adapter_and_its_snapshot(engine: Engine) -> None:
    policy = made(lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, engine=engine)
    perturb(policy.adapter.model, 0.05) if policy.adapter else None
    policy.version.raise_by_one()
    snapshot, ask = policy.snapshot(), [Ask("solver", user("reverse abc"), key="k")]
    before = snapshot.act(ask)[0]
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05
    policy.version.raise_by_one()
    assert snapshot.act(ask)[0].reply_ids == before.reply_ids
    assert snapshot.act(ask)[0].logprobs == pytest.approx(before.logprobs, abs=1e-5)
    assert policy.act(ask)[0].logprobs != pytest.approx(before.logprobs, abs=1e-3)


def test_texts_that_end_a_reply(policy: LanguageModel) -> None:
    stopped = made(engine=policy.engine, stop=["e"], max_tokens=24)
    replies = stopped.act([Ask("solver", user("add 3 and 4"), key=str(i)) for i in range(6)])
    alone = made(stop=["e"], max_tokens=24).act([Ask("solver", user("add 3 and 4"), key=str(i)) for i in range(6)])
    assert [r.reply_ids for r in replies] == [r.reply_ids for r in alone] and all("e" not in r.text for r in replies)


def test_what_the_transformers_engine_cannot_do_is_told() -> None:
    engine, policy = TransformersEngine(), made()
    both = Mixture(policy.weights, policy.weights, 0.5)
    with pytest.raises(SelfplayError, match="engine=transformers cannot sample from a mixture of two models"):
        engine.generate(both, [(5,)], ["k"], Sampling(1))
    with pytest.raises(SelfplayError, match="a prompt has no token"):
        engine.generate(policy.weights, [()], ["k"], Sampling(1))


def test_an_architecture_that_pages_break_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.engines.transformers.continuous._apart", lambda *given: 0.5)
    with pytest.raises(SelfplayError, match=r"from LlamaForCausalLM \(log-probabilities are off by 0.5\)"):
        made(engine=TransformersEngine()).act([Ask("solver", user("add 3 and 4"), key="k")])


# --- the correction where an engine is not exact ----------------------------------------------------------------------


def toy(ours: list[list[float]], theirs: list[list[float]]) -> tuple[object, Tensor]:
    turns = []
    for i, row in enumerate(theirs):
        reply = Reply("x", (1,), tuple(range(len(row))), tuple(row))
        turns.append((Episode(i, []), Turn(Ask("solver"), reply, payoff=1.0, player="learner")))
    return collate(turns, "learner"), torch.tensor(ours)


def test_the_corrections_by_hand() -> None:
    """Ratios e^0.1 and e^1 in one reply, e^0 and e^-1 in the other."""
    batch, ours = toy([[-1.0, -1.0], [-1.0, -2.0]], [[-1.1, -2.0], [-1.0, -1.0]])
    found, weights, told = corrected(batch, ours, "token_truncate", 2.0)  # type: ignore[arg-type]
    e = torch.tensor([0.1, 1.0, 0.0, -1.0]).double().exp()
    torch.testing.assert_close(weights.double().flatten(), e.clamp(max=2.0), atol=1e-6, rtol=0)
    assert torch.equal(found.logprobs, ours)
    assert told["mismatch/mean"] == pytest.approx(2.1 / 4) and told["mismatch/max"] == pytest.approx(1.0)
    assert told["mismatch/clipped"] == 0.25
    k3 = sum(float(r) - 1 - d for r, d in zip(e, (0.1, 1.0, 0.0, -1.0), strict=True)) / 4
    assert told["mismatch/kl"] == pytest.approx(k3, rel=1e-5)
    whole = torch.tensor([1.1, -1.0]).double().exp()
    assert told["mismatch/ess"] == pytest.approx(float(whole.sum() ** 2 / whole.square().sum() / 2), rel=1e-5)
    _, weights, told = corrected(batch, ours, "sequence_mask", 1.5)  # type: ignore[arg-type]
    assert weights.tolist() == [[0.0, 0.0], [0.0, 0.0]] and told["mismatch/clipped"] == 1.0
    _, weights, _ = corrected(batch, ours, "sequence_mask", 1.7)  # type: ignore[arg-type]
    assert weights.tolist() == [[0.0, 0.0], [1.0, 1.0]], "e^0.55 is beyond 1.7, e^-0.5 within 1 / 1.7"
    _, weights, told = corrected(batch, ours, "none", 2.0)  # type: ignore[arg-type]
    assert weights.tolist() == [[1.0, 1.0], [1.0, 1.0]] and told["mismatch/clipped"] == 0.0


def test_more_than_rounding_is_not_corrected() -> None:
    """A mean of 0.525 nats; what others said has no part in it, and what is not a number is no rounding."""
    batch, ours = toy([[-1.0, -1.0], [-1.0, -2.0]], [[-1.1, -2.0], [-1.0, -1.0]])
    assert corrected(batch, ours, "none", 2.0, 0.53)[2]["mismatch/mean"] == pytest.approx(0.525)
    told = (
        r"disagree by 0\.5[23] nats per token .* more than update\.most_mismatch=0\.52, so the engine has other weights"
    )
    with pytest.raises(SelfplayError, match=told):
        corrected(batch, ours, "none", 2.0, 0.52)
    with pytest.raises(SelfplayError, match="disagree by nan nats per token"):
        corrected(batch, ours * torch.nan, "none", 2.0, 0.53)
    others = replace(batch, off_policy=(True, False))
    assert corrected(others, ours, "none", 2.0, 0.501)[2]["mismatch/mean"] == 0.5


def test_a_weight_is_of_the_gradient_alone() -> None:
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    got = weighed(logp, torch.tensor([[0.5, 2.0]]))
    assert torch.equal(got, logp)
    got.sum().backward()
    assert logp.grad is not None and logp.grad.tolist() == [[0.5, 2.0]]


def test_the_corrected_gradient_is_the_learners(tmp_path: Path) -> None:
    """Samples of another table, enumerated: their gradient weighed by the ratios is that of the learner's own."""
    pi = torch.tensor([0.2, -0.4, 0.9], requires_grad=True)
    mu = torch.tensor([0.5, 0.3, 0.1]).log()
    pay = torch.tensor([1.0, 0.0, 2.0])
    own = torch.autograd.grad((log_softmax(pi, 0).exp() * pay).sum(), pi)[0]
    logp = log_softmax(pi, 0)
    batch, _ = toy([[0.0]] * 3, [[float(x)] for x in mu])
    _, weights, _ = corrected(batch, logp.detach()[:, None], "token_truncate", 100.0)  # type: ignore[arg-type]
    got = torch.autograd.grad((mu.exp() * pay * weighed(logp[:, None], weights)[:, 0]).sum(), pi)[0]
    torch.testing.assert_close(got, own, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(torch.autograd.grad((mu.exp() * pay * log_softmax(pi, 0)).sum(), pi)[0], own, atol=1e-2)


class Stale(TransformersEngine):
    """Its weights are those of the first call, as of an engine that misses every transfer."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.first: LanguageModel | None = None

    def generate(self, weights, prompts, keys, sampling):  # type: ignore[no-untyped-def]
        if self.first is None:
            self.first = made()
            self.first.model.load_state_dict(weights.model.state_dict())
        return super().generate(self.first.weights, prompts, keys, sampling)


LEARNS = ("reward=verifier", "eval=none", "steps=4", "episodes=8", "game.answers=4", "update.optimizer.lr=3e-3")


def test_a_run_logs_its_mismatch_and_stale_weights_are_seen(tmp_path: Path) -> None:
    args = ("engine=transformers", *LEARNS, "update.mismatch=none")
    fresh = cli.metrics(cli.finished(tmp_path / "fresh", *args))
    assert all(line["mismatch/ess"] > 0.999 and line["mismatch/max"] < 1e-3 for line in fresh)
    assert {"mismatch/mean", "mismatch/kl", "mismatch/clipped"} <= fresh[0].keys()
    args = (*args, "engine._target_=test_engines.Stale", "update.most_mismatch=inf")
    stale = cli.metrics(cli.finished(tmp_path / "stale", *args))
    assert stale[0]["mismatch/ess"] > 0.999, "nothing had moved yet"
    assert stale[-1]["mismatch/ess"] < 0.9 and stale[-1]["mismatch/max"] > 0.05


def test_stale_weights_end_a_run(tmp_path: Path) -> None:
    args = ("engine=transformers", *LEARNS, "engine._target_=test_engines.Stale")
    ended = cli.run(f"hydra.run.dir={tmp_path}", *args)
    assert ended.code == 1 and "nats per token (mismatch/mean), more than update.most_mismatch=0.1" in ended.err
    assert ended.err.count("\n") == 1 and 1 <= cli.summary(tmp_path)["steps"] < 4


def test_an_update_without_a_correction_stops_where_weights_are_stale(tmp_path: Path) -> None:
    """What cannot be corrected is compared, as the embedded engine's samples are; fresh weights pass."""
    args = ("engine=transformers", *LEARNS, "update=kto")
    cli.finished(tmp_path / "fresh", *args, "steps=2")
    ended = cli.run(f"hydra.run.dir={tmp_path / 'stale'}", *args, "engine._target_=test_engines.Stale")
    assert ended.code == 1 and "on a token (logprob_mismatch)" in ended.err
    assert 1 <= cli.summary(tmp_path / "stale")["steps"] < 4


def test_options_of_a_correction_are_checked(tmp_path: Path) -> None:
    for option, told in (
        ("mismatch=tis", "update.mismatch is 'tis'"),
        ("mismatch_clip=1", "update.mismatch_clip is 1"),
        ("most_mismatch=0", "update.most_mismatch is 0"),
    ):
        ended = cli.run(f"hydra.run.dir={tmp_path}", f"update.{option}", "steps=1")
        assert ended.code == 1 and re.match(rf"error: {told}", ended.err), ended.err


def test_an_engine_beside_a_table_changes_nothing(tmp_path: Path) -> None:
    ended = cli.run(f"hydra.run.dir={tmp_path}", "game=kuhn", "player=tabular", "engine=transformers", "steps=1")
    assert ended.code == 1 and "'engine=transformers' has no effect" in ended.err


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}], ids=["full", "LoRA"])
def test_a_live_and_a_frozen_decoder_are_kept_until_the_gradient(
    lora: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of: list[str] = []  # one entry for each decoder

    def decoder(*given: object, plain: type = embedded.Decoder, **options: object) -> object:
        made_of.append("")
        return plain(*given, **options)

    policy = made(lora=lora)
    ask, first, second = [Ask("solver", user("3 + 4"), key="k")], policy.snapshot(), policy.snapshot()
    monkeypatch.setattr(embedded, "Decoder", decoder)
    for player in (policy, first, policy, first, policy):
        player.act(ask)
    assert len(made_of) == 2
    second.act(ask)
    policy.act(ask)
    assert len(made_of) == 3, "the live one stays"
    first.act(ask)
    assert len(made_of) == 4, "but only one of the frozen ones does"
    policy.engine.rest()
    assert not policy.engine._kept
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05
    policy.version.raise_by_one()
    said = policy.act(ask), first.act(ask)
    assert said == (policy.act(ask), first.act(ask)) and said[0] != said[1], "each has its own weights"


def test_a_run_s_record_names_the_engine(policy: LanguageModel) -> None:
    kind = type(policy.engine).__name__
    told = {"EmbeddedEngine": "own layers", "TransformersEngine": "transformers' continuous batching"}
    assert policy.ways()["sampling"] == told.get(kind, "1 vLLM server")
