"""What a person sees: lines, a bar, the closing table and the curves."""

import re
from io import StringIO
from pathlib import Path

import cli
import pytest
from rich.console import Console
from toys import Killed

from selfplay import console
from selfplay.runs import progress

METRICS = {
    "solver/truth": 0.29,
    "logprob_mismatch": 2.1e-6,
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
    with progress.Progress(60) as bar:
        for step in range(1, 61):
            bar.update(step, METRICS)
        console.say("[bold] saved " + "x" * 200)
    lines = capsys.readouterr().out.splitlines()
    figures = "solver/reward 0.31  solver/truth 0.29  challenger/invalid 0.03  logprob_mismatch 2e-06"
    assert re.fullmatch(re.escape(f"step 1/60  {figures}  ") + r"\d+\.\d s", lines[0])
    assert [int(re.split("[ /]", line)[1]) for line in lines[:-1]] == [1, *range(3, 61, 3)]
    assert lines[-1] == "[bold] saved " + "x" * 200


def test_plain_lines_of_a_short_an_interrupted_and_a_resumed_run(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress(2) as bar:
        bar.update(1, {})
        bar.update(2, {})
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 1/2", "step 2/2"]
    with progress.Progress(50) as bar:
        for step in range(1, 51):
            bar.update(step, {})
        console.say("end")
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][-3:] == [
        "step 48/50",
        "step 50/50",
        "end",
    ]
    with pytest.raises(Killed), progress.Progress(1000, done=7) as bar:
        for step in (8, 9, 10):
            bar.update(step, {})
        raise Killed
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["step 8/1000", "step 10/1000"]


def test_a_line_follows_what_the_run_measures(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for watch, metrics in (
        ("eval/nash_conv", {"first/payoff": 0.25, "second/payoff": -0.25, "first/kl": 1.0, "eval/nash_conv": 0.125}),
        ("first/kl", {"first/payoff": 0.25, "second/payoff": -0.25, "first/kl": 1.0}),
        ("", {"asker/payoff": 2.0, "solver/payoff": 1.0, "solver/reward": 0.5, "reward/truncated": 0.0}),
        ("", {f"player_{i}/payoff": float(i) for i in range(9)}),
    ):
        with progress.Progress(1, watch=watch) as bar:
            bar.update(1, metrics)
        lines.append(capsys.readouterr().out.strip().split("  ")[1:-1])
    assert lines == [
        ["eval/nash_conv 0.125", "first/payoff 0.25", "second/payoff -0.25"],
        ["first/kl 1.00", "first/payoff 0.25", "second/payoff -0.25"],
        ["solver/reward 0.50", "asker/payoff 2.00"],
        [f"player_{i}/payoff {i}.00" for i in range(progress.ON_LINE)],
    ]


def test_a_figure_of_an_earlier_evaluation_has_its_step(tmp_path: Path) -> None:
    ended = cli.run("game=kuhn", "player=tabular", "steps=2", "eval.every=5", f"hydra.run.dir={tmp_path / 'run'}")
    first, second = [line for line in ended.out.splitlines() if line.startswith("step ")]
    assert re.search(r"eval/nash_conv 0\.917 \(step 0\)  first/payoff", first)
    assert re.search(r"eval/nash_conv 0\.\d{3}  first/payoff", second), "of this step"


def test_a_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "_console", Console(file=screen, force_terminal=True, width=120))
    with progress.Progress(60, done=10) as bar:
        bar.update(11, METRICS)
        console.say("a checkpoint")
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert re.search(
        r"11/60 .*solver/reward 0\.31  solver/truth 0\.29  challenger/invalid 0\.03  \d+\.\d s/step", shown
    )  # on a busy machine, 0.1
    assert "a checkpoint\n" in shown.replace("\r", "") and "logprob_mismatch" not in shown


def test_the_closing_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    progress.closing_table(BEFORE, AFTER, GAIN)
    out = capsys.readouterr().out
    table = out.splitlines()
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
    progress.closing_table(BEFORE, AFTER | {"families": {}}, GAIN)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert re.search(r"\x1b\[1m\s*43.8 \[40.0, 48.0\]", screen.getvalue()), "the row of the whole is bold"


def test_figures_stand_with_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        "return": 0.0,
        "interval": [-0.25, 0.25],
        "win_rate": 0.5,
        "win_rate_interval": [0.375, 0.625],
        "games": 64,
    }
    after = before | {"return": 1.0, "interval": None, "win_rate": 1.0, "win_rate_interval": [0.9434, 1.0]}
    progress.closing_figures(before, after, {"return": 1.0, "win_rate": 0.5})
    lines = {line.split("|")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    cells = [cell.strip() for cell in lines["return"].split("|")]
    assert cells == ["return", "0.0000 [-0.2500, 0.2500]", "1.0000", "+1.0000"], "no interval where there is none"
    assert "0.5000 [0.3750, 0.6250] | 1.0000 [0.9434, 1.0000] | +0.5000" in lines["win_rate"]
    assert "evaluation, 64 games" in lines and "games" not in lines and not any("interval" in name for name in lines)
    progress.closing_figures({"accuracy": 0.5}, {"accuracy": 0.75}, {"gain": 0.25, "interval": [0.125, 0.375]})
    assert "+0.2500 [+0.1250, +0.3750]" in capsys.readouterr().out
    likelihood = {"nll": 1.0, "interval": [0.5, 1.5]}
    progress.closing_figures(likelihood, likelihood, {"gain": 0.0})
    assert capsys.readouterr().out.count("1.0000 [0.5000, 1.5000]") == 2
    progress.only_figures(after)
    shown = capsys.readouterr().out
    assert "1.0000 [0.9434, 1.0000]" in shown and "interval" not in shown
