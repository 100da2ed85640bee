"""What a run leaves on disk survives a kill at any instant; what a person sees of it fits where they look."""

import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Self

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Ask, Batch, Episode, Player, Policy, Reply, SelfplayError, Turn
from selfplay.runs import RunFolder, checkpoint, console
from selfplay.runs.plots import draw_curves


class Toy(Policy):
    """A policy of one number."""

    def __init__(self, value: float = 0.0) -> None:
        self.weight = Parameter(torch.tensor([value]))

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply("") for _ in asks]

    def logprobs(self, batch: Batch) -> Tensor:
        return self.weight.expand(batch.replies.shape)

    def parameters(self) -> Iterable[Parameter]:
        return [self.weight]

    def snapshot(self) -> Policy:
        return Toy(self.weight.item())

    def at(self, temperature: float) -> Player:
        return self

    def save(self, folder: Path) -> None:
        torch.save(self.weight.detach(), folder / "weight.pt")

    def load(self, folder: Path) -> None:
        self.weight.data = torch.load(folder / "weight.pt")


class Killed(BaseException):
    """Stands for a signal that ends the process."""


class Dying(Toy):
    """A policy whose process is killed while it is being saved."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        raise Killed


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = OmegaConf.create({"seed": 3, "game": {"seed": "${seed}", "answers": 4}, "steps": 9})
    return RunFolder.create(tmp_path / "deep" / "run", config)


def episodes() -> list[Episode]:
    ask = Ask("solver", ({"role": "system", "content": "s"}, {"role": "user", "content": "2+2?\nnow"}), group=(0, "a"))
    first = Turn(Ask("challenger", ({"role": "user", "content": "Write."},)), Reply("2+2?"), {}, -0.5)
    return [Episode(7, [first, Turn(ask, Reply("4\u2028é"), {"reward": 1.0}, 0.5)])]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


# --- the folder -------------------------------------------------------------------------------------------------------


def test_config_is_resolved_and_comes_back_without_versions(run: RunFolder) -> None:
    assert RunFolder.open(run.path).config == {"seed": 3, "game": {"seed": 3, "answers": 4}, "steps": 9}
    assert "${" not in (run.path / "config.yaml").read_text()
    versions = OmegaConf.select(OmegaConf.load(run.path / "config.yaml"), "versions")
    assert set(versions) == {"python", "torch", "transformers", "selfplay", "commit"}
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["commit"] is None or re.fullmatch("[0-9a-f]{40}", versions["commit"])
    assert os.listdir(run.path) == ["config.yaml"]


def test_a_folder_is_never_used_for_two_runs(run: RunFolder) -> None:
    with pytest.raises(SelfplayError, match=r"already holds a run; resume that run, or choose another folder"):
        RunFolder.create(run.path, OmegaConf.create({}))
    assert run.config["steps"] == 9


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"nowhere is not a run folder \(it does not exist\)"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(SelfplayError, match=r"is not a run folder \(it has no config.yaml\)"):
        RunFolder.open(tmp_path)


def test_metrics_come_back_and_a_torn_last_line_does_not(run: RunFolder) -> None:
    assert run.metrics() == []
    run.log(1, {"solver/reward": 0.5, "eval": {"accuracy": 0.25, "interval": [0.0, 1.0]}})
    run.log(2, {"solver/reward": 0.75})
    expected = [
        {"step": 1, "solver/reward": 0.5, "eval": {"accuracy": 0.25, "interval": [0.0, 1.0]}},
        {"step": 2, "solver/reward": 0.75},
    ]
    assert run.metrics() == expected
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "solver/rew')
    assert run.metrics() == expected


def test_a_broken_line_amid_whole_ones_is_an_error(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(SelfplayError, match=r"line 2 of .*metrics.jsonl is not JSON"):
        run.metrics()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(run: RunFolder, value: float) -> None:
    with pytest.raises(SelfplayError, match=rf"'solver/kl' is {value} at step 5"):
        run.log(5, {"drift": 0.0, "solver/kl": value})
    with pytest.raises(SelfplayError, match=r"'eval.interval\[1\]'"):
        run.log(5, {"eval": {"interval": [0.0, value]}})
    with pytest.raises(SelfplayError, match=r"'after.accuracy'"):
        run.summarise({"after": {"accuracy": value}})
    unpaid = Episode(0, [Turn(Ask("solver"), Reply("4"), payoff=value)])
    with pytest.raises(SelfplayError, match=r"'payoff' is .* at step 5, which episodes.jsonl cannot hold"):
        run.transcribe(5, [*episodes(), unpaid])
    assert os.listdir(run.path) == ["config.yaml"]


def test_transcripts_hold_one_line_a_turn(run: RunFolder) -> None:
    played = episodes()
    run.transcribe(4, played, {id(played[0].turns[1]): 0.125}, {"solver": "learner"})
    first, second = read(run.path / "episodes.jsonl")
    assert first["player"] is None and first["advantage"] is None and first["group"] is None
    assert second == {
        "step": 4,
        "episode": 7,
        "role": "solver",
        "player": "learner",
        "group": "(0, 'a')",
        "prompt": "2+2?\nnow",
        "reply": "4\u2028é",
        "scores": {"reward": 1.0},
        "payoff": 0.5,
        "advantage": 0.125,
    }


def test_a_step_is_one_write(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything of the step ahead of the only write, a kill can tear no more than one line."""
    long = Episode(0, [Turn(Ask("solver"), Reply("x" * 5000), payoff=0.0) for _ in range(20)])
    writes: list[int] = []

    class Spy:
        def __init__(self, path: Path) -> None:
            self.name = path.name

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> None:
            writes.append(data.count(b"\n"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_, **__: Spy(path))
        run.transcribe(1, [long])
    assert writes == [20]


def test_rewind_forgets_later_steps_and_torn_lines(run: RunFolder) -> None:
    run.rewind(0)
    assert os.listdir(run.path) == ["config.yaml"]
    for step in (1, 2, 3):
        run.log(step, {"drift": 0.0})
        run.transcribe(step, episodes())
    for name in ("metrics.jsonl", "episodes.jsonl"):
        with (run.path / name).open("a") as file:
            file.write('{"step": 2, "')
    run.rewind(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert [line["step"] for line in read(run.path / "episodes.jsonl")] == [1, 1, 2, 2]
    run.log(3, {"drift": 1.0})
    assert run.metrics()[2] == {"step": 3, "drift": 1.0}
    assert sorted(os.listdir(run.path)) == ["config.yaml", "episodes.jsonl", "metrics.jsonl"]


def test_a_kill_while_rewinding_or_summarising_changes_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log(1, {"drift": 0.0})
    run.log(2, {"drift": 0.0})
    run.summarise({"status": "running"})

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(Killed):
        run.rewind(1)
    with pytest.raises(Killed):
        run.summarise({"status": "done"})
    assert len(run.metrics()) == 2
    assert json.loads((run.path / "summary.json").read_text()) == {"status": "running"}


# --- checkpoints ------------------------------------------------------------------------------------------------------


def steps(run: RunFolder) -> list[str]:
    return sorted(os.listdir(run.checkpoints))


def test_a_checkpoint_comes_back(run: RunFolder) -> None:
    assert checkpoint.latest(run) is None
    state = {"optimizer": {"m": torch.arange(3.0), "lr": 0.1}, "rng": torch.get_rng_state(), "league": [(1, "a"), None]}
    path = checkpoint.save(run, 20, Toy(2.5), state, keep=2, keep_every=0)
    assert path == run.checkpoints / "step-000020" and checkpoint.latest(run) == (20, path)
    policy = Toy()
    loaded = checkpoint.load(path, policy)
    assert policy.weight.item() == 2.5
    assert loaded["league"] == [(1, "a"), None] and loaded["optimizer"]["lr"] == 0.1  # type: ignore[index]
    assert torch.equal(loaded["optimizer"]["m"], torch.arange(3.0))  # type: ignore[index]
    checkpoint.save(run, 20, Toy(3.5), {}, keep=2, keep_every=0)
    assert checkpoint.load(path, policy) == {} and policy.weight.item() == 3.5


@pytest.mark.parametrize("step", [20, 40])
def test_a_kill_while_saving_leaves_the_checkpoint_before(run: RunFolder, step: int) -> None:
    before = checkpoint.save(run, 20, Toy(2.0), {"n": 1}, keep=1, keep_every=0)
    for _ in range(2):
        with pytest.raises(Killed):
            checkpoint.save(run, step, Dying(4.0), {"n": 2}, keep=1, keep_every=0)
    assert checkpoint.latest(run) == (20, before)
    assert steps(run) == ["step-000020"]
    assert checkpoint.load(before, Toy()) == {"n": 1}
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
        assert told.endswith(f"; delete {path} to resume from the checkpoint before it"), what
        assert policy.weight.item() == 9.0
    file.unlink()
    with pytest.raises(SelfplayError, match=r"state.pt is missing; delete .*step-000003 to resume"):
        checkpoint.load(path, Toy())


def test_a_state_that_could_not_be_read_back_is_refused_at_once(run: RunFolder) -> None:
    with pytest.raises(SelfplayError, match=r"holds pathlib.*Path, which could not be read back"):
        checkpoint.save(run, 3, Toy(), {"where": run.path}, keep=0, keep_every=0)
    assert checkpoint.latest(run) is None


# --- what a person sees -----------------------------------------------------------------------------------------------

METRICS = {
    "solver/truth": 0.29,
    "drift": 2.1e-6,
    "solver/reward": 0.3111,
    "challenger/invalid": 0.03,
    "solver/kl": 9.0,
    "time/play": 1,
}
BEFORE = {
    "accuracy": 0.3125,
    "interval": [0.276, 0.351],
    "questions": 576,
    "families": {"add": 0.5, "[odd]": 0.25, "a family with a rather long name": 0.0},
    "levels": {"1": 0.75, "4": 0.0},
}
AFTER = BEFORE | {"accuracy": 0.4375, "interval": [0.4, 0.48], "families": {"add": 0.625, "[odd]": 0.125, "new": 1.0}}
GAIN = {"gain": 0.125, "interval": [0.08, 0.17]}


def test_plain_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Progress(60) as progress:
        for step in range(1, 61):
            progress.update(step, METRICS)
        console.say("[bold] saved " + "x" * 200)
    lines = capsys.readouterr().out.splitlines()
    figures = "solver/reward 0.31  solver/truth 0.29  challenger/invalid 0.03  drift 2e-06"
    assert re.fullmatch(re.escape(f"step 1/60  {figures}  ") + r"\d+\.\d s", lines[0])
    assert [int(re.split("[ /]", line)[1]) for line in lines[:-1]] == [1, *range(3, 61, 3)]
    assert lines[-1] == "[bold] saved " + "x" * 200


def test_plain_lines_of_a_short_an_interrupted_and_a_resumed_run(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Progress(2) as progress:
        progress.update(1, {})
        progress.update(2, {})
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 1/2", "step 2/2"]
    with console.Progress(50) as progress:
        for step in range(1, 51):
            progress.update(step, {})
        console.say("end")
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][-3:] == [
        "step 48/50",
        "step 50/50",
        "end",
    ]
    with pytest.raises(Killed), console.Progress(1000, done=7) as progress:
        for step in (8, 9, 10):
            progress.update(step, {})
        raise Killed
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 8/1000", "step 10/1000"]


def test_a_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "_console", Console(file=screen, force_terminal=True, width=120))
    with console.Progress(60, done=10) as progress:
        progress.update(11, METRICS)
        console.say("a checkpoint")
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert "11/60" in shown and "solver/reward 0.31  solver/truth 0.29  0.0 s/step" in shown
    assert "a checkpoint\n" in shown.replace("\r", "") and "drift" not in shown


def test_the_closing_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    where = Path("/runs/[x]/" + "long/" * 40)
    console.closing_table(BEFORE, AFTER, where, GAIN)
    out = capsys.readouterr().out
    *table, last = out.splitlines()
    assert last == f"run folder: {where}"
    assert out.isascii() and max(map(len, table)) <= 100 and "\x1b" not in out
    rows = [[cell.strip() for cell in line.split("|")] for line in table if "|" in line]
    assert rows == [
        ["", "before", "after", "change"],
        ["held-out accuracy", "31.2 [27.6, 35.1]", "43.8 [40.0, 48.0]", "+12.5 [+8.0, +17.0]"],
        ["add", "50.0", "62.5", "+12.5"],
        ["[odd]", "25.0", "12.5", "-12.5"],
        ["a family with a rather long name", "0.0", "-", "-"],
        ["new", "-", "100.0", "-"],
        ["level 1", "75.0", "75.0", "+0.0"],
        ["level 4", "0.0", "0.0", "+0.0"],
    ]
    assert "576 held-out questions" in out


def test_the_closing_table_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "_console", Console(file=screen, force_terminal=True, width=80))
    console.closing_table(BEFORE, AFTER | {"families": {}}, Path("run"), GAIN)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert re.search(r"\x1b\[1m\s*43.8 \[40.0, 48.0\]", screen.getvalue()), "the row of the whole is bold"


# --- the picture ------------------------------------------------------------------------------------------------------


def panels(metrics: list[dict[str, object]], path: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Draw, and give every word of every panel."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    words: list[set[str]] = []
    save = Figure.savefig

    def spy(figure: Figure, *args: object, **kwargs: object) -> None:
        save(figure, *args, **kwargs)  # type: ignore[arg-type]
        found = (axes.findobj(Text) for axes in figure.axes[:6])
        words.extend({text.get_text() for text in texts if isinstance(text, Text)} for texts in found)

    monkeypatch.setattr(Figure, "savefig", spy)
    draw_curves(metrics, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and os.listdir(path.parent) == [path.name]
    return words


def test_curves_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("not measured" in words for words in panels([], tmp_path / "curves.png", monkeypatch))


def test_curves_show_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: list[dict[str, object]] = [
        {
            "step": s,
            "solver/reward": s / 9,
            "solver/truth": 0.5,
            "player_2/kl": 0.1,
            "time/play": 1.0,
            "solver/kl": None,
        }
        for s in range(1, 51)
    ]
    metrics[0]["eval"] = {"accuracy": 0.5, "interval": [0.4, 0.6]}
    reward, accuracy, challenger, kl, entropy, times = panels(metrics, tmp_path / "curves.png", monkeypatch)
    assert {"solver/reward", "solver/truth"} <= reward and "player_2/kl" in kl and "time/play" in times
    assert ["not measured" in words for words in (reward, accuracy, challenger, kl, entropy, times)] == [
        *(False, False, True),
        *(False, True, False),
    ]
    assert "time/score" not in times and "solver/kl" not in kl


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def cut(figure: Figure, draft: Path, **_: object) -> None:
        draft.write_bytes(b"\x89P")
        raise Killed

    monkeypatch.setattr(Figure, "savefig", cut)
    with pytest.raises(Killed):
        draw_curves([], path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["curves.png"]
