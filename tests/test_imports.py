"""The import graph of the package: no circles, imports for types included."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import cli
import pytest

SRC = cli.ROOT / "src"
FILES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in SRC.glob("selfplay/**/*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imported(source: str) -> Iterator[str]:
    """Every module of ours that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "selfplay":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "selfplay")


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_no_circle() -> None:
    graph = {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}
    assert len(graph) > 150 and sum(map(len, graph.values())) > 500
    assert "selfplay.core" in graph["selfplay.rollout"]
    assert circle(graph) == []


@pytest.mark.parametrize(
    "how", ["from selfplay.rollout import play", "import selfplay.rollout", "if X:\n    from selfplay import rollout"]
)
def test_a_circle_would_be_seen(how: str) -> None:
    graph = {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}
    graph["selfplay.core"] |= set(imported(how))
    assert {"selfplay.core", "selfplay.rollout"} <= set(circle(graph))
