"""The scripts of docs/scale.md for two nodes, with stand-ins for Slurm, torchrun and the servers: what they call."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import cli

SLURM = (cli.ROOT / "docs" / "scale.md").read_text().split("## Two nodes under Slurm")[1]
PLAIN, REPLACEMENT = [part.split("```")[0] for part in SLURM.split("```sh\n")[1:3]]
SERVED = PLAIN[: PLAIN.index("srun torchrun")] + REPLACEMENT
STAND_INS = {
    "scontrol": "echo first; echo second",
    "srun": 'echo "srun $*" >> called; until [ "$1" = selfplay ] || [ "$1" = torchrun ]; do shift; done; exec "$@"',
    "selfplay": 'trap "echo the servers ended >> called; exit" TERM; [ -z "$BROKEN" ] || exit 1; sleep; '
    "touch healthy; for i in {1..400}; do sleep; done",
    "curl": "[ -f healthy ]",
    "torchrun": "[ -z $PREEMPTED ] || exit 1; mkdir -p outputs/job-7; touch outputs/job-7/config.yaml",
    "sleep": f"exec {shutil.which('sleep')} 0.05",
}


def made(folder: Path, script: str, **more: str) -> tuple[int, list[str]]:
    """The exit code of a script whose job began in a folder, and what it called."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in STAND_INS.items():
        file = folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    (folder / "called").write_text("")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}
    env |= {"SLURM_NNODES": "2", "model": "asset:tiny", "BROKEN": "", "PREEMPTED": "", **more}
    ended = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False, timeout=20)
    return ended.returncode, (folder / "called").read_text().splitlines()


def ended(folder: Path) -> bool:
    """Whether the servers end soon."""
    end = time.monotonic() + 60
    while "the servers ended" not in (folder / "called").read_text() and time.monotonic() < end:
        time.sleep(0.02)
    return time.monotonic() < end


def test_a_run_on_both_nodes_is_resumed_when_the_job_is_requeued(tmp_path: Path) -> None:
    run = f"{tmp_path}/outputs/job-7"
    torchrun = "srun torchrun --nnodes 2 --nproc_per_node 8 --rdzv_id 7 --rdzv_backend c10d --rdzv_endpoint first:29500"
    code, [called] = made(tmp_path, PLAIN)
    assert code == 0 and called.startswith(f"{torchrun} run.py hydra.run.dir={run} parallel=fsdp device=cuda ")
    code, [called] = made(tmp_path, PLAIN)
    assert code == 0 and called == f"{torchrun} run.py resume={run} parallel=fsdp"


def test_servers_on_one_node_and_the_run_on_the_other(tmp_path: Path) -> None:
    """The run begins when both servers answer, and they end with it, also where it fails; so too when resumed."""
    run = f"{tmp_path}/outputs/job-7"
    serve = "srun --nodes 1 --ntasks 1 --nodelist first selfplay serve asset:tiny --replicas 2 -- --host 0.0.0.0"
    there = f"engine=server engine.urls=[http://first:8000,http://first:8001] engine.folder={run}-weights"
    for options, failing in ((f"hydra.run.dir={run}", "1"), (f"hydra.run.dir={run}", ""), (f"resume={run}", "")):
        (tmp_path / "healthy").unlink(missing_ok=True)
        code, called = made(tmp_path, SERVED, PREEMPTED=failing)
        assert code == (1 if failing else 0) and called[0] == serve and ended(tmp_path)
        assert called[1].startswith("srun --nodes 1 --ntasks 1 --nodelist second torchrun --nproc_per_node 8 run.py ")
        assert f" run.py {options} parallel=fsdp " in called[1] and called[1].endswith(there)


def test_servers_that_do_not_start_end_the_job(tmp_path: Path) -> None:
    code, called = made(tmp_path, SERVED, BROKEN="yes")
    assert code != 0 and len(called) == 1
