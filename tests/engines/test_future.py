"""A `Run` is a future: what the standard library and asyncio do with futures, they do with runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import ChildFailedError, RunCancelled, RunStopped, launch
from support.gates import Gate, wait_at
from support.waiting import wait_until


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as made:
        yield made


def hold() -> None:
    signal.pause()


def passes(path: str, value: int) -> int:
    wait_at(path)
    return value


def test_wait_returns_the_first_that_ended_and_the_others(gate: Gate) -> None:
    slow = launch(passes, args=(gate.path, 1), nproc=1)
    quick = launch(lambda: 2, nproc=1)
    done, not_done = concurrent.futures.wait([slow, quick], 20, concurrent.futures.FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})
    assert (slow.running(), slow.done(), quick.running(), quick.done()) == (True, False, False, True)
    gate.open()
    done, not_done = concurrent.futures.wait([slow, quick], 20)
    assert (done, not_done) == ({slow, quick}, set())
    assert [slow.result(), quick.result()] == [[1], [2]]


def test_first_exception_ends_a_wait_for_several(gate: Gate) -> None:
    slow = launch(passes, args=(gate.path, 1), nproc=1)
    failing = launch(lambda: 1 / 0, nproc=1)
    done, _ = concurrent.futures.wait([slow, failing], 20, concurrent.futures.FIRST_EXCEPTION)
    assert done == {failing}
    gate.open()
    slow.result(20)


def test_as_completed_hands_out_runs_in_the_order_of_their_ends(tmp_path: Path) -> None:
    gates = [Gate(tmp_path / str(n)) for n in range(3)]
    runs = [launch(passes, args=(gate.path, n), nproc=1) for n, gate in enumerate(gates)]
    order = [2, 0, 1]
    gates[order[0]].open()
    seen = []
    for run in concurrent.futures.as_completed(runs, 60):
        seen.append(run.result()[0])
        if len(seen) < 3:
            gates[order[len(seen)]].open()
    for gate in gates:
        gate.close()
    assert seen == order


# ------------------------------------------------------------------------------------------------------------- asyncio


def test_wrapped_run_gives_values_and_failures_to_asyncio() -> None:
    async def main() -> Any:
        with pytest.raises(ChildFailedError):
            await asyncio.wrap_future(launch(lambda: 1 / 0, nproc=1))
        return await asyncio.wrap_future(launch(lambda: 7, nproc=2))

    assert asyncio.run(main()) == [7, 7]


def test_gather_awaits_runs_side_by_side(gate: Gate) -> None:
    async def main() -> Any:
        first = launch(passes, args=(gate.path, 1), nproc=1)

        async def second() -> Any:
            values = await launch(lambda: 2, nproc=1)
            gate.open()
            return values

        return await asyncio.gather(first, second())

    assert asyncio.run(main()) == [[1], [2]]


def test_wait_for_that_runs_out_of_time_leaves_the_run_running(gate: Gate) -> None:
    async def main() -> Any:
        run = launch(passes, args=(gate.path, 3), nproc=1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run, 0.05)
        assert run.running()
        assert not run.cancelled()
        gate.open()
        return await asyncio.wait_for(run, 20)

    assert asyncio.run(main()) == [3]


def test_wrapped_run_that_is_cancelled_is_stopped() -> None:
    async def main() -> Any:
        run = launch(hold, nproc=1)
        wrapped = asyncio.wrap_future(run)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        with pytest.raises(RunCancelled):
            await run
        return run

    assert asyncio.run(main()).cancelled()


@pytest.mark.parametrize("how", ["wait_for", "to_thread"])
def test_waiting_in_async_code_does_not_hold_up_other_coroutines(gate: Gate, how: str) -> None:
    """The gate is opened by another coroutine: would the waiter block the loop, nobody would."""

    async def main() -> Any:
        run = launch(passes, args=(gate.path, 3), nproc=1)

        async def other() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            gate.open()

        waits = asyncio.wait_for(run, 30) if how == "wait_for" else asyncio.to_thread(run.result, 30)
        values, _ = await asyncio.gather(waits, other())
        return values

    assert asyncio.run(main()) == [3]


def test_timeout_in_a_thread_is_a_timeout_error_and_the_run_goes_on(gate: Gate) -> None:
    async def main() -> Any:
        run = launch(passes, args=(gate.path, 3), nproc=1)
        with pytest.raises(TimeoutError, match=rf"^run {run.run_id} has not ended within 0\.01 s$"):
            await asyncio.to_thread(run.result, 0.01)
        gate.open()
        return await run

    assert asyncio.run(main()) == [3]


# ------------------------------------------------------------------------------------------------------------- cancel


def test_cancel_stops_the_run_and_says_that_it_could() -> None:
    run = launch(hold, nproc=2)
    called = []
    run.add_done_callback(lambda run: called.append(run.cancelled()))
    assert run.cancel() is True
    with pytest.raises(RunCancelled, match=r"^the run was cancelled$") as caught:
        run.result(20)
    assert isinstance(caught.value, RunStopped)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    wait_until(lambda: called)
    assert (run.cancelled(), run.done(), run.running(), run.status, called) == (True, True, False, "stopped", [True])
    assert run.cancel() is True


def test_cancel_of_a_run_that_has_ended_says_that_it_is_too_late() -> None:
    run = launch(lambda: 1, nproc=1)
    run.result(20)
    assert (run.cancel(), run.cancelled(), run.result()) == (False, False, [1])


def test_stopped_run_was_not_cancelled() -> None:
    run = launch(hold, nproc=1)
    run.stop()
    assert isinstance(run.exception(20), RunStopped)
    assert (run.cancelled(), run.cancel()) == (False, False)


def test_run_that_ends_by_itself_before_the_cancel_arrives_keeps_its_values(gate: Gate) -> None:
    """The rank takes no notice of the signal: it returns its value all the same."""

    def deaf(path: str) -> int:
        signal.signal(signal.SIGTERM, lambda *_: None)
        print("up", flush=True)
        wait_at(path)
        return 4

    run = launch(deaf, args=(gate.path,), nproc=1, grace=60)
    wait_until(lambda: run.ranks[0].tail(), 20)
    assert run.cancel() is True
    gate.open()
    assert (run.result(20), run.cancelled(), run.status) == ([4], False, "succeeded")


def test_error_is_raised_again_with_the_same_traceback_each_time() -> None:
    run = launch(lambda: 1 / 0, nproc=1)
    depths = []
    for _ in range(3):
        with pytest.raises(ChildFailedError) as caught:
            run.result(20)
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1] == depths[2]


def test_many_threads_wait_for_one_run(gate: Gate) -> None:
    run = launch(passes, args=(gate.path, 5), nproc=1)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(run.result(30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(30)
    assert got == [[5]] * 8


def test_attempts_are_counted() -> None:
    run = launch(os.getpid, nproc=1)
    run.wait(20)
    assert [one.attempt for one in run.attempts] == [0]
