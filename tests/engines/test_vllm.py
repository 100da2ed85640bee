"""engine=server against vLLM itself, on processors: `make vllm` installs it, and these tests are skipped without it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cli
import pytest
import torch
from language_models import adapted, batch_for, made, moved, perturb

from selfplay import serve
from selfplay.clients.transport import address, send
from selfplay.core import Ask, Reply, SelfplayError, user
from selfplay.engines.engine import Sampling
from selfplay.engines.server.client import FRESH, Client
from selfplay.engines.server.engine import ServerEngine, _request
from selfplay.engines.server.transfer import load
from selfplay.models import smollm2
from selfplay.models.load import resolve
from selfplay.players.language_model import LanguageModel

PYTHON = cli.ROOT / serve.FOLDER / "bin" / "python"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed; install it with: make vllm"),
]
ASKS = [Ask("solver", user(f"add {i} and {j}"), key=f"{i}/{j}") for i in range(4) for j in range(4)]
TINY = 2e-5  # nats between vLLM's log-probabilities and transformers' in float32
SMOLLM2 = 2e-4


@contextmanager
def served(model: str, *flags: str) -> Iterator[list[str]]:
    """The URLs that `selfplay serve` prints; in the end it is interrupted, and its servers are gone."""
    command = [sys.executable, "-m", "selfplay", "serve", model, "--port", "0", "--python", str(PYTHON), *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            line = next((line for line in process.stdout if line.startswith(("engine=server", "reward=rm_server"))), "")
            assert line, process.stderr.read()
            urls = re.findall(r"http://[\d.:]+", line)
            yield urls
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
    for url in urls:
        with pytest.raises(OSError, match="refused"):
            send("GET", address(url), "/health", {}, b"", 5.0)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[str]]:
    """Two servers of the embedded model."""
    with served("asset:tiny", "--replicas", "2", "--adapters", "2") as urls:
        yield urls


@pytest.fixture
def urls(servers: list[str]) -> list[str]:
    """The same, with the weights that they were started with."""
    for url in servers:
        load(Client(url, 60.0), Path(resolve("asset:tiny")), FRESH, begun=False)
    return servers


def apart(policy: LanguageModel, replies: Sequence[Reply], temperature: float = 1.0) -> float:
    """The largest difference from the log-probabilities of one plain forward pass per reply; pytest -rP shows it."""
    found = []
    with torch.no_grad():
        for reply in replies:
            logits = policy.model(input_ids=torch.tensor([[*reply.prompt_ids, *reply.reply_ids]])).logits[0]
            rows = torch.log_softmax(logits[len(reply.prompt_ids) - 1 : -1] / temperature, -1)
            ours = rows.gather(-1, torch.tensor(reply.reply_ids)[:, None])[:, 0]
            found.append(float((ours - torch.tensor(reply.logprobs)).abs().max()))
    print(f"apart by {max(found):.2g} nats on one of {sum(len(reply.reply_ids) for reply in replies)} tokens")
    return max(found)


def at(urls: list[str], policy: LanguageModel, adapters: int = 2) -> LanguageModel:
    policy.engine = ServerEngine(urls, adapters=adapters)
    return policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_model(temperature: float, urls: list[str]) -> None:
    """Of the distribution that is sampled from, and the same for the same key, alone or among others."""
    policy = at(urls[:1], made(max_tokens=24, temperature=temperature))
    replies = policy.act(ASKS)
    assert apart(policy, replies, temperature) < TINY
    assert policy.act(ASKS[5:6])[0].reply_ids == replies[5].reply_ids
    free = at(urls[:1], made(max_tokens=8, temperature=2.0))
    moved(free, 1)
    assert len({reply.reply_ids for reply in free.act([Ask("s", user("say"), key=str(i)) for i in range(8)])}) > 1


@pytest.mark.parametrize("options", [{"top_k": 6, "top_p": 0.9}, {"top_k": 6, "min_p": 0.05}], ids=str)
def test_truncated_distributions_are_the_learners(options: dict[str, float], urls: list[str]) -> None:
    policy = at(urls[:1], made(max_tokens=24, temperature=1.5, **options))
    replies = policy.act(ASKS)
    batch = batch_for(policy, ASKS)
    with torch.no_grad():
        found = policy.logprobs(batch)
    assert float((found - batch.logprobs).abs()[batch.mask].max()) < TINY
    assert apart(policy, replies, 1.5) > 0.05, "nothing was truncated"


def test_tied_heads_after_weights_were_sent(urls: list[str]) -> None:
    """Every matrix is the new one; the old head alone would be far away."""
    policy, before = at(urls[:1], made(max_tokens=24)), made()
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    for step in range(3):
        moved(policy, step)
        replies = policy.act(ASKS)
        assert apart(policy, replies) < TINY
        old = made()
        old.model.load_state_dict(policy.model.state_dict())
        old.model.lm_head.weight = before.model.lm_head.weight
        assert apart(old, replies) > 0.5


def test_adapters_and_the_base_model_in_one_batch(urls: list[str]) -> None:
    """After more adapters than there are slots, two of them and the base model at the same time."""
    base, first, second = made(), adapted(1), adapted(2)
    first.engine = second.engine = ServerEngine(urls[:1], adapters=2)
    for step in range(5):
        moved(first, step)
        assert apart(first, first.act(ASKS[:4])) < TINY
    moved(second, 7)
    prompts = [reply.prompt_ids for reply in second.act(ASKS)]
    client, how = Client(urls[0], 60.0), Sampling(16, stop_ids=made().stop_ids)
    with ThreadPoolExecutor(2 + len(ASKS)) as pool:
        plain = [
            pool.submit(client.generate, _request(prompt, f"base-{i}", how, None)) for i, prompt in enumerate(prompts)
        ]
        mine = [pool.submit(policy.act, ASKS) for policy in (first, second)]
        found = [one.result().completion for one in plain]
    replies = [Reply("", prompt, one.ids, one.logprobs) for prompt, one in zip(prompts, found, strict=True)]
    for policy, said in ((base, replies), (first, mine[0].result()), (second, mine[1].result())):
        assert apart(policy, said) < TINY
        assert all(apart(other, said) > 0.05 for other in (base, first, second) if other is not policy)


def test_adapters_on_other_weights_are_refused(urls: list[str]) -> None:
    whole, adapter = at(urls, made()), at(urls, adapted())
    adapter.act(ASKS)
    whole.act(ASKS)
    with pytest.raises(SelfplayError, match="which a run sent, below an adapter"):
        adapter.act(ASKS)


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_of_lsp(player: str, count: int, urls: list[str], tmp_path: Path) -> None:
    """Five steps, each with new weights, on one server and on two."""
    args = ("eval=none", "steps=5", "episodes=4", "game.answers=4", "player.max_tokens=16", f"player={player}")
    where = ("engine=server", f"engine.urls=[{','.join(urls[:count])}]", "engine.adapters=2")
    run = cli.finished(tmp_path, *args, *where, "update.optimizer.lr=1e-3")
    found = cli.metrics(run)
    print(*(line["mismatch/max"] for line in found))
    assert len(found) == 5 and all(line["mismatch/max"] < 1e-4 for line in found)
    assert all(Client(url, 60.0).label() != FRESH for url in urls[:count]) == (player == "tiny")
    assert cli.metrics(run)[-1]["solver/kl"] > 1e-6, "nothing was learnt"


def test_two_servers_share_prompts_and_both_get_the_weights(urls: list[str]) -> None:
    policy = at(urls, made())
    moved(policy, 3)
    engine = policy.engine
    assert isinstance(engine, ServerEngine)
    replies = policy.act(ASKS)
    by_server = [[r for r in replies if engine._client(tuple(r.prompt_ids)) is client] for client in engine.clients]
    assert all(by_server) and all(apart(policy, mine) < TINY for mine in by_server)
    assert len({client.label() for client in engine.clients}) == 1


@pytest.mark.skipif(not smollm2.folder().exists(), reason="SmolLM2 is not converted; create it with: make smollm2")
def test_smollm2() -> None:
    """A tied head, grouped queries and a vocabulary of 49 k, before and after new weights were sent."""
    with served("cache:smollm2", "--adapters", "0", "--", "--max-model-len", "512") as urls:
        policy = at(urls, LanguageModel("cache:smollm2", max_tokens=24))
        asks = ASKS[:6]
        assert apart(policy, policy.act(asks)) < SMOLLM2
        perturb(policy.model, 0.002)
        policy.version.raise_by_one()
        replies = policy.act(asks)
        assert apart(policy, replies) < SMOLLM2
        assert apart(LanguageModel("cache:smollm2"), replies) > 0.05
