"""Program workers: how they end, what they get, how they are ended, and that nothing of theirs stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.contexts.base import RunProcsResult
from ipyelastic.contexts.commands import SubprocessContext
from ipyelastic.contexts.program import SubprocessHandler
from ipyelastic.contexts.start import start_processes
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.terms.std import Std
from support.gates import Gate
from support.gone import pids_in, seconds_until_gone
from support.left import is_running
from support.programs import PROGRAM
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its programs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


def _start(*ranks: tuple[Any, ...], **options: Any) -> SubprocessContext:
    """One program per rank: what it does, and that one's arguments."""
    options.setdefault("logs_specs", DefaultLogsSpecs(log_dir="logs", redirects=Std.ALL))
    options.setdefault("envs", {rank: {} for rank in range(len(ranks))})
    args = {rank: ("-S", PROGRAM, *words) for rank, words in enumerate(ranks)}
    context = start_processes("programs", sys.executable, args, **options)
    assert isinstance(context, SubprocessContext)
    return context


def _shell(*scripts: str, **options: Any) -> SubprocessContext:
    specs = DefaultLogsSpecs(log_dir="logs", redirects=Std.ALL)
    args = {rank: ("-c", script) for rank, script in enumerate(scripts)}
    options.setdefault("envs", {rank: {} for rank in range(len(scripts))})
    context = start_processes("shell", "/bin/sh", args, logs_specs=specs, **options)
    assert isinstance(context, SubprocessContext)
    return context


def _ended(context: SubprocessContext) -> RunProcsResult:
    result = context.wait(timeout=30)
    assert result is not None, "it did not end"
    return result


def _announced(folder: Path, count: int, prefix: str = "pid-") -> list[int]:
    wait_until(lambda: len(pids_in(folder, prefix)) == count, 20, f"{count} of {prefix}")
    return pids_in(folder, prefix)


def _until_gone(pids: list[int]) -> None:
    assert pids
    wait_until(lambda: not [pid for pid in pids if is_running(pid)], 2, "all are gone")


# ---- how they end


def test_success_is_none_per_rank() -> None:
    context = _shell("exit 0", "exit 0", "exit 0")
    result = _ended(context)
    assert result.return_values == {0: None, 1: None, 2: None}
    assert result.failures == {}
    assert not result.is_failed()
    assert result.stdouts == context.stdouts
    assert result.stderrs == context.stderrs


@pytest.mark.parametrize("code", [1, 2, 127, 255])
def test_an_exit_code_is_a_failure_with_that_code(code: int) -> None:
    context = _shell(f"exit {code}")
    result = _ended(context)
    assert result.is_failed()
    assert result.return_values == {}
    failure = result.failures[0]
    assert (failure.local_rank, failure.exitcode, failure.pid) == (0, code, context.pids()[0])
    assert failure.error_file == "<N/A>"
    assert failure.note == f"it exited with code {code} and left no traceback"
    assert not failure.is_stopped


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_death_by_a_signal_is_its_negative_number(signum: signal.Signals) -> None:
    context = _shell(f"kill -{int(signum)} $$")
    failure = _ended(context).failures[0]
    assert failure.exitcode == -signum
    assert failure.signal_name() == signum.name
    pid = context.pids()[0]
    assert failure.message == f"Signal {int(signum)} ({signum.name}) received by PID {pid}"


def test_peers_of_a_failed_rank_are_listed_as_terminated(folder: Path, gate: Gate) -> None:
    context = _start(("block",), ("wait-then-end", gate.path, 7), ("block",))
    _announced(folder, 3)
    gate.open()
    result = _ended(context)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {0: -15, 1: 7, 2: -15}
    assert {rank: failure.is_stopped for rank, failure in result.failures.items()} == {0: True, 1: False, 2: True}
    assert min(result.failures.values(), key=lambda failure: failure.timestamp_ns).local_rank == 1


def test_a_peer_that_traps_sigterm_and_exits_0_has_not_failed(folder: Path, gate: Gate) -> None:
    context = _start(("trap",), ("wait-then-end", gate.path, 7))
    _announced(folder, 2)
    gate.open()
    result = _ended(context)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 7}
    assert result.return_values == {}


def test_ranks_that_ended_well_before_are_not_listed(folder: Path, gate: Gate) -> None:
    context = _start(("say",), ("wait-then-end", gate.path, -9))
    context.subprocess_handlers[0].proc.wait(20)
    _announced(folder, 1)
    assert context.wait(0) is None
    gate.open()
    assert {rank: failure.exitcode for rank, failure in _ended(context).failures.items()} == {1: -9}


# ---- what cannot be started


@pytest.mark.parametrize(
    ("entrypoint", "error"),
    [("/no/such/program", FileNotFoundError), ("./plain", PermissionError), ("./folder", PermissionError)],
)
def test_what_is_no_program_raises(folder: Path, entrypoint: str, error: type[OSError]) -> None:
    (folder / "plain").touch()
    (folder / "folder").mkdir()
    with pytest.raises(error):
        start_processes("none", entrypoint, {0: ()}, {0: {}}, DefaultLogsSpecs(log_dir="logs", redirects=Std.ALL))


def test_an_environment_that_is_not_text_raises() -> None:
    with pytest.raises(TypeError):
        _shell("exit 0", envs={0: {"A": 1}})


@pytest.mark.parametrize("bad", [1, 2])
def test_a_start_that_fails_half_way_leaves_no_earlier_rank(
    folder: Path, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    real = SubprocessHandler._popen

    def popen(self: SubprocessHandler, args: tuple[str, ...], env: dict[str, str]) -> Any:
        process = real(self, args, env)
        started.append(process.pid)
        return process

    monkeypatch.setattr(SubprocessHandler, "_popen", popen)
    envs: dict[int, dict[str, Any]] = {0: {}, 1: {}, 2: {}, bad: {"A": 1}}
    with pytest.raises(TypeError):
        _start(("deaf",), ("block",), ("block",), envs=envs)  # rank 0 may still be too young to be deaf
    assert len(started) == bad
    assert not [pid for pid in started if is_running(pid)]


# ---- what they get


def test_env_is_laid_over_ours_and_arguments_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "kept")
    monkeypatch.setenv("BOTH", "ours")
    context = _start(("show", 1, 2.5, None, Path("p")), ("show",), envs={0: {"BOTH": "theirs", "OWN": "0"}, 1: {}})
    result = _ended(context)
    first, second = (json.loads(Path(result.stdouts[rank]).read_text()) for rank in range(2))
    assert first["arguments"] == ["1", "2.5", "None", "p"]
    assert {name: first["env"].get(name) for name in ("OURS", "BOTH", "OWN")} == {
        "OURS": "kept",
        "BOTH": "theirs",
        "OWN": "0",
    }
    assert {name: second["env"].get(name) for name in ("OURS", "BOTH", "OWN")} == {
        "OURS": "kept",
        "BOTH": "ours",
        "OWN": None,
    }
    assert first["env"]["TORCHELASTIC_ERROR_FILE"] == context.error_files[0]
    assert os.environ["BOTH"] == "ours"
    assert first["is_leader"]
    assert second["is_leader"]


def test_redirected_streams_are_in_the_files_and_teed_ones_here_too(capfd: pytest.CaptureFixture[str]) -> None:
    specs = DefaultLogsSpecs(log_dir="logs", redirects={0: Std.OUT}, tee={1: Std.ALL})
    context = _start(("say", "a"), ("say", "b", "c"), logs_specs=specs)
    result = _ended(context)
    assert Path(result.stdouts[0]).read_text() == "out a\n"
    assert Path(result.stdouts[1]).read_text() == "out b\nout c\n"
    assert Path(result.stderrs[1]).read_text() == "err b\nerr c\n"
    assert result.stderrs[0] == ""
    said = capfd.readouterr()
    assert said.out == "[programs1]:out b\n[programs1]:out c\n"
    assert sorted(said.err.splitlines()) == ["[programs1]:err b", "[programs1]:err c", "err a"]


def test_pids_are_those_of_the_programs(folder: Path) -> None:
    context = _start(("block",), ("block",))
    try:
        assert sorted(context.pids().values()) == sorted(_announced(folder, 2))
        assert sorted(context.pids()) == [0, 1]
    finally:
        context.close()
    assert sorted(context.pids().values()) == sorted(pids_in(folder))


# ---- waiting


def test_wait_0_is_one_look_and_a_timeout_ends_with_none(folder: Path, gate: Gate) -> None:
    context = _start(("wait-then-end", gate.path, 0))
    _announced(folder, 1)
    assert context.wait(0) is None
    assert context.wait(timeout=0.05) is None
    assert context.wait(timeout=0.05, period=1000) is None
    gate.open()
    assert _ended(context).return_values == {0: None}


def test_repeated_waits_give_the_same_object() -> None:
    context = _shell("exit 0")
    result = _ended(context)
    assert context.wait(0) is result
    assert context.wait() is result
    context.close()
    assert context.wait() is result


def test_a_result_after_close_says_who_was_ended(folder: Path) -> None:
    context = _start(("block",), ("block",))
    _announced(folder, 2)
    context.close()
    result = _ended(context)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {0: -15, 1: -15}
    assert context.wait() is result


@pytest.mark.parametrize("timeout", [-1, 30])
def test_wait_ends_with_the_event_and_not_with_the_period(folder: Path, gate: Gate, timeout: float) -> None:
    context = _start(("wait-then-end", gate.path, 0))
    _announced(folder, 1)
    opened: list[float] = []

    def open_gate() -> None:
        opened.append(time.monotonic())
        gate.open()

    opener = threading.Timer(0, open_gate)
    opener.start()
    result = context.wait(timeout=timeout, period=1000)
    took = time.monotonic() - opened[0]
    opener.join()
    assert result is not None
    assert result.return_values == {0: None}
    assert took < 1.0  # the figure is 50 ms


# ---- closing


@pytest.mark.parametrize(
    ("given", "got"), [({}, "SIGTERM"), ({"death_sig": signal.SIGINT}, "SIGINT"), ({"death_sig": 10}, "SIGUSR1")]
)
def test_close_asks_with_sigterm_or_the_signal_given(folder: Path, given: dict[str, Any], got: str) -> None:
    context = _start(("tell-signal",), ("tell-signal",))
    pids = _announced(folder, 2)
    context.close(**given)
    assert sorted(pids_in(folder, f"pid-got-{got}-")) == sorted(pids)
    assert not [pid for pid in pids if is_running(pid)]


def test_close_kills_what_does_not_answer_in_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = _start(("deaf",), ("block",))
    _announced(folder, 2)
    context.close(timeout=0.05)
    assert {rank: handler.proc.returncode for rank, handler in context.subprocess_handlers.items()} == {0: -9, 1: -15}
    pid = context.pids()[0]
    said = f"Unable to shutdown process {pid} via {signal.SIGTERM}, forcefully exiting via {signal.SIGKILL}"
    assert caplog.messages == [said]


def test_close_twice_and_after_the_end_is_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = _start(("block",))
    _announced(folder, 1)
    context.close()
    context.close(death_sig=signal.SIGKILL)
    done = _shell("exit 0")
    result = _ended(done)
    done.close()
    done.close()
    assert done.wait() is result
    assert caplog.messages == []


def test_close_before_the_start_is_silent() -> None:
    specs = DefaultLogsSpecs(log_dir="logs", redirects=Std.ALL, tee=Std.ALL)
    context = SubprocessContext("early", "/bin/true", {0: ()}, {0: {}}, specs)
    context.close()
    assert context.pids() == {}


def test_close_from_another_thread_ends_the_wait(folder: Path) -> None:
    context = _start(("block",))
    _announced(folder, 1)
    closer = threading.Thread(target=context.close)
    closer.start()
    result = _ended(context)
    closer.join()
    assert result.failures[0].exitcode == -15


# ---- nothing stays


def test_grandchildren_are_gone_after_close(folder: Path) -> None:
    context = _start(("have-all",))
    pids = _announced(folder, 5)
    context.close()
    _until_gone(pids)


@pytest.mark.parametrize("code", [0, 3])
def test_grandchildren_are_gone_after_an_end(folder: Path, gate: Gate, code: int) -> None:
    context = _start(("have-all-then", gate.path, code), ("have-all-then", gate.path, 0))
    pids = _announced(folder, 10)
    gate.open()
    assert _ended(context).is_failed() == bool(code)
    _until_gone(pids)


_OWNER = """
    import os, signal, sys
    from ipyelastic.contexts.start import start_processes
    from ipyelastic.forkserver.client import servers
    from ipyelastic.output.logs import DefaultLogsSpecs

    program, what, moment = sys.argv[1:4]
    args = {rank: ("-S", program, what) for rank in range(2)}
    context = start_processes("owned", sys.executable, args, {0: {}, 1: {}}, DefaultLogsSpecs(log_dir=os.devnull))
    if moment == "later":
        assert servers()._current.wait_ready(20)
    try:
        print(servers().mark, flush=True)
        if what == "deaf":
            context.wait()
    finally:
        if what == "deaf":
            print("closing", flush=True)
            context.close()
    signal.pause()
"""


def _owner(what: str, moment: str) -> subprocess.Popen[str]:
    """`at once`: the fork server that stands by is just being started when the owner says its mark."""
    command = [sys.executable, "-c", textwrap.dedent(_OWNER), PROGRAM, what, moment]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize(
    ("what", "count", "moment"),
    [("block", 2, "at once"), ("block", 2, "later"), ("deaf", 2, "later"), ("have-all", 10, "later")],
)
def test_kill_9_of_the_owner_leaves_nothing(folder: Path, what: str, count: int, moment: str) -> None:
    with _owner(what, moment) as owner:
        try:
            assert owner.stdout is not None
            mark = owner.stdout.readline().strip()
            pids = _announced(folder, count)
            seconds_until_gone(owner.kill, mark, pids, f"programs: {what}")
        finally:
            owner.kill()


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_a_second_signal_while_closing_leaves_nothing_once_the_owner_is_gone(folder: Path, moment: str) -> None:
    with _owner("deaf", moment) as owner:
        try:
            assert owner.stdout is not None
            mark = owner.stdout.readline().strip()
            pids = _announced(folder, 2)
            owner.terminate()
            assert owner.stdout.readline() == "closing\n"
            seconds_until_gone(owner.terminate, mark, [*pids, owner.pid], "a second SIGTERM while closing")
        finally:
            owner.kill()


# ---- SubprocessHandler


def _handler(script: str, **options: Any) -> SubprocessHandler:
    settings: dict[str, Any] = {"env": {}, "stdout": "out", "stderr": "err", **options}
    return SubprocessHandler("/bin/sh", ("-c", script), local_rank_id=3, **settings)


def test_handler_closes_on_a_finished_program_silently() -> None:
    handler = _handler("echo said; echo wrong >&2")
    assert handler.proc.wait(20) == 0
    handler.close()
    handler.close(death_sig=signal.SIGKILL)
    assert handler._stdout is not None
    assert handler._stderr is not None
    assert handler._stdout.closed
    assert handler._stderr.closed
    assert (Path("out").read_text(), Path("err").read_text()) == ("said\n", "wrong\n")
    assert handler.local_rank_id == 3


def test_handler_signals_the_whole_group(folder: Path) -> None:
    code = f"{sys.executable} -S {PROGRAM} block & {sys.executable} -S {PROGRAM} block & wait"
    handler = _handler(code)
    pids = _announced(folder, 2)
    handler.close(death_sig=signal.SIGTERM)
    assert handler.proc.wait(20) == -signal.SIGTERM
    _until_gone(pids)


def test_handler_without_files_writes_to_the_console(capfd: pytest.CaptureFixture[str]) -> None:
    handler = _handler("echo said", stdout="", stderr=None)
    assert handler.proc.wait(20) == 0
    handler.close()
    assert capfd.readouterr().out == "said\n"
    assert (handler._stdout, handler._stderr) == (None, None)


def test_handler_truncates_former_logs() -> None:
    Path("out").write_text("former run\n")
    handler = _handler("echo said")
    handler.proc.wait(20)
    handler.close()
    assert Path("out").read_text() == "said\n"


def test_files_of_a_program_that_ended_by_itself_are_closed() -> None:
    context = _shell("exit 0", "exit 0")
    _ended(context)
    files = [file for handler in context.subprocess_handlers.values() for file in (handler._stdout, handler._stderr)]
    assert len(files) == 4
    assert all(file is not None and file.closed for file in files)


def test_programs_read_this_processs_stdin(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, start_processes
        start_processes("cat", "/bin/cat", {0: ()}, {0: {}}, DefaultLogsSpecs()).wait()
        """
    )
    ended = subprocess.run([sys.executable, "-c", code], input="hi\n", capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "hi\n", "")
