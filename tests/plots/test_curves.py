"""The curves of a run: what they show, in which order and colours, and what cannot be drawn."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from toys import Killed

from selfplay.curves import main
from selfplay.errors import SelfplayError
from selfplay.plots import draw_curves
from selfplay.plots.curves import Panel, panels, run_figure
from selfplay.plots.figure_store import COLOURS, INK

EVALUATION = {"accuracy": 0.5, "interval": [0.4, 0.6], "questions": 8, "few_shot": 0.25, "levels": {"1": 0.5}}


def shown(metrics: list[dict[str, Any]], primary: str = "") -> dict[str, Panel]:
    """The panels by their titles, from lines as they are in metrics.jsonl."""
    from selfplay.measures import numbers

    return {panel.title: panel for panel in panels([numbers(line) for line in metrics], primary)}


def step(number: int, **more: Any) -> dict[str, Any]:
    roles = {"challenger/payoff": 1.0, "solver/payoff": 0.5, "solver/reward": 0.5, "solver/kl": 0.1, "time/play": 2.0}
    return {"step": number, **roles, **more}


def test_panels_are_what_was_logged_with_the_primary_metric_first() -> None:
    metrics = [{"step": 0, "eval": EVALUATION}, step(1, frac_reward_zero_std=0.25), step(2, eval=EVALUATION)]
    found = shown(metrics)
    assert list(found) == [
        "Held-out accuracy, %", "Payoff", "Groups with equal rewards (no signal), %",
        "KL from the reference, nats per token",
    ], "the reward is the payoff, nothing is invalid, and the entropy was not logged"  # fmt: skip
    first = found["Held-out accuracy, %"].curves
    assert [(curve.key, curve.label) for curve in first] == [
        ("eval/accuracy", "without examples"),
        ("eval/few_shot", "behind examples"),
    ]
    assert (first[0].x, first[0].y, first[0].low, first[0].high) == ([0, 2], [0.5, 0.5], [0.4, 0.4], [0.6, 0.6])
    assert first[1].low == [], "the interval is that of the main figure"
    assert [curve.key for curve in found["Payoff"].curves] == ["solver/payoff", "challenger/payoff"]
    assert [curve.key for curve in next(iter(shown(metrics, "challenger/payoff").values())).curves][1] == (
        "challenger/payoff"
    )
    lossy = [*metrics, step(3, loss=1.0)]
    assert next(iter(shown(lossy, "loss"))) == "Loss" and "Loss" not in shown(lossy)
    assert list(shown([{"step": 1, "loss": 1.0, "solver/payoff": 0.0}])) == ["Payoff", "Loss"], (
        "without a KL or entropy"
    )
    assert "Reward" in shown([step(1), step(2, **{"solver/payoff": 0.75})]), "a reward of its own is shown"


def test_further_evaluations_have_panels_and_counts_have_none() -> None:
    versus = {"return": 1.0, "interval": None, "win_rate": 0.9, "win_rate_interval": [0.7, 1.2], "games": 8}
    found = shown([step(1, eval=versus | {"gym": EVALUATION, "returns": {"first": 1.0}})])
    assert list(found)[:4] == ["Return", "Games won, %", "Gym: held-out accuracy, %", "Payoff"]
    [won], [lone] = found["Games won, %"].curves, found["Return"].curves
    assert (won.low, won.high, lone.low) == ([0.7], [1.0], []), "the band of a share ends at 1"
    assert found["Gym: held-out accuracy, %"].curves[0].high == [0.6]


def test_a_role_has_one_colour_and_no_other_line_has_it() -> None:
    metrics = [step(i, loss=1.0, **{"solver/entropy": 1.0, "challenger/kl": 2.0}, eval=EVALUATION) for i in (1, 2)]
    colours: dict[str, set[str]] = {}
    for panel in shown(metrics, "loss").values():
        for curve in panel.curves:
            colours.setdefault(curve.key.rpartition("/")[0], set()).add(curve.look["color"])
    assert colours == {"": {INK}, "eval": {INK}, "solver": {COLOURS[0]}, "challenger": {COLOURS[1]}}
    alone = shown([{"step": 1, "solver/payoff": 1.0}])["Payoff"].curves[0]
    assert alone.look["color"] == COLOURS[0], "the solver's colour does not depend on the other roles"
    many = shown([{"step": 1, **{f"player_{i}/payoff": 1.0 for i in range(9)}}])["Payoff"].curves
    assert len({(curve.look["color"], curve.look["linestyle"]) for curve in many}) == 9


def test_no_panel_is_empty_and_every_text_has_nine_points() -> None:
    from matplotlib.text import Text

    metrics = [{"step": 0, "eval": EVALUATION, "time/eval": 1.0}, *(step(i) for i in range(1, 121))]
    for width, columns in ((6.8, 3), (3.3, 1), (3.0, 1)):
        figure = run_figure(metrics, "eval/accuracy", width)
        assert len(figure.axes) == 4 and all(axes.has_data() for axes in figure.axes)
        assert len({axes.get_subplotspec().colspan.start for axes in figure.axes}) == columns  # type: ignore[union-attr]
        assert {axes.get_shared_x_axes().get_siblings(axes)[0] for axes in figure.axes} == set(figure.axes), "no twins"
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
        assert {text.get_fontsize() for text in texts} == {9.0}
        assert figure.get_tightbbox().width <= width + 0.02, "nothing is cut off"
    assert "mean over 7 steps" in " ".join(text.get_text() for text in texts)
    assert len(run_figure(metrics, most=2).axes) == 2
    low, high = run_figure([step(1, **{"solver/invalid": 1.0, "solver/truth": 0.0})]).axes[2].get_ylim()
    assert low > 0 and high <= 102


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match="no metric was logged yet"):
        draw_curves([], tmp_path / "curves.png")
    with pytest.raises(SelfplayError, match=r"the width is 1 inches; use 3 to 100"):
        run_figure([step(1)], width=1)
    with pytest.raises(SelfplayError, match=r"curves.bmp ends in '.bmp', but figures are written as .png, .pdf, .svg"):
        draw_curves([step(1)], tmp_path / "curves.bmp")
    assert os.listdir(tmp_path) == []
    assert math.isfinite(run_figure([step(1)]).get_figwidth())


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def cut(figure: Figure, draft: Path, **_: object) -> None:
        draft.write_bytes(b"\x89P")
        raise Killed

    monkeypatch.setattr(Figure, "savefig", cut)
    with pytest.raises(Killed):
        draw_curves([step(1)], path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["curves.png"]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with three steps."""
    run = tmp_path / "a run"
    run.mkdir()
    (run / "config.yaml").write_text("optimized_metric: solver/kl\n")
    (run / "metrics.jsonl").write_text("".join(json.dumps(step(i)) + "\n" for i in (1, 2, 3)))
    return run


def test_the_command_writes_any_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder)])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG") and "curves.png" in capsys.readouterr().out
    out = folder.parent / "paper" / "figure.svg"
    main([str(folder), "--out", str(out), "--width", "3.3", "--panels", "1"])
    text = out.read_text()
    assert "KL from the reference" in text and "Payoff" not in text, "text stays text; the primary metric is first"
    main([str(folder), "--out", str(out.with_suffix(".pdf"))])
    assert b"/FontFile2" in out.with_suffix(".pdf").read_bytes(), "TrueType, which conferences ask for"


def test_the_command_says_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "metrics.jsonl").write_text("")
    (empty := folder.parent / "paper").mkdir()
    for given, said in (
        ([str(folder.parent)], "holds several runs; give one of them, or draw all of them with: selfplay report"),
        ([str(empty)], "is not a run folder"),
        ([str(folder)], "a run: no metric was logged yet"),
        ([str(folder), "--panels", "0"], "panels is 0"),
    ):
        with pytest.raises(SystemExit) as end:
            main(given)
        assert end.value.code == 1 and said in capsys.readouterr().err
