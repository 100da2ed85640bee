"""Checkpoints survive a kill, are pruned, and say what is broken."""

import os
import pickle
import shutil
import subprocess
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from omegaconf import OmegaConf
from toys import Dying, Killed, Toy

from selfplay import digests
from selfplay.core import SelfplayError
from selfplay.runs import RunFolder, checkpoint, disk_space


def steps(run: RunFolder) -> list[str]:
    return sorted(os.listdir(run.checkpoints))


def test_a_checkpoint_comes_back(run: RunFolder) -> None:
    assert checkpoint.latest(run) is None
    state = {"optimizer": {"m": torch.arange(3.0), "lr": 0.1}, "rng": torch.get_rng_state(), "league": [(1, "a"), None]}
    path = checkpoint.save(run, 20, Toy(2.5), state, keep=2, keep_every=0)
    assert path == run.checkpoints / "step-000020" and checkpoint.latest(run) == (20, path)
    policy = Toy()
    loaded, frozen = checkpoint.load(path, policy)
    assert frozen == {}
    assert policy.weight.item() == 2.5
    assert loaded["league"] == [(1, "a"), None] and loaded["optimizer"]["lr"] == 0.1  # type: ignore[index]
    assert torch.equal(loaded["optimizer"]["m"], torch.arange(3.0))  # type: ignore[index]
    checkpoint.save(run, 20, Toy(3.5), {}, keep=2, keep_every=0)
    assert checkpoint.load(path, policy) == ({}, {}) and policy.weight.item() == 3.5


def test_frozen_policies_come_back_with_it(run: RunFolder) -> None:
    path = checkpoint.save(run, 1, Toy(2.5), {"n": 1}, 2, 0, {"magnet": Toy(7.0)})
    policy = Toy()
    state, frozen = checkpoint.load(path, policy)
    assert state == {"n": 1} and policy.weight.item() == 2.5
    assert list(frozen) == ["magnet"] and frozen["magnet"].weight.item() == 7.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", [20, 40])
def test_a_kill_while_saving_leaves_the_checkpoint_before(run: RunFolder, step: int) -> None:
    before = checkpoint.save(run, 20, Toy(2.0), {"n": 1}, keep=1, keep_every=0)
    for _ in range(2):
        with pytest.raises(Killed):
            checkpoint.save(run, step, Dying(4.0), {"n": 2}, keep=1, keep_every=0)
    assert checkpoint.latest(run) == (20, before)
    assert steps(run) == ["step-000020"]
    assert checkpoint.load(before, Toy()) == ({"n": 1}, {})
    checkpoint.save(run, step, Toy(4.0), {"n": 2}, keep=1, keep_every=0)
    assert checkpoint.latest(run) == (step, run.checkpoints / f"step-{step:06d}")


def test_a_kill_while_removing_leaves_nothing_half(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(run, 1, Toy(), {}, keep=1, keep_every=0)

    def killed(path: Path) -> None:
        (Path(path) / "state.pt").unlink()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed)
        checkpoint.save(run, 2, Toy(), {}, keep=1, keep_every=0)
    assert steps(run) == [".removing-step-000001", "step-000002"]
    assert checkpoint.latest(run) == (2, run.checkpoints / "step-000002")
    assert steps(run) == ["step-000002"]


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(2, 0, [5, 6]), (1, 3, [3, 6]), (2, 2, [2, 4, 5, 6]), (0, 0, [1, 2, 3, 4, 5, 6]), (0, 3, [1, 2, 3, 4, 5, 6])],
)
def test_pruning(run: RunFolder, keep: int, keep_every: int, left: list[int]) -> None:
    for step in range(1, 7):
        checkpoint.save(run, step, Toy(), {}, keep, keep_every)
    assert steps(run) == [f"step-{step:06d}" for step in left]


def test_large_checkpoints_do_not_stay_for_good(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {1: 9, 20: 9, 40: checkpoint.LARGE, 60: checkpoint.LARGE - 1, 61: 9, 62: 9}
    assert checkpoint.kept(sizes, 62, 2, None) == {20, 60, 61, 62}
    assert checkpoint.kept(sizes, 62, 1, 0) == {62}
    assert checkpoint.kept(sizes, 62, 1, 20) == {20, 40, 60, 62}
    assert checkpoint.kept(sizes, 62, 0, None) == set(sizes)
    path = checkpoint.save(run, 20, Toy(), {"n": torch.ones(9)}, keep=1, keep_every=None)
    assert checkpoint.size(path) == sum(file.stat().st_size for file in path.iterdir()) > 0
    monkeypatch.setattr(checkpoint, "LARGE", checkpoint.size(path) + 1)
    checkpoint.save(run, 21, Toy(), {}, keep=1, keep_every=None)
    assert steps(run) == ["step-000020", "step-000021"]
    monkeypatch.setattr(checkpoint, "LARGE", checkpoint.size(path))
    checkpoint.save(run, 22, Toy(), {}, keep=1, keep_every=None)
    assert steps(run) == ["step-000022"]


@pytest.mark.parametrize("name", ["weight.pt", "state.pt", "magnet/weight.pt"])
def test_every_file_has_a_digest(run: RunFolder, name: str) -> None:
    path = checkpoint.save(run, 20, Toy(2.5), {"n": torch.ones(9)}, 2, 0, {"magnet": Toy(7.0)})
    listed = subprocess.run(["sha256sum", "-c", digests.FILE], cwd=path, capture_output=True, text=True, check=True)
    assert sorted(listed.stdout.splitlines()) == ["magnet/weight.pt: OK", "state.pt: OK", "weight.pt: OK"]
    whole = (path / name).read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        (path / name).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(
            SelfplayError, match=rf"{name} is broken \(its digest differs from the one in SHA256SUMS\); delete"
        ):
            checkpoint.load(path, Toy())
    (path / name).unlink()
    with pytest.raises(SelfplayError, match=rf"{name} is missing"):
        checkpoint.load(path, Toy())
    (path / name).write_bytes(whole)
    checkpoint.load(path, Toy())
    (path / digests.FILE).write_bytes(b"\xff" * 99)
    with pytest.raises(SelfplayError, match="SHA256SUMS is broken"):
        checkpoint.load(path, Toy())
    (path / digests.FILE).unlink()  # as of a run that was begun before there were any
    checkpoint.load(path, Toy())


def test_much_disk_space_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Toy()
    update = SimpleNamespace(optimizer=torch.optim.AdamW(learner.parameters()), frozen={"magnet": Toy()})
    cfg = OmegaConf.create({"steps": 45, "checkpoint": {"every": 2, "keep": 2, "keep_every": 10}})

    def told(free: int, worth: int) -> str | None:
        monkeypatch.setattr(disk_space, "WORTH_A_NOTE", worth)
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return disk_space.note(tmp_path / "not" / "yet", cfg, [SimpleNamespace(learner=learner, update=update)])  # type: ignore[list-item]

    total = 4 * 4 * 7  # bytes: 4 copies of one float; steps 10, 20, 30, 40, 44, 45, and one that is being written
    assert told(10**9, total + 1) is None
    note = told(10**9, total)
    assert note is not None and note.startswith(
        "note: a checkpoint takes about 1.6e-08 GB, and the run up to 1.12e-07 GB "
    )
    assert ", but 1.11e-07 GB are free" in str(told(total - 1, 10**9))
    update.optimizer = torch.optim.SGD(learner.parameters())
    assert "about 8e-09 GB" in str(told(0, 0))


def test_pruning_spares_the_one_just_written(run: RunFolder) -> None:
    for step in (100, 200, 50):
        checkpoint.save(run, step, Toy(), {}, keep=1, keep_every=0)
    assert steps(run) == ["step-000050", "step-000200"]


def test_the_newest_is_by_number_and_other_names_are_let_be(run: RunFolder) -> None:
    for step in (999999, 1000000):
        checkpoint.save(run, step, Toy(), {}, keep=0, keep_every=0)
    (run.checkpoints / "step-best").mkdir()
    assert checkpoint.latest(run) == (1000000, run.checkpoints / "step-1000000")
    assert "step-best" in steps(run)


def broken_states(whole: bytes) -> dict[str, bytes]:
    at = whole.index(torch.arange(64.0).numpy().tobytes()[-64:])
    entry = whole.rindex(b"PK\x01\x02")  # of the last file in the archive: sizes, packed and unpacked, and the name
    size, name = entry + 20, entry + 46
    offset = whole.rindex(b"PK\x06\x06") + 48  # of the archive's directory
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "cut at the end": whole[:-1],
        "garbage": b"\x80\x02garbage" * 50,
        "a plain pickle": pickle.dumps({"n": 1}),
        "one bit of a tensor": flipped,
        "a size beyond the end": whole[:size] + b"\xff\xff\x00\x00" * 2 + whole[size + 8 :],
        "a garbled name": whole[:name] + b"\xff" + whole[name + 1 :],
        "a directory elsewhere": whole[:offset] + b"\x00\x00\x00\x40" + whole[offset + 4 :],
        "zeros": bytes(len(whole)),
    }


def test_a_broken_state_is_named_with_the_remedy(run: RunFolder) -> None:
    path = checkpoint.save(run, 3, Toy(1.0), {"m": torch.arange(64.0)}, keep=0, keep_every=0)
    file = path / "state.pt"
    for what, data in broken_states(file.read_bytes()).items():
        file.write_bytes(data)
        policy = Toy(9.0)
        with pytest.raises(SelfplayError) as caught:
            checkpoint.load(path, policy)
        told = str(caught.value)
        assert told.startswith(f"{file} is broken (") and "\n" not in told and "()" not in told, what
        assert told.endswith(f"; delete {path} to resume from the previous checkpoint"), what
        assert policy.weight.item() == 9.0
    file.unlink()
    with pytest.raises(SelfplayError, match=r"state.pt is missing; delete .*step-000003 to resume"):
        checkpoint.load(path, Toy())


@pytest.mark.parametrize(
    ("part", "reads"),
    [
        ({"a": [1, (2.5, None)], 3: {True}, "d": OrderedDict(x=b"y")}, True),
        ([torch.ones(2), torch.nn.Parameter(torch.ones(1)), torch.float32, torch.Size([1]), torch.device("cpu")], True),
        (1 + 2j, True),
        ([Counter("abba"), bytearray(b"z")], True),
        ([{"deep": Path("here")}], False),
        (defaultdict(int, a=1), False),
        (numpy.float64(1.0), False),
        ({numpy.int64(1): 2}, False),
        (Toy(), False),
    ],
)
def test_what_is_refused_is_what_torch_would_not_read(run: RunFolder, part: object, reads: bool) -> None:
    """The answer is torch's own: it reads what was written, weights alone."""
    path = run.path / "state"
    torch.save({"part": part}, path)
    if reads:
        torch.load(path, weights_only=True)
        checkpoint.save(run, 3, Toy(), {"part": part}, keep=0, keep_every=0)
        return
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with pytest.raises(SelfplayError, match="cannot be loaded safely"):
        checkpoint.save(run, 3, Toy(), {"part": part}, keep=0, keep_every=0)


def test_a_state_that_could_not_be_read_back_is_refused_at_once(run: RunFolder) -> None:
    with pytest.raises(SelfplayError, match=r"contains a pathlib.*Path, which cannot be loaded safely"):
        checkpoint.save(run, 3, Toy(), {"where": run.path}, keep=0, keep_every=0)
    assert checkpoint.latest(run) is None
