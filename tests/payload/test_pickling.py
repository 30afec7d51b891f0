"""What pickling does that cloudpickle does not: `__main__` is the rank's, modules are judged, tensors travel plain."""

from __future__ import annotations

import builtins
import importlib
import io
import json
import pickle
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.payload.pickling import CallPickler, ValuePickler, dumps, is_importable, is_installed


def test_module_of_the_standard_library_is_importable() -> None:
    import xml.dom.minidom

    assert is_importable(json)
    assert is_importable(xml.dom.minidom)
    assert is_importable(sys)


def test_module_made_by_hand_is_not_importable() -> None:
    assert not is_importable(types.ModuleType("nobody_knows_it"))


def test_module_on_the_path_is_importable_until_it_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_here"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def go(): return 1\n")
    (tmp_path / "shadow.py").write_text("")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        inner = importlib.import_module("found_here.inner")
        assert is_importable(inner)
        other = tmp_path / "other"
        other.mkdir()
        (other / "found_here").mkdir()
        (other / "found_here" / "__init__.py").write_text("")
        assert is_importable(sys.modules["found_here"])
        patched.syspath_prepend(str(other))  # now the name leads elsewhere
        assert not is_importable(sys.modules["found_here"])
    assert not is_importable(inner)
    for name in ("found_here", "found_here.inner"):
        sys.modules.pop(name, None)


def test_namespace_package_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spread" / "part").mkdir(parents=True)
    (tmp_path / "spread" / "part" / "leaf.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    leaf = importlib.import_module("spread.part.leaf")
    try:
        assert is_importable(leaf)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "spread"]:
            del sys.modules[name]


def test_installed_means_a_distribution_or_python_itself(tmp_path: Path) -> None:
    assert is_installed(json.__file__)
    assert is_installed(str(Path(sysconfig.get_path("purelib")) / "anything.py"))
    assert not is_installed(str(tmp_path / "x.py"))
    assert not is_installed(__file__)


def test_functions_of_main_meet_in_the_main_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, rank = types.ModuleType("__main__"), types.ModuleType("__main__")
    exec("level = 1\ndef read(): return level\ndef put(n):\n    global level\n    level = n", vars(owner))
    monkeypatch.setitem(sys.modules, "__main__", owner)
    stream = dumps((vars(owner)["read"], vars(owner)["put"]))
    monkeypatch.setitem(sys.modules, "__main__", rank)
    read, put = pickle.loads(stream)
    assert read() == 1
    put(2)
    assert (read(), vars(rank)["level"], vars(owner)["level"]) == (2, 2, 1)


def test_modules_and_files_that_a_call_needs_are_remembered() -> None:
    pickler = CallPickler(io.BytesIO())

    def go() -> Any:
        return json.dumps(fractions.Fraction(1, 2).numerator)

    import fractions

    pickler.dump((go, [fractions.Fraction(1, 2)], json))
    assert {"json", "fractions"} <= pickler.modules
    assert test_modules_and_files_that_a_call_needs_are_remembered.__code__.co_filename in pickler.filenames


def test_registry_is_left_as_it_was_when_pickling_fails() -> None:
    import threading

    import cloudpickle

    module = types.ModuleType("fails_late")
    exec("def go(): return held", vars(module))
    vars(module)["held"] = threading.Lock()
    sys.modules["fails_late"] = module
    try:
        with pytest.raises(TypeError):
            dumps(module.go)
        assert "fails_late" not in cloudpickle.list_registry_pickle_by_value()
    finally:
        del sys.modules["fails_late"]


def test_cached_function_of_main_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, rank = types.ModuleType("__main__"), types.ModuleType("__main__")
    code = "import functools\n@functools.lru_cache(maxsize=5)\ndef cached(n): return n + 1\n"
    exec(code, vars(owner))
    monkeypatch.setitem(sys.modules, "__main__", owner)
    stream = dumps(vars(owner)["cached"])
    monkeypatch.setitem(sys.modules, "__main__", rank)
    cached = pickle.loads(stream)
    assert (cached(1), cached.cache_parameters()["maxsize"]) == (2, 5)


@pytest.mark.torch
def test_tensors_travel_without_their_graph_and_say_so() -> None:
    import torch

    leaf = torch.ones(2, requires_grad=True)
    pickler = CallPickler(file := io.BytesIO())
    pickler.dump([leaf * 2, leaf, torch.nn.Parameter(torch.zeros(1)), torch.arange(3)])
    assert pickler.tensor_notes == {"tensors with a gradient history travel without it (detached)"}
    product, same, parameter, plain = pickle.loads(file.getvalue())
    assert (product.tolist(), product.requires_grad) == ([2.0, 2.0], False)
    assert (same.requires_grad, type(parameter), plain.tolist()) == (True, torch.nn.Parameter, [0, 1, 2])
    pickler = CallPickler(io.BytesIO())
    pickler.dump(leaf)
    assert pickler.tensor_notes == set()


class WithWords(ValueError):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class NeverCallsPythons(UnicodeDecodeError):
    def __init__(self, name: str) -> None:
        self.name = name


def through_pickle(value: Any) -> Any:
    file = io.BytesIO()
    ValuePickler(file, None, frozenset(), "m.1").dump(value)
    return pickle.loads(file.getvalue())


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (SystemExit(3), {"code": 3}),
        (StopIteration("last"), {"value": "last"}),
        (UnicodeDecodeError("ascii", b"\xff", 0, 1, "why"), {"encoding": "ascii", "object": b"\xff", "reason": "why"}),
        (SyntaxError("bad", ("f.py", 3, 1, "x =")), {"msg": "bad", "filename": "f.py", "lineno": 3, "text": "x ="}),
        (FileNotFoundError(2, "not there", "a.txt"), {"errno": 2, "filename": "a.txt"}),
        (ImportError("no such", name="torchh"), {"name": "torchh"}),
        (vars(builtins)["ExceptionGroup"]("two", [ValueError(1), KeyError(2)]), {"message": "two"}),
        (KeyError("k", 1), {}),
        (WithWords(3, "words"), {"code": 3}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exception_is_whole_at_the_other_end(error: BaseException, attributes: dict[str, Any]) -> None:
    error.add_note("seen on rank 1")
    copy = through_pickle(error)
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), copy.args)
    assert {name: getattr(copy, name) for name in attributes} == attributes
    assert copy.__notes__ == ["seen on rank 1"]


def test_exception_whose_class_never_calls_pythons_own_travels_as_it_is() -> None:
    copy = through_pickle(NeverCallsPythons("n"))
    assert (type(copy), copy.args, copy.name) == (NeverCallsPythons, ("n",), "n")
