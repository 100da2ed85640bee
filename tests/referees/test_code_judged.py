"""Right programs pass, however they and their tests are written; a name of Python's is Python's."""

import math

import pytest
from confined import isolations
from fuzz_overrides import limit

from selfplay.core import SelfplayError
from selfplay.sandbox.names import split
from selfplay.sandbox.sandbox import Sandbox, code_in

LIMITS = Sandbox(seconds=10.0, megabytes=512, file_megabytes=16)
ISOLATIONS = isolations(LIMITS)
pytestmark = pytest.mark.skipif(not ISOLATIONS, reason="this kernel or container has no user namespaces for us")

POINT = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass(order=True)
class Point:
    x: int
    y: int = 0
    def moved(self, by: int) -> Point: return Point(self.x + by, self.y)
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
    def __len__(self): return 2
    def __iter__(self): return iter((self.x, self.y))
def far(points, most): return [p for p in points if p.x > most]
"""
NODE = """
class Node:
    def __init__(self, value): self.value, self.left, self.right = value, None, None
def depth(node): return 0 if node is None else 1 + max(depth(node.left), depth(node.right))
"""
ERRORS = """
class TooSmall(ValueError):
    def __init__(self, least): super().__init__(f"below {least}"); self.least = least
def root(x):
    if x < 0: raise TooSmall(0)
    return x ** 0.5
"""
HUMAN_EVAL = """
METADATA = {'author': 'jt'}
def check(candidate):
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False
    assert abs(candidate([], 1.0)) < 1e-6
check(has_close)
"""
CLOSE = "def has_close(xs, t):\n    print('looking')\n    return any(abs(a - b) < t for i, a in enumerate(xs) for b in xs[:i])"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (CLOSE, (HUMAN_EVAL,)),
        ("def round(x): return int(x + 0.5)\ndef half(x): return x / 2", ("assert round(half(5), 1) == 2.5",)),
        ("def sum(a, b): return 6", ("assert sum(10, 15) == 6", "assert abs(sum(1, 2) - 6) < 1e-9")),
        ("def bisect(x): return x", ("assert bisect(3) == 3",)),
        ("import math\ndef area(r): return math.pi * r * r", ("assert math.isclose(area(1), math.pi, rel_tol=1e-3)",)),
        ("def f(x): return {x, 1}", ("assert f(2) == set((1, 2))", "assert sorted(f(0)) == [0, 1]")),
        (POINT, ("assert Point(1, 2).moved(3) == Point(4, 2)", "assert (Point(1) + Point(2)).x == 3", "assert len(Point(1)) == 2",
                 "assert list(Point(1, 2)) == [1, 2]", "assert Point(1) < Point(2)", "assert far([Point(1), Point(5)], 2) == [Point(5)]",
                 "p = Point(1)\np.x = 7\nassert p.x == 7 and isinstance(p, Point)", "assert str(Point(1)) == 'Point(x=1, y=0)'")),
        (NODE, ("r = Node(1)\nr.left = Node(2)\nr.left.right = Node(3)\nassert depth(r) == 3", "assert depth(None) == 0")),
        (ERRORS, ("try:\n    root(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'below 0'",
                  "try:\n    root(-1)\n    assert False\nexcept TooSmall:\n    pass",
                  "try:\n    root('x')\n    assert False\nexcept TypeError:\n    pass", "assert root(4) == 2.0")),
        ("def f(xs): xs.sort()", ("a = [3, 1]\nf(a)\nassert a == [1, 3]", "assert f([1]) is None")),
        ("def f(xs): xs.append(1); return xs", ("a = []\nassert f(a) is a and a == [1]",)),
        ("def f(g, x): return [g(y) for y in x]", ("assert f(lambda y: y + 1, [1]) == [2]", "assert f(str, iter([1, 2])) == ['1', '2']",
                                                  "assert f(len, ['ab']) == [2]")),
        ("def f(n):\n    for i in range(n): yield i", ("assert list(f(3)) == [0, 1, 2]", "g = f(2)\nassert next(g) == 0 and next(g) == 1")),
        ("def adder(n): return lambda x: x + n", ("assert adder(1)(2) == 3", "assert adder(1)(adder(2)(3)) == 6")),
        ("def f(n): return f(n - 1) * n if n else 1", ("assert f(500) % 1000 == 0", f"assert f(300) == {math.factorial(300)}")),
        ("from collections import *\ndef f(s): return Counter(s)", ("assert f('aab') == {'a': 2, 'b': 1}", "assert f('a') == Counter('a')",
                                                                   "assert f('aab').most_common(1) == [('a', 2)]")),
        ("from datetime import date, timedelta\ndef f(d): return d + timedelta(1)", ("assert f(date(2024, 2, 28)) == date(2024, 2, 29)",)),
        ("from decimal import Decimal\nfrom fractions import Fraction\ndef f(): return [Decimal('0.1'), Fraction(1, 3)]",
         ("assert f() == [Decimal('0.1'), Fraction(1, 3)]",)),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", ("assert f() == (1, 2)", "assert f().y == 2")),
        ("import enum\nclass C(enum.Enum):\n    A = 1\nclass D(enum.IntEnum):\n    B = 2\ndef f(): return C.A\ndef g(): return D.B",
         ("assert f() == C.A and f() is not None", "assert g() == 2", "assert g() + 1 == 3")),
        ("def f(x): return float('nan'), float('inf'), -0.0, 1 + 2j, b'x', range(3), None, '\\ud800'",
         ("a = f(1)\nassert a[0] != a[0] and a[1:] == (float('inf'), 0.0, 1 + 2j, b'x', range(3), None, '\\ud800')",)),
        ("class A:\n    def __enter__(self): return 5\n    def __exit__(self, *e): pass", ("with A() as x: assert x == 5",)),
        ("import asyncio\nasync def g(): return 3\ndef f(): return asyncio.run(g())", ("assert f() == 3",)),
        ("import threading\ndef f():\n    out = []\n    t = threading.Thread(target=out.append, args=(1,))\n    t.start(); t.join()\n    return out",
         ("assert f() == [1]",)),
        ("X = {'a': [1, (2, 3)]}", ("assert X == {'a': [1, (2, 3)]}", "assert X['a'][1][0] == 2")),
        ("def f(a, *b, c=1, **d): return a, b, c, d", ("assert f(1, 2, c=3, e=4) == (1, (2,), 3, {'e': 4})",)),
    ],
    ids=range(26),
)  # fmt: skip
def test_right_code_passes(code: str, tests: tuple[str, ...]) -> None:
    assert LIMITS.run(code, tests).passed == (True,) * len(tests)


def test_what_tests_name() -> None:
    assert split(["assert abs(f(2) - 1.4) < 1e-3"])[0] == ["f"]
    assert split(["assert sum(10, 15) == 6", "assert sum(1, 1) == 2"])[0] == ["sum"]
    assert split(["import math\nassert math.sqrt(g(4)) == 2"]) == (["g"], {})
    names, given = split(["assert math.isclose(g(4), 2)", "assert Counter(g('a')) == {}"])
    assert names == ["g"] and set(given) == {"math", "Counter"}
    assert split(["c = Counter()\nassert c.value == 0"])[0] == ["Counter"]
    assert split(["def check(c):\n    assert c(1) == h(2)\ncheck(f)"])[0] == ["f", "h"]
    assert split(["assert True"]) == ([], {})


def test_an_argument_that_cannot_cross_is_an_error() -> None:
    with pytest.raises(SelfplayError, match="passes the code an object of the class Tree, which cannot be sent"):
        LIMITS.run("def f(t): return 1", ("class Tree: pass\nassert f(Tree()) == 1",))


def test_code_in_a_long_reply_is_found_in_linear_time() -> None:
    assert code_in("```python\n" * 200_000 + "x = 1\n```") == ""
    with limit(30):  # the pattern of before: 6.5 s for 80,000 letters, a thousand for these
        assert code_in("```" + "a" * 1_000_000) == "```" + "a" * 1_000_000
    assert code_in(" " * 2_000_000 + "```") == " " * 2_000_000 + "```"
    assert code_in("\n".join(["```", "a", "```"] * 200_000)) == "a\n"
