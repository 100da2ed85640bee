"""The tables in the experiments' READMEs are what their scripts make of the committed results."""

import importlib.util
import shutil
import sys
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cli import ROOT
from scipy.stats import ttest_1samp

from selfplay.report.families import family, markdown
from selfplay.report.statistics import holm, paired_t

NAMES = (
    "baselines",
    "challenger_payoffs",
    "first_light",
    "neighbours/offline_q",
    "paper_table",
    "rewards_and_regularisers",
    "smollm2_arithmetic",
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
    figure = summaries().figure_of
    assert figure(lines, {"metric": "a/b"}) == 4 and figure(lines, {"metric": "a/b", "at": "gain"}) == 3
    assert figure(lines, {"metric": "a/b", "at": [-2, -1]}) == 3 and figure(lines, {"metric": "a/b", "at": [1, 1]}) == 2
    assert figure(lines, {"metric": "a/b", "at": {"tokens": 5}}) == 2
    assert figure(lines, {"metric": "a/b", "at": {"tokens": 5, "gain": True}}) == 1
    assert figure(lines, {"metric": "(`a/b` + `c`) / 2"}) == 3.5 and isnan(figure(lines, {"metric": "missing"}))
    values, bound = pd.Series([0.01, -0.02, 0.03, 0.0]), 0.05
    sides = ((-bound, "greater"), (bound, "less"))
    wanted = max(ttest_1samp(values, mean, alternative=side).pvalue for mean, side in sides)
    assert summaries().equivalent(values, bound) == pytest.approx(wanted)
    arms = {"all": ["x=1"], "some": ["x=1", "y=a:b"]}
    assert summaries().arm_of("x=1 y=a\\:b z", arms) == "some" and summaries().arm_of("x=1", arms) == "all"


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
