"""Which names in tests refer to proposed code; Python's own names keep their meaning even if the code redefines them.

Otherwise `abs = lambda x: 0` would pass `assert abs(f(2) - 1.4) < 1e-3`. This module runs inside the sandbox.
"""

import ast
import builtins
import importlib
import symtable
import sys
from collections.abc import Iterator, Sequence
from typing import Any

VALUES = {  # classes that tests use without import
    name: module
    for module, names in {
        "collections": ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"),
        "datetime": ("date", "datetime", "timedelta"),
        "decimal": ("Decimal",),
        "fractions": ("Fraction",),
    }.items()
    for name in names
}


def split(tests: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The names that the code must define, and the values of other names that are not built-ins.

    A name is Python's if it is a built-in, a standard library module whose attributes the test uses, or one of a few
    well-known classes. If tests use no other name, the function of their innermost call is the code's, as in
    `assert sum(10, 15) == 6`.
    """
    code: dict[str, None] = {}
    given: dict[str, Any] = {}
    for test in tests:
        tree = ast.parse(test)
        attributes = _attributes(tree)
        for name in _free(symtable.symtable(test, "<test>", "exec"), top=True):
            known, value = _known(name, attributes.get(name, set()))
            if not known:
                code[name] = None
            elif not hasattr(builtins, name):
                given[name] = value
    if not code:
        trees = [ast.parse(test) for test in tests]
        for name in dict.fromkeys(name for tree in trees for name in _innermost(tree)):
            if name in given or hasattr(builtins, name):
                code[name] = None
                given.pop(name, None)
                break
    return list(code), given


def _free(table: symtable.SymbolTable, top: bool = False) -> Iterator[str]:
    """Names that the test uses but does not define."""
    for symbol in table.get_symbols():
        bound = symbol.is_assigned() or symbol.is_imported()
        if symbol.is_referenced() and (not bound if top else symbol.is_global()):
            yield symbol.get_name()
    own = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()} if top else set()
    for child in table.get_children():
        yield from (name for name in _free(child) if name not in own)


def _attributes(tree: ast.AST) -> dict[str, set[str]]:
    """Maps each name to the attributes accessed on it; "" if it is used without one."""
    found: dict[str, set[str]] = {}
    owners = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.setdefault(node.id, set()).add(owners.get(id(node), ""))
    return found


def _known(name: str, attributes: set[str]) -> tuple[bool, Any]:
    """Whether a name is Python's, and its value."""
    if hasattr(builtins, name):
        return True, getattr(builtins, name)
    if name in sys.stdlib_module_names and attributes and "" not in attributes:
        try:
            module = importlib.import_module(name)
        except ImportError:
            return False, None
        if all(hasattr(module, attribute) for attribute in attributes):
            return True, module
    if name in VALUES:
        return True, getattr(importlib.import_module(VALUES[name]), name)
    return False, None


def _innermost(tree: ast.AST) -> Iterator[str]:
    """The names of called functions whose arguments contain no further call by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            inside = [part for argument in (*node.args, *node.keywords) for part in ast.walk(argument)]
            if not any(isinstance(part, ast.Call) and isinstance(part.func, ast.Name) for part in inside):
                yield node.func.id
