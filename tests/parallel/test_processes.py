"""Two processes make the run that one process makes: the same texts, and after three steps the same weights."""

import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

import cli
import pytest
from ranks import Joint, Ranks, free_port
from reward_servers import RewardServer
from safetensors.torch import load_file
from servers import Double, serving

APART = 1e-6
EPS = "++update.optimizer.eps=1e-5"  # by default a gradient that is only rounding error becomes a step of up to lr
LSP = (EPS, "eval=none", "steps=3", "episodes=4", "game.answers=4", "player.max_tokens=24")
TABLE = ("game=kuhn", "player=tabular", "update=ppo", "eval=none", "steps=3", "episodes=8")
KUHN = (EPS, "game=kuhn", "eval=none", "steps=3", "episodes=6", "player.max_tokens=4")
OFFLINE = (EPS, "experiment=scaled_ql", "eval=none", "steps=3", "episodes=20", "update.fits=4", "update.target_every=3")
STAGES = (
    *LSP[1:], "update=stages", "++update.parts.sft.optimizer.eps=1e-5", "++update.parts.preferences.optimizer.eps=1e-5"
)  # fmt: skip
PROBES = (
    "+reward@probes.surprisal=surprisal",
    "probes.surprisal.who=learner",
    "probes.surprisal.batch_size=4",
    "+reward@probes.novelty=novelty",
)
DRAWN = {"eval=win_rate": ("eval.temperature=1",)}  # among its greedy answers is a tie of two tokens but for 2e-6 nats
CASES: dict[str, tuple[str, ...]] = {
    "lsp": LSP,
    "lsp, lora": (*LSP, "player=tiny_lora"),
    "ppo in minibatches": (*LSP, "update=ppo", "update.minibatches=2", "update.epochs=2"),
    "dpo": (*LSP, "update=dpo"),
    "kto": (*LSP, "update=kto"),
    "stages": (*STAGES, "update.hoard=2", "update.room=3", "update.fits=1"),
    "two learners": (*LSP, "learners.challenger={}", "seats.challenger=challenger"),
    "kuhn by likelihood": KUHN,
    "kuhn, every outcome": (*KUHN, "rollout=exact"),
    "pfsp, lora": (*KUHN, "player=tiny_lora", "opponent=pfsp", "opponent.every=1"),
    "offline q": (*OFFLINE, "update.micro_batch=4"),
    "psro": (*TABLE, "opponent=psro", "opponent.every=1", "opponent.matches=3"),
    "an episode for one of two": (*LSP, "episodes=1", "game.answers=3", "update.role_weights.challenger=0"),
    "unequal shares": (*LSP, "episodes=3", "game.answers=3", "update.micro_batch=2", *PROBES),
}
SHARDED = ("lsp", "lsp, lora", "dpo", "stages", "two learners", "kuhn by likelihood", "pfsp, lora", "unequal shares")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2) as started:
        yield started


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of one process, made once for each case."""
    made: dict[str, Path] = {}

    def run(case: str) -> Path:
        if case not in made:
            made[case] = cli.finished(tmp_path_factory.mktemp("alone") / "run", *CASES[case])
        return made[case]

    return run


def texts(run: Path) -> list[tuple[str, str, str]]:
    return [(turn["role"], turn["prompt"], turn["reply"]) for turn in cli.lines(run / "episodes.jsonl")]


def scores(run: Path) -> list[float]:
    return [score for turn in cli.lines(run / "episodes.jsonl") for _, score in sorted(turn["scores"].items())]


def weights(run: Path) -> dict[str, Any]:
    """Every tensor in the files of a run."""
    found = {}
    for file in sorted(run.rglob("*.safetensors")):
        found |= {f"{file.relative_to(run)}/{name}": value for name, value in load_file(file).items()}
    return found


def apart(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights, or a tenth of their buffers' log-probabilities and scores."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and ours
    steps = {name: float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours}
    return max(step / 10 if name.startswith("buffer/") else step for name, step in steps.items())


def well(joint: Joint, run: Path) -> Path:
    assert [ended.code for ended in joint.ended] == [0, 0], [ended.err[-2000:] for ended in joint.ended]
    assert cli.summary(run)["processes"] == 2
    assert joint.ended[1].out == "" and joint.ended[1].err == ""
    return run


DIGEST = """
import hashlib
from selfplay.runs.session import Session
plain = Session.record
def record(self, *args):
    weights = b"".join(p.detach().numpy().tobytes() for p in self.experiment.learner.parameters())
    facts.setdefault("weights", []).append(hashlib.sha256(weights).hexdigest())
    return plain(self, *args)
Session.record = record
undo.append(lambda: setattr(Session, "record", plain))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    joint = ranks.run(*CASES[case], "parallel=ddp", f"hydra.run.dir={tmp_path}", breaks=DIGEST)
    run = well(joint, tmp_path)
    assert texts(run) == texts(alone(case))
    assert scores(run) == pytest.approx(scores(alone(case)), abs=1e-3)
    assert apart(run, alone(case)) < APART
    assert len(joint.facts[0]["weights"]) == 3 and joint.facts[0]["weights"] == joint.facts[1]["weights"]
    if case not in ("kuhn, every outcome", "an episode for one of two", "psro", "offline q"):
        asks = [one["asks"] for one in joint.facts]
        assert min(asks) > 0.2 * sum(asks)


@pytest.mark.slow
@pytest.mark.parametrize("choice", [choice for choice in cli.choices("eval") if choice != "eval=none"])
def test_an_evaluation_by_two_is_that_of_one(choice: str, ranks: Ranks, tmp_path: Path) -> None:
    """Before the first step and after the last one: every figure; with halved weights of one kind each."""
    args = [*cli.shrunk(choice), EPS, *DRAWN.get(choice, ())]
    one = cli.finished(tmp_path / "one", *args)
    for name in ("ddp", "fsdp") if choice in ("eval=heldout", "eval=versus", "eval=exploitability") else ("ddp",):
        two = well(ranks.run(*args, f"parallel={name}", f"hydra.run.dir={tmp_path / name}"), tmp_path / name)
        found, whole = ([line["eval"] for line in cli.metrics(run)] for run in (two, one))
        assert len(found) == 2 and figures(found) == pytest.approx(figures(whole), abs=1e-4), name


def figures(part: Any, name: str = "") -> dict[str, Any]:
    """Every number and text of a nested record, by its path."""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else None
    if inner is None:
        return {name: part}
    return {path: value for key, one in inner for path, value in figures(one, f"{name}/{key}").items()}


HELD = """
from selfplay.runs.session import Session
from selfplay.parallel import current
plain = Session.record
def record(self, *args):
    model = self.experiment.learner.model
    frozen = [p for p in model.parameters() if not p.requires_grad]
    counted = frozen or list(model.parameters())
    facts["weights"], facts["of"] = sum(current().own(p).numel() for p in counted), sum(p.numel() for p in counted)
    state = self.experiment.update.optimizer.state
    facts["trained"] = sum(p.numel() for p in state)
    facts["state"] = sum(current().own(found["exp_avg"]).numel() for found in state.values())
    return plain(self, *args)
Session.record = record
undo.append(lambda: setattr(Session, "record", plain))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_weights_in_two_halves_equal_whole_ones(case: str, ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    """Each process holds half of the weights and of Adam's state; an adapter is not split."""
    joint = ranks.run(*CASES[case], "parallel=fsdp", f"hydra.run.dir={tmp_path}", breaks=HELD)
    run = well(joint, tmp_path)
    assert texts(run) == texts(alone(case))
    assert scores(run) == pytest.approx(scores(alone(case)), abs=1e-3)
    assert apart(run, alone(case)) < APART
    for held in joint.facts:
        assert held["weights"] == pytest.approx(held["of"] / 2, rel=0.02)
        assert held["state"] == pytest.approx(held["trained"] * (1 if "lora" in case else 0.5), rel=0.02)


PUBLISHED = """
import torch
from safetensors.torch import load_file
from selfplay.models import checkpoints
plain = checkpoints.save
def save(model, folder):
    plain(model, folder)
    [file] = folder.glob("*.safetensors")
    found, written = checkpoints.published(model), load_file(file)
    same = found.keys() == written.keys() and all(torch.equal(found[name], written[name]) for name in written)
    facts.setdefault("published", []).append(same)
checkpoints.save = save
undo.append(lambda: setattr(checkpoints, "save", plain))
"""


@pytest.mark.slow
def test_weights_in_two_halves_are_published_whole(ranks: Ranks, tmp_path: Path) -> None:
    """As engine.transfer=nccl sends them: what process 0 would write to a file."""
    args = (*CASES["lsp"], "steps=2", "parallel=fsdp", f"hydra.run.dir={tmp_path}")
    joint = ranks.run(*args, breaks=PUBLISHED)
    well(joint, tmp_path)
    assert joint.facts[0]["published"] and all(joint.facts[0]["published"])


UNSUMMED = """
from selfplay.parallel.distributed import Distributed
plain = Distributed.add_gradients
Distributed.add_gradients = lambda self, parameters: None
undo.append(lambda: setattr(Distributed, "add_gradients", plain))
"""


@pytest.mark.slow
def test_gradients_that_are_not_summed_are_seen(ranks: Ranks, tmp_path: Path) -> None:
    """The processes' weights part after a step, so what one of them has sampled is not what the other one learns."""
    joint = ranks.run(*CASES["lsp"], "parallel=ddp", f"hydra.run.dir={tmp_path}", breaks=UNSUMMED)
    assert [ended.code for ended in joint.ended] == [1, 1] and "(logprob_mismatch)" in joint.ended[0].err


SHORT_OF_MEMORY = """
import torch
from selfplay.players.language_model import LanguageModel
plain = LanguageModel.logprobs
def logprobs(self, batch):
    if rank == 1 and len(batch) > 3:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return plain(self, batch)
LanguageModel.logprobs = logprobs
undo.append(lambda: setattr(LanguageModel, "logprobs", plain))
"""


@pytest.mark.slow
def test_all_halve_their_micro_batches_where_one_runs_out_of_memory(ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    joint = ranks.run(*CASES["lsp"], "parallel=ddp", f"hydra.run.dir={tmp_path}", breaks=SHORT_OF_MEMORY)
    run = well(joint, tmp_path)
    assert texts(run) == texts(alone("lsp")) and apart(run, alone("lsp")) < APART
    assert "update.micro_batch is " in joint.ended[0].out and joint.facts[1]["asks"] > 0


def resumes_late(double: Double, handler: BaseHTTPRequestHandler, route: str) -> bool:
    """Not before the other process has seen the label of the new weights and asked something else."""
    begun, end = len(double.calls), time.monotonic() + 30
    while route == "/resume" and {*double.calls[begun:]} <= {"/weight_info"} and time.monotonic() < end:
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lsp", "lsp, lora"])
def test_both_use_the_same_servers(case: str, ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    """Process 0 sends whole models for both, and the other waits until it may ask; each loads its own adapters."""
    with serving(Double()) as one, serving(Double()) as other:
        other.misbehaves = resumes_late
        on = ("engine=server", f"engine.urls=[{one.url},{other.url}]", "engine.seconds=60", "parallel=ddp")
        run = well(ranks.run(*CASES[case], *on, f"hydra.run.dir={tmp_path}"), tmp_path)
        sent = [double.calls.count("/finish_weight_update") for double in (one, other)]
    assert texts(run) == texts(alone(case)) and apart(run, alone(case)) < APART
    assert sent == ([3, 3] if case == "lsp" else [0, 0])


@pytest.mark.slow
def test_both_use_the_same_reward_model_s_server(ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    """Process 0 tries it for both, each scores its share; a failure in one of them is told once."""
    with serving(RewardServer()) as server:
        args = (*CASES["lsp"], "parallel=ddp", "reward=rm_server", f"reward.url={server.url}")
        run = well(ranks.run(*args, f"hydra.run.dir={tmp_path / 'run'}"), tmp_path / "run")
        assert server.calls.count("/v1/models") == 1 and server.calls.count("/classify") == 2 + 2 * 3
        assert texts(run) == texts(alone("lsp")) and apart(run, alone("lsp")) < APART
        number = count()

        def dies_once(server: RewardServer, handler: Any, route: str) -> bool:
            """For one process, in the second step: two requests try the server, two score the first step."""
            return route == "/classify" and next(number) == 4 and handler.connection.close() is None

        server.misbehaves = dies_once
        joint = ranks.run(*args, f"hydra.run.dir={tmp_path / 'ends'}")
    told = f"error: the server {server.url} does not answer /classify"
    assert [ended.code for ended in joint.ended] == [1, 1] and joint.ended[1].err == "", joint.ended
    assert joint.ended[0].err.startswith(told) and joint.ended[0].err.count("\n") == 1


@pytest.mark.slow
def test_both_at_servers_sample_from_one_whole_model(ranks: Ranks, tmp_path: Path) -> None:
    """Of a past self there would be two, and each process would go on to the next when it gets there."""
    with serving(Double()) as double:
        on = ("engine=server", f"engine.urls=[{double.url}]", "engine.seconds=60", "parallel=ddp")
        past = ("opponent=pfsp", "opponent.every=1", "player.choose=text")
        joint = ranks.run(*KUHN, *past, *on, f"hydra.run.dir={tmp_path}")
    assert [ended.code for ended in joint.ended] == [1, 1]
    assert joint.ended[0].err.startswith("error: with several processes, engine=server samples from one whole model")


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lsp", "psro", "pfsp, lora"])
def test_the_number_of_processes_may_change_at_a_resume(case: str, ranks: Ranks, alone: Any, tmp_path: Path) -> None:
    """A step by two that split the weights, a step by one, a step by two that each hold them all."""
    first = "ddp" if case == "psro" else "fsdp"
    args = [arg for arg in CASES[case] if not arg.startswith("steps=")]
    well(ranks.run(*args, "steps=1", f"parallel={first}", f"hydra.run.dir={tmp_path}"), tmp_path)
    assert cli.run(f"resume={tmp_path}", "steps=2").code == 0
    well(ranks.run(f"resume={tmp_path}", "steps=3", "parallel=ddp"), tmp_path)
    assert texts(tmp_path) == texts(alone(case))
    assert apart(tmp_path, alone(case)) < APART


DYING = """
import os, runpy, signal, sys
from selfplay.runs.session import Session
plain = Session.record
def record(self, step, *args):
    if step == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, step, *args)
Session.record = record
sys.argv[0] = RUN
runpy.run_path(RUN, run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_resumes(alone: Any, tmp_path: Path) -> None:
    """kill -9 of the second process in step 2 under `torchrun`: one sentence of ours, and resuming gives the run."""
    script, run = tmp_path / "dying.py", tmp_path / "run"
    script.write_text(DYING.replace("RUN", repr(str(cli.ROOT / "run.py"))).replace("'RANK'", "RANK"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    begun = time.monotonic()
    ended = subprocess.run(
        [*torchrun, str(script), *LSP, "parallel=ddp", f"hydra.run.dir={run}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert time.monotonic() - begun < 240 and ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) <= 1 and all("another process of this run has ended" in line for line in told), ended.stderr
    assert cli.summary(run)["steps"] == 1
    assert cli.run(f"resume={run}", "steps=3").code == 0
    assert texts(run) == texts(alone("lsp")) and apart(run, alone("lsp")) < APART


# --- errors -----------------------------------------------------------------------------------------------------------

REFEREE = """
from selfplay.core import SelfplayError
from selfplay.referees.verifier import Verifier
plain = Verifier.score
def score(self, turns, players):
    if rank == RANK:
        raise SelfplayError("the verifier of one process is broken")
    return plain(self, turns, players)
Verifier.score = score
undo.append(lambda: setattr(Verifier, "score", plain))
"""
DISK = """
from selfplay.runs.folder import RunFolder
plain = RunFolder.transcribe
def transcribe(self, step, *args):
    if step == 2:
        from selfplay.files import to_disk
        with to_disk(self.path):
            raise OSError(28, "No space left on device")
    return plain(self, step, *args)
RunFolder.transcribe = transcribe
undo.append(lambda: setattr(RunFolder, "transcribe", plain))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_all_in_one_sentence(rank: int, ranks: Ranks, tmp_path: Path) -> None:
    begun = time.monotonic()
    args = (*LSP, "reward=verifier", "parallel=ddp", f"hydra.run.dir={tmp_path / 'run'}")
    joint = ranks.run(*args, breaks=REFEREE.replace("RANK", str(rank)), timeout=120)
    assert time.monotonic() - begun < 120
    assert [ended.code for ended in joint.ended] == [1, 1]
    assert joint.ended[0].err == "error: the verifier of one process is broken\n" and joint.ended[1].err == ""
    assert cli.summary(tmp_path / "run")["reason"] == "the verifier of one process is broken"


@pytest.mark.slow
def test_a_bug_in_one_process_ends_the_other_in_one_sentence(ranks: Ranks, tmp_path: Path) -> None:
    broken = REFEREE.replace("RANK", "1").replace("SelfplayError(", "ValueError(")
    joint = ranks.run(*LSP, "reward=verifier", "parallel=ddp", f"hydra.run.dir={tmp_path}", breaks=broken, timeout=30)
    assert joint.ended[0].err == (
        "error: process 1 of the run failed with ValueError: the verifier of one process is broken\n"
    )
    assert "ValueError: the verifier" in joint.ended[1].err


@pytest.mark.slow
def test_a_full_disk_of_the_first_process_ends_all(ranks: Ranks, tmp_path: Path) -> None:
    joint = ranks.run(*LSP, "reward=verifier", "parallel=ddp", f"hydra.run.dir={tmp_path}", breaks=DISK, timeout=30)
    assert [ended.code for ended in joint.ended] == [1, 1]
    assert "No space left on device" in joint.ended[0].err and joint.ended[1].err == ""


def test_torchrun_without_parallel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = cli.run(*LSP, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and "torchrun started 2 processes, but parallel is none" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_sweep_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = cli.run("-m", *LSP, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ended.code == 1 and "torchrun started 2 processes, which can share a run, not a sweep" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_rank_of_another_program_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RANK without WORLD_SIZE, as some clusters set it: the run has its own folder and prints."""
    monkeypatch.setenv("RANK", "3")
    ended = cli.run(*TABLE, "steps=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 0 and "run folder:" in ended.out and (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_parallel_without_torchrun_is_refused(name: str, tmp_path: Path) -> None:
    ended = cli.run(*LSP, f"parallel={name}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and "torchrun --nproc_per_node 2" in ended.err
    assert not list(tmp_path.iterdir())
