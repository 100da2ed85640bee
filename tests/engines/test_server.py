"""Runs with engine=server, against a double of vLLM's server: the embedded engine's runs, and every way to fail."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import cli
import pytest
from language_models import adapted, made, moved
from servers import Double, Misbehaviour, serving

from selfplay.core import Ask, SelfplayError, user
from selfplay.engines.engine import Mixture, Sampling
from selfplay.engines.server.engine import ServerEngine

LSP = ("eval=none", "steps=3", "episodes=3", "game.answers=3", "player.max_tokens=16")
ASKS = [Ask("solver", user(text), key=f"{text}/{i}") for text in ("add 3 and 4", "reverse abc") for i in range(3)]


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as started:
        yield started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded engine's run."""
    return cli.finished(tmp_path_factory.mktemp("server") / "run", *LSP)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a server that never fails."""
    with serving(Double()) as double:
        return cli.finished(tmp_path_factory.mktemp("served") / "run", *LSP, *on(double))


def texts(run: Path) -> list[str]:
    return [turn["reply"] for turn in cli.lines(run / "episodes.jsonl")]


def on(double: Double, seconds: int = 60) -> tuple[str, ...]:
    return ("engine=server", f"engine.urls=[{double.url}]", f"engine.seconds={seconds}")


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_a_run_is_the_embedded_engines(player: str, double: Double, whole: Path, tmp_path: Path) -> None:
    """Token for token; weights are sent once a step, and the mismatch is rounding."""
    own = whole if player == "tiny" else cli.finished(tmp_path / "own", *LSP, f"player={player}")
    run = cli.finished(tmp_path / "run", *LSP, f"player={player}", *on(double))
    assert texts(run) == texts(own)
    assert all(line["mismatch/max"] < 1e-4 and line["mismatch/ess"] > 0.999 for line in cli.metrics(run))
    sent = double.calls.count("/update_weights" if player == "tiny" else "/v1/load_lora_adapter")
    assert sent >= 3
    if player == "tiny":
        assert double.calls.count("/init_weight_transfer_engine") == 1


def test_adapters_are_unloaded_and_their_names_never_used_again(double: Double) -> None:
    policy = adapted()
    policy.engine = ServerEngine([double.url], adapters=2)
    names: set[str] = set()
    for step in range(4):
        moved(policy, step)
        policy.act(ASKS)
        assert len(double.adapters) <= 2 and not set(list(double.adapters)[-1:]) & names
        names |= set(double.adapters)
    assert len(names) == 4
    assert not [path for path in policy.engine.folder.iterdir() if path.name not in double.adapters]


def test_several_servers_share_prompts_and_each_prompt_has_one(double: Double) -> None:
    with serving(Double()) as other:
        policy, own = made(), made()
        policy.engine = ServerEngine([double.url, other.url])
        asks = [Ask("solver", user(f"add {n} and 4"), key=f"{n}/{i}") for n in range(8) for i in range(2)]
        assert [r.reply_ids for r in policy.act(asks)] == [r.reply_ids for r in own.act(asks)]
        counts = [one.calls.count("/inference/v1/generate") for one in (double, other)]
        assert sum(counts) == len(asks) and min(counts) > 0 and all(count % 2 == 0 for count in counts)


def test_weights_of_another_run_are_refused(double: Double) -> None:
    """Two runs at one server: the labels hold a run's own name."""
    one, two = made(), made()
    one.engine, two.engine = ServerEngine([double.url]), ServerEngine([double.url])
    one.act(ASKS)
    two.act(ASKS)
    with pytest.raises(SelfplayError, match=r"sampled with the weights \w+/policy-\d+@\d+ instead of \w+/policy-"):
        one.act(ASKS)


def keeps_its_weights(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    if route == "/update_weights" and double.version:
        handler.reply(200, {"message": "done"})  # type: ignore[attr-defined]
        return True
    return False


def test_a_server_that_labels_old_weights_as_new_ends_the_run(double: Double, tmp_path: Path) -> None:
    """As vLLM does with a part of them, see `vllm_process.pack_heads`."""
    double.misbehaves = keeps_its_weights
    ended = cli.run(*LSP, *on(double), "update.optimizer.lr=0.1", f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and "disagree by" in ended.err and "update.most_mismatch=0.1" in ended.err
    assert cli.summary(tmp_path)["steps"] == 1


def test_an_adapter_needs_the_model_that_the_server_was_started_with(double: Double) -> None:
    """Weights of a run before would be below it."""
    whole, adapter = made(), adapted()
    whole.engine, adapter.engine = ServerEngine([double.url]), ServerEngine([double.url])
    adapter.act(ASKS)
    whole.act(ASKS)
    with pytest.raises(SelfplayError, match=r"has the weights \w+/policy-\d+@\d+, which a run sent, below an adapter"):
        adapter.act(ASKS)
    assert double.calls.count("/inference/v1/generate") == 2 * len(ASKS), "nothing was asked of it"


def test_weights_are_passed_on_where_one_says(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is made, under a path that means the same to a server elsewhere."""
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    def looks(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
        seen.extend(str(path) for path in (tmp_path / "on" / "all nodes").rglob("*.safetensors"))
        return False

    double.misbehaves = looks
    policy = made()
    policy.engine = ServerEngine([double.url], folder="on/all nodes")
    monkeypatch.chdir(tmp_path.parent)
    policy.act(ASKS)
    assert seen and policy.engine.folder.is_absolute()
    (tmp_path / "file").touch()
    with pytest.raises(SelfplayError, match=r"file/below cannot be written \(Not a directory\)"):
        ServerEngine([double.url], folder=str(tmp_path / "file" / "below"))


def test_what_vllm_truncates_in_another_order_is_refused(double: Double) -> None:
    """min_p before top_p; with top_k the order does not matter."""
    policy = made(top_p=0.9, min_p=0.05)
    policy.engine = ServerEngine([double.url])
    with pytest.raises(SelfplayError, match=r"player\.top_p=0\.9 and player\.min_p=0\.05 cannot be combined"):
        policy.act(ASKS)
    for options in ({"top_k": 6, "top_p": 0.9}, {"top_k": 6, "min_p": 0.05}):
        policy = made(**options)
        policy.engine = ServerEngine([double.url])
        assert policy.act(ASKS)


def test_a_mixture_is_refused(double: Double) -> None:
    policy = made()
    with pytest.raises(SelfplayError, match="engine=server cannot sample from a mixture of two models"):
        ServerEngine([double.url]).generate(Mixture(policy.weights, policy.weights, 0.5), [(5,)], ["k"], Sampling(1))


# --- failures ---------------------------------------------------------------------------------------------------------


def hang(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    end = time.monotonic() + 120
    while not double.closed and time.monotonic() < end:
        time.sleep(0.1)
    return True


def dies(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    handler.connection.close()
    return True


def refuses(status: int) -> Misbehaviour:
    def answer(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
        handler.reply(status, {"error": {"message": "no\nroom", "type": "x"}})  # type: ignore[attr-defined]
        return True

    return answer


def forgets(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    double.label = "weights of before"
    return False


def lies(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    handler.reply(200, {"choices": [{"token_ids": [5, 6], "finish_reason": "stop", "logprobs": {"content": []}}]})  # type: ignore[attr-defined]
    return True


FAILURES: dict[str, tuple[str, Misbehaviour, str]] = {
    "killed": ("/inference/v1/generate", dies, "does not answer /inference/v1/generate"),
    "hanging": ("/inference/v1/generate", hang, "no complete response within 15 s"),
    "400": ("/inference/v1/generate", refuses(400), "refused /inference/v1/generate (status 400: no room)"),
    "500": ("/inference/v1/generate", refuses(500), "(status 500: no room)"),
    "half an update": ("/update_weights", refuses(500), "refused /update_weights (status 500: no room)"),
    "killed in an update": ("/finish_weight_update", dies, "does not answer /finish_weight_update"),
    "wrong version": ("/inference/v1/generate", forgets, "sampled with the weights weights of before instead of"),
    "no log-probs": ("/inference/v1/generate", lies, "2 tokens with 0 log-probabilities"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_sentence_and_the_run_resumes(name: str, double: Double, served: Path, tmp_path: Path) -> None:
    """It fails in the second step; resumed with a server that is well, it is the run that never failed, bit for bit."""
    route, wrong, words = FAILURES[name]
    updates = 0

    def misbehaves(double: Double, handler: BaseHTTPRequestHandler, called: str) -> bool:
        nonlocal updates
        updates += called == "/start_weight_update"
        return updates >= 2 and called == route and wrong(double, handler, called)

    with serving(Double()) as broken:
        broken.misbehaves = misbehaves
        seconds = 15 if name == "hanging" else 60
        ended = cli.run(*LSP, *on(broken, seconds), f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and ended.err.startswith("error: the server http://127.0.0.1:"), ended.err
    assert ended.err.count("\n") == 1 and words in ended.err, ended.err
    assert cli.summary(tmp_path / "run")["steps"] == 1
    assert cli.run(f"resume={tmp_path / 'run'}", "engine=server", f"engine.urls=[{double.url}]").code == 0
    assert texts(tmp_path / "run") == texts(served)
    [file] = (tmp_path / "run" / "checkpoints" / "step-000003").glob("*.safetensors")
    assert file.read_bytes() == (served / "checkpoints" / "step-000003" / file.name).read_bytes()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    args = ("engine=server", "engine.urls=[http://127.0.0.1:9]", *LSP)
    ended = cli.run(*args, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and "error: the server http://127.0.0.1:9 does not answer /pause" in ended.err
    with pytest.raises(SelfplayError, match=r"engine\.urls is empty"):
        ServerEngine([])
