"""The bench's arithmetic by hand, and all of it once in small."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "experiments" / "bench"
sys.path.insert(0, str(BENCH))
import bench  # noqa: E402
from cases import CASES, GROWTH  # noqa: E402
from report import tables  # noqa: E402
from sides import against, of_side, work  # noqa: E402


def test_ratios_by_hand() -> None:
    """Medians 2 and 9; of pairs 4 / 1, 9 / 2, 30 / 3."""
    ours = of_side([{"seconds": s, "peak": p, "tokens": 8} for s, p in ((1.0, 5), (2.0, 6), (3.0, 5))], {})
    other = of_side([{"seconds": s, "peak": p, "tokens": 8} for s, p in ((4.0, 9), (9.0, 12), (30.0, 9))], {})
    assert against(ours, other) == {"ratio": 4.5, "least": 4.0, "most": 10.0, "memory": 0.5}


def test_work_by_hand() -> None:
    """2 x 3 replies of 5 tokens behind prompts of 7: 44 tokens through the layers, 30 through the head."""
    arguments = ["ours", "--queries", "2", "--answers", "3", "--prompt", "7", "--reply", "5"]
    found = work({"parameters": 10, "head": 100}, arguments)
    assert found["update"] == pytest.approx(6e-9 * (10 * 44 + 100 * 30))
    assert found["play"] == pytest.approx(found["update"] / 3)


def test_both_sides_of_a_case_are_given_the_same_sizes() -> None:
    for case in CASES:
        sizes = []
        for arguments in case.sides.values():
            given = dict(pairwise(arguments))
            sizes.append([given[f"--{n}"] for n in ("model", "queries", "answers", "prompt", "reply")])
        assert len(sizes) > 1 and all(size == sizes[0] for size in sizes), case.name
    assert all(sum("{}" in part for part in arguments) == 1 for _, arguments in GROWTH.values())


def test_an_update_under_lora_is_no_share_of_the_rate() -> None:
    """Frozen weights take less work than 6 a parameter and token."""
    arguments = ["ours", "--queries", "1", "--answers", "2", "--prompt", "3", "--reply", "4", "--lora"]
    ours = {"parameters": 10, "head": 100, "update": 2.0, "play": 1.0}
    bench.shares({"sides": {"ours": ours}, "arguments": {"ours": arguments}}, {"float32": 1.0})
    assert "update_share" not in ours and ours["play_share"] == pytest.approx(2e-9 * (10 * 11 + 100 * 8))


def test_the_table_goes_between_the_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_bytes((BENCH / "results.json").read_bytes())
    (tmp_path / "README.md").write_text("above\n<!-- table -->\nold\n<!-- /table -->\nbelow\n", encoding="utf-8")
    for _ in range(2):
        bench.show(tmp_path, "cpu")
    told = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert told.startswith("above\n<!-- table -->\n| case |") and told.endswith(".\n<!-- /table -->\nbelow\n")
    assert "old" not in told and capsys.readouterr().out.count("| float32, TRL |") == 2


def test_quick_does_not_write_over_what_was_measured() -> None:
    command = [sys.executable, str(BENCH / "bench.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "give --out FOLDER" in done.stderr


@pytest.mark.slow
def test_the_bench_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "bench.py"), "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert {"device", "commit", "torch", "trl"} <= results.keys()
    step, sampling = results["cases"]["tiny"], results["cases"]["sampling, tiny"]
    assert step["sides"]["TRL"]["used"]["beta"] == 0 and step["sides"]["TRL"]["tokens"] == 16
    assert step["sides"]["ours"]["update_share"] > 0 and step["sides"]["ours"]["logprob_mismatch"] < 1e-3
    assert step["ratios"]["TRL"]["ratio"] > 0 and sampling["ratios"]["generate"]["ratio"] > 0
    assert results["growth"].keys() == {"queries of 8 answers", "vocabulary"} and all(results["growth"].values())
    assert step["commit"] == results["commit"]
    assert "| tiny, TRL |" in tables(results)
