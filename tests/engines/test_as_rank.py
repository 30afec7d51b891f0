"""This process as a rank: one thread of it at a time, and what is refused in the words of who typed it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import OptionError, launch
from ipyelastic.launcher import defaults
from support.gates import Gate, wait_at
from support.waiting import wait_until

ANOTHER = (
    "engine='here': another here-run is going on in this process, in another thread;"
    " wait for its end, or give engine='local'"
)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made


@pytest.fixture
def saved() -> Iterator[None]:
    yield
    defaults.take_back("notebook")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def test_a_second_thread_is_refused_and_the_environment_is_given_back(gate: Gate, tmp_path: Path) -> None:
    before, runs, mark = environment(), [], tmp_path / "up"

    def waits() -> str:
        mark.touch()
        wait_at(gate.path)
        return os.environ["RANK"]

    thread = threading.Thread(target=lambda: runs.append(launch(waits, engine="here")))
    thread.start()
    wait_until(mark.exists, 20)
    with pytest.raises(OptionError) as caught:
        launch(os.getpid, engine="here")
    gate.open()
    thread.join(20)
    assert str(caught.value) == ANOTHER
    assert runs[0].result(0) == ["0"]
    assert environment() == before
    assert launch(os.getpid, engine="here").result(0) == [os.getpid()]


def test_a_thread_inside_a_here_run_is_refused_and_the_same_thread_is_not() -> None:
    refused: list[str] = []

    def from_thread() -> None:
        try:
            launch(os.getpid, engine="here")
        except OptionError as error:
            refused.append(str(error))

    def outer() -> Any:
        thread = threading.Thread(target=from_thread)
        thread.start()
        thread.join(20)
        return launch(lambda: os.environ["RANK"], engine="here").result(0)

    assert launch(outer, engine="here").result(0) == [["0"]]
    assert refused == [ANOTHER]


def test_a_failed_run_lets_others_be_ranks() -> None:
    launch(lambda: 1 / 0, engine="here")
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(launch(lambda: 7, engine="here").result(0)))
    thread.start()
    thread.join(20)
    assert runs == [[7]]


@pytest.mark.usefixtures("saved")
def test_a_saved_engine_that_is_in_the_way_is_named_with_the_other() -> None:
    words = "engine='here' is one rank in this very process: leave out nproc=2"
    with pytest.raises(OptionError) as caught:
        launch(os.getpid, nproc=2, engine="here")
    assert str(caught.value) == words
    defaults.save("notebook", {"engine": "here"})
    with pytest.raises(OptionError) as caught:
        launch(os.getpid, nproc=2)
    assert str(caught.value) == f"{words}, or give engine='local'"


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("ui", ["none", "text"])
def test_a_saved_place_for_output_is_no_error(ui: str) -> None:
    defaults.save("notebook", {"ui": ui})
    assert launch(lambda: 3, engine="here").result(0) == [3]
