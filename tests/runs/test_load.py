"""Runs as tables: every run is a row whatever became of it, and a sweep's jobs that left nothing behind are named."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pandas as pd
import pytest
from omegaconf import OmegaConf

from selfplay.core import SelfplayError
from selfplay.runs import load
from selfplay.runs import sweep as sweep_module
from selfplay.runs.notebook import Scratch
from selfplay.runs.sweep import Sweep
from selfplay.runs.sweep_plan import planned

LSP = ("reward=verifier", "episodes=2", "steps=2", "task.per_cell=1", "game.answers=2", "player.max_tokens=12")
KUHN = ("game=kuhn", "player=tabular", "eval=none", "episodes=4", "steps=2")


@pytest.fixture(scope="module")
def lsp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("runs") / "lsp", *LSP, "seed=3", "checkpoint.keep=1")


@pytest.fixture(scope="module")
def kuhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kuhn")
    ended = cli.run(
        "-m", *KUHN, "seed=range(5,7)", "regularizer=glob(kl_*,exclude=*_payoff)", f"hydra.sweep.dir={folder}"
    )
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def sweep(kuhn: Path, tmp_path: Path) -> Path:
    """A sweep of four runs that may be damaged."""
    return Path(shutil.copytree(kuhn, tmp_path / "sweep"))


@pytest.fixture
def run(kuhn: Path, tmp_path: Path) -> Path:
    """A finished run that may be damaged."""
    return Path(shutil.copytree(kuhn / "0", tmp_path / "run"))


def row(loaded: Sweep, run: str) -> dict[str, Any]:
    [found] = loaded.runs[loaded.runs["run"] == run].to_dict("records")
    return dict(found)


def written(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- what is there ----------------------------------------------------------------------------------------------------


def test_a_run_is_a_row(lsp: Path) -> None:
    loaded, summary = load(lsp), json.loads((lsp / "summary.json").read_text())
    [found] = loaded.runs.to_dict("records")
    assert (found["run"], found["path"], found["status"], found["reason"]) == ("lsp", str(lsp), "finished", "")
    assert found["setting"] == " ".join(LSP) and found["seed"] == 3 and found["steps"] == 2
    assert found["tokens"] == summary["tokens"] and found["seconds"] == pytest.approx(summary["seconds"])
    assert (found["metric"], found["optimized"]) == ("eval/accuracy", summary["optimized"]["value"])
    assert found["override/reward"] == "verifier" and found["override/checkpoint.keep"] == "1"
    before, after, gain = (summary["eval"][part] for part in ("before", "after", "gain"))
    assert found["eval/before/accuracy"] == before["accuracy"] and found["eval/gain/gain"] == gain["gain"]
    assert found["eval/after/families/sort"] == after["families"]["sort"]
    assert found["eval/after/levels/4"] == after["levels"]["4"]
    assert [found["eval/gain/interval/low"], found["eval/gain/interval/high"]] == gain["interval"]
    assert not any("correct" in column for column in loaded.runs.columns), "a string is no figure"
    assert len(loaded.problems) == 0 and str(loaded) == "1 run: 1 finished"


def test_a_step_is_a_row(lsp: Path) -> None:
    table, lines = load(lsp).metrics, cli.lines(lsp / "metrics.jsonl")
    assert table["step"].tolist() == [0, 1, 2]
    assert set(table["run"]) == {"lsp"} and set(table["seed"]) == {3} and set(table["setting"]) == {" ".join(LSP)}
    tokens = [line.get("tokens/generated", 0.0) for line in lines]
    assert table["tokens"].tolist() == [0.0, tokens[1], tokens[1] + tokens[2]] and tokens[1] > 0
    assert table["solver/reward"].tolist()[1:] == [line["solver/reward"] for line in lines[1:]]
    assert table["eval/accuracy"].tolist()[::2] == [lines[0]["eval"]["accuracy"], lines[2]["eval"]["accuracy"]]
    assert math.isnan(table["eval/accuracy"][1]) and math.isnan(table["solver/reward"][0])


def test_a_turn_is_a_row(lsp: Path) -> None:
    loaded, lines = load(lsp), cli.lines(lsp / "episodes.jsonl")
    for name in ("step", "episode", "role", "player", "group", "prompt", "reply", "payoff", "advantage"):
        assert loaded.turns[name].tolist() == [line[name] for line in lines], name
    for name in ("invalid", "reward", "quality", "truth"):
        expected = [line["scores"].get(name, math.nan) for line in lines]
        assert loaded.turns[f"score/{name}"].tolist() == pytest.approx(expected, nan_ok=True)
    second = loaded.turns_of("lsp", steps=[2])
    assert second["reply"].tolist() == [line["reply"] for line in lines if line["step"] == 2]
    assert set(second["run"]) == {"lsp"} and set(second["seed"]) == {3}
    with pytest.raises(SelfplayError, match=r"run 'no' has no readable transcript; choose one that has: lsp"):
        loaded.turns_of("no")


def test_transcripts_are_read_when_they_are_asked_for_and_once(kuhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    records = sweep_module.records
    monkeypatch.setattr(sweep_module, "records", lambda path: (read.append(path), records(path))[1])
    loaded = load(kuhn)
    assert read == []
    lines = sum(len(cli.lines(kuhn / str(i) / "episodes.jsonl")) for i in range(4))
    assert len(loaded.turns) == len(loaded.turns) == lines
    assert read == [kuhn / str(i) / "episodes.jsonl" for i in range(4)]


def test_turns_without_scores_or_advantages_have_nan(kuhn: Path) -> None:
    turns = load(kuhn).turns
    chance = turns[turns["role"] == "chance"]
    assert len(chance) and chance["advantage"].isna().all() and turns["advantage"].dtype == float
    assert turns.loc[turns["role"] != "chance", "advantage"].notna().all()


def test_two_sweeps_with_the_same_numbers(kuhn: Path, tmp_path: Path) -> None:
    shutil.copytree(kuhn, tmp_path / "a")
    shutil.copytree(kuhn, tmp_path / "b")
    expected = [f"{sweep}/{job}" for sweep in "ab" for job in range(4)]
    assert load(tmp_path).runs["run"].tolist() == expected
    assert load(tmp_path / "b", tmp_path / "a").runs["run"].tolist() == expected
    both = load(tmp_path, tmp_path / "a", tmp_path / "b" / "2")
    assert both.runs["run"].tolist() == expected, "a run that is found twice is one run"
    assert both.metrics["run"].unique().tolist() == expected and both.turns["run"].unique().tolist() == expected


def test_what_lies_inside_a_run_is_no_run(run: Path) -> None:
    inner = run / "checkpoints" / "step-000002" / "config.yaml"
    inner.parent.mkdir(parents=True, exist_ok=True)
    inner.write_text("a: 1\n")
    assert load(run.parent).runs["run"].tolist() == ["run"]


def test_ten_comes_after_two(run: Path, tmp_path: Path) -> None:
    for number in (10, 2, 1):
        shutil.copytree(run, tmp_path / "many" / f"job{number}")
    assert load(tmp_path / "many").runs["run"].tolist() == ["job1", "job2", "job10"]


def test_what_does_not_change_the_science_is_no_setting(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    head = config[: config.index("overrides:")]
    said = ["seed=5", "device=cpu", "checkpoint.every=2", "resume=x", "steps=1", "+logger=a", "logger.b=1", "steps=2"]
    (run / "config.yaml").write_text(head + "overrides:\n" + "".join(f"- {o}\n" for o in [*said, "~quality"]))
    found = row(load(run), "run")
    assert found["setting"] == "steps=2 ~quality", "what is said last counts"
    assert found["override/quality"] == "~" and found["override/logger"] == "a"
    (run / "config.yaml").write_text(head + "overrides: []\n")
    assert row(load(run), "run")["setting"] == "default"


def test_pandas_is_not_imported_for_training() -> None:
    script = "import sys, selfplay.runs; print('pandas' in sys.modules, callable(selfplay.runs.load))"
    assert cli.process(script=script).out == "False True\n"
    assert callable(sys.modules["selfplay.runs"].load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sys.modules["selfplay.runs"].nothing


# --- what is not ------------------------------------------------------------------------------------------------------


def test_a_killed_run_keeps_all_but_its_torn_lines(run: Path) -> None:
    turns, kept = len(cli.lines(run / "episodes.jsonl")), cli.lines(run / "metrics.jsonl")
    (run / "summary.json").write_text('{"status": "running", "steps": 0, "seconds": 0, "tokens": 0}')
    for name in ("metrics.jsonl", "episodes.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 3, "epis')
    loaded = load(run)
    found = row(loaded, "run")
    assert found["status"] == "running" and found["steps"] == 2 and math.isnan(found["optimized"])
    assert found["tokens"] == sum(line["tokens/generated"] for line in kept)
    assert found["reason"] == (
        "no end was recorded after step 2 of 2: the run is in progress or was killed; if killed, resume with: "
        f"selfplay resume={run}"
    )
    assert loaded.metrics["step"].tolist() == [1, 2] and len(loaded.turns) == turns
    assert loaded.problems["run"].tolist() == ["run"]


def test_an_interrupted_run_says_how_to_go_on(run: Path) -> None:
    written(run / "summary.json", status="interrupted")
    found = row(load(run), "run")
    assert found["status"] == "interrupted"
    assert found["reason"] == f"stopped by a signal after step 2 of 2; resume with: selfplay resume={run}"


def test_a_failed_job_is_named_with_its_reason(tmp_path: Path) -> None:
    sizes = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    ended = cli.run("-m", "reward=none,verifier", *sizes, "steps=1", f"hydra.sweep.dir={tmp_path}")
    assert ended.code == 1
    loaded = load(tmp_path)
    assert loaded.runs["status"].tolist() == ["failed", "finished"]
    assert loaded.problems["reason"][0].startswith("the game needs the score 'reward' of a solver turn")
    first, second = str(loaded).splitlines()
    assert first == "2 runs: 1 failed, 1 finished" and second.startswith("  0 is failed (reward=none ")
    assert "the game needs the score 'reward'" in second


def test_a_job_that_left_nothing_is_missing(sweep: Path) -> None:
    shutil.rmtree(sweep / "2")
    shutil.rmtree(sweep / "3")
    (sweep / "3").mkdir()
    loaded = load(sweep)
    assert loaded.runs["run"].tolist() == ["0", "1", "2", "3"]
    assert loaded.runs["status"].tolist() == ["finished", "finished", "missing", "missing"]
    assert loaded.problems["reason"].tolist()[0].startswith("it has no folder: the job has not started, or it failed")
    assert loaded.problems["reason"].tolist()[1].startswith("its folder is empty")
    assert loaded.runs["seed"].tolist() == [5, 5, 6, 6]
    assert loaded.runs["setting"].tolist()[:2] == loaded.runs["setting"].tolist()[2:]
    assert loaded.runs["path"].tolist()[2] == str(sweep / "2") and set(loaded.transcripts) == {"0", "1"}
    assert "  2 is missing (" in str(loaded) and " seed=6): it has no folder" in str(loaded)


def test_a_sweep_of_which_no_job_began(sweep: Path) -> None:
    for job in range(4):
        shutil.rmtree(sweep / str(job))
    loaded = load(sweep)
    assert loaded.runs["status"].tolist() == ["missing"] * 4 and len(loaded.metrics) == 0 and len(loaded.turns) == 0


def test_the_seed_of_a_missing_job_that_names_none(sweep: Path) -> None:
    shutil.rmtree(sweep / "1")
    text = (sweep / "multirun.yaml").read_text()
    (sweep / "multirun.yaml").write_text(
        text.replace("    - seed=range(5,7)\n", "").replace("\nseed: 0\n", "\nseed: 9\n")
    )
    assert row(load(sweep), "1")["seed"] == 9


def tear(file: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda run: (run / file).write_text(change((run / file).read_text()))


SECOND = '\n{"step": 1, "x\n'
DAMAGE = {
    "summary cut": (tear("summary.json", lambda text: text[:40]), r"summary.json is broken \("),
    "summary a list": (tear("summary.json", lambda _: "[]"), r"json is broken \(it contains \[\], not a record\)"),
    "summary unknown": (
        tear("summary.json", lambda _: '{"status": "done"}'),
        r"has status 'done', not one of finished",
    ),
    "summary gone": (lambda run: (run / "summary.json").unlink(), r"no summary.json: the run was killed at its start"),
    "config gone": (lambda run: (run / "config.yaml").unlink(), r"is not a run folder \(it has no config.yaml\)"),
    "config broken": (tear("config.yaml", lambda text: text + "\n: : {"), r"config.yaml is broken"),
    "metrics broken": (tear("metrics.jsonl", lambda text: text + "oops\n"), r"line 3 of .*metrics.jsonl is not JSON"),
    "metrics no step": (
        tear("metrics.jsonl", lambda text: text + '{"a": 1}\n'),
        r"line 3 of .*metrics.jsonl has no step",
    ),
    "metrics short": (
        tear("metrics.jsonl", lambda text: text.split("\n")[0] + "\n"),
        r"summary.json says 2 steps, but metrics.jsonl ends at step 1",
    ),
    "transcript line": (
        tear("episodes.jsonl", lambda text: "oops\n" + text),
        r"line 1 of .*episodes.jsonl is not JSON",
    ),
    "transcript torn": (
        tear("episodes.jsonl", lambda text: text.replace("\n", SECOND, 1)),
        r"line 2 of .*episodes.jsonl is not JSON",
    ),
    "transcript torn and written over": (
        tear("episodes.jsonl", lambda text: '{"step": 1, "epis' + text),
        r"line 1 of .*episodes.jsonl is not JSON",
    ),
    "transcript zeroed": (
        tear("episodes.jsonl", lambda text: text.replace('"role": "', '"role": "\0', 1)),
        r"line 1 of .*episodes.jsonl is not JSON",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_broken_run_is_named_and_the_others_are_read(sweep: Path, name: str) -> None:
    damage, reason = DAMAGE[name]
    damage(sweep / "1")
    loaded = load(sweep)
    assert loaded.runs["status"].tolist() == ["finished", "broken", "finished", "finished"]
    assert loaded.problems["reason"].str.contains(reason, regex=True).all(), loaded.problems["reason"].tolist()
    assert ("1" in loaded.transcripts) != name.startswith("transcript")
    assert {"0", "2", "3"} <= set(loaded.metrics["run"]) and {"0", "2", "3"} <= set(loaded.turns["run"])


def test_a_broken_config_leaves_setting_and_seed_unknown(sweep: Path) -> None:
    (sweep / "1" / "config.yaml").unlink()
    found = row(load(sweep), "1")
    assert found["setting"] == "unknown" and pd.isna(found["seed"])


def test_what_the_counts_do_not_show_is_told_when_the_turns_are_read(run: Path) -> None:
    with (run / "episodes.jsonl").open("a") as file:
        file.write('{"step": oops}\n')
    loaded = load(run)
    assert len(loaded.turns) == 0
    [reason] = loaded.unread.values()
    assert re.search(r"line \d+ of .*episodes.jsonl is not JSON .*; delete that line", reason)
    lines = (run / "episodes.jsonl").read_text().splitlines()
    lines[-1] = '{"step": 1, "scores": {}}'
    (run / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    loaded = load(run)
    assert len(loaded.turns) == 0
    [reason] = loaded.unread.values()
    assert re.search(r"episodes.jsonl has no 'episode'", reason), reason


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"nowhere is not a folder; give the folder of a run"):
        load(tmp_path / "nowhere")
    with pytest.raises(SelfplayError, match=r"holds no run; give the folder of a run, or one that holds runs"):
        load(tmp_path)
    with pytest.raises(SelfplayError, match=r"no folder was given"):
        load()


# --- the plan of a sweep ----------------------------------------------------------------------------------------------


def test_the_plan_is_what_hydra_ran(kuhn: Path) -> None:
    ran = [list(OmegaConf.load(kuhn / str(job) / "config.yaml").overrides) for job in range(4)]
    assert planned(kuhn) == ran
    assert [job[-1] for job in ran] == ["regularizer=kl_forward", "regularizer=kl_reverse"] * 2
    assert [job[-2] for job in ran] == ["seed=5", "seed=5", "seed=6", "seed=6"]


def test_the_plan_is_read_in_a_process_that_knows_none_of_the_resolvers() -> None:
    scratch = Scratch(cli.ROOT)
    scratch.run(f"python run.py -m {' '.join(KUHN)} sweep=mine")
    shutil.rmtree(scratch.folder / "multirun/mine/0")
    said = scratch.run("python -c 'from selfplay.runs import load; print(load(\"multirun\"))'")
    assert "1 run: 1 missing" in said and "note" not in said


def test_the_plan_knows_every_kind_of_sweep(sweep: Path) -> None:
    text = (sweep / "multirun.yaml").read_text()
    before, after = text[: text.index("    task:")], text[text.index("  job:\n") :]
    said = ["    - a=1,2", "    - b=choice(x,'y z')", "    - c=range(0.5,1.1,0.5)", "    - +d.e=[1,2]"]
    (sweep / "multirun.yaml").write_text(before + "    task:\n" + "\n".join(said) + "\n" + after)
    jobs = planned(sweep)
    assert jobs is not None and len(jobs) == 8
    assert jobs[0] == ["a=1", "b=x", "c=0.5", "+d.e=[1,2]"] and jobs[7] == ["a=2", r"b=y\ z", "c=1.0", "+d.e=[1,2]"]


def test_the_plan_leaves_to_each_job_what_refers_to_its_own_config(sweep: Path) -> None:
    """As Hydra records it: its sweeper escapes the braces."""
    text = (sweep / "multirun.yaml").read_text()
    before, after = text[: text.index("    task:")], text[text.index("  job:\n") :]
    said = ["    - seed=1,2", "    - player.path=first/${seed}/model"]
    (sweep / "multirun.yaml").write_text(before + "    task:\n" + "\n".join(said) + "\n" + after)
    assert planned(sweep) == [[f"seed={n}", r"player.path=first/$\{seed\}/model"] for n in (1, 2)]


def test_the_plan_of_a_sweep_in_a_dated_folder(sweep: Path) -> None:
    """Outside of Hydra nobody knows ${now:...}, which stands in the file of a sweep without a folder of its own."""
    text = (sweep / "multirun.yaml").read_text()
    [line] = [
        line for line in text.splitlines() if line.startswith("    dir: ") and "sweep" in text.split(line)[0][-60:]
    ]
    (sweep / "multirun.yaml").write_text(text.replace(line, "    dir: multirun/${nobody_knows:%Y}"))
    jobs = planned(sweep)
    assert jobs is not None and len(jobs) == 4


def test_the_plan_includes_what_the_sweeper_was_given(sweep: Path) -> None:
    text = (sweep / "multirun.yaml").read_text()
    text = text.replace("    params: null\n", "    params:\n      device: cpu,cuda,mps\n")
    (sweep / "multirun.yaml").write_text(text)
    jobs = planned(sweep)
    assert jobs is not None and len(jobs) == 12 and jobs[4][0] == "device=cuda"


def test_a_folder_that_is_no_sweep_has_no_plan(run: Path) -> None:
    assert planned(run) is None


UNKNOWN = {
    "sweeper": ("_core_plugins.basic_sweeper.BasicSweeper", "_x.OptunaSweeper", "OptunaSweeper chose them during"),
    "subdir": ("subdir: ${hydra.job.num}", "subdir: ${seed}", r"hydra.sweep.subdir of .* is '\${seed}'"),
    "shuffle": ("seed=range(5,7)", "seed=shuffle(range(5,7))", "shuffles seed; missing jobs cannot be identified"),
    "glob": (
        "glob(kl_*,exclude=*_payoff)",
        "glob(gone_*)",
        r"sweeps regularizer=glob\(gone_\*\), but .* no longer has such a config",
    ),
    "moved": (str(cli.CONF), "/nowhere/conf", "/nowhere/conf no longer has such a config; restore it"),
    "interval": ("seed=range(5,7)", "seed=interval(5,7)", "cannot be expanded"),
    "grammar": ("seed=range(5,7)", "seed=range(5", "cannot be expanded"),
    "no hydra": ("hydra:\n", "other:\n", "is broken"),
    "no yaml": ("hydra:\n", "hydra: : {\n", "is broken"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_plan_is_told_and_not_guessed(sweep: Path, name: str) -> None:
    old, new, reason = UNKNOWN[name]
    text = (sweep / "multirun.yaml").read_text()
    old = old.replace("_core_plugins", "_internal.core_plugins")
    assert old in text
    (sweep / "multirun.yaml").write_text(text.replace(old, new))
    with pytest.raises(SelfplayError, match=reason):
        planned(sweep)
    loaded = load(sweep)
    assert loaded.runs["status"].tolist() == ["finished"] * 4
    assert f"note: jobs of {sweep} that never started cannot be listed: " in str(loaded)
