"""`selfplay push`: what a stand-in for the Hub receives, byte for byte, and the sentence where nothing can be sent."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cli
import huggingface_hub
import pytest
import torch
from huggingface_hub import metadata_load
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfplay import digests, push
from selfplay.model_card import changed, without_folders

WEIGHTS = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "SHA256SUMS"}
WHOLE = WEIGHTS | {"config.json", "generation_config.json", "model.safetensors"}
ADAPTER = WEIGHTS | {"adapter_config.json", "adapter_model.safetensors"}
SHORT = (*cli.SMALL[:1], *cli.SMALL[2:], "task.per_cell=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("push") / "whole", *SHORT)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push") / "adapter"
    lora = "player.lora={r: 2, target_modules: [q_proj]}"
    return cli.finished(folder, *SHORT, "steps=1", "eval=none", "optimized_metric=solver/reward", lora)


def pushed(*args: object) -> None:
    push.main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        pushed(*args)
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "" and said.err.count("\n") == 1
    return said.err


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def copied(run: Path, to: Path, **changes: object) -> Path:
    """A copy of a run with changes to its config."""
    shutil.copytree(run, to)
    config = OmegaConf.load(to / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    OmegaConf.save(config, to / "config.yaml")
    return to


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_whole_model_is_what_transformers_loads(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pushed(whole, "--out", out)
    assert names(out) == WHOLE | {"README.md", "curves.png"}
    checkpoint = whole / "checkpoints" / "step-000002"
    assert (out / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    digests.check(out, "")
    told = [line.partition("  ")[2] for line in (out / "SHA256SUMS").read_text().splitlines()]
    assert sorted(told) == sorted(WHOLE - {"SHA256SUMS"})
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (out, checkpoint))
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_the_card_of_a_whole_model(whole: Path, tmp_path: Path) -> None:
    pushed(whole, "--out", tmp_path / "out", "--to", "me/my-model")
    card = (tmp_path / "out" / "README.md").read_text()
    assert metadata_load(tmp_path / "out" / "README.md") == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["selfplay", "self-play", "reinforcement-learning", "lsp", "policygradient"],
    }
    assert "# me/my-model\n" in card and "from `asset:tiny`: the learner after step 2 of 2" in card
    found = cli.summary(whole)["eval"]
    cells = [
        f"{found[when]['accuracy']:.4f} [{found[when]['interval'][0]:.4f}, {found[when]['interval'][1]:.4f}]"
        for when in ("before", "after")
    ]
    low, high = found["gain"]["interval"]
    assert f"| accuracy | {cells[0]} | {cells[1]} | {found['gain']['gain']:+.4f} [{low:+.4f}, {high:+.4f}] |" in card
    assert 'AutoModelForCausalLM.from_pretrained("me/my-model")' in card
    assert "```bash\nselfplay reward=verifier episodes=2 steps=2 " in card
    [_, yaml] = card.split("```yaml\n")
    apart = OmegaConf.create(yaml.partition("```")[0])
    assert (apart.steps, apart.player, apart.game) == (2, {"max_tokens": 12}, {"answers": 2})
    assert apart.reward._target_.endswith("Verifier") and "seats" not in apart and "seed" not in apart


def test_an_earlier_step_has_no_interval_of_the_change(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path / "run")
    lines = cli.lines(run / "metrics.jsonl")
    lines[1]["eval"] = lines[2]["eval"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pushed(run, "--out", tmp_path / "one", "--step", 1)
    card = (tmp_path / "one" / "README.md").read_text()
    [row] = [line for line in card.splitlines() if line.startswith("| accuracy")]
    assert "after step 1 of 2" in card and row.endswith("0 |") and row.count("[") == 2
    weights = (run / "checkpoints" / "step-000001" / "model.safetensors").read_bytes()
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == weights


def test_an_adapter_names_no_folder_of_the_machine(adapter: Path, tmp_path: Path) -> None:
    checkpoint = adapter / "checkpoints" / "step-000001"
    assert "/assets/tiny" in (checkpoint / "adapter_config.json").read_text()
    pushed(adapter, "--out", tmp_path / "out")
    assert names(tmp_path / "out") == ADAPTER | {"README.md", "curves.png"}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "asset:tiny"
    card = (tmp_path / "out" / "README.md").read_text()
    assert metadata_load(tmp_path / "out" / "README.md")["library_name"] == "peft"
    assert "A LoRA adapter" in card and "The run did not evaluate" in card and "AutoPeft" not in card
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not [place for place in (str(tmp_path), str(cli.ROOT), str(adapter.parent)) if place.encode() in content]


def based(run: Path, to: Path, base: str) -> Path:
    """A copy of a run with an adapter over another base model."""
    copied(run, to, player__path=base)
    file = to / "checkpoints" / "step-000001" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    digests.write(file.parent)
    return to


def test_an_adapter_over_a_local_model_needs_its_hub_id(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = based(adapter, tmp_path / "run", "/home/me/llama")
    assert "name the hub id of the base model with --base" in refused(capsys, run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pushed(run, "--out", tmp_path / "out", "--base", "org/llama", "--license", "llama3.2")
    meta = metadata_load(tmp_path / "out" / "README.md")
    assert meta and (meta["base_model"], meta["license"]) == ("org/llama", "llama3.2")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoPeftModelForCausalLM" in card and "/home" not in card
    assert "org/llama" in (tmp_path / "out" / "adapter_config.json").read_text()


def test_a_base_model_on_the_hub_is_named_and_an_unknown_licence_told(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(based(adapter, tmp_path / "run", "org/llama"), "--out", tmp_path / "out")
    meta = metadata_load(tmp_path / "out" / "README.md")
    assert meta and meta["base_model"] == "org/llama" and "license" not in meta
    assert "state it with --license" in capsys.readouterr().out


def test_smollm2_is_named_as_published(adapter: Path, tmp_path: Path) -> None:
    pushed(based(adapter, tmp_path / "run", "/x/.cache/selfplay/smollm2-135m-instruct"), "--out", tmp_path / "out")
    meta = metadata_load(tmp_path / "out" / "README.md")
    assert meta and (meta["base_model"], meta["license"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert "4-bit" in (tmp_path / "out" / "README.md").read_text()


def test_paths_of_options_are_shortened(whole: Path, tmp_path: Path) -> None:
    typed = [
        "player.path=/home/me/llama",
        "hydra.run.dir=/scratch/me",
        "logger.mlflow.uri=sqlite:////home/me/x.db",
        "seed=3",
    ]
    run = copied(whole, tmp_path / "run", player__path="/home/me/llama", overrides=typed, task__path="~me/q a/b.jsonl")
    pushed(run, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "selfplay player.path=.../llama seed=3\n" in card and "path: '.../b.jsonl'" in card
    assert "a local model that" in card and not [word for word in ("home", "scratch", "me/", "mlflow") if word in card]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/me/llama", ".../llama"),
        ("~/my models/llama/", ".../llama"),
        ("player.path=/home/me/llama", "player.path=.../llama"),
        ("'[/a/b/c.jsonl,/a/d]'", "'[.../c.jsonl,.../d]'"),
        ("{path: /data/q.jsonl}", "{path: .../q.jsonl}"),
        ("file:///home/me/x", ".../x"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("yes/no, and/or a / b </think> 1/2", "yes/no, and/or a / b </think> 1/2"),
    ],
)
def test_absolute_paths_in_texts(text: str, short: str) -> None:
    assert without_folders({"a": [text, 1, None]}) == {"a": [short, 1, None]}


def test_what_differs_from_the_default() -> None:
    default = {"a": 1, "game": {"_target_": "x", "n": 1, "m": 2}, "b": {"_target_": "y"}, "c": [1]}
    ours = {"a": 1, "game": {"_target_": "x", "n": 3, "m": 2}, "b": {"_target_": "z", "k": 0}, "c": [2], "d": {}}
    assert changed(ours, default) == {"game": {"n": 3}, "b": {"_target_": "z", "k": 0}, "c": [2], "d": {}}


def test_entries_of_json_that_are_paths_are_left_out(whole: Path, tmp_path: Path) -> None:
    run = copied(whole, tmp_path / "run")
    checkpoint = run / "checkpoints" / "step-000002"
    file = checkpoint / "config.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"_name_or_path": "/home/me/llama"}))
    (checkpoint / "learners" / "other").mkdir(parents=True)
    (checkpoint / "learners" / "other" / "config.json").write_text("{}")
    digests.write(checkpoint)
    pushed(run, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == before
    assert names(tmp_path / "out") == WHOLE | {"README.md", "curves.png"}


# --- the upload -------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Answers as the Hub does to an upload, and keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.there: list[str] = []  # files of an earlier upload
        self.created: dict[str, Any] = {}
        self.validated = ""
        self.private, self.status, self.tokens = False, 200, set[str | None]()


class Answers(BaseHTTPRequestHandler):
    """One request to the Hub."""

    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, found: object, status: int = 200) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        hub = self.server
        siblings = [{"rfilename": name} for name in hub.there]
        if "/tree/" in self.path:
            self.answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in hub.there])
        else:
            self.answer({"id": "me/my-model", "sha": "0" * 40, "private": hub.private, "siblings": siblings})

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.tokens.add(self.headers["Authorization"])
        if self.path == "/api/repos/create":
            hub.created = json.loads(body)
            found = {"url": "https://huggingface.co/me/my-model", "error": "You may not write there"}
            self.answer(found, hub.status)
        elif self.path == "/api/validate-yaml":
            hub.validated = json.loads(body)["content"]
            self.answer({"warnings": [], "errors": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            ways = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer({"files": ways})
        elif "/commit/main" in self.path and hub.status != 200:
            self.answer({"error": "You may not write there"}, hub.status)
        elif "/commit/main" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    hub.deleted.append(line["value"]["path"])
            self.answer(
                {"success": True, "commitOid": "1" * 40, "commitUrl": "https://huggingface.co/me/my-model/commit/1"}
            )
        else:
            self.answer({"error": self.path}, 404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()


def test_exactly_the_folder_is_uploaded(
    hub: Hub, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(whole, "--out", tmp_path / "out", "--to", "me/my-model")
    assert hub.files == {} and hub.created == {}
    hub.there = ["README.md", "adapter_config.json", "adapter_model.safetensors", "notes.txt"]
    pushed(whole, "--to", "me/my-model")
    assert set(hub.files) == names(tmp_path / "out") == WHOLE | {"README.md", "curves.png"}
    for name, content in hub.files.items():
        assert content == (tmp_path / "out" / name).read_bytes(), name
        assert b"hf_of_a_test" not in content and str(whole.parent).encode() not in content
    assert sorted(hub.deleted) == ["adapter_config.json", "adapter_model.safetensors"]
    assert hub.validated.encode() == hub.files["README.md"]
    assert hub.created["name"] == "my-model" and not hub.created.get("private")
    assert hub.tokens == {"Bearer hf_of_a_test"} and "me/my-model" in capsys.readouterr().out


def test_a_private_repository(hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exists and is public" in refused(capsys, whole, "--to", "me/my-model", "--private")
    assert hub.files == {}
    hub.private = True
    pushed(whole, "--to", "me/my-model", "--private")
    assert hub.created.get("private") or hub.created.get("visibility") == "private"
    assert set(hub.files) == WHOLE | {"README.md", "curves.png"}


def test_a_refusal_of_the_hub(hub: Hub, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.status = 403
    said = refused(capsys, whole, "--to", "me/my-model")
    assert (
        "the Hub refused the upload to me/my-model (" in said
        and "You may not write there" in said
        and "that the token may write there" in said
    )
    assert hub.files == {} and "hf_of_a_test" not in said


def test_no_network(hub: Hub, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refused(capsys, whole, "--to", "me/my-model")
    assert "nothing could be uploaded to me/my-model (" in said and "--out FOLDER" in said


def test_offline_mode_and_no_token(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--to is missing" in refused(capsys, whole)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(capsys, whole, "--to", "me/my-model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "there is no token" in refused(capsys, whole, "--to", "me/my-model")


# --- refused ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_pushed(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "is not a run folder" in refused(capsys, tmp_path, "--out", out)
    assert "kept the steps 1, 2; choose one" in refused(capsys, whole, "--out", out, "--step", 7)
    assert "--to is 'model'; give the id" in refused(capsys, whole, "--out", out, "--to", "model")
    assert f"{whole} already exists" in refused(capsys, whole, "--out", whole)
    bare = copied(whole, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    assert "has no checkpoint" in refused(capsys, bare, "--out", out)
    torn = copied(whole, tmp_path / "torn")
    (torn / "checkpoints" / "step-000002" / "config.json").write_text("{}")
    assert "is broken" in refused(capsys, torn, "--out", out)
    assert not out.exists()


def test_a_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli.finished(tmp_path / "run", "game=kuhn", "player=tabular", "steps=1", "episodes=2", "eval=none")
    assert "is not a language model but a table" in refused(capsys, run, "--out", tmp_path / "out")


def test_a_secret_is_refused(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(whole, tmp_path / "run", reward__api_key="hush-hush-1234")
    said = refused(capsys, run, "--out", tmp_path / "out")
    assert "reward.api_key contains" in said and "hush" not in said and not (tmp_path / "out").exists()
    run = copied(whole, tmp_path / "other", overrides=["prompts.challenge=sk-proj-0123456789abcdef"])
    assert "contains what looks like a key" in refused(capsys, run, "--out", tmp_path / "out")
