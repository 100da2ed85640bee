"""The tables in the experiments' READMEs are what their scripts make of the committed results."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from cli import ROOT

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


NEIGHBOURS = sorted(path.parent.name for path in (ROOT / "experiments" / "neighbours").glob("*/plan.yaml"))


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_tables_of_a_neighbour_are_those_of_its_results(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "experiments" / "neighbours" / "summarise.py"
    spec = importlib.util.spec_from_file_location("summarise_neighbours", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["summarise.py", name])
    module.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    written = (script.parent / name / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in printed if line not in written] == [] and any("p, Holm" in line for line in printed)


def test_a_family_is_corrected_for_all_of_its_comparisons() -> None:
    differences = {"a − c": [0.01, 0.02, 0.03], "b − c": [0.0, 0.02, -0.01], "alike": [0.01, 0.01, 0.01]}
    found = family(differences)
    p = [paired_t(values) for values in differences.values()]
    assert found["p/holm"].tolist() == pytest.approx(holm(p).tolist(), nan_ok=True)
    text = markdown(differences)
    assert "| a − c | +2.0 [−0.5, +4.5] | 3 | 0.074 | 0.148 | 0.250 |" in text and "family of 2 comparisons" in text
    assert "| alike | +1.0 | 3 | – | – | 0.250 |" in text, "no interval where nothing is known of the spread"
