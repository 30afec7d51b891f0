"""Values of the ranks in the notebook: equal, of the notebook's own classes, and changing nothing there."""

from __future__ import annotations

import pytest

from support.kernels import Kernel


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def ran(kernel: Kernel, *cells: str) -> None:
    for cell in cells:
        result = kernel.run(cell)
        assert result.ok, result.text


_CLASS = """
limit = 10
class Model:
    shared = []
    count = 0
    def grow(self, by): self.size = by; return limit
    @classmethod
    def make(cls): return cls()
    @property
    def double(self): return self.size * 2
before = {name: id(value) for name, value in vars(Model).items()}
before_globals = id(Model.grow.__globals__)
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_instance_of_a_notebook_class_comes_home_and_the_class_is_untouched(kernel: Kernel, start_method: str) -> None:
    body = "m = Model()\nm.grow(rank + 1)\nModel.count += 1\nModel.shared.append(rank)\nModel.extra = 1\nm"
    ran(kernel, _CLASS, f"%%elastic_run -n 2 --start-method {start_method} -o got\n{body}")
    assert kernel.value("all(type(m) is Model and isinstance(m, Model) for m in got)") is True
    assert kernel.value("[m.size for m in got] + [m.double for m in got]") == [1, 2, 2, 4]
    assert kernel.value("(Model.shared, Model.count, hasattr(Model, 'extra'))") == ([], 0, False)
    after = "{name: id(value) for name, value in vars(Model).items()} == before"
    assert kernel.value(f"({after}, id(Model.grow.__globals__) == before_globals, Model.grow.__globals__ is globals())")
    assert kernel.run("limit = 11\ngot[0].grow(5)").value == "11"


def test_class_itself_and_its_methods_come_home_as_themselves(kernel: Kernel) -> None:
    ran(kernel, _CLASS, "%%elastic_run -n 1 -o got\n(Model, Model.make, Model().grow, [Model] * 2)")
    assert kernel.value("(got[0][0] is Model, got[0][3] == [Model, Model])") == (True, True)
    assert kernel.value("(got[0][1].__self__ is Model, type(got[0][2].__self__) is Model)") == (True, True)


def test_instance_that_travelled_out_comes_home_equal(kernel: Kernel) -> None:
    cell = (
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n"
        "    lr: float\n    tags: tuple = ()\ncfg = Config(.1)"
    )
    ran(kernel, cell, "%%elastic_run -n 2 -o got\ncfg.tags = ('a',)\ncfg")
    assert kernel.value("(got[0] == got[1] == Config(.1, ('a',)), cfg.tags)") == (True, ())


def test_enum_members_are_the_same_objects(kernel: Kernel) -> None:
    ran(
        kernel,
        (
            "import enum\nclass Colour(enum.Enum):\n    RED = 1\n    BLUE = [2]\n"
            "class Level(enum.IntFlag):\n    A = 1\n    B = 2"
        ),
        "%%elastic_run -n 2 -o got\n(Colour.RED, {'k': Colour.BLUE}, Level.A | Level.B)",
    )
    same = "all(a is Colour.RED and d['k'] is Colour.BLUE and f == Level.A | Level.B for a, d, f in got)"
    assert kernel.value(same) is True


def test_enum_born_in_the_body_is_one_for_all_ranks(kernel: Kernel) -> None:
    ran(kernel, "%%elastic_run -n 2 -o got\nimport enum\nclass Fresh(enum.Enum):\n    A = 1\n(Fresh.A, Fresh.A)")
    assert kernel.value("(got[0][0] is got[0][1], got[0][0] is got[1][0], got[0][0].name)") == (True, True, "A")


@pytest.mark.parametrize(
    "definition",
    [
        "from dataclasses import dataclass\n@dataclass\nclass Born:\n    x: int\n    def up(self): return self.x + 1",
        "from typing import NamedTuple\nclass Born(NamedTuple):\n    x: int\n    def up(self): return self.x + 1",
        "class Born:\n    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, other): return type(self) is type(other) "
        "and self.x == other.x\n    def up(self): return self.x + 1",
        "from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\nclass Born:\n    x: int\n"
        "    def up(self): return self.x + 1",
    ],
)
def test_classes_born_in_the_body_are_one_class_for_all_ranks(kernel: Kernel, definition: str) -> None:
    ran(kernel, f"%%elastic_run -n 2 -o got\n{definition}\n[Born(3), (Born(3),)]")
    assert kernel.value("type(got[0][0]) is type(got[1][0]) is type(got[0][1][0])") is True
    assert kernel.value("(got[0] == got[1], got[0][0].up(), 'Born' in globals())") == (True, 4, False)


def test_body_class_that_subclasses_a_notebook_class_is_an_instance_of_it(kernel: Kernel) -> None:
    ran(kernel, "class Parent:\n    tag = 'p'", "%%elastic_run -n 2 -o got\nclass Kid(Parent):\n    pass\nKid()")
    assert kernel.value("[isinstance(k, Parent) for k in got] + [type(got[0]) is type(got[1])]") == [True] * 3
    assert kernel.run("Parent.tag = 'q'\ngot[0].tag").value == "'q'"


def test_class_redefined_between_runs_leaves_old_values_as_they_are(kernel: Kernel) -> None:
    ran(kernel, "class Again:\n    version = 1", "%%elastic_run -n 1 -o old\nAgain()")
    ran(kernel, "First = Again\nclass Again:\n    version = 2", "%%elastic_run -n 1 -o new\nAgain()")
    assert kernel.value("(type(old[0]) is First, type(new[0]) is Again)") == (True, True)
    assert kernel.value("(old[0].version, new[0].version, First.version)") == (1, 2, 1)


def test_class_redefined_in_the_body_is_not_the_notebooks(kernel: Kernel) -> None:
    ran(kernel, "class Hidden:\n    version = 1", "%%elastic_run -n 1 -o got\nclass Hidden:\n    version = 2\nHidden()")
    assert kernel.value("(isinstance(got[0], Hidden), got[0].version, Hidden.version)") == (False, 2, 1)


@pytest.mark.parametrize(
    "value",
    [
        "None, True, 1.5, 2 ** 100, float('inf'), 1j, b'\\0', 'ü\\n'",
        "{'a': [1, (2, {3}), {'b': frozenset({4})}], 5: None}, []",
        "[[['deep', [['deeper']]]]], range(3), slice(1, 2), ...",
        "bytearray(b'x'), 'x' * 100000, list(range(20000))",
    ],
)
def test_nested_containers_come_home_equal(kernel: Kernel, value: str) -> None:
    ran(kernel, f"%%elastic_run -n 2 -o got\n{value}")
    assert kernel.value(f"got[0] == got[1] == ({value},)") is True


def test_shared_parts_of_a_value_stay_shared(kernel: Kernel) -> None:
    ran(kernel, "%%elastic_run -n 1 -o got\na = [1]\na.append(a)\n(a, a)")
    assert kernel.value("(got[0][0] is got[0][1], got[0][0][1] is got[0][0])") == (True, True)


@pytest.mark.parametrize("count", [0, 3, 5000, 6_250_000])
def test_arrays_come_home_equal_and_writable(kernel: Kernel, count: int) -> None:
    ran(kernel, f"%%elastic_run -n 2 -o got\nimport numpy as np\n{{'a': np.arange({count}) + rank, 'n': rank}}")
    check = f"import numpy as np\n[bool((g['a'] == np.arange({count}) + g['n']).all()) for g in got]"
    assert kernel.run(check).value == "[True, True]"
    assert kernel.run("[g['a'].flags.writeable and g['a'].dtype.name for g in got]").value == "['int64', 'int64']"
    assert (
        kernel.run("for g in got: g['a'][:1] = 99\n[int(g['a'][:1].sum()) in (0, 99) for g in got]").value
        == "[True, True]"
    )
    kernel.run("del got, g")


def test_odd_arrays_come_home_equal(kernel: Kernel) -> None:
    body = "import numpy as np\na = np.arange(12.).reshape(3, 4)\n"
    body += "[a.T, a[:, ::2], np.asfortranarray(a), np.array([None, 'x']), np.array(3), np.ma.array([1], mask=[1])]"
    ran(kernel, f"%%elastic_run -n 1 -o got\n{body}", "import numpy as np\na = np.arange(12.).reshape(3, 4)")
    check = "[bool((x == y).all()) for x, y in zip(got[0][:3], [a.T, a[:, ::2], a])]"
    assert kernel.value(check) == [True, True, True]
    assert kernel.value("(list(got[0][3]), int(got[0][4]), bool(got[0][5].mask[0]))") == ([None, "x"], 3, True)


def test_large_array_goes_out_and_home(kernel: Kernel) -> None:
    ran(kernel, "import numpy as np\nbig = np.ones(6_250_000)")
    ran(kernel, "%%elastic_run -n 2 -o got\nbig[0] = rank\nfloat(big.sum())")
    assert kernel.value("(list(got), float(big[0]))") == ([6249999.0, 6250000.0], 1.0)
    kernel.run("del big")


# -------------------------------------------------------------------------------------------------- what cannot travel


def test_value_that_cannot_be_pickled_becomes_a_placeholder_and_a_note(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2 -o got\nimport threading\nthreading.Lock() if rank else 7")
    assert result.ok, result.text
    assert result.out == (
        "note: the value of rank 1 (lock) cannot be pickled and stayed there: cannot pickle '_thread.lock' object\n"
    )
    assert kernel.value("(got[0], got[1].type_name, got[1].reason)") == (
        7,
        "lock",
        "TypeError: cannot pickle '_thread.lock' object",
    )


def test_value_that_cannot_be_pickled_is_a_failure_of_launch(kernel: Kernel) -> None:
    code = (
        "import ipyelastic, threading\ndef make(): return threading.Lock()\nipyelastic.launch(make, nproc=1).result()"
    )
    result = kernel.run(code)
    assert result.error_name == "ChildFailedError"
    assert "TypeError: cannot pickle '_thread.lock' object" in result.error_value
    said = "the value that rank 0 returned (_thread.lock) cannot go home; it holds for one process only"
    assert said in result.traceback


def test_value_whose_loading_fails_is_that_ranks_failure(kernel: Kernel) -> None:
    code = (
        "def refuse(state): raise ValueError('not here')\nclass Stubborn:\n"
        "    def __reduce__(self): return refuse, (1,)"
    )
    ran(kernel, code)
    after_the_other = (
        "import os, time\nif rank == 0:\n"
        "    with open('pid.new', 'w') as file: file.write(str(os.getpid()))\n"
        "    os.rename('pid.new', 'pid')\n"
        "else:\n"
        "    while not os.path.exists('pid') or os.path.exists('/proc/' + open('pid').read()): time.sleep(0.005)\n"
    )
    result = kernel.run(f"%%elastic_run -n 2\n{after_the_other}Stubborn() if rank else 5")
    assert result.error_name == "ChildFailedError"
    assert result.traceback.splitlines() == [
        "rank 1 of 2 failed (local_rank 1)",
        "  what    it returned a value that could not be loaded here: ValueError: not here",
    ]
    assert kernel.value("__import__('ipyelastic').last_run().results") == {0: 5}


def test_exceptions_are_values_whatever_their_constructor_takes(kernel: Kernel) -> None:
    code = (
        "class Two(Exception):\n    def __init__(self, code, text):\n"
        "        super().__init__(text)\n        self.code = code"
    )
    ran(kernel, code, "%%elastic_run -n 1 -o got\ne = ValueError('plain')\n(e, KeyError('k', 1))")
    assert kernel.value("(repr(got[0]), type(got[0][0]) is ValueError)") == (
        "(ValueError('plain'), KeyError('k', 1))",
        True,
    )
    result = kernel.run("%%elastic_run -n 1 -o got\nTwo(3, 'text')")
    assert result.ok, result.text  # it cannot be rebuilt anywhere: a placeholder, and not a failed run


def test_exception_with_a_constructor_of_two_is_a_failure_as_any_other(kernel: Kernel) -> None:
    ran(kernel, "class Two(Exception):\n    def __init__(self, code, text):\n        super().__init__(text)\n")
    result = kernel.run("%%elastic_run -n 1\nraise Two(3, 'its text')")
    (number,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    assert result.traceback.splitlines()[1] == f"  what    Two: its text (Cell In[{number}], line 2)"


# -------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.torch
@pytest.mark.slow
def test_tensors_come_home_detached_and_say_so(kernel: Kernel) -> None:
    body = "import torch\nw = torch.nn.Parameter(torch.ones(3) * (rank + 1))\nout = (w * 2).sum()\nout.backward()\n"
    body += "{'w': w, 'out': out, 'grad': w.grad, 'plain': torch.arange(4)[1:], 'big': torch.full((2_000_000,), rank)}"
    result = kernel.run(f"%%elastic_run -n 2 -o got\n{body}", timeout_s=100)
    assert result.ok, result.text
    note = "note: tensors with a gradient history travel without it (detached)"
    assert set(result.out.splitlines()) == {note}
    ran(kernel, "import torch")
    assert kernel.value("[type(g['w']).__name__ for g in got] + [g['w'].requires_grad for g in got]") == (
        ["Parameter", "Parameter", True, True]
    )
    assert kernel.value("[g['w'].tolist() for g in got]") == [[1.0] * 3, [2.0] * 3]
    assert kernel.value("[(float(g['out']), g['out'].requires_grad) for g in got]") == [(6.0, False), (12.0, False)]
    assert kernel.value("[g['grad'].tolist() for g in got]") == [[2.0] * 3] * 2
    assert kernel.value("[g['plain'].tolist() for g in got]") == [[1, 2, 3]] * 2
    assert kernel.value("[int(g['big'].sum()) for g in got]") == [0, 2_000_000]
    ran(kernel, "got[0]['big'][0] = 5", "%%elastic_run -n 2 -o again\nfloat(got[0]['w'].sum())")
    assert kernel.value("list(again)") == [3.0, 3.0]


@pytest.mark.torch
@pytest.mark.slow
def test_tensors_of_new_types_travel_both_ways(kernel: Kernel) -> None:
    ran(
        kernel,
        "import torch\nnew = [torch.arange(6.).reshape(2, 3).to(torch.float8_e4m3fn),"
        " *(torch.arange(6).reshape(3, 2).T.to(one) for one in (torch.uint16, torch.uint32, torch.uint64))]\n"
        "weight = torch.nn.Parameter(torch.ones(2).to(torch.float8_e5m2), requires_grad=False)",
        "%%elastic_run -n 1 -o got\n[*new, weight]",
    )
    check = "[(type(a) is type(b), a.dtype == b.dtype, torch.equal(a.float(), b.float()))"
    assert kernel.value(check + " for a, b in zip(got[0], [*new, weight])]") == [(True, True, True)] * 5
