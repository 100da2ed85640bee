"""experiments/gpu: the arithmetic of measure.py by hand, what a part that fails leaves, and what run.sh calls."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments" / "gpu"))
import measure  # noqa: E402


def test_shares_by_hand() -> None:
    results = {
        "ceilings": {"bfloat16": 800.0, "copy": 4000.0},
        "decode": {"gb_per_second": 1000.0},
        "step": {"update_gflops": 200.0, "median": 4.0},
        "step of TRL": {"median": 6.0},
    }
    expected = {"update / bfloat16 matrix product": 0.25, "decode / copy": 0.25, "TRL's step / ours": 1.5}
    assert measure.shares(results) == expected
    results["step of TRL"] = {"skipped": "trl is not installed"}
    del results["ceilings"]
    assert measure.shares(results) == {}


def test_the_bytes_that_decoding_reads_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One layer, one head of keys and values of size 4: 16 bytes a token. Two waves of two token steps each read the
    weights, 2 x (10 + 5) bytes; four replies read their own tokens, one on average; each step reads two prompts."""
    config = {"num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    taken = {"parameters": 10, "head": 5, "tokens": 8, "median": 2.0}
    monkeypatch.setattr(measure, "steps_of", lambda *_: taken)
    monkeypatch.setattr(measure, "model_of", lambda *_: tmp_path)
    monkeypatch.setitem(measure.SIZES, "tiny", ([2, 2, 3, 2], 2, 2))
    found = measure.decode(argparse.Namespace(size="tiny", device="cpu", models=tmp_path))
    assert found["tokens_per_second"] == 4
    assert found["gb_per_second"] * 1e9 * 2 == pytest.approx(2 * 2 * 30 + 4 * 2 * 16 * 1 + 2 * 2 * 3 * 16)


def test_a_part_that_takes_too_long_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "DEADLINES", dict.fromkeys(measure.PARTS, 0.01))
    sizes = {"device": "cpu", "size": "tiny", "steps": 1, "patience": 1.0, "override": []}
    args = argparse.Namespace(**sizes, only=["ceilings", "decode"], models=tmp_path, out=tmp_path)
    with pytest.raises(SystemExit, match="failed: ceilings, decode; see"):
        measure.run(args)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ceilings"] == results["decode"] == {"error": "not done within 0.01 s"} and results["shares"] == {}


def test_options_reach_our_side_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "Side", lambda given, device: given)
    monkeypatch.setattr(measure, "model_of", lambda *_: tmp_path)
    args = argparse.Namespace(size="tiny", device="cpu", models=tmp_path, override=["engine.cuda_graphs=true"])
    ours, theirs = (measure.side(kind, args)[0] for kind in ("ours", "trl"))
    assert ours[-3:] == ["--override", "player.batch_size=4", "engine.cuda_graphs=true"]  # type: ignore[index]
    assert "--override" not in theirs  # type: ignore[operator]


@pytest.mark.parametrize(("broken", "code"), [("none", 0), ("pytest", 1), ("measure", 1), ("import", 1)])
@pytest.mark.parametrize("device", ["pretend", "cuda"])
def test_the_script_tests_and_measures_whichever_fails(tmp_path: Path, device: str, broken: str, code: int) -> None:
    """With a stand-in for Python, which writes down how it is called and fails where it is told to."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\n[ "$1" = -c ] && { [ "$BROKEN" != import ]; exit; }\n'
        'echo "$DEVICE $PYTHONPATH $*" >> "$CALLS"\n[[ "$*" != *"$BROKEN"* ]]\n'
    )
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "CALLS": str(tmp_path / "calls"), "BROKEN": broken}
    env |= {"DEVICE": device, "SIZE": "tiny"}
    script, out = str(ROOT / "experiments" / "gpu" / "run.sh"), str(tmp_path / "out")
    assert subprocess.run([script, out], env=env, capture_output=True, check=False, timeout=20).returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    tests = [f"{device} src -m pytest tests/on_device -q -p no:cacheprovider -o addopts="]
    measured = "cpu" if device == "pretend" else device
    figures = f"{device} src experiments/gpu/measure.py --device {measured} --size tiny --out {out}"
    assert calls == [*([] if broken == "import" else tests), figures]
