"""What other cells define works in a rank: functions and classes of every make, modules beside the notebook, source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.mark.parametrize(
    ("cell", "body", "value"),
    [
        ("def plain(a, *rest, k=2, **more): return (a, rest, k, more)", "plain(1, 3, z=4)", (1, (3,), 2, {"z": 4})),
        ("double = lambda n: n * 2", "double(4)", 8),
        ("def adder(n):\n    def add(m): return n + m\n    return add\nadd_five = adder(5)", "add_five(2)", 7),
        (
            "def counter():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n        return n\n"
            "    return step\nstep = counter()\nstep()",
            "(step(), step())",
            (2, 3),
        ),
        (
            "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def both(*a): return (f(*a), f(*a))\n"
            "    return both\n@twice\ndef one(): return 1",
            "(one(), one.__name__)",
            ((1, 1), "one"),
        ),
        ("import functools\n@functools.lru_cache(None)\ndef cached(n): return n + 1", "cached(1)", 2),
        ("import functools\npart = functools.partial(pow, 2)", "part(5)", 32),
        ("from dataclasses import dataclass, field\n@dataclass(order=True)\n"
            "class Point:\n    x: int\n    y: list = field("
         "default_factory=list)\nhere = Point(1)", "(here == Point(1), here < Point(2), here.y)", (True, True, [])),
        (("from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\n"
            "class Fixed:\n    x: int\nfixed = Fixed(3)"),
         "(fixed.x, hash(fixed) == hash(Fixed(3)))", (3, True)),
        ("import enum\nclass Colour(enum.Enum):\n    RED = 1\n    BLUE = 2\nfavourite = Colour.BLUE",
         "(favourite is Colour.BLUE, Colour(1).name, isinstance(favourite, Colour))", (True, "RED", True)),
        ("import enum\nclass Flags(enum.IntFlag):\n    A = 1\n    B = 2", "int(Flags.A | Flags.B)", 3),
        ("class Temp:\n    def __init__(self): self._c = 1\n    @property\n    def c(self): return self._c\n"
         "    @c.setter\n    def c(self, v): self._c = v\n    @classmethod\n    def make(cls): return cls()\n"
         "    @staticmethod\n    def unit(): return 'C'",
         "t = Temp.make(); t.c = 5\n(t.c, Temp.unit())", (5, "C")),
        ("def numbers(n):\n    for i in range(n): yield i", "list(numbers(3))", [0, 1, 2]),
        ("async def soon(n): return n", "await soon(4)", 4),
        ("class Base:\n    registry = {}\n    def __init_subclass__(cls): Base.registry[cls.__name__] = 1\n"
         "class Child(Base): pass", "class Grandchild(Child): pass\nsorted(Base.registry)", ["Child", "Grandchild"]),
        ("import abc\nclass Shape(abc.ABC):\n    @abc.abstractmethod\n    def area(self): ...\n"
         "class Square(Shape):\n"
             "    def area(self): return 4", "(Square().area(), isinstance(Square(), Shape))", (4, True)),
        ("from typing import NamedTuple, TypeVar, Generic\nT = TypeVar('T')\n"
            "class Box(Generic[T]):\n    def __init__(self, v: T): self.v = v\n"
         "class Pair(NamedTuple):\n    a: int\n    b: int = 2", "(Box[int](3).v, Pair(1).b)", (3, 2)),
        ("class Outer:\n    class Inner:\n        value = 9", "Outer.Inner().value", 9),
        ("class Meta(type):\n    def shout(cls): return cls.__name__.upper()\nclass Quiet(metaclass=Meta): pass",
         "Quiet.shout()", "QUIET"),
        ("class Slotted:\n    __slots__ = ('a',)\ns = Slotted()\ns.a = 6", "s.a", 6),
        ("class Again(Exception):\n    def __init__(self, code, text): super().__init__(text); self.code = code",
         "try:\n    raise Again(3, 'x')\nexcept Again as caught:\n    got = (caught.code, str(caught))\ngot", (3, "x")),
        (("import os.path as osp\n"
            "from collections import Counter as C"), "(osp.basename('/a/b'), C('aab')['a'])", ("b", 2)),
        ("def fact(n): return 1 if n < 2 else n * fact(n - 1)", "fact(5)", 120),
        ("import contextlib\n@contextlib.contextmanager\ndef opened():\n    yield 'inside'",
         "with opened() as kept: pass\nkept", "inside"),
        (("import re, datetime, pathlib\npattern = re.compile('a+')\n"
            "day = datetime.date(2024, 1, 2)\np = pathlib.Path('/x')"),
         "(pattern.match('aa').end(), day.year, str(p / 'y'))", (2, 2024, "/x/y")),
        ("shared_list = []\npair_of = (shared_list, shared_list)\nalias = shared_list",
         "alias.append(1)\n(shared_list, pair_of[0] is pair_of[1] is alias)", ([1], True)),
    ],
)  # fmt: skip
def test_what_another_cell_defined_works(kernel: Kernel, ranks: Ranks, cell: str, body: str, value: Any) -> None:
    made = kernel.run(cell)
    assert made.ok, made.text
    assert ranks(body) == [value]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_every_start_method_gives_the_cell_the_same_meaning(kernel: Kernel, ranks: Ranks, start_method: str) -> None:
    made = kernel.run("where = 'notebook'\ndef tell(): return (where, rank)")
    assert made.ok, made.text
    body = "where = 'body'\nclass Own: pass\n(tell(), __name__, Own.__module__)"
    expected = [(("body", rank), "__main__", "__main__") for rank in (0, 1)]
    assert ranks(body, f"-n 2 --start-method {start_method}") == expected
    assert kernel.value("where") == "notebook"


def test_future_annotations_of_the_notebook_hold_in_the_body(kernel: Kernel, ranks: Ranks) -> None:
    assert kernel.run("from __future__ import annotations").ok
    assert kernel.run("def hinted(n: NotDefinedAnywhere): return n").ok
    body = "def mine(n: NorIsThis): return n\n(hinted(1), mine.__annotations__['n'])"
    assert ranks(body) == [(1, "NorIsThis")]


def test_source_of_cell_functions_is_there_in_the_rank(kernel: Kernel, ranks: Ranks) -> None:
    text = "def sourced(a):\n    # a comment that only the source has\n    return a\n"
    assert kernel.run(f"x_before = 1\n{text}\nclass Sourced:\n    field = 1\n").ok
    body = "import inspect\ndef own():\n    return 'body'\n(inspect.getsource(sourced), inspect.getsource(own))"
    assert ranks(body) == [(text, "def own():\n    return 'body'\n")]


def test_source_of_cell_classes_is_there_in_the_rank(kernel: Kernel, ranks: Ranks) -> None:
    assert kernel.run("class Sourced:\n    field = 1\n    def go(self):\n        return 1\n").ok
    assert ranks("import inspect\ninspect.getsource(Sourced.go)") == ["    def go(self):\n        return 1\n"]


def test_module_beside_the_notebook_is_imported_and_its_edits_are_seen(
    kernel: Kernel, ranks: Ranks, notebook_folder: Path
) -> None:
    module = notebook_folder / "beside.py"
    module.write_text("def answer(): return 'first'\n")
    assert ranks("import beside\nbeside.answer()") == ["first"]
    module.write_text("def answer(): return 'second, longer'\n")
    assert ranks("import beside\nbeside.answer()") == ["second, longer"]
    assert kernel.run("import importlib, beside\nfrom beside import answer").ok
    assert ranks("(beside.answer(), answer())") == [("second, longer", "second, longer")]
    module.write_text("def answer(): return 'third, longer still'\n")
    assert kernel.run("importlib.reload(beside)").ok
    assert ranks("beside.answer()") == ["third, longer still"]


def test_module_in_a_folder_put_on_the_path_later_is_found(kernel: Kernel, ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "added_later.py").write_text("value = 5\nclass Thing:\n    pass\n")
    assert kernel.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport added_later").ok
    assert ranks("added_later.value + isinstance(added_later.Thing(), added_later.Thing)") == [6]


def test_module_that_no_rank_could_import_goes_by_value(kernel: Kernel, ranks: Ranks) -> None:
    code = (
        "import types, sys\nmade_up = types.ModuleType('made_up')\nexec('def f(): return helper() + 1\\ndef helper(): "
    )
    code += "return 1', vars(made_up))\nsys.modules['made_up'] = made_up\nfrom made_up import f as made_f"
    made = kernel.run(code)
    assert made.ok, made.text
    assert ranks("made_f()") == [2]


def test_class_redefined_between_two_runs_is_the_new_one(kernel: Kernel, ranks: Ranks) -> None:
    assert kernel.run("class Twice:\n    version = 1\ntold = Twice()").ok
    assert ranks("(Twice.version, told.version)") == [(1, 1)]
    assert kernel.run("class Twice:\n    version = 2").ok
    assert ranks("(Twice.version, told.version, isinstance(told, Twice))") == [(2, 1, False)]


def test_method_patched_onto_a_class_between_two_runs_is_there(kernel: Kernel, ranks: Ranks) -> None:
    assert kernel.run("class Patched:\n    def go(self): return 'old'\nkept = Patched()").ok
    assert ranks("kept.go()") == ["old"]
    assert kernel.run("Patched.go = lambda self: 'new'\nPatched.added = 1").ok
    assert ranks("(kept.go(), kept.added)") == [("new", 1)]
