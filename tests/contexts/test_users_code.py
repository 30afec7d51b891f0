"""The user's code in the owner: ended from another thread, and never after it has returned."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ipyelastic.contexts.users_code import Interrupted, UsersCode
from support.waiting import wait_until


def in_thread(code: UsersCode, call: object) -> tuple[threading.Thread, list[object]]:
    said: list[object] = []

    def work() -> None:
        try:
            said.append(code.run("working", call))  # type: ignore[arg-type]
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, said


def test_loop_is_ended_from_another_thread() -> None:
    code, begun = UsersCode(), threading.Event()

    def loop() -> None:
        begun.set()
        while True:
            pass

    thread, said = in_thread(code, loop)
    begun.wait(10)
    assert code.where == "working"
    code.interrupt()
    thread.join(10)
    assert [type(one) for one in said] == [Interrupted]
    assert code.where == ""


def test_what_waits_in_c_is_named_while_it_waits_and_ended_when_it_returns() -> None:
    code, gate, begun = UsersCode(), threading.Lock(), threading.Event()
    gate.acquire()

    def waits() -> None:
        begun.set()
        with gate:
            pass

    thread, said = in_thread(code, waits)
    begun.wait(10)
    code.interrupt()
    assert (thread.is_alive(), code.where) == (True, "working")
    gate.release()
    thread.join(10)
    assert [type(one) for one in said] == [Interrupted]


def test_what_it_returns_and_raises_is_handed_on() -> None:
    code = UsersCode()
    assert code.run("here", lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        code.run("here", lambda: 1 // 0)
    with pytest.raises(KeyboardInterrupt):  # a person's own, in the main thread
        code.run("here", lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_interrupt_without_code_or_from_within_does_nothing() -> None:
    code = UsersCode()
    code.interrupt()
    assert code.run("here", lambda: (code.interrupt(), 6)[1]) == 6


@pytest.mark.parametrize("switch_s", [5e-3, 1e-5, 1e-6])
def test_interrupts_at_any_moment_never_hit_what_comes_after(switch_s: float) -> None:
    """A storm of interrupts from outside: each call ends in one of two ways, and the thread's own code goes on."""
    former = sys.getswitchinterval()
    code, rounds, is_over = UsersCode(), 2000, threading.Event()
    outcomes: list[str] = []
    strays: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(rounds):
                try:
                    outcomes.append(code.run("working", lambda: str(sum(range(50)))))
                except Interrupted:
                    outcomes.append("interrupted")
        except BaseException as error:
            strays.append(error)
        is_over.set()

    sys.setswitchinterval(switch_s)  # the shorter, the more places at which an interrupt can come
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not is_over.is_set():
            code.interrupt()
        thread.join(10)
    finally:
        sys.setswitchinterval(former)
    assert strays == []
    assert len(outcomes) == rounds
    assert set(outcomes) <= {"interrupted", "1225"}
    wait_until(lambda: code.where == "", 1)


UNDER_A_PROFILER = """
import faulthandler, sys
from ipyelastic.contexts.users_code import UsersCode
faulthandler.dump_traceback_later(20, exit=True)
assert UsersCode().run("working", lambda: 5) == 5
seen = []
sys.setprofile(lambda frame, event, arg: seen.append(frame.f_code.co_name))
(lambda: None)()
sys.setprofile(None)
assert "<lambda>" in seen, seen
"""


def test_functions_begin_under_a_profiler_after_it() -> None:
    """Python 3.11 never begins one while it thinks that an exception is still to be put into some thread."""
    ended = subprocess.run([sys.executable, "-c", UNDER_A_PROFILER], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_interrupt_that_comes_too_late_hits_nothing_that_follows() -> None:
    code = UsersCode()

    def ends_with_one_under_way() -> int:
        other = threading.Thread(target=code.interrupt)
        try:
            other.start()
            other.join()
        except KeyboardInterrupt:
            pass
        return 5

    for _ in range(200):
        thread, said = in_thread(code, ends_with_one_under_way)
        thread.join(10)
        assert said == [5] or [type(one) for one in said] == [Interrupted]
        assert code.where == ""
