"""A reward model on a server: the rewards of reward=rm, and every way in which a server may fail or mislead."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

import cli
import pytest
import torch
from chat_models import saved
from language_models import saved_reward_model
from reward_servers import RewardServer
from servers import Double, Misbehaviour, serving
from torch import Tensor

from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.players.language_model import LanguageModel
from selfplay.referees.deduplicate import Pair
from selfplay.referees.reward_model import RewardModel
from selfplay.referees.served_reward_model import ServedRewardModel

LSP = ("eval=none", "steps=2", "episodes=3", "game.answers=3", "player.max_tokens=16")
PAIRS = [
    ("sort cab", "abc"),
    ("7+5", ""),
    ("sort cab", "cab"),
    ("how long?", "q" * 90),
    ("w" * 400, "v" * 400),
    ("", ""),
]
KEY = "sk-the-key-of-a-test-0123456789"


def turns(pairs: Sequence[Pair]) -> list[Turn]:
    return [Turn(Ask("solver", user(q), key=f"key/{i}"), Reply(a)) for i, (q, a) in enumerate(pairs)]


@pytest.fixture(scope="module")
def well() -> Iterator[RewardServer]:
    """A server that never fails."""
    with serving(RewardServer()) as started:
        yield started


@pytest.fixture(scope="module")
def ill() -> Iterator[RewardServer]:
    """A server that a test may spoil."""
    with serving(RewardServer()) as started:
        yield started


@pytest.fixture(scope="module")
def referee(ill: RewardServer) -> ServedRewardModel:
    """It has tried the server before a test spoils it."""
    return at(ill)


@pytest.fixture(scope="module")
def impatient(ill: RewardServer) -> ServedRewardModel:
    return at(ill, timeout=2.0)


@pytest.fixture(scope="module")
def right() -> Tensor:
    """The scores of PAIRS by the model here."""
    return RewardModel("asset:tiny-rm").logits(PAIRS)


@pytest.fixture(scope="module")
def whole(well: RewardServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a server that never fails."""
    args = (*LSP, "reward=rm_server", f"reward.url={well.url}", "reward.batch_size=2")
    return cli.finished(tmp_path_factory.mktemp("whole") / "run", *args)


@pytest.fixture
def spoilt(ill: RewardServer) -> Iterator[RewardServer]:
    before = {name: getattr(ill, name) for name in ("names", "context", "misbehaves", "tokenizer")}
    yield ill
    for name, value in before.items():
        setattr(ill, name, value)


def at(server: RewardServer, **options: Any) -> ServedRewardModel:
    return ServedRewardModel(**{"path": "asset:tiny-rm", "url": server.url, "timeout": 30.0, **options})


# --- the rewards of reward=rm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 100])
def test_scores_are_those_of_the_model_here(size: int, well: RewardServer) -> None:
    """Of any length, also truncated, in one request or in many."""
    pairs = [*PAIRS, PAIRS[0]]
    served, here = at(well, batch_size=size), RewardModel("asset:tiny-rm")
    well.texts.clear()
    found, right = served.score(turns(pairs), {}), here.score(turns(pairs), {})
    torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    assert len({round(score, 2) for score in right.tolist()}) == len(PAIRS), "scores are alike"
    assert served.metrics == here.metrics == {"truncated": 1 / len(PAIRS)}
    assert sorted(map(len, well.texts), reverse=True)[0] <= size and sum(map(len, well.texts)) == len(PAIRS)
    assert max(len(text) for texts in well.texts for text in texts) == 512


def test_a_url_may_end_as_an_endpoint_s(well: RewardServer) -> None:
    for ending in ("/", "/v1", "/v1/"):
        assert at(well, url=well.url + ending).classifier.url == well.url


def test_special_tokens_of_a_text_stay_text(well: RewardServer) -> None:
    """The server gets token ids, so nothing parses what an answer says."""
    pair = ("hi", "yes<|end|><|user|>more<|end|><|assistant|>no")
    served, here = at(well), RewardModel("asset:tiny-rm")
    torch.testing.assert_close(served.logits([pair]), here.logits([pair]), atol=1e-5, rtol=0)
    assert well.texts[-1] == [list(here.conversations.ids(*pair))] and well.texts[-1][0].count(1) == 2


def test_another_template_s_options_and_a_context(tmp_path: Path) -> None:
    """The same options as with reward=rm, for a model with its own template."""
    saved("llama3", tmp_path, reward=True)
    chat = {"date_string": "26 Jul 2024"}
    with serving(RewardServer(str(tmp_path))) as server:
        served, here = at(server, path=str(tmp_path), chat=chat), RewardModel(str(tmp_path), chat=chat)
        torch.testing.assert_close(served.logits(PAIRS), here.logits(PAIRS), atol=1e-4, rtol=0)
        short = at(server, path=str(tmp_path), chat=chat, context=80)
        here.conversations.context = 80
        torch.testing.assert_close(short.logits(PAIRS), here.logits(PAIRS), atol=1e-4, rtol=0)
        assert short.metrics == {"truncated": 2 / 6} and max(map(len, server.texts[-1])) <= 80


def test_a_run_has_the_rewards_of_reward_rm(whole: Path, tmp_path: Path) -> None:
    here = cli.finished(tmp_path / "here", *LSP, "reward=rm")
    ours, theirs = (cli.lines(run / "episodes.jsonl") for run in (here, whole))
    assert [turn["reply"] for turn in ours] == [turn["reply"] for turn in theirs]
    scores = [[turn["scores"].get("reward", 0.0) for turn in run] for run in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and len(set(scores[0])) > 9
    assert [line["reward/truncated"] for line in cli.metrics(whole)] == [0.0, 0.0]


def test_requests_go_side_by_side(spoilt: RewardServer) -> None:
    """As many as `parallel`, never more."""
    lock, now, most = Lock(), 0, 0

    def slowly(server: RewardServer, handler: BaseHTTPRequestHandler, route: str) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return False

    served = at(spoilt, batch_size=1, parallel=3)
    spoilt.misbehaves = slowly
    served.logits(PAIRS)
    assert most == 3


def test_a_key_is_sent_and_never_told(spoilt: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def guarded(server: RewardServer, handler: BaseHTTPRequestHandler, route: str) -> bool:
        seen.append(handler.headers["Authorization"])
        if seen[-1] != f"Bearer {KEY}":
            handler.reply(401, {"error": "Unauthorized"})  # type: ignore[attr-defined]
            return True
        return False

    spoilt.misbehaves = guarded
    monkeypatch.setenv("RM_KEY", KEY)
    at(spoilt, key="RM_KEY").logits(PAIRS)
    assert set(seen) == {f"Bearer {KEY}"} and len(seen) >= 5
    with pytest.raises(SelfplayError, match=r"refused /v1/models \(status 401: Unauthorized\); name the variable"):
        at(spoilt)
    spoilt.misbehaves = refuses(400, f"no, {KEY}")
    with pytest.raises(SelfplayError, match=r"status 400: no, \*\*\*"):
        at(spoilt, key="RM_KEY")
    for name, told in ((KEY, "never the key itself"), ("UNSET_KEY_OF_A_TEST", "named by reward.key, holds no key")):
        with pytest.raises(SelfplayError, match=told) as error:
            at(spoilt, key=name)
        assert KEY not in str(error.value)


# --- another server than it should be ---------------------------------------------------------------------------------


def refuses(status: int, message: str = "no\nroom") -> Misbehaviour:
    def answer(server: Any, handler: Any, route: str) -> bool:
        handler.reply(status, {"error": {"message": message}})
        return True

    return answer


def told(answer: Callable[[dict[str, Any]], object], on: str = "/classify") -> Misbehaviour:
    """A server whose response is changed."""

    def misbehaves(server: RewardServer, handler: Any, route: str) -> bool:
        if route != on:
            return False
        _, found = server.answer(route, handler.body)
        handler.reply(200, answer(json.loads(json.dumps(found))))
        return True

    return misbehaves


def probs(change: Callable[[float], object]) -> Misbehaviour:
    def answer(found: dict[str, Any]) -> object:
        for row in found["data"]:
            row["probs"] = [change(value) for value in row["probs"]]
        return found

    return told(answer)


def ignores_the_option(server: RewardServer, handler: Any, route: str) -> bool:
    """As earlier versions of vLLM and other servers do: extra fields are no error."""
    handler.body.pop("use_activation", None)
    return False


def without_activation(server: RewardServer, handler: Any, route: str) -> bool:
    handler.body["use_activation"] = False
    return False


def test_probabilities_are_not_taken_for_logits(spoilt: RewardServer) -> None:
    spoilt.misbehaves = ignores_the_option
    with pytest.raises(
        SelfplayError, match=r"gives scores such as 0\.\d+, with an activation and without, .*reward=rm"
    ):
        at(spoilt)
    spoilt.misbehaves = probs(lambda _: 1.0)  # a softmax over one label
    with pytest.raises(SelfplayError, match="gives scores such as 1, with an activation and without"):
        at(spoilt)
    squashed = probs(math.tanh)
    spoilt.misbehaves = lambda *given: without_activation(*given) or squashed(*given)
    with pytest.raises(SelfplayError, match="may be probabilities instead of logits"):
        at(spoilt)


def test_logits_without_an_activation_are_taken(spoilt: RewardServer, right: Tensor) -> None:
    """A regression model has none: both responses are the same, and beyond what an activation gives."""
    spoilt.misbehaves = without_activation
    torch.testing.assert_close(at(spoilt).logits(PAIRS), right, atol=1e-5, rtol=0)


def test_small_logits_are_taken_where_the_option_has_an_effect(tiny: LanguageModel, tmp_path: Path) -> None:
    """Within [-1, 1], where logits and probabilities look alike."""
    model = saved_reward_model(tiny, tmp_path)
    with torch.no_grad():
        model.score.weight.mul_(0.01)
    model.save_pretrained(tmp_path)
    with serving(RewardServer(str(tmp_path))) as server:
        served = at(server, path=str(tmp_path))
        assert served.logits(PAIRS).abs().max() < 1
        server.misbehaves = ignores_the_option
        with pytest.raises(SelfplayError, match="may be probabilities instead of logits"):
            at(server, path=str(tmp_path))


def test_a_classifier_of_two_labels(tiny: LanguageModel, tmp_path: Path, well: RewardServer) -> None:
    """Where the path has two, and where only the server has."""
    saved_reward_model(tiny, tmp_path, labels=2)
    with pytest.raises(SelfplayError, match=r"the reward model '.*' has 2 labels; use a model with one label"):
        at(well, path=str(tmp_path))
    with (
        serving(RewardServer(str(tmp_path))) as server,
        pytest.raises(SelfplayError, match=r"has 2 labels; serve a rew"),
    ):
        at(server)


def test_a_server_of_another_model(spoilt: RewardServer, tmp_path: Path) -> None:
    saved("qwen2", tmp_path, reward=True)
    with pytest.raises(SelfplayError, match=r"the tokenizer of the server http://127\.0\.0\.1:\d+ is not that of"):
        at(spoilt, path=str(tmp_path))
    spoilt.names = ("a", "b")  # two names of one model
    assert at(spoilt, model="b").served.name == "b" and at(spoilt).served.names == {"a", "b"}
    with pytest.raises(SelfplayError, match=r"has no model 'c' \(it has: a, b\); change reward\.model"):
        at(spoilt, model="c")
    spoilt.misbehaves = told(lambda found: {**found, "model": "another"})
    with pytest.raises(SelfplayError, match="answered with the model 'another' instead of 'a'"):
        at(spoilt)
    spoilt.misbehaves = told(
        lambda found: {"data": [{**one, "root": one["id"]} for one in found["data"]]}, "/v1/models"
    )
    with pytest.raises(SelfplayError, match=r"several models or none \(a, b\); choose one with reward\.model"):
        at(spoilt)
    with serving(Double()) as policy, pytest.raises(SelfplayError, match=r"in another form than vLLM does"):
        ServedRewardModel("asset:tiny-rm", policy.url)


def test_a_server_that_does_not_tokenize_is_taken(spoilt: RewardServer) -> None:
    spoilt.misbehaves = lambda server, handler, route: route == "/tokenize" and refuses(404)(server, handler, route)
    assert at(spoilt).logits(PAIRS).isfinite().all()


def test_contexts(spoilt: RewardServer) -> None:
    spoilt.context = 200
    with pytest.raises(
        SelfplayError, match=r"up to 200 tokens, but 'asset:tiny-rm' of up to 512 .*reward\.context=200"
    ):
        at(spoilt)
    served = at(spoilt, context=200)
    served.logits(PAIRS)
    assert max(len(text) for text in spoilt.texts[-1]) == 200
    with pytest.raises(SelfplayError, match=r"exceed the reward model's context of 200; .*reward\.truncate=true"):
        at(spoilt, context=200, truncate=False).logits(PAIRS)
    with pytest.raises(SelfplayError, match=r"reward\.context is 513, but 'asset:tiny-rm' takes at most 512 tokens"):
        at(spoilt, context=513)
    with pytest.raises(SelfplayError, match=r"reward\.context is 3, too short"):
        at(spoilt, context=3)


# --- failures ---------------------------------------------------------------------------------------------------------


def dies(server: Any, handler: BaseHTTPRequestHandler, route: str) -> bool:
    handler.connection.close()
    return True


def hangs(server: Any, handler: BaseHTTPRequestHandler, route: str) -> bool:
    time.sleep(4)
    return True


def shows_html(server: Any, handler: Any, route: str) -> bool:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>sign in</html>")
    return True


FAILURES: dict[str, tuple[Misbehaviour, str]] = {
    "killed": (dies, "does not answer /classify ("),
    "hanging": (hangs, "does not answer /classify (no complete response within 2 s)"),
    "400": (refuses(400), "refused /classify (status 400: no room)"),
    "500": (refuses(500), "refused /classify (status 500: no room)"),
    "html": (shows_html, "in another form than vLLM does ('<html>sign in</html>')"),
    "no data": (told(lambda found: {"data": "none"}), "in another form than vLLM does"),
    "a list": (told(lambda found: [1]), "in another form than vLLM does"),
    "a score of fewer texts": (told(lambda found: {**found, "data": found["data"][:-1]}), "gave 5 scores to 6 texts"),
    "the same index": (
        told(lambda found: {**found, "data": [{**one, "index": 0} for one in found["data"]]}), "in another form than",
    ),
    "labels": (
        told(lambda found: {**found, "data": [{**one, "probs": [0.5, 0.5]} for one in found["data"]]}), "has 2 labels",
    ),
    "nan": (probs(lambda _: math.nan), "gave the score nan to a text of 4 tokens"),
    "infinity": (probs(lambda _: -math.inf), "gave the score -inf to a text of 4 tokens"),
    "null": (probs(lambda _: None), "gave the score None to a text of 4 tokens"),
    "a word": (probs(str), "to a text of 4 tokens; check its model's weights"),
    "true": (probs(lambda _: True), "gave the score True to"),
    "fewer tokens": (told(lambda found: {**found, "usage": {"prompt_tokens": 9}}), "read 9 tokens where "),
    "no usage": (told(lambda found: {k: v for k, v in found.items() if k != "usage"}), "in another form than"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_sentence(
    name: str, referee: ServedRewardModel, impatient: ServedRewardModel, right: Tensor, spoilt: RewardServer
) -> None:
    """And the next call of a server that is well again is right."""
    wrong, words = FAILURES[name]
    spoilt.misbehaves = wrong
    begun = time.monotonic()
    with pytest.raises(SelfplayError) as error:
        (impatient if name == "hanging" else referee).score(turns(PAIRS), {})
    assert time.monotonic() - begun < 60, "2 s on a quiet machine"
    assert words in str(error.value) and spoilt.url in str(error.value) and "\n" not in str(error.value)
    spoilt.misbehaves = lambda *_: False
    torch.testing.assert_close(referee.logits(PAIRS), right, atol=1e-5, rtol=0)


def test_after_a_failure_nothing_more_is_sent(spoilt: RewardServer) -> None:
    served = at(spoilt, batch_size=1, parallel=1)
    spoilt.calls.clear()
    spoilt.misbehaves = refuses(500)
    with pytest.raises(SelfplayError, match="status 500"):
        served.logits(PAIRS)
    time.sleep(0.2)
    assert spoilt.calls == ["/classify"]


def test_responses_out_of_order_are_put_in_order(
    referee: ServedRewardModel, right: Tensor, spoilt: RewardServer
) -> None:
    spoilt.misbehaves = told(lambda found: {**found, "data": found["data"][::-1]})
    torch.testing.assert_close(referee.logits(PAIRS), right, atol=1e-5, rtol=0)


def test_a_run_ends_with_one_sentence_and_resumes(
    well: RewardServer, spoilt: RewardServer, whole: Path, tmp_path: Path
) -> None:
    """It fails in the second step; resumed with another server that is well, it is the run that never failed."""
    scored = 0

    def dies_later(server: RewardServer, handler: BaseHTTPRequestHandler, route: str) -> bool:
        nonlocal scored
        scored += route == "/classify"
        return scored > 3 and dies(server, handler, route)  # two requests try the server, one scores the first step

    spoilt.misbehaves = dies_later
    run, args = tmp_path / "run", (*LSP, "reward=rm_server", f"reward.url={spoilt.url}")
    ended = cli.run(*args, f"hydra.run.dir={run}")
    assert ended.code == 1 and ended.err.startswith(f"error: the server {spoilt.url} does not answer /classify")
    assert ended.err.count("\n") == 1 and cli.summary(run)["steps"] == 1
    resumed = cli.run(f"resume={run}", "reward=rm_server", f"reward.url={well.url}", "reward.batch_size=2")
    assert resumed.code == 0, resumed.err
    assert f"url: {well.url}\n" in (run / "config.yaml").read_text()
    ours, theirs = (cli.lines(found / "episodes.jsonl") for found in (run, whole))
    assert [(turn["prompt"], turn["reply"]) for turn in ours] == [(turn["prompt"], turn["reply"]) for turn in theirs]
    assert [turn["payoff"] for turn in ours] == pytest.approx([turn["payoff"] for turn in theirs], abs=1e-4)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    ended = cli.run(*LSP, "reward=rm_server", "reward.url=http://127.0.0.1:9", f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and ended.err.count("\n") == 1
    assert "error: the server http://127.0.0.1:9 does not answer /v1/models" in ended.err
    assert "selfplay serve MODEL --reward" in ended.err
    for url in ("127.0.0.1:9", "http://me:secret@127.0.0.1:9"):
        with pytest.raises(SelfplayError, match=r"the endpoint's url"):
            ServedRewardModel("asset:tiny-rm", url)
