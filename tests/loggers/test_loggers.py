"""Each logger's figures come back by its own reader, resumed runs go on in it, and a broken one never stops a run."""

import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cli
import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

import selfplay.loggers.logger
import selfplay.loggers.safe_loggers
from selfplay.core import SelfplayError
from selfplay.loggers import Logger, Loggers
from selfplay.loggers.logger import figures, flat, require
from selfplay.plots.curves import draw_curves

BACKENDS = ("tensorboard", "wandb", "mlflow", "trackio")
KUHN = ("game=kuhn", "player=tabular", "episodes=4", "steps=3", "eval.every=1")
QUIET = (*KUHN[:-1], "eval=none", "optimized_metric=first/payoff")
SECRETS = {
    "WANDB_API_KEY": "w" * 20 + "andb" + "0" * 16,
    "MLFLOW_TRACKING_TOKEN": "mlflow-token-of-mine",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-password-of-mine",
    "HF_TOKEN": "hf_token_of_mine_0123456789",
}
STORE = Path(os.environ["TRACKIO_DIR"])

# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every logger: three steps, the last of them lost with its checkpoint, then resumed to four."""
    folder = tmp_path_factory.mktemp("loggers") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.runs.session.draw_curves", draw_curves)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.delitem(sys.modules, "openai", raising=False)  # where it was imported, wandb advertises something
        for args in (
            (*KUHN, f"logger=[{','.join(BACKENDS)}]", f"hydra.run.dir={folder}"),
            (f"resume={folder}", "steps=4"),
        ):
            ended = cli.run(*args)
            assert (ended.code, ended.err) == (0, "") and "note:" not in ended.out, ended
            shutil.rmtree(folder / "checkpoints" / "step-000003", ignore_errors=True)
    assert [line["step"] for line in cli.metrics(folder)] == [0, 1, 2, 3, 4]
    return folder


def written(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, figure) of metrics.jsonl."""
    every = [(line["step"], figures(line)) for line in cli.lines(folder / "metrics.jsonl")]
    found = [(step, line[name]) for step, line in every if name in line]
    assert len(found) >= 2
    return found


def assert_same(folder: Path, name: str, read: list[tuple[int, float]]) -> None:
    assert [step for step, _ in read] == [step for step, _ in written(folder, name)], name
    if not name.startswith("time/"):  # the lost step was logged with another time
        assert [value for _, value in read] == pytest.approx([value for _, value in written(folder, name)], rel=1e-6)


COLUMNS = ["step", "role", "player", "prompt", "reply", "payoff"]


def shown(folder: Path, step: int) -> list[list[Any]]:
    """The rows of a step's table, from its transcript: 16 rows hold all the different turns of four hands."""
    by_role: dict[str, dict[tuple[str, str], list[Any]]] = {}
    for line in cli.lines(folder / "episodes.jsonl"):
        if line["step"] == step and line["role"] != "chance":
            row = [line[name] for name in COLUMNS]
            by_role.setdefault(line["role"], {}).setdefault((line["prompt"], line["reply"]), row)
    rows = [sorted(turns.values(), key=lambda row: row[-1]) for turns in by_role.values()]
    assert 1 < sum(map(len, rows)) <= 16
    return [row for turns in rows for row in turns]


def tensorboard_cell(value: object) -> str:
    return str(value).replace("\n", "<br>") if isinstance(value, str) else f"{value:g}"


def test_markdown_of_a_reply_is_shown_as_it_is() -> None:
    cell = get_object("selfplay.loggers.tensorboard._cell")
    assert cell("a|b *c* <br>\n#d") == r"a\|b \*c\* &lt;br&gt;<br>\#d" and cell(None) == "" and cell(0.25) == "0.25"


def test_tensorboard(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "loggers" / "tensorboard"))
    events.Reload()
    assert len(list((logged / "loggers" / "tensorboard").iterdir())) == 2
    names = {name for line in cli.lines(logged / "metrics.jsonl") for name in figures(line)} - {"step"}
    assert set(events.Tags()["scalars"]) == names and {"eval/gains/first", "time/play"} <= names
    for name in ("first/payoff", "eval/nash_conv", "time/play"):
        assert_same(logged, name, [(e.step, e.value) for e in events.Scalars(name)])
    [*_, config] = events.Tensors("config/text_summary")
    assert b"steps: 4" in config.tensor_proto.string_val[0]
    [*_, summary] = events.Tensors("summary/text_summary")
    assert b'"status": "finished"' in summary.tensor_proto.string_val[0]
    assert b"optimizer/lr" in events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("turns/text_summary")}
    assert list(texts) == [1, 2, 3, 4]
    for step, text in texts.items():
        head, _, *rows = text.splitlines()
        assert head == "| step | role | player | prompt | reply | payoff |"
        assert rows == [f"| {' | '.join(tensorboard_cell(value) for value in row)} |" for row in shown(logged, step)]
    [*_, picture] = events.Images("curves")
    assert picture.step == 4 and picture.width > 1000


def test_mlflow(logged: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{logged / 'loggers' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "selfplay"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "/".join(logged.parts[-2:])
    assert (run.data.params["player/seed"], run.data.params["steps"]) == ("0", "3")
    for name in ("first/payoff", "eval/nash_conv", "time/play"):
        assert_same(logged, name, [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "summary.json",
        "curves.png",
        "turns",
    }
    tables = sorted((logged / "loggers" / "mlflow").rglob("turns/*.json"))
    assert [path.stem for path in tables] == [f"step-{step:06d}" for step in (1, 2, 3, 4)]
    for step, path in enumerate(tables, 1):
        assert json.loads(path.read_text()) == {"columns": COLUMNS, "data": shown(logged, step)}
    assert len(list((logged / "loggers" / "mlflow").rglob("curves.png"))) == 1


def records(file: Path) -> Iterator[Any]:
    """What a .wandb file holds: a header of 7 bytes, then LevelDB's log format: 32 KiB blocks of parts of records."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at < len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def test_wandb(logged: Path) -> None:
    first, second = sorted((logged / "loggers" / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)
    read: list[dict[str, Any]] = []
    ids = set()
    for folder in (first, second):
        [file] = folder.glob("*.wandb")
        for record in records(file):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif record.WhichOneof("record_type") == "history":
                items = record.history.item
                read.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        assert len(list(folder.rglob("curves_*.png"))) == 1
        tables = [json.loads(path.read_text()) for path in folder.rglob("turns_*.table.json")]
        assert len(tables) == {first: 3, second: 1}[folder]
        for table in tables:
            assert table["columns"] == COLUMNS and table["data"] == shown(logged, table["data"][0][0])
    assert len(ids) == 1 and config["steps"] == 4 and config["update"]["optimizer"]["lr"] > 0
    for name in ("first/payoff", "eval/nash_conv", "time/play"):
        assert_same(logged, name, [(int(row["_step"]), row[name]) for row in read if name in row])


def test_trackio(logged: Path) -> None:
    name = json.loads((logged / "loggers" / "trackio.json").read_text())["name"]
    with sqlite3.connect(STORE / "selfplay.db") as store:
        found = store.execute(
            "SELECT run_id, step, metrics FROM metrics WHERE run_name = ? ORDER BY id", [name]
        ).fetchall()
        [[config]] = store.execute("SELECT config FROM configs WHERE run_name = ?", [name])
    assert len({run for run, _, _ in found}) == 1
    rows = [(step, json.loads(metrics)) for _, step, metrics in found]
    for metric in ("first/payoff", "eval/nash_conv", "time/play"):
        assert_same(logged, metric, [(step, row[metric]) for step, row in rows if metric in row])
    assert json.loads(config)["game/_target_"].endswith("Kuhn")
    tables = {step: row["turns"]["_value"] for step, row in rows if "turns" in row}
    assert list(tables) == [1, 2, 3, 4]
    for step, table in tables.items():
        assert table == [dict(zip(COLUMNS, row, strict=True)) for row in shown(logged, step)]
    [*_, (step, last)] = rows
    assert step == 4 and last["summary/optimized/value"] == cli.summary(logged)["optimized"]["value"]
    assert (STORE / "media" / last["curves"]["file_path"]).read_bytes() == (logged / "curves.png").read_bytes()


def test_no_secret_of_the_environment_is_written(logged: Path) -> None:
    files = [path for root in (logged, STORE) for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path


def test_names_that_mlflow_would_refuse_and_a_store_of_many_runs(logged: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{logged / 'loggers' / 'mlflow.db'}"
    made = get_object("selfplay.loggers.mlflow.MLflow")(experiment="names", uri=store)
    made.start({"a": {"b(0)": 1}}, tmp_path, 0)
    made.log(1, {"solver//reward (%)": 0.5, "x" * 400: 1.0})
    made.finish({"status": "failed"})
    run = made.client.get_run(made.id)
    assert run.data.metrics == {"solver/_/reward ___": 0.5, "x" * 250: 1.0} and run.data.params == {"a/b_0_": "1"}
    assert run.info.status == "FAILED"


# --- a logger that is broken ------------------------------------------------------------------------------------------

CALLS: list[tuple[str, object]] = []


class Spy(Logger):
    """Keeps what it is told."""

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        CALLS.append(("start", config["steps"]))
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        CALLS.append(("log", step if metrics else "nothing"))

    def finish(self, summary: Mapping[str, Any]) -> None:
        CALLS.append(("finish", summary["status"]))


class Broken(Logger):
    """Fails in one of its methods, in one of several ways."""

    def __init__(self, when: str, how: str) -> None:
        self.when, self.how = when, how

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        self._fail("start")
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        metrics.clear()  # type: ignore[attr-defined]
        if step == 2:
            self._fail("log")

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._fail("finish")

    def _fail(self, method: str) -> None:
        CALLS.append(("broken", method))
        if method == self.when:
            if self.how == "hang":
                time.sleep(60)
            raise {"bug": KeyError("no key"), "disk": OSError(28, "No space left"), "exit": SystemExit(3)}[self.how]


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("plain") / "run", *QUIET)


TOLD = {"start": "starting", "log": "logging step 2", "finish": "finishing"}
REASON = {"bug": "KeyError: 'no key'", "disk": "OSError: [Errno 28] No space left", "exit": "SystemExit: 3"}
SPY = "+logger.spy._target_=test_loggers.Spy"
BROKEN = "+logger.broken={{_target_:test_loggers.Broken,when:{},how:{}}}"


@pytest.mark.parametrize("when", TOLD)
@pytest.mark.parametrize("how", ["bug", "disk", "exit", "hang"])
def test_a_broken_logger_is_told_of_once_and_left_out(
    how: str, when: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "hang":
        monkeypatch.setattr(selfplay.loggers.safe_loggers, "PATIENCE", 0.2)
    ended = cli.run(*QUIET, BROKEN.format(when, how), SPY, f"hydra.run.dir={tmp_path / 'run'}")
    assert (ended.code, ended.err) == (0, "")
    [told] = [line for line in ended.out.splitlines() if line.startswith("note:")]
    assert (
        f"logger=broken failed while {TOLD[when]} (" in told and "logger=none" in told and "Traceback" not in ended.out
    )
    assert REASON.get(how, "no answer in 0.2 s") in told
    assert cli.metrics(tmp_path / "run") == cli.metrics(plain) and cli.summary(tmp_path / "run") == cli.summary(plain)
    assert [call for call in CALLS if call[0] == "broken"][-1] == ("broken", when)
    spied = [call for call in CALLS if call[0] != "broken"]
    assert spied == [("start", 3), ("log", 1), ("log", 2), ("log", 3), ("finish", "finished")]


def test_a_run_that_fails_is_closed_too(tmp_path: Path) -> None:
    ended = cli.run(*QUIET, "optimized_metric=nope", SPY, f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and "nope" in ended.err
    assert CALLS == [("start", 3), ("finish", "failed")]


def test_an_interrupt_goes_through_a_logger_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Thread.join", interrupted)
    ended = cli.run(*QUIET, SPY, f"hydra.run.dir={tmp_path}")
    assert ended.code == 130 and cli.summary(tmp_path)["status"] == "interrupted"


def test_what_is_told_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Talks(Spy):
        def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
            raise ValueError("refused: my-secret-of-old\nand more")

    monkeypatch.setenv("SOME_API_KEY", "my-secret-of-old")
    loggers = Loggers({"talks": Talks()})
    loggers.start({}, tmp_path, 0)
    loggers.log(1, {"a": 1.0})
    loggers.finish({"status": "finished"})
    told = capsys.readouterr().out
    assert (
        told.startswith("note: logger=talks failed while starting (ValueError: refused: ***) and")
        and told.count("\n") == 1
    )


def test_what_was_logged_before_is_not_told_again(tmp_path: Path) -> None:
    class Resumed(Spy):
        def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
            return resumed_at + 1

    CALLS.clear()
    loggers = Loggers({"resumed": Resumed()})
    loggers.start({}, tmp_path, 2)
    for step in (3, 4):
        loggers.log(step, {"a": 1.0})
    assert CALLS == [("log", 4)]


def test_the_turns_of_evaluations_and_of_the_last_step(tmp_path: Path) -> None:
    every = "+logger.spy._target_=test_loggers.TurnSpy"
    for name, evaluation, steps in (("some", "eval.every=2", [2, 3]), ("none", "eval=none", [3])):
        CALLS.clear()
        options = ("optimized_metric=first/payoff", evaluation, every, f"hydra.run.dir={tmp_path / name}")
        assert cli.run(*KUHN[:-1], *options).code == 0
        assert [step for call, step in CALLS if call == "turns"] == steps
    CALLS.clear()
    assert cli.run(*QUIET, f"{every[:-7]}Spy", f"hydra.run.dir={tmp_path / 'plain'}").code == 0
    assert "turns" not in dict(CALLS)  # as before for loggers that do not ask for turns


class TurnSpy(Spy):
    """Keeps the steps of its turns."""

    turns = 4

    def log_turns(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        assert {row["step"] for row in rows} == {step} and len(rows) <= 4
        CALLS.append(("turns", step))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_turns_with_zero(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.runs.session.draw_curves", draw_curves)
    made = cli.composed(f"logger={backend}").logger[backend]
    assert made.turns == 16
    monkeypatch.setattr(f"{made._target_}.log_turns", None)  # a call would be reported
    options = (f"logger={backend}", f"logger.{backend}.turns=0", f"hydra.run.dir={tmp_path / 'run'}")
    ended = cli.run(*KUHN[:-2], "steps=1", *options)
    assert ended.code == 0 and "note:" not in ended.out


def test_a_logger_that_fails_at_its_turns_is_told_of_and_left_out(tmp_path: Path) -> None:
    ended = cli.run(*KUHN, "+logger.broken._target_=test_loggers.BrokenTurns", SPY, f"hydra.run.dir={tmp_path / 'run'}")
    assert (ended.code, ended.err) == (0, "")
    assert "logger=broken failed while logging step 1 (ValueError: no table)" in ended.out
    assert [call for call in CALLS if call[0] == "log"] == [("log", 0), ("log", 1), ("log", 2), ("log", 3)]
    assert cli.summary(tmp_path / "run")["status"] == "finished"


class BrokenTurns(Logger):
    """Fails where it is told turns."""

    turns = 1

    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        return -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def log_turns(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        raise ValueError("no table")

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


def test_what_never_started_is_not_finished() -> None:
    CALLS.clear()
    Loggers({"spy": Spy()}).finish({"status": "interrupted"})
    assert CALLS == []


# --- before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_package_is_told_before_the_first_step(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfplay.loggers.logger, "find_spec", lambda name: None)
    ended = cli.run(*QUIET, f"logger={backend}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and ended.err == (
        f"error: logger={backend} needs the package {backend}, which is not installed; "
        f"install it with: pip install -e '.[{backend}]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_mere_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nosuchlogger").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SelfplayError, match="needs the package nosuchlogger"):
        require("wandb", "nosuchlogger")
    require("wandb", "wandb")


REFUSED = {
    ("wandb", "logger.wandb.mode=disabled"): "logger.wandb.mode is 'disabled', but it must be one of offline, online",
    (
        "mlflow",
        "logger.mlflow.uri=https://me:hush@host/x",
    ): "uri contains what looks like a key or a password",
}


@pytest.mark.parametrize(("backend", "override"), REFUSED)
def test_what_a_logger_refuses(backend: str, override: str, tmp_path: Path) -> None:
    ended = cli.run(*QUIET, f"logger={backend}", override, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and REFUSED[backend, override] in ended.err and "hush" not in ended.err
    assert list(tmp_path.iterdir()) == []


# --- composition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, []),
        ("logger=none", []),
        ("logger=[]", []),
        ("logger=tensorboard", ["tensorboard"]),
        ("logger=[wandb,tensorboard]", ["tensorboard", "wandb"]),
        ("+logger=[mlflow]", ["mlflow"]),
    ],
)
def test_one_logger_or_several(choice: str | None, names: list[str]) -> None:
    config = cli.composed(*([choice] if choice else []))
    assert sorted(config.logger) == names
    assert all(config.logger[name]._target_.startswith(f"selfplay.loggers.{name}.") for name in names)


def test_their_options_and_an_experiment_s_choice(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = (
        "# @package _global_\ndefaults:\n  - override /logger: [wandb, mlflow]\nlogger:\n  wandb:\n    project: mine\n"
    )
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    args = [f"--config-dir={tmp_path}", "experiment=mine"]
    assert cli.composed(*args).logger.wandb.project == "mine" and set(cli.composed(*args).logger) == {"wandb", "mlflow"}
    assert cli.composed(*args, "logger.wandb.project=yours").logger.wandb.project == "yours"


def test_figures_are_the_numbers_by_their_paths() -> None:
    line = {"step": 1, "eval": {"accuracy": 0.5, "interval": [0.25, 1], "by": {"x": {"n": 2}}}, "id": "a", "none": None}
    assert figures(line) == {
        "step": 1.0, "eval/accuracy": 0.5, "eval/interval/0": 0.25, "eval/interval/1": 1.0, "eval/by/x/n": 2.0
    }  # fmt: skip
    assert flat(OmegaConf.to_container(OmegaConf.create({"a": {"b": [None, "x"]}}))) == {"a/b/0": None, "a/b/1": "x"}
