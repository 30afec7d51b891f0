"""What the notebook lends to a cell: big names are told before the launch, what cannot travel is named with advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kernels import CellResult, Kernel
from support.waiting import wait_until

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def notes(result: CellResult) -> str:
    """The notes a cell showed, its own number as `[this]`."""
    (number,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    lines = [line for line in result.out.splitlines() if line.startswith("note: ")]
    return "\n".join(lines).replace(f"In[{number}]", "In[this]")


def big(*names: str) -> str:
    """The note that names these."""
    told = ", ".join(names)
    return f"note: these travel to the ranks by value: {told}; load big data in the ranks themselves, from a file"


# --------------------------------------------------------------------------------------------------------- what is big


def test_names_over_ten_megabytes_are_told_the_largest_first(kernel: Kernel) -> None:
    made = kernel.run(
        "import numpy as np\nclass Net:\n    def __init__(self): self.w = np.ones(3_000_000)\n"
        "big_data, net, text, small = np.zeros(10_000_000), Net(), 'x' * 20_000_000, np.zeros(1000)"
    )
    assert made.ok, made.text
    result = kernel.run("%%elastic_run -n 2\nprint(small.sum())\nprint(len(text),\n      net.w.size)\nbig_data.size")
    assert result.value == "[0: 10000000, 1: 10000000]", result.text
    assert notes(result) == big(
        "big_data 80.0 MB (numpy.ndarray, Cell In[this], line 5)",
        "net 24.0 MB (Net, Cell In[this], line 4)",
        "text 20.0 MB (str, Cell In[this], line 3)",
    )
    assert result.out.startswith("note: "), "before anything the ranks say"


def test_what_a_function_drags_in_is_told_with_the_functions_name(kernel: Kernel) -> None:
    made = kernel.run(
        "import numpy as np\ndragged = np.zeros(2_000_000)\nclass Trainer:\n    def fit(self): return dragged.sum()\n"
        "def train(): return Trainer().fit()"
    )
    assert made.ok, made.text
    result = kernel.run("%%elastic_run -n 1\ntrain()\n")
    assert notes(result) == big("dragged 16.0 MB (numpy.ndarray, used in Trainer.fit())")


def test_what_a_function_closes_over_is_told_under_the_functions_name(kernel: Kernel) -> None:
    made = kernel.run(
        "import numpy as np\ndef make():\n    held = np.zeros(2_000_000)\n    return lambda: held.sum()\n"
        "closed = make()"
    )
    assert made.ok, made.text
    assert notes(kernel.run("%%elastic_run -n 1\nclosed()")) == big("closed 16.0 MB (function, Cell In[this], line 2)")


def test_what_several_names_share_is_counted_once(kernel: Kernel) -> None:
    made = kernel.run(
        "import numpy as np\nshared = np.zeros(2_000_000)\npair, alias = [shared, shared], shared\n"
        "def reads_shared(): return shared"
    )
    assert made.ok, made.text
    result = kernel.run("%%elastic_run -n 1\n(pair, alias, shared, reads_shared)\n1")
    assert notes(result) == big("pair 16.0 MB (list, Cell In[this], line 2)")


def test_many_big_names_are_summed_up(kernel: Kernel) -> None:
    made = kernel.run("import numpy as np\n" + "\n".join(f"heap{n} = np.zeros(2_000_000 + {n})" for n in range(8)))
    assert made.ok, made.text
    result = kernel.run("%%elastic_run -n 1\n(" + ", ".join(f"heap{n}" for n in range(8)) + ")\n1")
    assert notes(result).count("numpy.ndarray") == 5
    assert ", 3 more of 48.0 MB; load big data" in notes(result)


def test_small_names_are_no_matter(kernel: Kernel) -> None:
    assert kernel.run("import numpy as np\nlittle = np.zeros(1_000_000)").ok  # 8 MB
    assert kernel.run("%%elastic_run -n 2\nlittle.size").out == ""


def test_arguments_of_launch_are_told(kernel: Kernel) -> None:
    code = (
        "import ipyelastic, numpy as np\nfirst = np.zeros(2_000_000)\n"
        "def go(a, *, b): return a.size + len(b)\n"
        "run = ipyelastic.launch(go, args=(first,), kwargs={'b': [0] * 20_000_000}, nproc=2)\n"
        "_ = run.result()"
    )
    result = kernel.run(code)
    assert result.ok, result.text
    told = kernel.value("list(run.board.snapshot().notes)")
    assert [f"note: {text}" for text in told] == [big("b 40.0 MB (list)", "argument 0 16.0 MB (numpy.ndarray)")]
    assert kernel.value("list(run.results.values())") == [22_000_000, 22_000_000]


# -------------------------------------------------------------------------------------------------- what cannot travel

_LOCK = "it holds for one process only: make it inside the cell"
_STAYS = "it stays in its process: make it inside the cell"


@pytest.mark.parametrize(
    ("code", "type_name", "reason", "remedy"),
    [
        ("def gen(): yield 1\nit = gen()", "generator", "TypeError: cannot pickle 'generator' object",
         "a generator stays in its process: make it inside the cell, or pass list(...) of it"),
        ("it = open('/dev/null', 'w')", "_io.TextIOWrapper",
         "PicklingError: Cannot pickle files that are not opened for reading: w",
         "pass its path, and open it inside the cell"),
        ("it = open('/dev/null', 'rb')", "_io.BufferedReader", "TypeError: cannot pickle '_io.BufferedReader' object",
         "pass its path, and open it inside the cell"),
        ("import threading\nit = threading.Event()", "threading.Event",
         "TypeError: cannot pickle '_thread.lock' object", _LOCK),
        ("import sqlite3\nit = sqlite3.connect(':memory:')", "sqlite3.Connection",
         "TypeError: cannot pickle 'sqlite3.Connection' object", "connect inside the cell"),
        ("import socket\nit = socket.socket()", "socket.socket", "TypeError: cannot pickle 'socket' object",
         "connect inside the cell"),
        ("import asyncio\nit = asyncio.ensure_future(asyncio.sleep(0))", "_asyncio.Task",
         "TypeError: cannot pickle '_asyncio.Task' object", "await it, and pass what it gives"),
        ("async def co(): pass\nit = co()", "coroutine", "TypeError: cannot pickle 'coroutine' object",
         "await it, and pass what it gives; or make it inside the cell"),
        ("import ipywidgets\nit = ipywidgets.IntSlider()", "ipywidgets.widgets.widget_int.IntSlider",
         "TypeError: cannot pickle '_thread.lock' object", "widgets live in the notebook: pass the widget's value"),
        ("from concurrent.futures import ThreadPoolExecutor\nit = ThreadPoolExecutor(1)",
         "concurrent.futures.thread.ThreadPoolExecutor", "TypeError: cannot pickle '_queue.SimpleQueue' object",
         "a pool and its futures stay in their process: make it inside the cell, or pass the results"),
        ("import multiprocessing\nit = multiprocessing.Lock()", "multiprocessing.synchronize.Lock",
         "RuntimeError: Lock objects should only be shared between processes through inheritance",
         "it goes to children of the notebook only: make it inside the cell, or use --start-method fork"),
        ("import types, threading\nit = types.ModuleType('nowhere')\nit.lock = threading.Lock()", "module",
         "TypeError: cannot pickle '_thread.lock' object", _LOCK),
        ("try: 1 / 0\nexcept Exception as error: it = error.__traceback__", "traceback",
         "TypeError: cannot pickle 'traceback' object", _STAYS),
        ("import contextvars\nit = contextvars.ContextVar('x')", "_contextvars.ContextVar",
         "TypeError: cannot pickle '_contextvars.ContextVar' object", _STAYS),
    ],
    ids=lambda value: value.rpartition(" = ")[2][:20] if "it = " in str(value) else "",
)  # fmt: skip
def test_what_cannot_travel_comes_with_advice(
    kernel: Kernel, code: str, type_name: str, reason: str, remedy: str
) -> None:
    made = kernel.run(code)
    assert made.ok, made.text
    result = kernel.run("%%elastic_run -n 2\nx = 1\nprint(it)")
    (number,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    said = f"it ({type_name}), used in Cell In[{number}], line 3, cannot be pickled: {reason}; {remedy}"
    assert (result.error_name, result.error_value) == ("UnpicklableError", said)
    assert kernel.run("%elastic_run -n 1 5").value == "[0: 5]"


def test_tqdm_bar_comes_with_advice(kernel: Kernel) -> None:
    pytest.importorskip("tqdm")
    assert kernel.run("from tqdm import tqdm\nbar = tqdm(total=5, file=open('/dev/null', 'w'))").ok
    result = kernel.run("%%elastic_run -n 1\nbar.update()")
    assert re.fullmatch(r"bar \(tqdm.std.tqdm\), used in .*, cannot be pickled: .*; make the bar inside the cell",
                        result.error_value)  # fmt: skip


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_iterator_of_a_data_loader_comes_with_advice_and_the_loader_travels(kernel: Kernel, workers: int) -> None:
    made = kernel.run(
        f"from torch.utils.data import DataLoader\nloader = DataLoader([1, 2], num_workers={workers})\n"
        "it = iter(loader)"
    )
    assert made.ok, made.text
    assert kernel.run("%%elastic_run -n 1 -o got\n[int(b) for b in loader]", 100).ok
    assert kernel.value("list(got)") == [[1, 2]]
    result = kernel.run("%%elastic_run -n 1\nnext(it)")
    assert "pass the DataLoader, and iterate over it inside the cell" in result.error_value


@pytest.mark.slow
@pytest.mark.torch
def test_what_torch_keeps_in_its_process_says_what_to_do(kernel: Kernel) -> None:
    pytest.importorskip("torch")
    kernel.run(
        "import torch\nscripted = torch.jit.trace(torch.sin, torch.ones(1))\n"
        "normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(1, 1))"
    )
    for name, words in {"scripted": "script it inside the cell", "normed": "pass its state_dict()"}.items():
        result = kernel.run(f"%%elastic_run -n 1\n{name}")
        assert result.error_name == "UnpicklableError", result.text
        assert words in result.error_value
    kernel.run("del it, loader")


@pytest.mark.parametrize(
    ("code", "body", "value"),
    [
        ("from dataclasses import dataclass, field\n@dataclass\nclass D:\n"
         "    f: object = field(default_factory=lambda: 5)\nd = D()", "(d.f, D().f)", (5, 5)),
        ("keys = {'a': 1}.keys()", "list(keys)", ["a"]),
        ("view = memoryview(b'xy')", "bytes(view)", b"xy"),
        ("from IPython.display import display, HTML\nhandle = display(HTML(''), display_id='me')", "handle.display_id",
         "me"),
        ("text = open('/proc/self/comm')", "len(text.read()) > 0", True),
    ],
)  # fmt: skip
def test_what_looks_difficult_and_travels(kernel: Kernel, ranks: Ranks, code: str, body: str, value: object) -> None:
    made = kernel.run(code)
    assert made.ok, made.text
    assert ranks(body) == [value]


# ----------------------------------------------------------------------------------------------- edited since, on disk


@pytest.mark.parametrize("place", ["beside the notebook", "on the path, as an editable install is"])
def test_edited_module_is_seen_at_the_next_cell_without_a_reload(
    kernel: Kernel, ranks: Ranks, notebook_folder: Path, tmp_path: Path, place: str
) -> None:
    folder = notebook_folder if place.startswith("beside") else tmp_path
    name = "edited_beside" if place.startswith("beside") else "edited_editable"
    kernel.run(f"import sys\nif {str(tmp_path)!r} not in sys.path: sys.path.append({str(tmp_path)!r})")
    (folder / f"{name}.py").write_text("def answer(): return 'first'\n")
    assert kernel.run(f"import {name}\nfrom {name} import answer").ok
    assert ranks(f"({name}.answer(), answer())") == [("first", "first")]
    (folder / f"{name}.py").write_text("def answer(): return 'second, longer'\n")
    assert ranks(f"({name}.answer(), answer())") == [("second, longer", "second, longer")]
    assert kernel.value("answer()") == "first"


@pytest.mark.slow
def test_edited_package_of_site_packages_is_seen_at_the_next_cell(
    new_kernel: Callable[..., Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    site = tmp_path / "site-packages"
    (site / "edited_pack").mkdir(parents=True)
    inner = site / "edited_pack" / "inner.py"
    (site / "edited_pack" / "__init__.py").write_text("from .inner import answer\n")
    inner.write_text("def answer(): return 'first'\n")
    kernel = new_kernel(env={"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{site}"})
    assert kernel.run("%load_ext ipyelastic\nimport edited_pack").ok
    run = "%elastic_run -n 2 edited_pack.answer()"
    assert kernel.run(run).value == "[0: 'first', 1: 'first']"

    def is_preloaded() -> bool:
        status = kernel.run("%elastic_status").out
        return any("(current)" in line and "edited_pack" in line for line in status.splitlines())

    wait_until(is_preloaded, 40, "it to be preloaded")
    assert kernel.run(run).value == "[0: 'first', 1: 'first']"
    inner.write_text("def answer(): return 'second, longer'\n")
    assert kernel.run(run).value == "[0: 'second, longer', 1: 'second, longer']"
    wait_until(is_preloaded, 40, "it to be preloaded again")
    assert kernel.run("import importlib\n_ = importlib.reload(edited_pack.inner)").ok
    assert kernel.run(run).value == "[0: 'second, longer', 1: 'second, longer']"
