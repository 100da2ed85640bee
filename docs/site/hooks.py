"""Hooks of the documentation site: pages of other folders are part of it, and links to source files are plain text."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ALSO = ("experiments/**/README.md", "experiments/**/*.png", "analysis/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the experiments and what they show, at their own paths."""
    for pattern in ALSO:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to their page here; of files that are no page, the text remains."""
    source = Path(str(page.file.abs_src_path))

    def linked(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if target.startswith(("http://", "https://", "#", "mailto:")):
            return found[0]
        name, _, anchor = target.partition("#")
        path = (source.parent / name).resolve()
        if not path.exists():
            return found[0]  # reported as an error
        if path.is_dir() and (path / "README.md").exists():
            path = path / "README.md"
        inside = path.relative_to(ROOT / "docs") if path.is_relative_to(ROOT / "docs") else path.relative_to(ROOT)
        if files.get_file_from_path(str(inside)) is None:
            return text if not picture else ""
        up = "../" * (len(Path(page.file.src_uri).parts) - 1)
        return f"{picture}[{text}]({up}{inside}{'#' * bool(anchor)}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else LINK.sub(linked, part) for number, part in enumerate(parts))
