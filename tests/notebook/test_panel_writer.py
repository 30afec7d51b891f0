"""One thread writes, only while there is something to write."""

from __future__ import annotations

import contextvars
import logging
import threading

from ipyelastic.notebook.panel_writer import Writer
from support.waiting import wait_until


def test_each_wake_is_followed_by_a_look_in_a_thread_of_the_writers_own():
    looks = []
    writer = Writer(lambda: looks.append(threading.current_thread().name))
    writer.wake()
    wait_until(lambda: looks == ["ipyelastic-panel"])
    wait_until(lambda: not writer.is_running)
    writer.wake()
    wait_until(lambda: len(looks) == 2)
    wait_until(lambda: not writer.is_running)


def test_a_wake_during_a_look_is_not_lost():
    looks, entered, go_on = [], threading.Event(), threading.Event()

    def look():
        looks.append(1)
        entered.set()
        assert go_on.wait(20)

    writer = Writer(look)
    writer.wake()
    assert entered.wait(20)
    writer.wake()
    go_on.set()
    wait_until(lambda: len(looks) == 2)
    wait_until(lambda: not writer.is_running)


def test_it_looks_again_by_itself_when_told_to():
    looks = []
    writer = Writer(lambda: 0.01 if looks.append(1) or len(looks) < 3 else None)
    writer.wake()
    wait_until(lambda: len(looks) == 3)
    wait_until(lambda: not writer.is_running)


def test_never_two_threads_whoever_wakes_it():
    inside, most = [], []

    def look():
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    writer = Writer(look)
    threads = [threading.Thread(target=lambda: [writer.wake() for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: not writer.is_running)
    assert set(most) == {1}


def test_the_thread_runs_in_the_context_of_the_cell_that_made_the_writer():
    cell = contextvars.ContextVar("cell", default="none")
    seen = []

    def make():
        cell.set("first")
        return Writer(lambda: seen.append(cell.get()))

    writer = contextvars.copy_context().run(make)
    writer.wake()
    wait_until(lambda: seen == ["first"])
    wait_until(lambda: not writer.is_running)


def test_a_look_that_raises_is_logged_and_ends_it(caplog):
    def look():
        raise ValueError("the page is gone")

    writer = Writer(look)
    with caplog.at_level(logging.ERROR, "ipyelastic"):
        writer.wake()
        wait_until(lambda: not writer.is_running)
    assert "the page is gone" in caplog.text
    writer.wake()
    assert not writer.is_running


def test_after_close_nothing_is_written():
    looks = []
    writer = Writer(lambda: looks.append(1))
    writer.close()
    writer.wake()
    assert not writer.is_running
    assert looks == []
