"""Everything that a language model does, on a device that is not the CPU."""

import os
import subprocess
import sys

import cli


def test_on_the_pretend_device() -> None:
    """Importing the pretend device changes torch for the whole process, so its tests have one of their own."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/on_device"]
    env = {**os.environ, "DEVICE": "pretend", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cli.ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
