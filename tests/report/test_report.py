"""The report without a browser: its numbers are the statistics', every run is told of, no text can break the page."""

import json
import re
import shutil
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cli
import numpy as np
import pandas as pd
import pytest
from fabricated import HOSTILE, STORIES, hostile, run, sweep
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from scipy import stats
from scipy.special import expit, logit

from selfplay import crossplay
from selfplay.measures import important, measure, number, probability
from selfplay.plots.figure_store import Album
from selfplay.plots.figures import spread, wrapped
from selfplay.report import curve_section
from selfplay.report import page as page_module
from selfplay.report.__main__ import main, place
from selfplay.report.comparison import compared, comparison
from selfplay.report.curve_section import POINTS, stretches
from selfplay.report.settings import Settings
from selfplay.report.statistics import curves
from selfplay.report.transcripts import LONGEST, cut, embedded, sample, steps_in_order
from selfplay.runs import load

KUHN = ("game=kuhn", "player=tabular", "episodes=4", "steps=4", "eval.every=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three settings, three seeds; two of the settings ask questions of their own."""
    path = tmp_path_factory.mktemp("report") / "sweep"
    sweep(path, (STORIES[0], STORIES[2], STORIES[3]), seeds=3, steps=6, episodes=4)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return made(folder, out=folder.parent / "out")


@pytest.fixture(scope="module")
def kuhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sweep of four runs: who wins is known, NashConv is what counts."""
    path = tmp_path_factory.mktemp("kuhn") / "poker"
    ended = cli.run("-m", *KUHN, "seed=0,1", "regularizer=none,entropy", f"hydra.sweep.dir={path}")
    assert ended.code == 0, ended.err
    return path


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a report's time is the drawing of the curves."""
    monkeypatch.setattr(page_module, "learning_curves", lambda *_: ([], ""))


@pytest.fixture
def few_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two metrics."""
    monkeypatch.setattr(curve_section, "important", lambda *args: important(*args)[:2])


def made(*folders: Path, out: Path, baseline: str | None = None) -> str:
    """The page that the command writes."""
    main([*map(str, folders), "--out", str(out), *(["--baseline", baseline] if baseline else [])])
    return (out / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag of a page, and every attribute with its value."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def section(page: str, name: str) -> str:
    """One section of the page."""
    [found] = re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return str(found)


def rows(part: str) -> list[list[str]]:
    """The cells of every row of the tables in a part of the page, as their text."""
    return [
        [
            unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[dh][ >].*?</t[dh]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr[ >].*?</tr>", part, re.DOTALL)
    ]


def problems(page: str) -> str:
    """The box on what is missing; empty where there is none."""
    found = re.search(r'<div class="problems".*?</div>', page, re.DOTALL)
    return unescape(found[0]) if found else ""


def transcripts(page: str) -> dict[str, Any]:
    """The data of the browser of transcripts."""
    [found] = re.findall(r'<script type="application/json" id="transcripts-data">(.*?)</script>', page, re.DOTALL)
    return dict(json.loads(found))


def interval(values: Sequence[float], digits: int = 1, signed: bool = True, share: bool = False) -> str:
    """Mean and Student-t interval of a cell, computed here; of per cents (`share`) on the logit scale."""
    mean = float(np.mean(values))
    if np.ptp(values) == 0:
        return number(mean, digits, signed)
    low, high = (mean + side * stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) for side in (-1, 1))
    if share:
        p = mean / 100
        low, high = (100 * expit(logit(p) + (end - mean) / 100 / (p * (1 - p))) for end in (low, high))
    return f"{number(mean, digits, signed)} [{number(low, digits, signed)}, {number(high, digits, signed)}]"


# --- the table --------------------------------------------------------------------------------------------------------


def accuracies(folder: Path, when: str) -> dict[str, list[float]]:
    """Percentages by setting, in the order of the seeds, from the summaries themselves."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*/summary.json"), key=lambda p: int(p.parent.name)):
        config = (path.parent / "config.yaml").read_text()
        setting = " ".join(re.findall(r"^- ((?:game|reward)=\w+)$", config, re.MULTILINE))
        found.setdefault(setting, []).append(100 * json.loads(path.read_text())["eval"][when]["accuracy"])
    return found


def test_the_tables_numbers_are_those_of_the_runs(folder: Path, page: str) -> None:
    before, after = accuracies(folder, "before"), accuracies(folder, "after")
    heads, *lines = rows(section(page, "comparison"))
    assert [head.replace("\xa0", " ") for head in heads] == [
        "setting", "seeds", "before, %", "after, %", "gain, points", "difference to the baseline, points",
        "p, paired t", "p, Holm", "p, sign flips",
    ]  # fmt: skip
    assert [line[0].removesuffix(" (baseline)") for line in lines] == list(after)
    base = next(iter(after.values()))
    tests = [stats.ttest_rel(values, base).pvalue for values in list(after.values())[1:]]
    for i, (line, (setting, values)) in enumerate(zip(lines, after.items(), strict=True)):
        gains = [a - b for a, b in zip(values, before[setting], strict=True)]
        assert line[1:5] == [
            "3",
            interval(before[setting], signed=False, share=True),
            interval(values, signed=False, share=True),
            interval(gains),
        ]
        if i == 0:
            assert line[5:] == ["–"] * 4 and line[0].endswith(" (baseline)")
        else:
            assert line[5] == interval([a - b for a, b in zip(values, base, strict=True)])
            assert line[6] == probability(tests[i - 1]) and line[8] in ("0.250", "0.500", "0.750", "1.000")
    holm = (2 * min(tests), max(2 * min(tests), max(tests)))  # of two: twice the smaller, then no less for the larger
    assert sorted(line[7] for line in lines[1:]) == sorted(map(probability, holm))


def test_another_baseline_by_its_name(folder: Path, tmp_path: Path) -> None:
    after, read = accuracies(folder, "after"), load(folder)
    chosen = list(after)[1]
    [found] = compared(read, chosen)
    table = comparison(found, Settings(read.runs["setting"]), chosen, Album(tmp_path))
    assert [row.setting for row in table.rows if row.setting.endswith("(baseline)")] == [f"{chosen} (baseline)"]
    first, cell = table.rows[0].setting, table.rows[0].cells[4]
    assert f"{cell.value} {cell.bounds}" == interval([a - b for a, b in zip(after[first], after[chosen], strict=True)])


def test_a_baseline_that_is_none_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(folder), "--out", str(tmp_path), "--baseline", "game=chess"])
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "game=chess" in said and all(" ".join(s.overrides) in said for s in (STORIES[0], STORIES[2]))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "nowhere" in capsys.readouterr().err


def test_any_optimised_metric_is_compared(kuhn: Path, without_curves: None, tmp_path: Path) -> None:
    page = made(kuhn, out=tmp_path)
    part = section(page, "comparison")
    _, *lines = rows(part)
    values = [json.loads((kuhn / str(i) / "summary.json").read_text())["optimized"]["value"] for i in range(4)]
    loaded = load(kuhn).runs
    for line, (setting, some) in zip(lines, loaded.groupby("setting", sort=False), strict=True):
        assert line[0].split(" ")[0] in setting and set(some["optimized"]) <= set(values)
        assert line[2] == "0.917", "all alike"
        assert line[3] == interval(some["optimized"].tolist(), 3, signed=False)
    assert "Lower is better" in part and "NashConv (eval/nash_conv)" in part
    assert 'id="questions"' not in page and 'id="goodhart"' not in page, "nobody asks, and there is no truth"


def test_the_sentences_are_on_the_page_and_on_the_terminal(
    folder: Path, page: str, without_curves: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = section(page, "answers")
    _, *lines = rows(section(page, "comparison"))
    made(folder, out=tmp_path)
    printed = capsys.readouterr().out
    sentences = [unescape(text) for text in re.findall(r"<li>(.*?)</li>", shown)]
    assert len(sentences) == 2 and all(f"  {sentence}\n" in printed for sentence in sentences)
    sizes = [abs(float(line[5].split(" ")[0].replace("−", "-"))) for line in lines[1:]]
    for sentence, line in zip(sentences, sorted(lines[1:], key=lambda row: -sizes[lines.index(row) - 1]), strict=True):
        difference, interval = line[5].split(" ", 1)
        worse = f"is {difference[1:]} points worse than" in sentence
        assert worse or f"is shown: {difference} points" in sentence
        assert worse == (float(line[7].removeprefix("< ")) < 0.05) and interval in sentence and line[7] in sentence


def test_accuracy_by_family_and_level_is_that_of_the_runs(folder: Path, page: str) -> None:
    part = section(page, "accuracy")
    summaries = [json.loads((folder / str(i) / "summary.json").read_text())["eval"]["after"] for i in range(9)]
    heads, *lines = rows(part.split("the numbers</summary>")[2])
    assert len(heads) == 4 and [line[0] for line in lines] == [f"level {i}" for i in range(1, 5)]
    for level, line in enumerate(lines, start=1):
        for setting, cell in enumerate(line[1:]):
            values = [100 * one["levels"][str(level)] for one in summaries[3 * setting : 3 * setting + 3]]
            assert cell == interval(values, signed=False, share=True)
    _, *lines = rows(part.split("the numbers</summary>")[1])
    assert [line[0] for line in lines] == list(summaries[0]["families"]) and len(lines) == 12


def test_the_values_under_the_pointer_are_those_of_the_curves(folder: Path, page: str) -> None:
    [text] = re.findall(r'data-points="([^"]*)"[^>]*aria-label="Solver: KL from the reference against step', page)
    points = json.loads(unescape(text))
    table = curves(load(folder).metrics, "solver/kl")
    assert points["names"] == ["step", "nats per token"] and len(points["lines"]) == 3
    for line, (_, part) in zip(points["lines"], table.groupby("setting", sort=False), strict=True):
        assert line["x"] == part["x"].tolist()
        for name, column in (("y", "mean"), ("low", "low"), ("high", "high")):
            np.testing.assert_allclose(line[name], part[column], rtol=1e-3)
    left, top, right, bottom = points["box"]
    assert 0 < left < 0.3 < right < 0.9 and 0 < top < 0.3 < bottom < 0.95
    [svg] = re.findall(r"<svg(?:(?!</svg>).)*curve-solver-kl-steps(?:(?!</svg>).)*</svg>", page, re.DOTALL)[:1]
    for index in range(3):  # three runs, the mean, the band, the key and the name
        assert svg.count(f'class="line-{index}"') == 7


def test_two_games_have_a_part_each(kuhn: Path, without_curves: None, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(kuhn, tmp_path / "games"))
    for i in (2, 3):
        config = runs / str(i) / "config.yaml"
        config.write_text(config.read_text().replace("kuhn.Kuhn", "poker.Leduc").replace("=kuhn", "=leduc"))
    page = made(runs, out=tmp_path / "out")
    for title in ("Kuhn", "Leduc"):
        lines = rows(page[page.index(f'id="{title.lower()}-comparison"') :].partition("</table>")[0])
        assert len(lines) == 3 and all(f"game={title.lower()} " in line[0] for line in lines[1:])
        assert f'<a href="#{title.lower()}-part">{title}</a>' in page
    said = section(page, "answers")
    assert said.count("not enough seeds (1): no interval") == 2 and '<p class="what">Leduc: NashConv' in said
    assert (tmp_path / "out" / "leduc-gain-eval-nash_conv.svg").is_file()


# --- what is missing --------------------------------------------------------------------------------------------------


def test_every_run_that_is_not_finished_is_named(kuhn: Path, without_curves: None, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(kuhn, tmp_path / "poker"))
    shutil.rmtree(damaged / "0")
    failed = json.loads((damaged / "1" / "summary.json").read_text())
    failed |= {"status": "failed", "reason": "out of memory in step 3 <b>& more</b>"}
    (damaged / "1" / "summary.json").write_text(json.dumps(failed))
    (damaged / "2" / "summary.json").write_text("{")
    page = made(damaged, out=tmp_path / "out")
    told = problems(page)
    assert "Run 0 is missing" in told and "out of memory in step 3 <b>& more</b>" in told and "Run 2 is broken" in told
    assert "<b>& more" not in page and "&lt;b&gt;&amp; more" in page
    assert "4 runs (" in page and "1 missing" in page and "1 failed" in page and "1 broken" in page
    assert "left out: unfinished" in section(page, "comparison")
    assert problems(made(kuhn, out=tmp_path / "whole")) == "", "a whole sweep has no such box"


def test_without_a_finished_run_there_is_a_page(few_curves: None, tmp_path: Path) -> None:
    run(tmp_path / "runs" / "0", STORIES[2], 0, steps=4, episodes=2, status="interrupted")
    page = made(tmp_path / "runs", out=tmp_path / "out")
    assert "nothing to compare yet" in page and "0 is interrupted" in problems(page)
    assert 'id="curves"' in page, "an unfinished run is drawn where its setting has no other"


# --- while runs go on -------------------------------------------------------------------------------------------------


def test_a_report_is_written_again_until_no_run_goes_on(
    tmp_path: Path, without_curves: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(tmp_path / "runs" / "0", STORIES[1], 0, steps=2, episodes=1, status="running")
    (path / "metrics.jsonl").rename(path / "later")
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == 7.5
        pages.append((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
        if len(pages) == 1:
            (path / "later").rename(path / "metrics.jsonl")
        else:
            summary = json.loads((path / "summary.json").read_text())
            (path / "summary.json").write_text(json.dumps(summary | {"status": "finished"}))

    monkeypatch.setattr("time.sleep", sleep)
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--refresh", "7.5"])
    last = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(pages) == 2 and all('<body data-refresh="7.5">' in page for page in pages)
    assert "0 steps" in pages[0] and "2 steps" in pages[1] and "page reloads itself every 7.5 s" in pages[1]
    assert "<body>" in last and "reloads itself every" not in last and "1 finished" in last
    said = capsys.readouterr().out
    assert said.count("written: ") == 2 and "written again every 7.5 s until no run goes on" in said


def test_a_run_without_a_step_has_a_page(tmp_path: Path) -> None:
    path = run(tmp_path / "runs" / "0", STORIES[1], 0, steps=1, episodes=1, status="running")
    (path / "metrics.jsonl").unlink()
    (path / "episodes.jsonl").unlink()
    page = made(tmp_path / "runs", out=tmp_path / "out")
    assert "nothing to compare yet" in page and 'id="curves"' not in page and "<svg" not in page


def test_a_report_on_runs_that_have_ended_is_written_once(
    kuhn: Path, without_curves: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(kuhn), "--out", str(tmp_path), "--refresh", "5"])
    assert capsys.readouterr().out.count("written") == 1
    with pytest.raises(SystemExit):
        main([str(kuhn), "--out", str(tmp_path), "--refresh", "0"])
    assert "--refresh is 0; use at least 1 second" in capsys.readouterr().err


def test_each_report_has_its_own_folder(
    kuhn: Path, without_curves: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place([Path("multirun/mine")]) == place([Path("multirun/x/../mine/")]) == Path("report/multirun/mine")
    assert place([Path("/data/a")]) == Path("report/data/a") and place([tmp_path / "a"]) == Path("report/a")
    both = [place([Path("multirun/a"), Path("multirun/b")]), place([Path("multirun/b"), Path("multirun/a")])]
    assert both[0] == both[1] and re.fullmatch(r"report/multirun/a\+b-[0-9a-f]{8}", str(both[0]))
    assert place([Path("multirun/a-b"), Path("multirun/c")]) != place([Path("multirun/a/b"), Path("multirun/c")])
    assert len(place([Path(f"multirun/{i}") for i in range(100)]).name) < 80
    main([str(kuhn)])
    assert (tmp_path / place([kuhn]) / "report.html").is_file()


# --- cross-play -------------------------------------------------------------------------------------------------------


def test_cross_play_beside_the_runs_is_shown(kuhn: Path, without_curves: None, tmp_path: Path) -> None:
    played = Path(shutil.copytree(kuhn, tmp_path / "poker"))
    crossplay.main([str(played), "--last", "--exact"])
    crossplay.main([str(played / "3"), "--games", "4"])
    (played / "1" / "crossplay").mkdir()
    (played / "1" / "crossplay" / "crossplay.json").write_text('{"names": ["a"]}')
    page = made(played, out=tmp_path / "out")
    part = section(page, "crossplay")
    found = json.loads((played / "crossplay" / "crossplay.json").read_text())
    lines = {row[0]: row for row in rows(part)}
    for name in found["names"]:
        assert lines[name][1] == number(found["ratings"]["elo"][name], 0, True)
        assert lines[name][3] == f"{found['meta_nash']['weights'][name]:.2f}"
        assert lines[name][5] == f"{found['nash_conv'][name]:.4f}"
    assert part.count("<h3>Kuhn: ") == 2
    assert "crossplay.json is not a result of cross-play" in problems(page)
    assert {p.name for p in (tmp_path / "out").glob("crossplay-*.png")} == {
        f"crossplay-{i}-{what}.png" for i in (1, 3) for what in ("payoffs", "ratings")
    }


# --- the figures ------------------------------------------------------------------------------------------------------


def test_every_figure_is_in_the_page_and_in_two_files(folder: Path, page: str) -> None:
    drawn = {path.stem for path in (folder.parent / "out").glob("*.svg")}
    assert drawn == {path.stem for path in (folder.parent / "out").glob("*.png")}
    assert drawn == set(re.findall(r"<code>([\w-]+)\.svg</code>", page)) and len(drawn) == page.count("<svg")
    assert {
        "gain-eval-accuracy",
        "curve-solver-truth-tokens",
        "goodhart-gap",
        "asked-self-bleu",
        "asked-family-2",
    } <= drawn
    for path in (folder.parent / "out").glob("*.svg"):
        ElementTree.parse(path)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder.parent / "out").glob("*.png"))


def test_each_config_is_read_once_and_each_figure_is_drawn_once_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a report of many runs spends its time on."""
    real, draw, configs, drawn = OmegaConf.load, Figure.draw, [], []
    monkeypatch.setattr(OmegaConf, "load", lambda file: (configs.append(file), real(file))[1])
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer))[1])
    monkeypatch.setattr(page_module, "learning_curves", lambda *_: ([], ""))
    made(folder, out=tmp_path)
    assert len(configs) == len(list(folder.glob("*/config.yaml"))) == 9
    assert len(drawn) == 2 * len(list(tmp_path.glob("*.svg"))) > 10


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    links = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    ids = [value for name, value in tags.attributes if name == "id"]
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    assert len(ids) == len(set(ids)), "no identifier twice"
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert not re.findall(r"url\((?!#)", page) and "@import" not in page


def test_lines_names_stay_apart_and_inside() -> None:
    places = spread({0: 5.0, 1: 5.0, 2: 5.2, 3: 0.0}, {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0}, 0.0, 10.0)
    assert sorted(places, key=lambda i: places[i]) == [3, 1, 0, 2] and places[3] == 0.5
    assert places[2] - places[0] >= 1.0 and places[0] - places[1] >= 1.5 and places[2] <= 9.5
    low = spread(dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 2.0), 0.0, 10.0)
    assert sorted(low.values()) == [1.0, 3.0, 5.0, 7.0]
    assert wrapped("game=lsp reward=rm", 10) == "game=lsp\nreward=rm" and wrapped("a b", 10) == "a b"


def test_many_steps_are_averaged_in_stretches() -> None:
    steps = pd.Series(range(0, 3 * POINTS + 1), dtype="Int64")
    table = pd.DataFrame({"run": "r", "setting": "s", "seed": 0, "step": steps, "tokens": 2.0 * steps.astype(float)})
    table["kl"] = steps.astype(float)
    thin, width = stretches(table)
    assert width == 3 and len(thin) == POINTS + 1
    assert thin["step"].tolist()[:3] == [0, 3, 6] and thin["kl"].tolist()[:3] == [0.0, 2.0, 5.0]
    assert thin["tokens"].tolist()[:3] == [0.0, 6.0, 12.0]
    same, width = stretches(table[table["step"] <= POINTS])
    assert width == 1 and len(same) == POINTS + 1


def test_settings_are_told_by_what_differs() -> None:
    settings = Settings(["game=lsp reward=rm", "game=lsp reward=verifier", "game=lsp reward=rm"])
    assert settings.all == ["game=lsp reward=rm", "game=lsp reward=verifier"] and settings.shared == ["game=lsp"]
    assert settings.short("game=lsp reward=rm") == "reward=rm" and settings.full("reward=rm") == "game=lsp reward=rm"
    assert Settings(["default"]).short("default") == "default"
    assert Settings(["a=1", "a=1 b=2"]).short("a=1") == "no other override"


def test_metrics_are_told_in_words_and_units() -> None:
    assert (measure("solver/truth").title, measure("solver/truth").unit) == ("Solver: right answers", "%")
    assert measure("eval/nash_conv").less_is_better and not measure("eval/accuracy").less_is_better
    assert measure("guesser/odd_thing").title == "Guesser: odd thing"
    found = [m.key for m in important(["loss", "solver/kl", "challenger/kl", "solver/truth", "a/b"], ["a/b"])]
    assert found == ["a/b", "solver/truth", "solver/kl", "challenger/kl"]
    assert (number(-0.04, 1, True), number(-1.26, 1, True), number(1.25, 2, True)) == ("0.0", "−1.3", "+1.25")
    assert (probability(0.0002), probability(0.0314), probability(float("nan"))) == ("< 0.001", "0.031", "–")


# --- the transcripts --------------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(without_curves: None, tmp_path: Path) -> None:
    path = run(tmp_path / "runs" / "a&b", STORIES[2], 0, steps=2, episodes=8)
    run(tmp_path / "runs" / "c", STORIES[2], 0, steps=2, episodes=2)
    hostile(path)
    page = made(tmp_path / "runs", out=tmp_path / "out")
    tags = Tags()
    tags.feed(page)
    assert "img" not in tags.names and tags.names.count("script") == 2, "the data and the program, no third"
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    data = transcripts(page)
    for text in HOSTILE:
        assert cut(text) in data["texts"], repr(text[:40])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", page), "none as it is in the file"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("x" * LONGEST) == "x" * LONGEST
    assert cut("x" * (LONGEST + 1500)) == "x" * LONGEST + " […1,500 more characters]"
    assert json.loads(embedded("</script>&\u2028\x00\ud800")) == "</script>&\u2028\x00\ud800"
    assert embedded("</script>&\u2028").isascii() and not set("<>&") & set(embedded("</script>&"))


def test_steps_are_taken_from_both_ends_and_between() -> None:
    assert steps_in_order(range(1, 10)) == [1, 9, 5, 3, 7, 2, 4, 6, 8]
    assert steps_in_order([4, 2]) == [2, 4] and steps_in_order([]) == []


def many_turns(runs: int, steps: int, episodes: int) -> pd.DataFrame:
    """Turns of a made-up game, nine an episode, with texts of a hundred characters that are all different."""
    index = pd.MultiIndex.from_product([range(runs), range(1, steps + 1), range(episodes), range(9)])
    run_of, step, episode, turn = (index.get_level_values(i) for i in range(4))
    table = pd.DataFrame({"run": run_of.astype(str), "setting": "s", "seed": 0, "step": step, "episode": episode})
    table["role"], table["player"], table["group"] = np.where(turn == 0, "challenger", "solver"), "learner", 0
    table["prompt"] = "Write one question."
    table["reply"] = [f"{'words ' * 16}{i}" for i in range(len(table))]
    table["payoff"] = np.linspace(-1, 1, len(table)) / 3
    return table.assign(advantage=np.nan, **{"score/reward": table["payoff"] * 7, "score/zeal": 0.5})


def test_the_sample_keeps_its_budget_and_whole_episodes() -> None:
    turns = many_turns(runs=5, steps=7, episodes=6)
    turns = turns[~((turns["run"] == "2") & (turns["step"] > 1))]  # a run that is soon used up
    found = sample(turns, budget=100_000)
    assert 80_000 < len(found.json()) < 110_000
    assert found.whole == len(turns) and found.shown == len(found.columns["run"]) < found.whole
    assert found.scores == ["reward", "zeal"]
    for name, (shown, whole, steps) in found.kept.items():
        assert (shown, whole) == (54, 54) if name == "2" else shown < whole
        assert name == "2" or {1, 7} <= set(steps)
    columns = pd.DataFrame({key: found.columns[key] for key in ("run", "step", "episode")})
    assert set(columns.value_counts()) == {9}, "whole episodes, and none twice"
    assert found.json() == sample(turns, budget=100_000).json(), "chosen without luck"
    assert sample(turns, budget=10**9).shown == len(turns)


def test_what_a_page_cannot_hold_is_left_empty() -> None:
    turns = many_turns(runs=1, steps=1, episodes=1).assign(seed=pd.array([pd.NA] * 9, dtype="Int64"), group=None)
    turns.loc[:2, "score/zeal"] = [np.inf, np.nan, -np.inf]
    data = json.loads(sample(turns).json())
    assert data["columns"]["score/zeal"] == [None, None, None, *[0.5] * 6] and data["runs"][0]["seed"] is None
    assert {data["texts"][i] for i in data["columns"]["group"]} == {""}


def test_a_sweep_of_24_runs_fits_into_ten_megabytes() -> None:
    found = sample(many_turns(runs=24, steps=12, episodes=32))
    assert 4_000_000 < len(found.json()) < 5_000_000, "of ten; the figures take one or two"
    assert len(found.runs) == 24 and min(shown for shown, _, _ in found.kept.values()) > 500


def test_figures_and_texts_come_through(folder: Path, page: str) -> None:
    data, turns = transcripts(page), load(folder).turns
    columns, texts = data["columns"], data["texts"]
    assert len(columns["run"]) == len(turns), "a small sweep is shown whole"
    read = pd.DataFrame({"run": [data["runs"][i]["name"] for i in columns["run"]], "step": columns["step"]})
    read["reply"] = [texts[i] for i in columns["reply"]]
    assert read["reply"].tolist() == turns["reply"].tolist() and read["step"].tolist() == turns["step"].tolist()
    truth = [np.nan if v is None else v for v in columns["score/truth"]]
    np.testing.assert_array_equal(truth, turns["score/truth"])
    np.testing.assert_allclose(columns["payoff"], turns["payoff"], rtol=1e-3)
    assert [texts[i] for i in columns["group"][:2]] == ["", "0"]
