"""selfplay serve: what it starts, waits for, prints and ends, with a stand-in for vLLM's environment."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import cli
import pytest
import stand_in_vllm

from selfplay import serve as command
from selfplay.core import SelfplayError
from selfplay.engines.server import launch
from selfplay.engines.server.launch import SCRIPT, Options, Server, Servers, dealt, gpus_at
from selfplay.engines.server.ports import claim, ports


@contextmanager
def started(*args: str, python: Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """`selfplay serve ARGS` in a process of its own, which is over in the end."""
    env = {**os.environ, **variables}
    typed = [sys.executable, "-m", "selfplay", "serve", *args, "--python", str(python)]
    process = subprocess.Popen(typed, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def printed(process: "subprocess.Popen[str]") -> str:
    """The line with the options of a run."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(("engine=server", "reward=rm_server")):
            return line.strip()
    pytest.fail(f"no options: {lines}, {process.stderr.read() if process.stderr else ''}")


def urls(line: str) -> list[str]:
    return line.split("[")[1].split("]")[0].split(",")


def answers(url: str) -> bool:
    with suppress(OSError):
        return urlopen(f"{url}/health", timeout=5).status == 200  # type: ignore[no-any-return]
    return False


def gone(found: Sequence[str]) -> bool:
    """Whether none of the servers answers any more, soon."""
    until = time.monotonic() + 60
    while any(map(answers, found)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(answers, found))


# --- a command, from start to end -------------------------------------------------------------------------------------


def test_a_run_with_the_options_that_it_prints(tmp_path: Path) -> None:
    """Two servers, whose options a run takes as they are printed; Ctrl-C ends them."""
    python = stand_in_vllm.written(tmp_path)
    flags = ("--replicas", "2", "--port", "0", "--logs", str(tmp_path / "logs"))
    with started(
        "asset:tiny", *flags, python=python, STAND_IN="double", PYTHONPATH=os.pathsep.join(sys.path)
    ) as process:
        line = printed(process)
        assert len(set(urls(line))) == 2 and all(map(answers, urls(line)))
        args = [word.strip("'") for word in line.split()]
        assert args[0] == "engine=server"
        cli.finished(tmp_path / "run", *cli.SMALL, *args)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130 and gone(urls(line))
    logs = [file.read_text() for file in sorted((tmp_path / "logs").iterdir())]
    assert [log.split("--port ")[1].split()[0] for log in logs] == sorted(url.rsplit(":", 1)[1] for url in urls(line))


def test_a_reward_model_and_a_run_with_the_options_that_it_prints(tmp_path: Path) -> None:
    flags = ("--reward", "--port", "0", "--logs", str(tmp_path / "logs"))
    python = stand_in_vllm.written(tmp_path)
    with started("asset:tiny-rm", *flags, python=python, STAND_IN="double", PYTHONPATH=os.pathsep.join(sys.path)) as it:
        args = printed(it).split()
        assert args[:2] == ["reward=rm_server", "reward.path=asset:tiny-rm"]
        cli.finished(tmp_path / "run", *cli.SMALL, *args)
        it.send_signal(signal.SIGINT)
        assert it.wait(120) == 130 and gone([args[2].removeprefix("reward.url=")])
    [log] = [file.read_text() for file in (tmp_path / "logs").iterdir()]
    assert "--runner pooling" in log and "VLLM_SERVER_DEV_MODE" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_servers_end_with_the_command(number: int, tmp_path: Path) -> None:
    """Even if it is killed: they read the end of their input."""
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"signal {number} is ignored here, as under nohup, and so it is by what starts here")
    python = stand_in_vllm.written(tmp_path)
    with started("asset:tiny", "--port", "0", python=python) as process:
        line = printed(process)
        process.send_signal(number)
        assert process.wait(120) in (128 + number, -number) and gone(urls(line))


def test_when_a_server_ends_the_others_do(tmp_path: Path) -> None:
    python = stand_in_vllm.written(tmp_path)
    flags = ("--replicas", "2", "--port", "0", "--logs", str(tmp_path / "logs"))
    with started("asset:tiny", *flags, python=python) as process:
        found = urls(printed(process))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1 and gone(found)
    assert err.startswith("error: the server http://127.0.0.1:") and err.count("\n") == 1
    assert "ended with status -9 (" in err and err.strip().endswith(".log")


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    python = stand_in_vllm.written(tmp_path)
    with started("asset:tiny", "--port", "0", python=python, STAND_IN="fails") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("\n") == 1
    assert "ended with status 1 (ValueError: no room); all that it printed is in " in err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("asset:huge",), "there is no embedded model 'asset:huge'"),
        (("asset:tiny", "--replicas", "0"), "--replicas is 0"),
        (("asset:tiny", "--adapters", "-1"), "--adapters is -1"),
        (("asset:tiny", "--rank", "0"), "--rank is 0"),
        (("asset:tiny", "--reward"), "the reward model 'asset:tiny' has 2 labels; use a model with one label"),
        (("asset:tiny-rm", "--reward", "--adapters", "0"), "--adapters does not apply to --reward"),
        (("asset:tiny-rm", "--reward", "--replicas", "2"), "--replicas does not apply to --reward"),
        (("asset:tiny", "--transfer", "nccl"), "sees none; take --transfer folder"),
        (("asset:tiny", "--", "--served-model-name", "x"), "--served-model-name is set by `selfplay serve`"),
        (("asset:tiny", "--python", "/no/python"), "cannot be run (No such file or directory); install it"),
        (("asset:tiny", "--python", sys.executable), "(there is no module vllm); install it with: make vllm"),
    ],
)  # fmt: skip
def test_mistakes(
    args: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN", "fails")  # a server that is started after all ends at once
    python = () if "--python" in args else ("--python", str(stand_in_vllm.written(tmp_path)))
    with pytest.raises(SystemExit) as ended:
        command.main([*python, *args])
    err = capsys.readouterr().err
    assert ended.value.code == 1 and err.startswith("error: ") and err.count("\n") == 1 and told in err


# --- parts ------------------------------------------------------------------------------------------------------------

OPTIONS = Options(Path("/env/bin/python"), "/models/m", "bfloat16")


def test_the_command_line_of_a_server() -> None:
    """One slot more than adapters; what is given further wins, since it is last."""
    options = Options(Path("/env/bin/python"), "m", "float32", 7, 3, 32, 2, True, further=("--dtype", "auto"))
    found = options.command(8003, "mark")
    assert found[:3] == ["/env/bin/python", "-I", str(SCRIPT)] and found[-2:] == ["--dtype", "auto"]
    flags = dict(pairwise(found))
    told = {"--model": "m", "--host": "127.0.0.1", "--port": "8003", "--seed": "7", "--max-lora-rank": "32"}
    told |= {"--logprobs-mode": "processed_logprobs", "--generation-config": "vllm", "--max-loras": "4"}
    assert told.items() <= flags.items() and flags["--tensor-parallel-size"] == "2"
    assert {"--enable-scale-out", "--enable-lora", "--enforce-eager"} <= set(found)
    assert found[found.index("--served-model-name") :][:3] == ["--served-model-name", "m", "mark"]
    assert json.loads(flags["--weight-transfer-config"]) == {"backend": "folder"}


def test_without_adapters_there_is_no_place_for_them() -> None:
    assert not [flag for flag in Options(Path("p"), "m", "float32", adapters=0).command(1, "mark") if "lora" in flag]


def test_the_environment_of_a_server() -> None:
    given = {"PATH": "/bin", "VLLM_CPU_KVCACHE_SPACE": "8", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "4,5"}
    found = OPTIONS.variables(given, None)
    assert found["VLLM_SERVER_DEV_MODE"] == found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert found["PATH"] == "/env/bin:/bin" and found["HF_HUB_OFFLINE"] == "1"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "8", "what the user sets is kept"
    assert OPTIONS.variables({}, None)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    on_gpu = OPTIONS.variables(given, ["5"])
    assert on_gpu["CUDA_VISIBLE_DEVICES"] == "5" and "VLLM_CPU_OMP_THREADS_BIND" not in on_gpu


def test_a_reward_model_s_server_scores_and_nobody_replaces_its_weights() -> None:
    options = replace(OPTIONS, reward=True)
    flags = options.command(8001, "mark")
    assert flags[flags.index("--runner") + 1] == "pooling" and "bfloat16" in flags and "--host" in flags
    assert not [flag for flag in flags if flag.startswith(("--enable", "--weight", "--generation", "--logprobs"))]
    assert not {"VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"} & set(options.variables({}, None))


def test_gpus_are_dealt() -> None:
    assert dealt([], 3, 2) == [None] * 3
    assert dealt(["4", "5", "6", "7"], 2, 2) == [["4", "5"], ["6", "7"]]
    assert dealt(["0", "1", "2"], 2, 1) == [["0"], ["1"]]
    with pytest.raises(SelfplayError, match=r"need 4 GPUs, but there are 3 \(0, 1, 2\); lower one of them"):
        dealt(["0", "1", "2"], 2, 2)


def test_gpus_are_those_of_vllms_environment(tmp_path: Path) -> None:
    python = stand_in_vllm.written(tmp_path, gpus=2)
    assert gpus_at(python, {}) == ["0", "1"]
    assert gpus_at(python, {"CUDA_VISIBLE_DEVICES": "3, GPU-ab"}) == ["3", "GPU-ab"]
    assert gpus_at(stand_in_vllm.written(tmp_path), {"CUDA_VISIBLE_DEVICES": "3"}) == []


def test_a_port_in_use_is_refused() -> None:
    [free] = ports(0, 1)
    assert ports(free, 1) == [free] and len(set(ports(0, 5))) == 5
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        used = listening.getsockname()[1]
        with pytest.raises(SelfplayError, match=f"port {used} cannot be used .* choose another first one with --port"):
            ports(used, 1)
    with pytest.raises(SelfplayError, match="port 70000 cannot be used"):
        ports(70000, 1)


def test_another_program_at_the_port_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """Be it one that answers everything, or a server of another start; a child that is still loading is not ready."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    loading = ["sleep", "60"]
    server = Server(loading, os.environ, port, tmp_path / "log", "mark-1")
    try:
        assert not server.answers()
        python = stand_in_vllm.written(tmp_path)
        other = Server(
            [str(python), *OPTIONS.command(port, "mark-2")[1:]], os.environ, port, tmp_path / "other", "mark-2"
        )
        try:
            Servers([other]).wait()
            with pytest.raises(SelfplayError, match=f"another program answers at http://127.0.0.1:{port}, .* --port"):
                Servers([server]).wait()
        finally:
            Servers([other]).end()
    finally:
        Servers([server]).end()


@pytest.mark.skipif(sys.platform != "linux", reason="claims are abstract sockets")
def test_two_commands_do_not_share_a_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though vLLM's socket would let them before it listens."""
    [free] = ports(0, 1)
    with claim([free])[0]:
        with pytest.raises(SelfplayError, match=f"another `selfplay serve` uses port {free}; choose another"):
            claim([free])
        with pytest.raises(SystemExit):
            command.main(["asset:tiny", "--port", str(free), "--python", str(stand_in_vllm.written(tmp_path))])
        assert capsys.readouterr().err.startswith(f"error: another `selfplay serve` uses port {free};")
    for one in claim([free]):
        one.close()


def test_on_gpus_it_computes_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each server has its own, between which weights can be sent."""
    logs = tmp_path / "logs"
    flags = ("--replicas", "2", "--port", "0", "--logs", str(logs), "--transfer", "nccl")
    monkeypatch.setenv("STAND_IN", "fails")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(SystemExit):
        command.main(["asset:tiny", *flags, "--python", str(stand_in_vllm.written(tmp_path, gpus=2)), "--", "--more"])
    read = [file.read_text() for file in logs.iterdir()]
    assert all("--dtype bfloat16" in log and "--more\n" in log and "--enforce-eager" not in log for log in read)
    assert all('--weight-transfer-config {"backend": "nccl"}' in log for log in read)
    assert sorted(log.split("CUDA_VISIBLE_DEVICES=")[1][0] for log in read) == ["0", "1"]


def test_a_server_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all processes that it started."""
    monkeypatch.setattr(launch, "PATIENCE", 0.3)
    log = tmp_path / "log"
    server = Server(["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60"], os.environ, 1, log)
    while not log.read_text().endswith("\n"):
        time.sleep(0.01)
    Servers([server]).end()
    assert server.process.returncode == -signal.SIGKILL
    child = Path("/proc") / log.read_text().strip() / "stat"
    until = time.monotonic() + 60
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.01)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_the_options_of_a_run_name_adapters_and_transfer() -> None:
    assert (
        command.use(["http://a:1", "http://a:2"], 4, "folder") == "engine=server 'engine.urls=[http://a:1,http://a:2]'"
    )
    assert command.use(["http://a:1"], 9, "nccl").endswith("' engine.adapters=9 engine.transfer=nccl")


def test_each_kind_of_server_has_its_own_port() -> None:
    both = [
        command._completed(command.parser().parse_args(args))
        for args in (["asset:tiny"], ["asset:tiny-rm", "--reward"])
    ]
    assert [(found.port, found.replicas, found.adapters, found.rank) for found in both] == [
        (8000, 1, 4, 16),
        (8001, 1, 4, 16),
    ]
    config = (cli.CONF / "reward" / "rm_server.yaml").read_text()
    assert "http://127.0.0.1:8001\n" in config


def test_an_adapter_is_served_by_its_base_model(tmp_path: Path) -> None:
    from language_models import adapted

    from selfplay.models.base_model import base_path

    adapted().model.save_pretrained(tmp_path)
    assert base_path(str(tmp_path)) == base_path("asset:tiny") == str(cli.ROOT / "src" / "selfplay" / "assets" / "tiny")
    assert base_path("someone/model") == "someone/model"
