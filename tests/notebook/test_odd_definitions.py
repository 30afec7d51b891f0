"""Definitions of a notebook that pickle and cloudpickle lose: they work in ranks, in ranks' children, and come home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]

_CACHED = """
import functools
class Report:
    def __init__(self, n): self.n = n
    @functools.cached_property
    def total(self): return sum(range(self.n))
"""
_DISPATCHED = """
import functools
@functools.singledispatch
def flat(x):
    "Lists within lists as one."
    return [x]
@flat.register(list)
@flat.register(tuple)
def _flat_of_many(x): return [part for one in x for part in flat(one)]
class Shown:
    @functools.singledispatchmethod
    def show(self, x): return 'any'
    @show.register
    def _(self, x: int): return 'int'
"""
_PARAMETERS = """
import functools
from typing import Callable, Generic, ParamSpec, TypeVar
P = ParamSpec('P')
R = TypeVar('R')
def traced(f: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(f)
    def inner(*a: P.args, **k: P.kwargs) -> R: return f(*a, **k)
    return inner
@traced
def work(x: int) -> int: return x + 1
class Task(Generic[P, R]):
    def __init__(self, f: Callable[P, R]): self.f = f
"""
_NEW_TYPE = """
from typing import NewType
UserId = NewType('UserId', int)
def following(user: UserId) -> UserId: return UserId(user + 1)
"""
_TYPED_DICT = """
from typing import TypedDict
class Options(TypedDict):
    lr: float
class More(Options, total=False):
    "With more."
    name: str
def rate(options: Options) -> More: return More(lr=options['lr'] * 2)
"""
_KEYWORDS = """
class Plugin:
    found = {}
    def __init_subclass__(cls, /, name, **more):
        super().__init_subclass__(**more)
        cls.found[name], cls.label = cls, name
class Child(Plugin, name='child'):
    def go(self): return f'went {self.label}'
class Keyed(type):
    def __new__(meta, name, bases, namespace, *, key): return super().__new__(meta, name, bases, namespace)
    def __init__(cls, name, bases, namespace, *, key):
        super().__init__(name, bases, namespace)
        cls.key = key
class Thing(metaclass=Keyed, key=4): pass
"""
_ENUMS = """
import enum
class Planet(enum.Enum):
    EARTH = (6.0, 2.0)
    MARS = (0.6, 1.0)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def density(self): return self.mass / self.radius
class Code(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made
    FIRST = (1, 'the first')
    SECOND = (2, 'the second')
class Level(int, enum.Enum):
    def __new__(cls, value, words=''):
        made = int.__new__(cls, value)
        made._value_, made.words = value, words
        return made
    LOW = 1
    HIGH = (2, 'high')
"""

CASES = {
    "cached property": (_CACHED, "(Report(4).total, vars(Report(3)))", (6, {"n": 3})),
    "single dispatch": (
        _DISPATCHED,
        "(flat([1, (2, [3])]), flat.__doc__, flat.__name__, Shown().show(1), Shown().show('s'), Shown().show(True))",
        ([1, 2, 3], "Lists within lists as one.", "flat", "int", "any", "int"),
    ),
    "parameter specification": (_PARAMETERS, "(work(1), work.__name__, Task(work).f(2))", (2, "work", 3)),
    "new type": (
        _NEW_TYPE,
        "(following(1), UserId(3), UserId.__supertype__ is int, UserId.__module__)",
        (2, 3, True, "__main__"),
    ),
    "typed dictionary": (
        _TYPED_DICT,
        "(rate({'lr': 1}), sorted(More.__annotations__), sorted(More.__required_keys__), More.__total__, More.__doc__)",
        ({"lr": 2}, ["lr", "name"], ["lr"], False, "With more."),
    ),
    "keywords of a class": (
        _KEYWORDS,
        "(Child().go(), Plugin.found['child'] is Child, list(Plugin.found), Thing.key, type(Thing) is Keyed)",
        ("went child", True, ["child"], 4, True),
    ),
    "enum with its own code": (
        _ENUMS,
        "(Planet.EARTH.density, Planet((0.6, 1.0)) is Planet.MARS, Code.SECOND.label, bytes(Code.SECOND), Code(1).name,"
        " Level.HIGH + 1, Level.HIGH.words, Level(1) is Level.LOW, len(Code))",
        (3.0, True, "the second", b"\2", "FIRST", 3, "high", True, 2),
    ),
}


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.mark.parametrize("case", CASES)
def test_it_works_in_a_rank(kernel: Kernel, ranks: Ranks, case: str) -> None:
    cell, body, value = CASES[case]
    defined = kernel.run(cell)
    assert defined.ok, defined.text
    assert ranks(body) == [value]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_works_in_a_child_of_a_rank(kernel: Kernel, ranks: Ranks, case: str) -> None:
    """A spawned child is sent by value, with multiprocessing's pickler, what the rank's body defines."""
    cell, body, value = CASES[case]
    text = f"{cell}\nimport multiprocessing\ndef in_child(_): return {body}\n"
    text += "with multiprocessing.get_context('spawn').Pool(1) as pool: got = pool.map(in_child, [0])\ngot[0]"
    assert ranks(text) == [value]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_comes_home_from_the_body_that_defined_it(kernel: Kernel, case: str) -> None:
    cell, body, value = CASES[case]
    home = kernel.run(f"%%elastic_run -n 2 -o got\n{cell}\n(lambda: {body})")
    assert home.ok, home.text
    assert kernel.value("[function() for function in got]") == [value, value]


@pytest.mark.parametrize(
    ("cell", "body", "check", "expected"),
    [
        (
            _CACHED,
            "report = Report(4)\nreport.total\nreport",
            "[type(got[0]) is Report, got[0].total, Report(5).total]",
            [True, 6, 10],
        ),
        (_DISPATCHED, "(flat, Shown())", "[got[0][0]([1, [2]]), type(got[0][1]) is Shown]", [[1, 2], True]),
        (
            _KEYWORDS,
            "(Child(), Thing())",
            "[type(got[0][0]) is Child, type(got[0][1]) is Thing, list(Plugin.found)]",
            [True, True, ["child"]],
        ),
        (
            _ENUMS,
            "(Planet.MARS, Code.FIRST, Level.HIGH)",
            "[got[0][0] is Planet.MARS, got[0][1] is Code.FIRST, got[0][2] is Level.HIGH]",
            [True, True, True],
        ),
    ],
    ids=["cached property", "single dispatch", "keywords of a class", "enum with its own code"],
)
def test_what_came_from_the_notebook_is_its_own_at_home(
    kernel: Kernel, cell: str, body: str, check: str, expected: list[Any]
) -> None:
    assert kernel.run(cell).ok
    ran = kernel.run(f"%%elastic_run -n 1 -o got\n{body}")
    assert ran.ok, ran.text
    assert kernel.value(check) == expected
