"""The sizes of the source's files, in lines: each can be read in one sitting."""

from pathlib import Path
from statistics import median

import cli
import pytest

PACKAGE = cli.ROOT / "src" / "selfplay"
LIMITS = {PACKAGE / "core.py": 255, PACKAGE / "main.py": 120, cli.ROOT / "run.py": 20}
LONGEST = 300
MEDIAN = 110


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


SIZES = {path: lines(path) for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("path", LIMITS, ids=lambda path: path.name)
def test_what_is_read_first_is_short(path: Path) -> None:
    assert lines(path) <= LIMITS[path]


def test_no_file_is_long() -> None:
    assert len(SIZES) > 150
    assert {str(path.relative_to(PACKAGE)): size for path, size in SIZES.items() if size > LONGEST} == {}


def test_half_of_the_files_are_short() -> None:
    """Modules without code, the `__init__.py` of most packages, do not count."""
    assert median(size for size in SIZES.values() if size > 1) <= MEDIAN
