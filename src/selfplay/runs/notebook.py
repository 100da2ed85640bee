"""A temporary folder in which the repository's commands are run, as a notebook does.

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

COLOURED = ("FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR")  # a notebook sets them, and would get a terminal's codes


class Scratch:
    """Runs commands in a temporary folder, which goes when this object does.

    Args:
        start: a folder of the repository; None is the working directory, which for a notebook is its own folder.

    Attributes:
        folder: where commands run, and where what they write lies.
        root: of the repository: where run.py is.

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
        """What a command prints, on stdout and then on stderr, without the space around it.

        Args:
            command: as one types it in the root of the repository with the environment active: "python" is this
                interpreter, "run.py" the repository's. Python modules in `folder` can be imported.
            fails: whether it must end with another exit code than 0.

        Raises:
            SelfplayError: it ended well and should not have, or the other way round.
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
        said = f"{ended.stdout}\n{ended.stderr}".strip()
        if (ended.returncode != 0) != fails:
            raise SelfplayError(f"'{command}' ended with {ended.returncode} and said: {said[-2000:] or 'nothing'}")
        return said
