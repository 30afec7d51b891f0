"""A class has one identity: the notebook's own stays itself, one born in a rank is the same in all of a run."""

from __future__ import annotations

import dataclasses
import enum
import io
import os
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from ipyelastic.payload import identity
from ipyelastic.payload.pickling import CallPickler, ValuePickler

_RANK = """
import io, pickle, sys
from ipyelastic.payload.identity import known_ids
from ipyelastic.payload.pickling import ValuePickler
function, args = pickle.load(sys.stdin.buffer)
known = known_ids()
file = io.BytesIO()
ValuePickler(file, None, known, sys.argv[1]).dump(function(*args))
sys.stdout.buffer.write(file.getvalue())
"""


def home(function: Any, *args: Any, run_mark: str = "m.1") -> bytes:
    """Send a call to a new process; the pickle of what it returns."""
    file = io.BytesIO()
    CallPickler(file).dump((function, args))
    run = [sys.executable, "-c", _RANK, run_mark]
    env = {**os.environ, "PYTHONHASHSEED": "0" if args and args[0] == "other" else "1"}
    done = subprocess.run(run, input=file.getvalue(), capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_class_that_went_out_comes_home_as_itself() -> None:
    class Model:
        shared: ClassVar[list[int]] = []

        def grow(self) -> int:
            self.size = 5
            return self.size

    def change(cls: type) -> Any:
        cls.shared.append(1)  # type: ignore[attr-defined]
        cls.grow = lambda self: 9  # type: ignore[attr-defined]
        made = cls()
        made.size = 4
        return [made, cls]

    before = dict(vars(Model))
    made, cls = pickle.loads(home(change, Model))
    assert cls is Model
    assert type(made) is Model
    assert dict(vars(Model)) == before
    assert (made.size, Model.shared, made.grow()) == (4, [], 5)


def born(which: str) -> Any:
    @dataclasses.dataclass
    class Born:
        x: int
        tags: frozenset[str] = frozenset({"a", "b", "c"})

        def up(self) -> int:
            return self.x + 1

    class Colour(enum.Enum):
        RED = 1

    return Born(3), Colour.RED, type(Born(1))


def test_classes_born_in_two_ranks_of_a_run_are_one() -> None:
    first, red, cls = pickle.loads(home(born, "one"))
    second, also_red, _ = pickle.loads(home(born, "other"))
    assert (first == second, type(first) is type(second) is cls, red is also_red, first.up()) == (True, True, True, 4)


def test_classes_born_in_two_runs_are_two() -> None:
    first, second = (pickle.loads(home(born, "one", run_mark=mark))[0] for mark in ("m.1", "m.2"))
    assert type(first) is not type(second)


def differing(which: str) -> Any:
    class Odd:
        if which == "one":
            value = 1

            def go(self) -> int:
                return 1

        else:
            value = 2

            def go(self) -> int:
                return 2

    return Odd()


def test_classes_that_differ_between_ranks_stay_two() -> None:
    first, second = pickle.loads(home(differing, "one")), pickle.loads(home(differing, "other"))
    assert type(first) is not type(second)
    assert (first.go(), second.go(), first.value, second.value) == (1, 2, 1, 2)


def twice(which: str) -> Any:
    def make(n: int) -> Any:
        class Made:
            number = n

        return Made()

    return make(1), make(2)


def test_one_definition_run_twice_in_a_rank_makes_two_classes() -> None:
    one, two = pickle.loads(home(twice, "one"))
    assert (type(one) is type(two), one.number, two.number) == (False, 1, 2)


def test_class_of_the_standard_library_has_no_id() -> None:
    assert identity.tracked_id(dict) is None
    assert identity.tracked_id(pickle.Pickler) is None


def test_id_that_nobody_holds_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        identity.class_of("no such id")


def test_classes_of_a_namespace_get_ids_before_a_plain_fork() -> None:
    class Fresh:
        pass

    assert identity.tracked_id(Fresh) is None
    identity.track_classes({"Fresh": Fresh, "number": 1, "dict": dict})
    class_id = identity.tracked_id(Fresh)
    assert class_id is not None
    assert identity.class_of(class_id) is Fresh
    assert class_id in identity.known_ids()


def test_value_pickler_refers_only_to_classes_that_came_with_the_call() -> None:
    class Known:
        pass

    identity.track_classes({"Known": Known})
    file = io.BytesIO()
    ValuePickler(file, None, identity.known_ids(), "m.1").dump(Known)
    assert len(file.getvalue()) < 200
    assert pickle.loads(file.getvalue()) is Known
