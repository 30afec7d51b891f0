"""Saved defaults: layers, what wins, and that `launch()` and the magic's line take the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import ipyelastic as ie
from ipyelastic.launcher import defaults
from ipyelastic.launcher.defaults import SavedDefault
from ipyelastic.launcher.options import RunOptions, parse_line
from ipyelastic.terms.errors import OptionError
from support.gpus import GpuMachine


def line(text: str = "") -> RunOptions:
    return parse_line(text, "%elastic_run").options


def test_notebook_wins_over_administrator_and_what_is_given_over_both() -> None:
    defaults.save("administrator", {"nproc": 2, "grace_s": 1.0, "env": {"A": "admin", "B": "admin"}})
    defaults.save("notebook", {"nproc": 3, "env": {"B": "book", "C": "book"}})
    saved_env = {"A": "admin", "B": "book", "C": "book"}
    for options in (line(), RunOptions.from_keywords(), RunOptions.from_keywords(nproc=None)):
        assert (options.nproc, options.grace_s, options.env) == (3, 1.0, saved_env)
    for options in (line("-n 5 --env C=given"), RunOptions.from_keywords(nproc=5, env={"C": "given"})):
        assert (options.nproc, options.grace_s, options.env) == (5, 1.0, {**saved_env, "C": "given"})
    assert defaults.saved() == [
        SavedDefault("env", "admin", "administrator", "A"),
        SavedDefault("env", "book", "notebook", "B"),
        SavedDefault("env", "book", "notebook", "C"),
        SavedDefault("grace_s", 1.0, "administrator"),
        SavedDefault("nproc", 3, "notebook"),
    ]
    assert RunOptions() == RunOptions(nproc=None, grace_s=5.0, env={})


def test_taking_back_shows_what_is_below_again() -> None:
    defaults.save("administrator", {"nproc": 2})
    defaults.save("notebook", {"nproc": 3, "env": {"A": "1", "B": "2"}})
    assert defaults.take_back("notebook", "nproc")
    assert not defaults.take_back("notebook", "nproc")
    assert defaults.take_back("notebook", "env", "A")
    assert not defaults.take_back("notebook", "env", "A")
    assert defaults.current() == {"nproc": 2, "env": {"B": "2"}}
    assert defaults.take_back("notebook")
    assert defaults.current() == {"nproc": 2}


def test_given_gpus_say_how_many_ranks_whatever_is_saved() -> None:
    defaults.save("notebook", {"nproc": 8, "gpus": (0, 1)})
    assert (line().nproc, line().gpus) == (8, (0, 1))
    options = line("--gpus 2")
    assert (options.nproc, options.gpus) == (None, (2,))
    assert line("--gpus 2-3 -n 1").nproc == 1


def test_of_two_ways_to_say_which_gpus_the_saved_one_gives_way() -> None:
    defaults.save("administrator", {"env": {"CUDA_VISIBLE_DEVICES": "0", "A": "1"}})
    assert line("--gpus 1").env == {"A": "1"}
    defaults.save("notebook", {"gpus": (1,)})
    assert (line().gpus, line().env) == ((1,), {"A": "1"})
    options = line("--env CUDA_VISIBLE_DEVICES=3")
    assert (options.gpus, options.env) == (None, {"A": "1", "CUDA_VISIBLE_DEVICES": "3"})
    with pytest.raises(OptionError, match=r"^gpus and env CUDA_VISIBLE_DEVICES both say which GPUs ranks see"):
        line("--gpus 1 --env CUDA_VISIBLE_DEVICES=3")


@pytest.mark.parametrize(("given", "shown"), [(4, {0, 3}), (2, {0}), (None, {0})])
def test_saved_ranks_that_a_run_does_not_have_give_way(given: int | None, shown: set[int]) -> None:
    defaults.save("notebook", {"shown": frozenset([0, 3]), "nproc": 1})
    typed = "" if given is None else f"-n {given}"
    for options in (line(typed), RunOptions.from_keywords(nproc=given)):
        assert options.shown == shown
        options.choose_nproc()
    defaults.save("notebook", {"shown": frozenset([7, 8])})
    assert line(typed).shown is None
    with pytest.raises(OptionError, match=r"^--ranks 3: expected ranks from 0 to 1$"):
        line("-n 2 --ranks 3").choose_nproc()


def test_saved_ranks_give_way_where_gpus_say_how_many(gpu_machine: Callable[..., GpuMachine]) -> None:
    gpu_machine(2)
    defaults.save("notebook", {"shown": frozenset([1, 3])})
    assert (line().choose_nproc()[0], line().shown) == (2, {1})


def test_launch_takes_what_is_saved() -> None:
    defaults.save("notebook", {"nproc": 2, "env": {"A": "saved"}})

    def body() -> Any:
        import os

        return os.environ["A"], os.environ["WORLD_SIZE"]

    assert ie.launch(body).result(timeout=60) == [("saved", "2")] * 2
    assert ie.launch(body, nproc=1, env={"A": "given"}).result(timeout=60) == [("given", "1")]


def test_a_reader_never_sees_half_of_what_a_writer_saves() -> None:
    stop, torn = threading.Event(), []

    def write() -> None:
        number = 1
        while not stop.is_set():
            number = number % 1000 + 1
            defaults.save("notebook", {"nproc": number, "seed": number, "env": {"A": str(number), str(number): ""}})
            defaults.take_back("notebook", "env", str(number))

    writers = [threading.Thread(target=write)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5000):
            now = defaults.current()
            if now and not (now["nproc"] == now["seed"] == int(now["env"]["A"])):
                torn.append(now)
            defaults.saved()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert torn == []
