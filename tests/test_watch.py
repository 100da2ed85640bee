"""`selfplay watch`: what it says of runs in every state, once and while they go on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import cli
import pytest
from fabricated import STORIES, run
from rich.console import Console

from selfplay import console, watch
from selfplay.runs import standing
from selfplay.runs.standing import standings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with four of eight steps, whose end nobody recorded, and one that is finished."""
    folder = tmp_path_factory.mktemp("watch") / "mine"
    for i, status in enumerate(("running", "running", "finished")):
        path = run(folder / str(i), STORIES[1], i, steps=4, episodes=1, status=status)
        if status == "running":
            text = (path / "config.yaml").read_text()
            (path / "config.yaml").write_text(re.sub(r"^steps: 4$", "steps: 8", text, flags=re.MULTILINE))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that was written just now."""
    copied = Path(shutil.copytree(made, tmp_path / "mine"))
    written(copied, 0.0)
    return copied


def written(folder: Path, ago: float) -> None:
    """Let all files look as if they were written so many seconds ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - ago,) * 2)


def summarise(run: Path, **more: Any) -> None:
    file = run / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def rows(capsys: pytest.CaptureFixture[str], *args: str) -> list[list[str]]:
    """The cells of the table that the command prints once."""
    watch.main([*args, "--once"])
    return [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines() if "|" in line]


def test_a_row_says_how_far_a_run_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads, first, _, done = rows(capsys, str(folder))
    assert heads == ["run", "setting", "state", "step", "eval/accuracy, %", "change", "curve", "left"]
    accuracies = [line["eval"]["accuracy"] for line in cli.lines(folder / "0" / "metrics.jsonl") if "eval" in line]
    seconds = [
        sum(value for key, value in line.items() if key.startswith("time/"))
        for line in cli.lines(folder / "0" / "metrics.jsonl")[1:]
    ]
    change = f"{100 * (accuracies[-1] - accuracies[0]):+.1f}".replace("-", "\N{MINUS SIGN}")
    assert first[:6] == ["0", "seed=0", "running", "4/8", f"{100 * accuracies[-1]:.1f}", change]
    assert first[6] == watch.sparkline(accuracies) and len(first[6]) == len(accuracies) == 2
    left = round(sum(seconds) / 4 * 4)
    assert first[7] == f"{left // 60}:{left % 60:02}", "four steps, as long as those before"
    assert done[2:4] == ["finished", "4/4"] and done[7] == ""
    alone = rows(capsys, str(folder / "2"))
    assert len(alone) == 2 and alone[1][:3] == ["2", "game=lsp reward=verifier", "finished"]


def test_every_state(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> dict[str, str]:
        return {name: one.state for name, one in standings([folder]).items()}

    assert states() == {"0": "running", "1": "running", "2": "finished"}
    written(folder / "1", standing.QUIET + 5)
    assert states()["1"] == "stalled" and states()["0"] == "running"
    line = json.dumps({"step": 5, "time/play": 20.0}) + "\n"
    (folder / "1" / "metrics.jsonl").write_text((folder / "1" / "metrics.jsonl").read_text() + line)
    written(folder / "1", standing.QUIET + 5)
    assert states()["1"] == "running", "its steps take long"
    written(folder / "1", 205)
    assert states()["1"] == "stalled"
    summarise(folder / "0", status="failed", reason="out of memory in step 5")
    summarise(folder / "2", status="interrupted")
    shutil.copytree(folder / "1", folder / "3")
    (folder / "3" / "summary.json").unlink()
    (folder / "3" / "metrics.jsonl").unlink()
    written(folder / "3", 5)
    assert states() == {"0": "failed", "1": "stalled", "2": "interrupted", "3": "running"}, "3 is starting"
    written(folder / "3", standing.STARTING + 5)
    assert states()["3"] == "broken"
    watch.main([str(folder)])  # once, since this is no terminal
    out = " ".join(capsys.readouterr().out.split())
    assert "4 runs: 1 failed, 1 stalled, 1 interrupted, 1 broken" in out
    assert (
        "0 is failed: out of memory in step 5" in out and "1 is stalled: no end was recorded after step 5 of 8" in out
    )


def test_jobs_that_have_not_started_wait_while_their_sweep_goes_on(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    table = ("game=kuhn", "player=tabular", "episodes=2", "steps=1", "eval=none", "optimized_metric=loss")
    assert cli.run("-m", *table, "seed=0,1", f"hydra.sweep.dir={sweep}").code == 0
    shutil.rmtree(sweep / "1")
    assert [one.state for one in standings([sweep]).values()] == ["finished", "waiting"]
    written(sweep, standing.STARTING + 5)
    assert [one.state for one in standings([sweep]).values()] == ["finished", "missing"]


def test_files_that_did_not_change_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real: Callable[..., Any] = standing.read

    def read(path: Path, transcripts: bool) -> Any:
        seen.append(path.name)
        return real(path, transcripts)

    monkeypatch.setattr(standing, "read", read)
    first = standings([folder])
    assert sorted(seen) == ["0", "1", "2"] and standings([folder]).keys() == first.keys() and len(seen) == 3
    with (folder / "1" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "eval": {"accuracy": 1.0}}) + "\n")
    assert standings([folder])["1"].values[-1] == 1.0 and seen[3:] == ["1"]


def test_a_sparkline() -> None:
    assert watch.sparkline([0.0, 0.5, 1.0]) == "▁▅█" and watch.sparkline([2.0, 2.0]) == "▁▁" and not watch.sparkline([])
    assert watch.sparkline([1.0, 3.0, 0.0, 0.0], width=2) == "█▁", "means of stretches"
    assert len(watch.sparkline([float(i) for i in range(1000)])) == watch.CURVE


def test_the_view_lives_until_no_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, looks = StringIO(), []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        for name in ("0", "1") if len(looks) == 2 else ():
            summarise(folder / name, status="finished")

    monkeypatch.setattr(console, "_console", Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(time, "sleep", sleep)
    watch.main([str(folder), "--every", "0.5"])
    assert looks == [0.5, 0.5]
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert "2 running, 1 finished" in shown and "3 runs: 3 finished" in shown.splitlines()[-6:][0]
    assert screen.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, said in (
        ([str(tmp_path)], "holds no run; give the folder of a run"),
        ([str(tmp_path / "nowhere")], "is not a folder"),
        ([str(tmp_path), "--every", "0"], "--every is 0; use at least 0.1 seconds"),
    ):
        with pytest.raises(SystemExit) as end:
            watch.main(args)
        err = capsys.readouterr().err
        assert end.value.code == 1 and said in err and err.count("\n") == 1


def test_ctrl_c_leaves_quietly_and_shows_the_cursor(folder: Path) -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "selfplay", "watch", str(folder), "--every", "0.2"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=env, cwd=cli.ROOT) as process:
        os.close(slave)
        shown, began = b"", time.monotonic()
        while b"running" not in shown and time.monotonic() - began < 60:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        try:
            while more := os.read(master, 4096):
                shown += more
        except OSError:
            pass  # the process has closed its end
    os.close(master)
    assert process.returncode == 130 and b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
