"""Timers over a named pipe, with real workers."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.timer import pipe_client
from ipyelastic.timer.pipe_client import FileTimerClient, FileTimerRequest
from ipyelastic.timer.pipe_server import FileTimerServer
from support.left import is_running
from support.waiting import wait_until

Started = Callable[..., "subprocess.Popen[str]"]
NOBODY = 0  # no signal: timers of this very process, whose time must never be up in earnest


@pytest.fixture
def told() -> list[tuple[str, str | None]]:
    """What the server's `log_event` was called with: the words, and the timer's name."""
    return []


def _teller(told: list[tuple[str, str | None]]) -> Callable[[str, FileTimerRequest | None], None]:
    return lambda name, request: told.append((name, request and request.scope_id))


@pytest.fixture
def server(tmp_path: Path, told: list[tuple[str, str | None]]) -> Iterator[FileTimerServer]:
    """Started. It would look at its timers by itself only after a minute."""
    one = FileTimerServer(
        str(tmp_path / "pipe"),
        "a run",
        max_interval=60,
        log_event=_teller(told),
    )
    one.start()
    yield one
    one.stop()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Started]:
    """Starts workers of support/timer_bodies.py, and returns each when it has said where it is."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str, after: float, signum: int = signal.SIGKILL) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "support.timer_bodies", str(tmp_path / "pipe"), body, str(after), str(signum)]
        tests = str(Path(__file__).parents[1])
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert body == "hang" or said == "after the block\n"  # the one that hangs may be killed before it says so
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _pipe(server: FileTimerServer) -> str:
    return server._file_path


def test_a_worker_whose_time_is_up_is_killed_and_nobody_else(
    tmp_path: Path, worker: Started, told: list[tuple[str, str | None]]
) -> None:
    server = FileTimerServer(str(tmp_path / "pipe"), "a run", 60, log_event=_teller(told))
    # Before the server looks, all have written: the time of both is up, and one has left its block.
    with open(os.open(_pipe(server), os.O_RDWR), "wb", buffering=0):
        in_time, late, other = worker("finish", 0), worker("hang", 0), worker("hang", 1000)
        server.start()
    try:
        assert late.wait(30) == -signal.SIGKILL
        wait_until(lambda: len(told) == 3)
        wait_until(lambda: set(server._timers) == {(other.pid, "hangs")})
    finally:
        server.stop()
    assert told == [
        ("watchdog started", None),
        ("timer expired", "hangs"),
        ("kill worker process", "hangs"),
        ("watchdog stopped", None),
    ]
    # This process, torch's second victim, is still here.
    assert [in_time.poll(), other.poll()] == [None, None]
    in_time.communicate(timeout=30)
    assert in_time.returncode == 0


def test_a_timer_that_runs_out_between_two_looks_is_not_waited_for(server: FileTimerServer, worker: Started) -> None:
    assert worker("hang", 0.2).wait(30) == -signal.SIGKILL  # the next look would be after a minute


def test_the_signal_is_the_one_that_the_worker_asked_for(server: FileTimerServer, worker: Started) -> None:
    assert worker("hang", 0.1, signal.SIGTERM).wait(30) == -signal.SIGTERM


def test_without_a_signal_the_worker_goes_on(
    server: FileTimerServer, worker: Started, told: list[tuple[str, str | None]]
) -> None:
    spared = worker("hang", 0.1, 0)
    wait_until(lambda: ("timer expired", "hangs") in told)
    spared.communicate(timeout=30)
    assert spared.returncode == 0
    assert len(told) == 2


def test_a_worker_that_dies_leaves_no_timer(tmp_path: Path, worker: Started) -> None:
    server = FileTimerServer(str(tmp_path / "pipe"), "a run", max_interval=0.05)
    server.start()
    try:
        dying = worker("hang", 1000)
        wait_until(lambda: server._timers)
        dying.kill()
        wait_until(lambda: not server._timers)  # before anybody has waited for it
    finally:
        server.stop()


def test_a_process_that_came_to_the_pid_is_spared(server: FileTimerServer, worker: Started) -> None:
    ended, stranger = worker("finish", 1000), worker("finish", 1000)
    server._workers.note(ended.pid)
    ended.communicate(timeout=30)
    server._workers._seen[stranger.pid] = server._workers._seen[ended.pid]  # as if the pid had gone round
    server._timers.take([FileTimerRequest(stranger.pid, "old", 1.0, signal.SIGKILL)])
    assert server._reap_worker(stranger.pid, signal.SIGKILL)
    FileTimerClient(_pipe(server), NOBODY).release("wakes the server")
    wait_until(lambda: not server._timers)
    assert is_running(stranger.pid)


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_that_means_many_is_refused(server: FileTimerServer, pid: int) -> None:
    with pytest.raises(ValueError, match="expected the pid of one process"):
        FileTimerRequest.from_json(FileTimerRequest(pid, "all", 1.0, signal.SIGKILL).to_json())
    assert server._reap_worker(pid, signal.SIGKILL)  # nothing happens


def test_lines_that_are_no_requests_cost_no_other(server: FileTimerServer) -> None:
    later = time.time() + 1000
    lines = [
        FileTimerRequest(os.getpid(), "first", later, NOBODY).to_json(),
        "garbage",
        "",
        "3",
        '{"pid": 5}',
        '{"pid": "5", "scope_id": "s", "expiration_time": 1, "signal": 9}',
        '{"pid": 5, "scope_id": "s", "expiration_time": NaN, "signal": 9}',
        '{"pid": -1, "scope_id": "s", "expiration_time": 1, "signal": 9}',
        FileTimerRequest(os.getpid(), "last", later, NOBODY).to_json(),
    ]
    text = ("\n".join(lines) + "\n").encode()
    fd = os.open(_pipe(server), os.O_WRONLY)
    os.write(fd, text[:-20])  # a line may come in two reads
    os.write(fd, text[-20:])
    os.close(fd)
    wait_until(lambda: len(server._timers) == 2)
    assert [scope for _, scope in server._timers] == ["first", "last"]


def test_requests_of_many_threads_all_arrive_whole(server: FileTimerServer) -> None:
    client = FileTimerClient(_pipe(server), NOBODY)
    later = time.time() + 1000

    def ask(thread: int) -> None:
        for index in range(2):  # all of them fit into the pipe: nobody has to wait for the server
            client.acquire(f"{thread} {index} {'x' * 3000}", later)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(server._timers) == 16)


def test_a_request_is_one_line_of_torchs_fields(server: FileTimerServer) -> None:
    request = FileTimerRequest(7, "a\nb", 1.5, 9)
    assert request.to_json() == ('{"version": 1, "pid": 7, "scope_id": "a\\nb", "expiration_time": 1.5, "signal": 9}')
    assert FileTimerRequest.from_json(request.to_json()) == request
    assert request.worker_pid == 7
    assert request != FileTimerRequest(7, "a\nb", 1.5, 15)
    assert FileTimerRequest(7, "a", -1).signal == 0


def test_a_request_too_long_to_be_written_whole_is_refused(server: FileTimerServer) -> None:
    client = FileTimerClient(_pipe(server), NOBODY)
    with pytest.raises(RuntimeError, match=rf"^FileTimerRequest larger than {select.PIPE_BUF} bytes is not supported:"):
        client.acquire("x" * select.PIPE_BUF, 5.0)
    longest = "x" * (select.PIPE_BUF - len(FileTimerRequest(os.getpid(), "", 2e9, NOBODY).to_json()) - 1)
    client.acquire(longest, 2e9)
    wait_until(lambda: (os.getpid(), longest) in server._timers)


def test_a_client_waits_for_its_server_and_then_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    monkeypatch.setattr(pipe_client.time, "sleep", tries.append)
    client = FileTimerClient(str(tmp_path / "pipe"), NOBODY)
    with pytest.raises(BrokenPipeError) as caught:
        client.acquire("a", 5.0)
    assert str(caught.value) == ("Could not send the FileTimerRequest because FileTimerServer is not available.")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert len(tries) == 9
    server = FileTimerServer(str(tmp_path / "pipe"), "a run")
    monkeypatch.setattr(pipe_client.time, "sleep", lambda seconds: server.start())  # not started before the first try
    client.acquire("a", time.time() + 1000)
    wait_until(lambda: server._timers)
    server.stop()


def test_a_pipe_whose_server_stopped_reading_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_client.time, "sleep", lambda seconds: None)
    os.mkfifo(tmp_path / "pipe")
    client = FileTimerClient(str(tmp_path / "pipe"), NOBODY)
    with pytest.raises(BrokenPipeError):
        client.acquire("nobody reads", 5.0)
    fd = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)  # somebody has it open, and never reads
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 1000)
        with pytest.raises(BrokenPipeError) as caught:
            client.acquire("x" * 1000, 5.0)
        assert isinstance(caught.value.__cause__, BlockingIOError)
    finally:
        os.close(fd)


def test_the_pipe_is_of_this_user_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    path.touch()  # what mkstemp made
    server = FileTimerServer(str(path), "a run")
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["data", "folder", "link"])
def test_what_is_not_a_pipe_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "here"
    if kind == "data":
        path.write_text("a user's")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="expected a path for the timers' pipe, this holds data"):
        FileTimerServer(str(path), "a run")
    assert os.path.lexists(path)


def test_a_server_starts_and_stops_any_number_of_times(tmp_path: Path) -> None:
    names: list[str] = []
    path = str(tmp_path / "pipe")
    server = FileTimerServer(path, "a run", max_interval=1e9, log_event=lambda name, request: names.append(name))
    for round_ in range(3):
        server.start()
        server.start()
        FileTimerClient(path, NOBODY).acquire(str(round_), time.time() + 1000)
        wait_until(lambda: len(server._timers) == round_ + 1)  # noqa: B023
        server.stop()
        server.stop()
        assert not os.path.exists(path)
    assert names == ["watchdog started", "watchdog stopped"] * 3


def test_a_callback_may_fail_and_may_stop_the_server(tmp_path: Path, worker: Started) -> None:
    def stop(name: str, request: Any) -> None:
        if name == "kill worker process":
            server.stop()
        raise RuntimeError("on purpose")

    server = FileTimerServer(str(tmp_path / "pipe"), "a run", log_event=stop)
    server.start()
    thread = server._watchdog_thread
    assert thread is not None
    assert worker("hang", 0.1).wait(30) == -signal.SIGKILL
    thread.join(30)
    assert not thread.is_alive()
    assert not os.path.exists(_pipe(server))


def test_one_round_takes_what_is_there(tmp_path: Path, worker: Started) -> None:
    server = FileTimerServer(str(tmp_path / "pipe"), "a run")
    fd = os.open(_pipe(server), os.O_RDWR)
    late = worker("hang", 0)
    server.run_once()
    os.close(fd)
    assert late.wait(30) == -signal.SIGKILL
    assert not os.path.exists(_pipe(server))
    assert server._watchdog_thread is None


def test_progress_is_now_until_somebody_asks_for_a_timer(
    server: FileTimerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(server.get_last_progress_time() - time.time()) < 60
    FileTimerClient(_pipe(server), NOBODY).acquire("a", time.time() + 1000)
    wait_until(lambda: server._timers)
    seen = server.get_last_progress_time()
    monkeypatch.setattr(time, "time", lambda: seen + 1e6)
    assert server.get_last_progress_time() < seen + 60


def test_a_fork_of_the_servers_process_harms_it_not(server: FileTimerServer) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            server.stop()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    FileTimerClient(_pipe(server), NOBODY).acquire("a", time.time() + 1000)
    wait_until(lambda: server._timers)


def test_which_timers_ran_out_is_logged(
    server: FileTimerServer, worker: Started, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="ipyelastic"):
        late = worker("hang", 0)
        assert late.wait(30) == -signal.SIGKILL
        wait_until(lambda: "Successfully reaped" in caplog.text)
    messages = [record.getMessage() for record in caplog.records]
    assert f"Timers expired for run:[a run] [{{{late.pid}: ['hangs']}}]." in messages
    assert f"Reaping worker_pid=[{late.pid}]. Expired timers: ['hangs']" in messages
