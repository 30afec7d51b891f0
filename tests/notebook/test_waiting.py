"""What a waiting cell does about interrupts, whatever shows its output."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipyelastic import launch
from ipyelastic.notebook.interrupts import Interrupts
from ipyelastic.notebook.waiting import PERIOD_S, Obedience, outcome_of
from support.gates import Gate


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    taken = Interrupts()
    taken.take()
    yield taken
    taken.over()
    taken.give_back()


def test_an_interrupt_that_comes_before_the_first_look_is_obeyed(interrupts: Interrupts, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        path = gate.path
        obedience = Obedience(interrupts)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.count == 1
        run = launch(lambda: open(path, "rb").close(), nproc=2, ui="none")
        while not run.wait(PERIOD_S):
            assert not obedience.obey(run, run.stop, run.kill)
        with pytest.raises(KeyboardInterrupt, match="all 2 ranks were stopped"):
            outcome_of(run, interrupts, None)


def test_a_run_that_ended_well_gives_its_values_and_keeps_nothing(interrupts: Interrupts) -> None:
    run = launch(lambda: int(os.environ["RANK"]), nproc=2, ui="none")
    run.wait(20)
    assert outcome_of(run, interrupts, None) == [0, 1]
    with pytest.raises(RuntimeError, match="keeps nothing"):
        run.restart()
