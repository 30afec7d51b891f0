"""Calls, packed here and loaded in a process that knows nothing of us."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.payload.body import CellBody
from ipyelastic.payload.call import load_call, pack_call
from ipyelastic.payload.shared import blank_file
from ipyelastic.terms.errors import UnpicklableError

_LOAD = """
import sys
from ipyelastic.payload.call import load_call
head, load = load_call(int(sys.argv[1]))
entrypoint, args = load()
print(bytes(head).decode(), repr(entrypoint(*args[int(sys.argv[2])])))
"""


def called(entrypoint: Callable[..., Any], args: dict[int, tuple[Any, ...]], rank: int = 0, **options: Any) -> str:
    """What the call's repr is in a new Python that cannot import this test."""
    packed = pack_call(entrypoint, args, **options)
    fd = blank_file()
    packed.write(fd, b"head")
    try:
        run = [sys.executable, "-c", _LOAD, str(fd), str(rank)]
        done = subprocess.run(run, pass_fds=[fd], capture_output=True, text=True, check=False)
    finally:
        os.close(fd)
    assert done.returncode == 0, done.stderr
    head, _, rest = done.stdout.partition(" ")
    assert head == "head"
    return rest.rstrip("\n")


@pytest.fixture
def by_hand() -> Iterator[types.ModuleType]:
    """A module that no other process can import."""
    module = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    exec(compile(_MODULE, "made by hand", "exec"), vars(module))
    vars(module)["LOCK"] = LOCK
    yield module
    del sys.modules["made_by_hand"]


LOCK = threading.Lock()

_MODULE = """
FACTOR = 3
def scaled(n): return n * FACTOR
def uses_lock(): return LOCK
def calls_uses_lock(): return uses_lock()
def close_over():
    kept = LOCK
    return lambda: kept
"""


def test_function_of_a_module_that_no_rank_can_import_goes_by_value_with_its_globals(by_hand: types.ModuleType) -> None:
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    assert called(by_hand.scaled, {0: (2,), 1: (5,)}, rank=1) == "15"
    assert cloudpickle.list_registry_pickle_by_value() == before


def test_function_of_the_standard_library_goes_by_name() -> None:
    packed = pack_call(os.path.join, {0: ("a", "b")})
    assert b"posixpath" in packed.stream
    assert len(packed.stream) < 200
    assert called(os.path.join, {0: ("a", "b")}) == "'a/b'"


def test_each_rank_gets_its_own_arguments_and_shared_ones_travel_once() -> None:
    big = bytes(100_000)
    one, many = (pack_call(len, dict.fromkeys(range(count), (big,))) for count in (1, 8))
    assert len(many.stream) < len(one.stream) + 1000
    assert called(lambda word, number: (word, number), {0: ("a", 1), 1: ("b", 2)}, rank=1) == "('b', 2)"


def test_large_arrays_travel_beside_the_stream_and_are_writable() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 18)

    def touch(a: Any) -> Any:
        a[0] = 7
        return (int(a.sum()), bool(a.flags.writeable))

    packed = pack_call(touch, {0: (array,), 1: (array,)})
    assert (len(packed.buffers), len(packed.stream) < 5000) == (1, True)
    assert called(touch, {0: (array,)}) == repr((int(array.sum()) + 7, True))
    assert array[0] == 0
    assert pack_call(touch, {0: (array,)}, shared_above=1 << 30).buffers == []


def test_array_that_is_not_contiguous_travels_in_the_stream() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 19)[::2]
    assert called(lambda a: int(a.sum()), {0: (array,)}) == str(int(array.sum()))


def test_loading_imports_nothing_before_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text("def go(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import imported_late  # type: ignore[import-not-found]

    packed = pack_call(imported_late.go, {0: ()})
    assert "imported_late" in packed.modules
    fd = blank_file()
    packed.write(fd, b"")
    del sys.modules["imported_late"]
    try:
        _, load = load_call(fd)
        assert "imported_late" not in sys.modules
        function, args = load()
        assert function(*args[0]) == 1
    finally:
        os.close(fd)
        sys.modules.pop("imported_late", None)


def test_classes_that_travelled_are_named_and_held() -> None:
    class Local:
        pass

    packed = pack_call(len, {0: ([Local()],)})
    assert list(packed.classes.values()) == [Local]


def test_files_of_code_that_travelled_are_named(by_hand: types.ModuleType) -> None:
    assert pack_call(by_hand.scaled, {0: (1,)}).filenames == {"made by hand"}


# ------------------------------------------------------------------------------------------------- what cannot travel


@pytest.mark.parametrize(
    ("entrypoint", "args", "name", "use"),
    [
        ("uses_lock", (), "LOCK", "uses_lock()"),
        ("calls_uses_lock", (), "LOCK", "uses_lock()"),
        ("close_over()", (), "kept", "close_over.<locals>.<lambda>()"),
        ("len", (1, LOCK), "argument 1", ""),
    ],
)
def test_what_cannot_travel_is_named(
    by_hand: types.ModuleType, entrypoint: str, args: tuple[Any, ...], name: str, use: str
) -> None:
    with pytest.raises(UnpicklableError) as caught:
        pack_call(eval(entrypoint, vars(by_hand)), {0: args, 1: args})
    error = caught.value
    assert (error.name, error.type_name, error.use) == (name, "_thread.lock", use)
    assert error.reason == "TypeError: cannot pickle '_thread.lock' object"
    assert isinstance(error.__cause__, TypeError)


def test_default_value_that_cannot_travel_is_named() -> None:
    def go(held: Any = LOCK) -> Any:
        return held

    with pytest.raises(UnpicklableError) as caught:
        pack_call(go, {0: ()})
    assert (caught.value.name, caught.value.type_name) == ("held", "_thread.lock")


def test_object_whose_pickling_raises_is_named_with_its_words() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise ValueError("I stay")

    with pytest.raises(UnpicklableError) as caught:
        pack_call(len, {0: (Stubborn(),)})
    assert caught.value.name == "argument 0"
    assert caught.value.reason == "ValueError: I stay"


def body(captured: dict[str, Any], assigned: frozenset[str] = frozenset()) -> CellBody:
    code = compile("x = 1", "cell", "exec")
    return CellBody(code, None, captured, {"held": "Cell In[1], line 2"}, assigned=assigned)


def test_captured_name_that_cannot_travel_is_named_with_its_place() -> None:
    with pytest.raises(UnpicklableError) as caught:
        pack_call(body({"fine": 1, "held": LOCK}), {0: ()})
    assert str(caught.value) == (
        "held (_thread.lock), used in Cell In[1], line 2, cannot be "
        "pickled: TypeError: cannot pickle '_thread.lock' object; "
        "it holds for one process only: make it inside the cell"
    )


def test_captured_name_that_the_body_assigns_is_left_out_with_a_note() -> None:
    packed = pack_call(body({"fine": 1, "held": LOCK}, frozenset({"held"})), {0: ()})
    assert packed.notes == ("held (_thread.lock) cannot be pickled and was left out: the cell assigns it",)
    entrypoint, _ = pickle.loads(packed.stream)
    assert entrypoint.captured == {"fine": 1}
