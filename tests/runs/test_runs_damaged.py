"""A run's folder in a bad world: two starts at once, a disk that refuses, files that somebody damaged."""

import errno
import fcntl
import os
import pickle
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from omegaconf import OmegaConf

import selfplay.runs.session
from selfplay.core import SelfplayError
from selfplay.plots.curves import draw_curves
from selfplay.report.__main__ import main
from selfplay.runs import RunFolder, load
from selfplay.runs.claim import Claim, remove_if_empty

TABLE = ("game=kuhn", "player=tabular", "episodes=2", "steps=3", "eval=none", "optimized_metric=loss")


def test_of_many_starts_into_one_folder_one_writes(tmp_path: Path) -> None:
    """Eight processes begin at once, five times: whoever gets the folder writes all of it."""
    for number in range(5):
        folder, ready = tmp_path / str(number), os.pipe()
        children = []
        for start in range(8):
            child = os.fork()
            if not child:
                os.read(ready[0], 1)
                code = 1
                with suppress(SelfplayError), Claim(folder):
                    run = RunFolder.create(folder, OmegaConf.create({"seed": start}))
                    run.summarise({"seed": start})
                    code = 0
                os._exit(code)
            children.append(child)
        os.write(ready[1], b"x" * 8)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        for end in ready:
            os.close(end)
        assert codes.count(0) == 1
        assert RunFolder.open(folder).config.seed == RunFolder.open(folder).summary["seed"] == codes.index(0)


def test_a_claimed_folder_is_nobody_else_s(tmp_path: Path) -> None:
    with Claim(tmp_path / "run") as claim:
        with pytest.raises(SelfplayError, match=r"another process is using .*run; wait for it to finish"):
            Claim(tmp_path / "run")
        remove_if_empty(tmp_path / "run")
        assert (tmp_path / "run").is_dir(), "somebody else's, though it is empty"
        copy = pickle.loads(pickle.dumps(claim))
        copy.close()
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists(), "it was made for the claim, and nothing was written"
    with Claim(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert (tmp_path / "run" / "file").exists()


def test_where_folders_cannot_be_locked_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")  # as over NFS
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Claim(tmp_path / "run"), pytest.raises(SelfplayError, match="another process is using"):
        Claim(tmp_path / "run")
    Claim(tmp_path / "run").close()


@pytest.mark.parametrize("what", ["a file", "read only", "too long"])
def test_a_folder_that_cannot_be_made(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    path = {"a file": tmp_path / "file", "read only": tmp_path / "no", "too long": tmp_path / ("x" * 300)}[what]
    if what == "read only":  # root may write everywhere

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Path, "mkdir", refused)
    ended = cli.run("game=kuhn", "player=tabular", f"hydra.run.dir={path}")
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    assert "cannot be written" in ended.err and path.name in ended.err
    ended = cli.run("-m", "game=kuhn", "player=tabular", "seed=0", f"hydra.sweep.dir={path}")
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err


@pytest.mark.parametrize("name", ["metrics.jsonl", "episodes.jsonl", "state.pt", "curves.png", "summary.json"])
def test_a_full_disk_is_one_sentence_and_what_was_done_is_gone_on_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes half of a file in step 2 (of what is written once, at the end), and nothing more of that name."""
    whole = cli.finished(tmp_path / "whole", *TABLE)
    folder = tmp_path / "run"
    real, seen = Path.open, 0

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        nonlocal seen
        if folder in self.parents and name in self.name and ("a" in mode or "w" in mode):
            seen += 1
            if seen >= {"curves.png": 1, "state.pt": 2}.get(name, 2):
                with real(self, mode, *args, **options) as file:
                    file.write(b"{" if "b" in mode else "{")
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **options)

    save, draw = torch.save, draw_curves

    def full_save(state: object, file: Path) -> None:
        with file.open("wb"):
            save(state, file)

    def full_draw(metrics: Any, path: Path, primary: str) -> None:
        with path.open("wb"):
            draw(metrics, path, primary)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(torch, "save", full_save)
        patch.setattr(selfplay.runs.session, "draw_curves", full_draw)
        patch.setattr(Path, "write_text", lambda self, text, encoding: self.open("w").write(text))
        ended = cli.run(*TABLE, f"hydra.run.dir={folder}")
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    assert "cannot be written (No space left on device)" in ended.err
    status = RunFolder.open(folder).summary["status"]
    assert status == ("running" if name == "summary.json" else "failed"), "it could not be written, or it was"
    again = cli.run(f"resume={folder}")
    assert again.code == 0, again.err
    assert cli.metrics(folder) == cli.metrics(whole)
    assert (folder / "episodes.jsonl").read_bytes() == (whole / "episodes.jsonl").read_bytes()


LINES = {
    "a number": b"5\n",
    "null": b"null\n",
    "no step": b'{"loss": 1.0}\n',
    "a step in words": b'{"step": "two"}\n',
    "a truth for a step": b'{"step": true}\n',
    "a step before all": b'{"step": -1}\n',
    "not UTF-8": b'{"step": 1, "a": "\xff\xfe"}\n',
    "not a number": b'{"step": 1, "a": NaN}\n',
    "huge": b'{"step": 1, "a": ' + b"9" * 400 + b"}\n",
    "deep": b'{"step": 1, "a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "zeros": b"\0" * 100 + b"\n",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("damaged") / "whole", *TABLE)


@pytest.mark.parametrize("file", ["metrics.jsonl", "episodes.jsonl"])
def test_a_damaged_line_is_named_and_ends_no_report(whole: Path, tmp_path: Path, file: str) -> None:
    """Every kind of line, in a folder each, beside a good one: a row each with its reason, a sentence on resuming."""
    shutil.copytree(whole, tmp_path / "good")
    for number, line in enumerate(LINES.values()):
        run = shutil.copytree(whole, tmp_path / str(number))
        first, rest = (run / file).read_bytes().split(b"\n", 1)
        (run / file).write_bytes(first + b"\n" + line + rest)
    found = load(tmp_path)
    rows = found.runs.set_index("run")
    assert rows.loc["good", "status"] == "finished"
    assert set(found.turns["run"]) >= {"good"}
    for number, name in enumerate(LINES):
        told = f"line 2 of {tmp_path / str(number) / file}"
        reason = rows.loc[str(number), "reason"] + found.unread.get(str(number), "")
        lacking = f"a turn in {tmp_path / str(number) / file} has no"  # a record, though no turn
        assert told in reason or lacking in reason, (name, reason)
        ended = cli.run(f"resume={tmp_path / str(number)}", "steps=4") if number < 2 else None
        if ended is not None:
            assert ended.code == 1 and ended.err.startswith(f"error: {told}") and ended.err.count("\n") == 1


SUMMARIES = ("", "5", "[]", "{", '{"status": []}', '{"status": "finished", "steps": 3, "optimized": 5}', "[" * 5000)


def test_a_damaged_summary_ends_no_report(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "good")
    for number, text in enumerate(SUMMARIES):
        run = shutil.copytree(whole, tmp_path / str(number))
        (run / "summary.json").write_text(text)
    for number, name in enumerate(("config.yaml", "summary.json", "metrics.jsonl", "episodes.jsonl")):
        run = shutil.copytree(whole, tmp_path / f"1{number}")
        (run / name).unlink()
        (run / name).mkdir()
    rows = load(tmp_path).runs.set_index("run")
    assert rows.loc["good", "status"] == "finished" and len(rows) == 1 + len(SUMMARIES) + 4
    assert (rows.drop(index="good")["status"] == "broken").all() and (rows.drop(index="good")["reason"] != "").all()
    main([str(tmp_path), f"--out={tmp_path / 'report'}"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(f"Run {name} is broken" in page for name in rows.index if name != "good")
