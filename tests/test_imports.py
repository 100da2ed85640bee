"""The import graph of the package: no circles, no import from a layer above, kernels for engines alone.

Every import counts: at the top of a module, for type checkers, and inside functions.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
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


@cache
def package() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    return {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_no_circle() -> None:
    assert len(package()) > 150 and sum(map(len, package().values())) > 500
    assert "selfplay.core" in package()["selfplay.rollout"]
    assert circle(package()) == []


@pytest.mark.parametrize(
    "how", ["from selfplay.rollout import play", "import selfplay.rollout", "if X:\n    from selfplay import rollout"]
)
def test_a_circle_would_be_seen(how: str) -> None:
    graph = {name: set(found) for name, found in package().items()}
    graph["selfplay.core"] |= set(imported(how))
    assert {"selfplay.core", "selfplay.rollout"} <= set(circle(graph))


def layers(text: str) -> dict[str, int]:
    """The layer of each name in the numbered list under "## Layers" of a text."""
    section = text.split("\n## Layers\n")[1].split("\n## ")[0]
    rows = re.findall(r"^(\d+)\. (.*)$", section, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    named = [(name, int(number)) for number, row in rows for name in re.findall(r"`(\w[\w.]*)`", row)]
    found = {name if name == "selfplay" else f"selfplay.{name}": number for name, number in named}
    assert len(found) == len(named)
    return found


LAYERS = layers((cli.ROOT / "docs" / "architecture.md").read_text())


def layer(module: str) -> int:
    """The number that the list gives to a module, or to the innermost package around it that is listed."""
    inner = module
    while inner not in LAYERS:
        inner = inner.rpartition(".")[0]
    assert inner != "selfplay" or module == "selfplay", f"{module} is in no layer of docs/architecture.md"
    return LAYERS[inner]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Every import from a layer above the importer's."""
    arrows = sorted((here, there) for here, found in graph.items() for there in found)
    return [
        f"{here} ({layer(here)}) imports {there} ({layer(there)})"
        for here, there in arrows
        if layer(there) > layer(here)
    ]


def test_the_list_of_layers_is_that_of_the_package() -> None:
    assert len(set(LAYERS.values())) > 15
    assert set(LAYERS) <= set(MODULES)
    assert all(layer(module) for module in MODULES)


def test_no_import_goes_up() -> None:
    assert upward(package()) == []


@pytest.mark.parametrize(
    "how",
    [
        "from selfplay.runs import load",
        "if TYPE_CHECKING:\n    from selfplay.runs.folder import RunFolder",
        "def f():\n    import selfplay.runs.folder",
    ],
)
def test_an_import_that_goes_up_would_be_seen(how: str) -> None:
    [told] = upward({"selfplay.plots.curves": set(imported(how))})
    assert told.startswith(f"selfplay.plots.curves ({LAYERS['selfplay.plots']}) imports selfplay.runs")


KERNELS = ("llama", "packing", "last_hidden", "mixture", "transformers.decode", "transformers.kv_cache")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def kernels_used(graph: dict[str, set[str]]) -> list[str]:
    """Every import of a kernel by a module outside engines/ and models/."""
    return [
        f"{here} imports {there}"
        for here, found in graph.items()
        for there in found
        if any(within(there, f"selfplay.engines.{kernel}") for kernel in KERNELS)
        and not any(within(here, f"selfplay.{package}") for package in ("engines", "models"))
    ]


def test_only_engines_and_models_import_a_kernel() -> None:
    assert {f"selfplay.engines.{kernel}" for kernel in KERNELS} <= set(MODULES)
    assert kernels_used(package()) == []
    seen = imported("def f():\n    from selfplay.engines.llama import decoder\n    import selfplay.engines.packing")
    assert len(kernels_used({"selfplay.players.texts": set(seen)})) == 2


def test_only_plots_draws() -> None:
    """matplotlib is imported by selfplay.plots alone; a logger reads a picture with it, and types name its figures."""
    drawing = re.compile(r"^\s*(?:from|import) matplotlib(?!\.image)", re.MULTILINE)
    found = {name for name, path in MODULES.items() if drawing.search(path.read_text())}
    assert found and all(within(name, "selfplay.plots") for name in found)
