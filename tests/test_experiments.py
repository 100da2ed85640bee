"""The tables in the experiments' READMEs are what their scripts make of the committed results."""

import importlib.util
import shutil
import sys
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from cli import ROOT
from scipy.stats import ttest_1samp

from selfplay.report.families import family, markdown
from selfplay.report.statistics import holm, paired_t

NAMES = (
    "baselines",
    "challenger_payoffs",
    "first_light",
    "ladder",
    "neighbours/offline_q",
    "paper_table",
    "rewards_and_regularisers",
    "smollm2_arithmetic",
    "smollm2_lsp",
    "stability",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_are_those_of_the_committed_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ROOT / "experiments" / name
    for path in (*here.glob("*.json"), *here.glob("*.csv")):
        shutil.copy(path, tmp_path)
    spec = importlib.util.spec_from_file_location(f"summarise_{name}", here / "summarise.py")
    assert spec is not None and spec.loader is not None
    monkeypatch.syspath_prepend(here)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = [] if name == "first_light" else ["--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["summarise.py", *out])
    module.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ", "Differences of the"))]
    written = (here / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in printed if line not in written] == [] and any("p, Holm" in line for line in printed)


NEIGHBOURS = ROOT / "experiments" / "neighbours"


def summaries() -> Any:
    """The script that summarises the neighbours."""
    spec = importlib.util.spec_from_file_location("summarise_neighbours", NEIGHBOURS / "summarise.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_and_equivalence_of_a_neighbour() -> None:
    """A figure at a step, over steps, after a number of tokens; a formula; two one-sided tests by scipy."""
    lines = pd.DataFrame({"a/b": [1.0, 2.0, 4.0], "c": [None, 1.0, 3.0], "tokens/generated": [0, 10, 10]}, [0, 1, 2])
    lines["tokens"] = summaries().tokens(lines)
    figure = summaries().figure_of
    assert figure(lines, {"metric": "a/b"}) == 4 and figure(lines, {"metric": "a/b", "at": "gain"}) == 3
    assert figure(lines, {"metric": "a/b", "at": [-2, -1]}) == 3 and figure(lines, {"metric": "a/b", "at": [1, 1]}) == 2
    assert figure(lines, {"metric": "a/b", "at": {"tokens": 5}}) == 2
    assert figure(lines, {"metric": "a/b", "at": {"tokens": 5, "gain": True}}) == 1
    assert figure(lines, {"metric": "a/b", "at": {"tokens": 50, "else": "last"}}) == 4
    with pytest.raises(SystemExit, match="ended after 20 of 50 tokens; give it more steps"):
        figure(lines, {"metric": "a/b", "at": {"tokens": 50}})
    assert figure(lines, {"metric": "(`a/b` + `c`) / 2"}) == 3.5 and isnan(figure(lines, {"metric": "missing"}))
    values, bound = pd.Series([0.01, -0.02, 0.03, 0.0]), 0.05
    sides = ((-bound, "greater"), (bound, "less"))
    wanted = max(ttest_1samp(values, mean, alternative=side).pvalue for mean, side in sides)
    assert summaries().equivalent(values, bound) == pytest.approx(wanted)
    arms = {"all": ["x=1"], "some": ["x=1", "y=a:b"]}
    assert summaries().arm_of("x=1 y=a\\:b z", arms) == "some" and summaries().arm_of("x=1", arms) == "all"


PLAN = {
    "main": "accuracy",
    "arms": {"ours": ["game=x"], "full": ["game=full"]},
    "told": {"given": {"ours": "nothing", "full": "all"}},
    "tokens": {"ours": {"each": 2, "before": ["game=first"]}},
    "figures": {
        "accuracy": {"metric": "eval/accuracy", "at": {"tokens": 30}},
        "room": {"metric": "eval/accuracy", "at": "gain", "from": "full"},
        "share": {"metric": "eval/accuracy", "at": "gain", "over": "room", "by_arm": {"full": {"over": None}}},
    },
    "comparisons": [{"of": "ours", "than": "full", "figure": "accuracy"}],
}


def test_a_figure_of_a_neighbour_may_need_other_runs_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of an earlier run count; a figure is read from another arm's run, and divides that of its row."""
    module, rows, lines = summaries(), [], []
    values = {"x": [0.25, 0.5, 0.75], "full": [0.25, 0.75, 1.0], "first": [0.0, 0.0, 0.0]}
    for seed in (0, 1):
        for game, accuracies in values.items():
            run = f"{game}/{seed}"
            rows.append({"run": run, "setting": f"game={game}", "seed": seed, "status": "finished"})
            for step, accuracy in enumerate(accuracies):
                row = {"run": run, "step": step, "eval/accuracy": accuracy, "tokens/generated": 10.0 * (step > 0)}
                lines.append(row | ({"tokens/generated": 20.0} if game == "full" else {}))
    sweep = SimpleNamespace(runs=pd.DataFrame(rows), metrics=pd.DataFrame(lines), problems=())
    monkeypatch.setattr(module, "load", lambda folder: sweep)
    table = module.ordered(module.figures("x", PLAN, Path()), PLAN)
    assert table["accuracy"].tolist() == [0.5, 0.5, 0.75, 0.75], "ours: 2 × 10 tokens in a step, after 20 of before"
    assert table["room"].tolist() == [0.75] * 4 and table["share"].tolist() == [2 / 3, 2 / 3, 0.75, 0.75]
    shown = module.tables(table, PLAN)
    assert shown[0] == "| arm | given | seeds | accuracy | room | share |"
    assert shown[2] == "| ours | nothing | 2 | 0.5 | 0.8 | 0.7 |"
    sweep.runs = sweep.runs[sweep.runs["run"] != "first/1"]
    with pytest.raises(SystemExit, match=r"no finished run of seed 1 of: before ours"):
        module.figures("x", PLAN, Path())


def test_tables_are_replaced_where_their_header_is_the_same() -> None:
    lines = ["| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | 4 |", "", "Differences of the same seeds, new"]
    page = "# Title\n\n| a | b |\n| --- | --- |\n| 0 | 0 |\n\nText.\n\n| a | c |\n\nDifferences of the same seeds\n"
    wanted = page.replace("| 0 | 0 |", "| 1 | 2 |\n| 3 | 4 |").replace("the same seeds", "the same seeds, new")
    assert summaries().replaced(page, lines) == wanted


def test_all_systems_stand_side_by_side_on_one_page() -> None:
    """The page of all systems has the rows of the comparison, and every folder of a study has a row there."""
    module = summaries()
    folder, page = NEIGHBOURS / "side_by_side", (NEIGHBOURS / "README.md").read_text(encoding="utf-8")
    plan = yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))
    lines = module.tables(module.ordered(pd.read_json(folder / "results.json"), plan), plan)
    assert set(lines[: lines.index("")]) <= set(page.splitlines())
    studies = {path.parent.name for path in NEIGHBOURS.glob("*/run.sh")} - {"side_by_side"}
    assert len(studies) == 10 and all(f"]({study}/README.md)" in page for study in studies)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in NEIGHBOURS.glob("*/plan.yaml")))
def test_the_tables_of_a_neighbour_are_those_of_its_results(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = summaries()
    monkeypatch.setattr(sys, "argv", ["summarise.py", name])
    module.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    written = (NEIGHBOURS / name / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in printed if line not in written] == [] and any("p, Holm" in line for line in printed)


def test_a_family_is_corrected_for_all_of_its_comparisons() -> None:
    differences = {"a − c": [0.01, 0.02, 0.03], "b − c": [0.0, 0.02, -0.01], "alike": [0.01, 0.01, 0.01]}
    found = family(differences)
    p = [paired_t(values) for values in differences.values()]
    assert found["p/holm"].tolist() == pytest.approx(holm(p).tolist(), nan_ok=True)
    text = markdown(differences)
    assert "| a − c | +2.0 [−0.5, +4.5] | 3 | 0.074 | 0.148 | 0.250 |" in text and "family of 2 comparisons" in text
    assert "| alike | +1.0 | 3 | – | – | 0.250 |" in text, "no interval where nothing is known of the spread"
