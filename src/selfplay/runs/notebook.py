"""Runs the repository's commands in a temporary folder, for notebooks.

scratch = Scratch()
print(scratch.run("python run.py -m game=kuhn player=tabular seed=0,1 sweep=mine"))
load(scratch.folder / "multirun/mine")
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from selfplay.core import SelfplayError

COLOURED = ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR")  # set by notebooks; they add terminal codes


class Scratch:
    """Runs commands in a temporary folder, which is deleted along with this object.

    Args:
        start: a folder of the repository; None is the working directory, which is a notebook's own folder.

    Attributes:
        folder: the temporary folder, the working directory of all commands.
        root: the root of the repository, which contains run.py.

    Raises:
        SelfplayError: there is no run.py in `start` or above it.
    """

    def __init__(self, start: Path | None = None) -> None:
        start = (start or Path.cwd()).resolve()
        above = [folder for folder in (start, *start.parents) if (folder / "run.py").is_file()]
        if not above:
            raise SelfplayError(f"there is no run.py in {start} or above it; start from a folder of the repository")
        self.root = above[0]
        self._temporary = TemporaryDirectory(prefix="selfplay-")
        self.folder = Path(self._temporary.name)

    def run(self, command: str, fails: bool = False) -> str:
        """Run a command; return its stdout followed by its stderr, stripped.

        Args:
            command: as typed in the root of the repository with the environment active: "python" becomes this
                interpreter, "run.py" the repository's. Python modules in `folder` can be imported.
            fails: whether the command must fail, with a non-zero exit code.

        Raises:
            SelfplayError: the command failed or succeeded, contrary to `fails`.
        """
        known = {"python": sys.executable, "run.py": str(self.root / "run.py")}
        words = [known.get(word, word) for word in shlex.split(command)]
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        plain = {key: value for key, value in os.environ.items() if key not in COLOURED}
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env={**plain, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        output = f"{ended.stdout}\n{ended.stderr}".strip()
        if (ended.returncode != 0) != fails:
            raise SelfplayError(f"'{command}' exited with {ended.returncode}; output: {output[-2000:] or 'none'}")
        return output
