"""engine.transfer=nccl, with a double of vLLM's server and one of NCCL: the embedded engine's runs, and failures.

NCCL itself needs GPUs; tests/engines/test_vllm_nccl.py unpacks what is sent with vLLM's own code.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cli
import pytest
import torch
import wires
from language_models import made, moved
from servers import Double, serving
from test_server import ASKS, LSP, Misbehaviour, dies, refuses, texts

from selfplay.core import SelfplayError
from selfplay.engines.engine import Sampling, Weights
from selfplay.engines.server import nccl
from selfplay.engines.server.engine import ServerEngine

SECONDS = 60  # a reply has taken 3 on two busy cores


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, "Communicator", wires.Communicator)
    monkeypatch.setattr(wires.Communicator, "sent", [])


@contextmanager
def linked(*links: wires.Link) -> Iterator[list[Double]]:
    """Servers with these workers; in the end none of them waits for NCCL any longer."""
    with ExitStack() as stack:
        found = [stack.enter_context(serving(Double(link=link))) for link in links]
        stack.callback(wires.give_up)
        yield found


@pytest.fixture
def doubles() -> Iterator[list[Double]]:
    """Two servers, one with two workers."""
    with linked(wires.Link(), wires.Link(workers=2)) as found:
        yield found


def on(doubles: list[Double]) -> tuple[str, ...]:
    urls = ",".join(double.url for double in doubles)
    return ("engine=server", f"engine.urls=[{urls}]", f"engine.seconds={SECONDS}", "engine.transfer=nccl")


def engine(doubles: list[Double]) -> ServerEngine:
    return ServerEngine([double.url for double in doubles], seconds=SECONDS, transfer="nccl")


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_the_embedded_engines(doubles: list[Double], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token for token, with several buckets; the group is made once, and each update is the same sequence of calls."""
    monkeypatch.setattr(nccl, "BUCKET", 200_000)
    own = cli.finished(tmp_path / "own", *LSP)
    run = cli.finished(tmp_path / "run", *LSP, *on(doubles))
    assert texts(run) == texts(own)
    assert all(line["mismatch/max"] < 1e-4 and line["mismatch/ess"] > 0.999 for line in cli.metrics(run))
    assert [double.link.ranks for double in doubles if double.link] == [range(1, 2), range(2, 4)]
    updates = doubles[0].version
    assert updates >= 3 and len(wires.Communicator.sent) > 2 * updates
    joining = ["/get_world_size", "/shutdown_weight_transfer_engine", "/init_weight_transfer_engine"]
    update = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]
    for double in doubles:
        made = [route for route in double.calls if route not in ("/inference/v1/generate", "/weight_info")]
        assert made == ["/pause", *joining, *update, *["/pause", *update] * (updates - 1)]


def test_the_servers_get_the_values_of_a_folder(doubles: list[Double]) -> None:
    """After the weights have moved, bit for bit, and under the label of the last update."""
    policy = made()
    policy.engine = engine(doubles)
    for step in range(2):
        moved(policy, step)
        policy.act(ASKS)
    ours = policy.model.state_dict()
    for double in doubles:
        theirs = double.model.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert double.label.endswith(policy.weights.uid)


def test_the_weights_are_sent_while_they_are_placed(doubles: list[Double]) -> None:
    """Those of a snapshot, which the model holds for the time being."""
    policy = made()
    before = policy.model.lm_head.weight.detach().clone()

    @contextmanager
    def placed() -> Iterator[None]:
        with torch.no_grad():
            policy.model.lm_head.weight.add_(1.0)
            yield
            policy.model.lm_head.weight.copy_(before)

    weights = Weights("snapshot", policy.model, placed, live=False)
    engine(doubles).generate(weights, [(5, 6)], ["key"], Sampling(1))
    assert all(torch.equal(double.model.lm_head.weight, before + 1.0) for double in doubles)


def test_a_later_run_takes_over_the_servers(doubles: list[Double]) -> None:
    for seed in range(2):
        policy, own = made(), made()
        for player in (policy, own):
            moved(player, seed)
        policy.engine = engine(doubles)
        assert [reply.reply_ids for reply in policy.act(ASKS)] == [reply.reply_ids for reply in own.act(ASKS)]


class Stale(Double):
    """Receives every update and loads only the first."""

    def _updated(self, info: dict[str, Any]) -> Any:
        return self.link.receive(info) and self.model if self.version and self.link else super()._updated(info)


def test_a_server_that_labels_old_weights_as_new_ends_the_run(tmp_path: Path) -> None:
    with serving(Stale(link=wires.Link())) as double:
        ended = cli.run(*LSP, *on([double]), "update.optimizer.lr=0.1", f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and "disagree by" in ended.err and "update.most_mismatch=0.1" in ended.err
    assert cli.summary(tmp_path)["steps"] == 1


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "lengths"),
    [(1, [48, 10, 8, 48]), (40, [48, 66]), (57, [58, 56]), (58, [66, 48]), (10**6, [114])],
)
def test_buckets_hold_all_bytes_in_order(size: int, lengths: list[int]) -> None:
    """Of any dtype, shape and layout; a bucket ends with the tensor that exceeds its size."""
    values = [torch.randn(3, 4).t(), torch.randn(5).bfloat16(), torch.tensor(7), torch.randn(2, 3, 4).half()]
    state = {str(place): value for place, value in enumerate(values)}
    found = list(nccl.buckets(state.values(), size))
    sizes = [value.numel() * value.element_size() for value in values]
    assert [len(bucket) for bucket in found] == lengths
    info, read = nccl.update_info(state), torch.cat(found).split(sizes)
    for name, dtype, shape, part in zip(info["names"], info["dtype_names"], info["shapes"], read, strict=True):
        assert torch.equal(part.clone().view(getattr(torch, dtype)).view(shape), state[name])


def test_pytorch_is_called_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group's id, an all-reduce of one element, which every worker of vLLM begins with, then the buckets."""
    monkeypatch.undo()
    made: list[tuple[object, ...]] = []
    take = {
        "_nccl_unique_id": lambda: bytes(128),
        "_nccl_init_rank": lambda size, unique_id, rank: made.append(("join", size, len(unique_id), rank)) or "group",
        "_nccl_all_reduce": lambda inputs, outputs, op, streams, comms: made.append(("reduce", len(*inputs), comms)),
        "_nccl_broadcast": lambda inputs, root, streams, comms: made.append(("send", len(*inputs), root, comms)),
    }
    for name, call in take.items():
        monkeypatch.setattr(torch._C, name, call, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: made.append(("all written",)))
    stream = SimpleNamespace(synchronize=lambda: made.append(("done",)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    group = nccl.Communicator(3, nccl.Communicator.unique_id(), torch.device("cpu"))
    group.send(iter([torch.zeros(5, dtype=torch.uint8), torch.zeros(7, dtype=torch.uint8)]))
    joined = [("join", 3, 128, 0), ("reduce", 1, ["group"]), ("done",)]
    sent = [("send", 5, 0, ["group"]), ("done",), ("send", 7, 0, ["group"]), ("done",)]
    assert made == [*joined, ("all written",), *sent]


# --- failures ---------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[str, Misbehaviour, str]] = {
    "refuses to join": ("/init_weight_transfer_engine", refuses(500), "refused /init_weight_transfer_engine (status"),
    "killed in joining": ("/init_weight_transfer_engine", dies, "does not answer /init_weight_transfer_engine"),
    "refuses weights": ("/update_weights", refuses(500), "refused /update_weights (status 500: no room)"),
    "killed in an update": ("/update_weights", dies, "does not answer /update_weights"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_server_that_fails_is_one_sentence(
    name: str, doubles: list[Double], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server waits in NCCL, and this process does not wait for it."""
    monkeypatch.setattr(nccl, "BUCKET", 200_000)  # several, so that the other server waits for the second
    route, wrong, words = FAILURES[name]
    doubles[1].misbehaves = lambda double, handler, called: called == route and wrong(double, handler, called)
    ended = cli.run(*LSP, *on(doubles), "engine.seconds=10", f"hydra.run.dir={tmp_path}")  # both are waited for
    assert doubles[0].link is not None and doubles[0].link.waits()
    assert ended.code == 1 and ended.err.startswith(f"error: the server {doubles[1].url} "), ended.err
    assert ended.err.count("\n") == 1 and words in ended.err, ended.err


def answers_at_once(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    if route == "/init_weight_transfer_engine":
        handler.reply(200, {"message": "done"})  # type: ignore[attr-defined]
        return True
    return False


def test_a_worker_that_is_missing_and_the_server_waits_for_it() -> None:
    with linked(wires.Link(workers=2, missing=1)) as [double]:
        policy = made()
        policy.engine = ServerEngine([double.url], seconds=3, transfer="nccl")
        with pytest.raises(SelfplayError, match=r"/init_weight_transfer_engine \(no complete response within 3 s\);"):
            policy.act(ASKS)


def test_a_worker_that_is_missing_and_the_server_says_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, "GRACE", 0.0)
    with linked(wires.Link(workers=2, missing=1)) as [double]:
        double.misbehaves = answers_at_once
        policy = made()
        policy.engine = engine([double])
        policy.engine._transfer = nccl.Nccl(1.0)
        told = r"not all workers of the servers could join this process over NCCL within 1 s; look at what the servers"
        with pytest.raises(SelfplayError, match=told):
            policy.act(ASKS)


def test_nccl_itself_fails(doubles: list[Double], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("NCCL Error 6:\nremote process exited")

    policy = made()
    policy.engine = engine(doubles)
    with monkeypatch.context() as patch:
        patch.setattr(wires.Communicator, "send", fail)
        with pytest.raises(
            SelfplayError, match=r"NCCL failed .* get the weights \(NCCL Error 6: remote process exited\);"
        ):
            policy.act(ASKS)
    wires.give_up()  # as the workers do when they see that a rank is gone
    assert policy.act(ASKS), "over a new group: a thread may still use the old one"
    assert all(double.calls.count("/init_weight_transfer_engine") == 2 for double in doubles)


@pytest.mark.parametrize("transfer", ["folder", "nccl"])
def test_a_server_that_was_started_for_the_other_transfer(transfer: str) -> None:
    with serving(Double(link=wires.Link() if transfer == "folder" else None)) as double:
        policy = made()
        policy.engine = ServerEngine([double.url], transfer=transfer)
        with pytest.raises(SelfplayError, match=f"needs servers of selfplay serve --transfer {transfer}$"):
            policy.act(ASKS)


def test_a_learner_without_a_gpu(doubles: list[Double], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    policy = made()
    policy.engine = engine(doubles)
    with pytest.raises(SelfplayError, match=r"the learner's are on 'cpu' .* or take engine\.transfer=folder"):
        policy.act(ASKS)
    assert not doubles[0].calls, "no server was asked"
