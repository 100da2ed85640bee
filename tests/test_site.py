"""The documentation site builds without a warning, and every page of docs/ is in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cli
import pytest


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """`make docs`: a link or an anchor that leads nowhere, or a page outside the navigation, is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]  # --quiet hides warnings
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=cli.ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert ended.returncode == 0 and "WARNING" not in ended.stderr, ended.stderr
    for page in (cli.ROOT / "docs").glob("**/*.md"):
        text = (tmp_path / "site" / page.relative_to(cli.ROOT / "docs").with_suffix(".html")).read_text()
        assert "md-nav__link--active" in text, f"{page.name} is not in the navigation"
        outside = set(re.findall(r'(?:src|href)="https?://([^/"]+)', text)) - {"squidfunk.github.io"}
        assert not any("google" in host or "cdn" in host for host in outside), "pages load nothing from other hosts"
    assert "Play one episode: yield lists of asks" in (tmp_path / "site" / "api.html").read_text()
