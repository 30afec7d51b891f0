"""torch.multiprocessing's start helpers, ours: how children end, how joining reports it, what is left."""

from __future__ import annotations

import importlib
import inspect
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path

import pytest

from ipyelastic.contexts import spawn as ours
from ipyelastic.contexts import spawned
from ipyelastic.contexts.spawn import ProcessExitedException, ProcessRaisedException, start_processes
from support import spawn_bodies as bodies
from support.gates import Gate
from support.left import is_running
from support.waiting import wait_until

METHODS = ["fork", "spawn", "forkserver"]
HERE = str(Path(bodies.__file__))


@pytest.fixture(scope="module", autouse=True)
def tracker():
    """The standard library's tracker and its own folder are made once and stay with the process: not a test's."""
    resource_tracker.ensure_running()
    util.get_temp_dir()


@pytest.fixture(autouse=True)
def temp_folder(tmp_path, monkeypatch, nothing_left):
    """Error files go to a folder of the test's own, which must be empty after it; so must the fork server be gone."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with warnings.catch_warnings():
        # Python 3.12 warns when a process with threads forks; these tests do nothing in between.
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        yield folder
    forkserver._forkserver._stop()
    assert os.listdir(folder) == []


@pytest.fixture
def gate(tmp_path):
    with Gate(tmp_path / "gate") as gate:
        yield gate


def line_of(function, text: str) -> int:
    """The number of the line of a function that holds `text`."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def join_to_the_end(context, **options):
    """Join until all have ended well; an event each time, so never more often than there are children."""
    for _ in context.processes:
        if context.join(**options):
            return True
    return context.join(timeout=0)


# ---- how one child ends

ENDS = [
    ("end well", None, None, ""),
    ("KeyboardInterrupt", None, None, ""),
    ("sys.exit()", None, None, ""),
    ("sys.exit(0)", None, None, ""),
    ("os._exit(0)", None, None, ""),
    ("SIGINT", None, None, ""),
    ("sys.exit(3)", 3, None, "process 0 terminated with exit code 3"),
    ("sys.exit(words)", 1, None, "process 0 terminated with exit code 1"),
    ("os._exit(1)", 1, None, "process 0 terminated with exit code 1"),
    ("os._exit(7)", 7, None, "process 0 terminated with exit code 7"),
    ("SIGKILL", -9, "SIGKILL", "process 0 terminated with signal SIGKILL"),
    ("SIGTERM", -15, "SIGTERM", "process 0 terminated with signal SIGTERM"),
    ("SIGSEGV", -11, "SIGSEGV", "process 0 terminated with signal SIGSEGV"),
    ("no name", -37, "<Unknown signal 37>", "process 0 terminated with signal <Unknown signal 37>"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "code", "signal_name", "text"), ENDS, ids=[end[0] for end in ENDS])
def test_an_end_without_a_traceback_is_reported_by_its_code(method, name, code, signal_name, text):
    function, args = bodies.BODIES[name]
    context = start_processes(function, args, join=False, start_method=method)
    if code is None:
        assert context.join() is True
        return
    with pytest.raises(ProcessExitedException) as caught:
        context.join()
    error = caught.value
    assert (str(error), error.msg, error.args) == (text, text, (text,))
    assert (error.exit_code, error.signal_name) == (code, signal_name)
    assert (error.error_index, error.error_pid) == (0, context.pids()[0])


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_comes_with_the_functions_own_traceback(method):
    context = start_processes(bodies.raise_error, join=False, start_method=method)
    with pytest.raises(ProcessRaisedException) as caught:
        context.join()
    line = line_of(bodies.raise_error, "raise ValueError")
    assert str(caught.value) == (
        "\n\n-- Process 0 terminated with the following error:\n"
        "Traceback (most recent call last):\n"
        f'  File "{HERE}", line {line}, in raise_error\n'
        '    raise ValueError(f"boom {i}")\n'
        "ValueError: boom 0\n"
    )
    assert (caught.value.error_index, caught.value.error_pid) == (0, context.pids()[0])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (bodies.raise_from, ["ValueError: boom 0\n\nThe above exception was the direct cause", "KeyError: 'again'\n"]),
        (bodies.raise_unprintable, ["_Unprintable: <exception str() failed>\n"]),
        (bodies.take_nothing, ["fn(i, *args)\n", "take_nothing() takes 0 positional arguments but 1 was given\n"]),
        (bodies.be_cancelled, ["CancelledError\n"]),
    ],
)
def test_every_kind_of_exception_is_told(function, words):
    with pytest.raises(ProcessRaisedException) as caught:
        start_processes(function, start_method="fork")
    for word in words:
        assert word in str(caught.value)


def test_without_room_for_the_error_file_the_traceback_is_on_stderr(temp_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temp_folder / "not there"))
    with pytest.raises(ProcessExitedException, match=r"^process 0 terminated with exit code 1$"):
        start_processes(bodies.raise_with_stderr, (str(tmp_path / "stderr"),), start_method="fork")
    said = (tmp_path / "stderr").read_text()
    assert "ValueError: boom 0\n" in said
    assert "could not be written: [Errno 2] No such file or directory" in said


def test_a_damaged_error_file_does_not_hide_the_end(temp_folder):
    context = start_processes(bodies.exit_with, (3,), join=False, start_method="fork")
    Path(context.error_files[0]).write_bytes(b"\x80\x05no pickle")
    with pytest.raises(ProcessExitedException, match=r"^process 0 terminated with exit code 3$"):
        context.join()


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (ours.ProcessException("m", 1, 2), {"msg": "m", "error_index": 1, "error_pid": 2}),
        (ProcessRaisedException("m", 1, 2), {"msg": "m", "error_index": 1, "error_pid": 2}),
        (
            ProcessExitedException("m", 1, 2, -9, "SIGKILL"),
            {"msg": "m", "error_index": 1, "error_pid": 2, "exit_code": -9, "signal_name": "SIGKILL"},
        ),
    ],
)
def test_the_exceptions_pickle_with_their_fields(error, fields):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (vars(copy), copy.args, isinstance(copy, ours.ProcessException)) == (fields, ("m",), True)


# ---- joining


@pytest.mark.parametrize("method", METHODS)
def test_children_get_their_index_and_are_listed_by_it(method, tmp_path):
    context = start_processes(bodies.leave_index, (str(tmp_path),), 3, join=False, start_method=method)
    assert join_to_the_end(context)
    found = sorted(path.name for path in tmp_path.glob("*-*"))
    assert found == [f"{index}-{pid}" for index, pid in enumerate(context.pids())]
    assert [process.pid for process in context.processes] == context.pids()
    assert context.join() is True


def test_a_parallel_start_under_the_fork_server_keeps_the_order(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_MP_PARALLEL_START", "1")
    folder = tmp_path / "found"
    folder.mkdir()
    context = start_processes(bodies.leave_index, (str(folder),), 6, join=False, start_method="forkserver")
    assert join_to_the_end(context)
    assert sorted(os.listdir(folder)) == [f"{index}-{pid}" for index, pid in enumerate(context.pids())]
    assert [process.name.partition("-")[0] for process in context.processes] == ["ForkServerProcess"] * 6
    with pytest.raises(ProcessRaisedException, match=r"boom [0-2]") as caught:
        start_processes(bodies.raise_error, (), 3, start_method="forkserver")
    assert f"boom {caught.value.error_index}" in str(caught.value)


def test_join_returns_false_at_each_end_but_the_last(tmp_path):
    gates = [Gate(tmp_path / str(index)) for index in range(3)]
    context = start_processes(bodies.wait_for_own_gate, (str(tmp_path),), 3, join=False, start_method="fork")
    assert sorted(context.sentinels.values()) == [0, 1, 2]
    for gate, left in ((gates[1], [0, 2]), (gates[0], [2])):
        gate.open()
        assert context.join() is False
        assert sorted(context.sentinels.values()) == left
        assert context.join(timeout=0) is False
        assert context.join(timeout=-1) is False
        assert context.join(timeout=0.01) is False
    gates[2].open()
    assert context.join() is True
    assert (context.join(), context.sentinels) == (True, {})
    for gate in gates:
        gate.close()


def test_no_children_are_all_well_at_once():
    assert start_processes(bodies.end_well, (), 0) is None
    assert start_processes(bodies.end_well, (), 0, join=False).join() is True


@pytest.mark.parametrize("method", METHODS)
def test_a_failure_ends_the_others_and_is_the_same_when_asked_again(method, gate, tmp_path, caplog):
    with Gate(tmp_path / "never") as never:
        context = start_processes(
            bodies.fail_first, (gate.path, bodies.wait_and_end, never.path), 3, join=False, start_method=method
        )
        gate.open()
        with caplog.at_level(logging.WARNING, "ipyelastic"), pytest.raises(ProcessRaisedException) as caught:
            join_to_the_end(context)
        with pytest.raises(ProcessRaisedException) as again:
            context.join(0)
    assert caught.value.error_index == 0
    assert vars(again.value) == vars(caught.value)
    assert again.value is not caught.value
    assert [process.exitcode for process in context.processes[1:]] == [-signal.SIGTERM] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"Terminating process {pid} via signal SIGTERM" for pid in context.pids()[1:]
    ]


def test_of_failures_at_one_look_the_lowest_index_is_told(gate):
    context = start_processes(bodies.all_fail, (gate.path,), 3, join=False, start_method="fork")
    gate.open()
    for process in context.processes:
        process.join()
    with pytest.raises(ProcessExitedException, match=r"^process 0 terminated with exit code 10$"):
        context.join()


def test_within_the_grace_period_others_may_end_by_themselves(gate, caplog):
    context = start_processes(
        bodies.fail_first, (gate.path, bodies.wait_and_end, gate.path), 3, join=False, start_method="fork"
    )
    gate.open()
    with pytest.raises(ProcessRaisedException):
        join_to_the_end(context, grace_period=60)
    assert [process.exitcode for process in context.processes] == [1, 0, 0]
    assert caplog.records == []


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.parametrize("grace_period", [0, 0.2])
def test_an_endless_sigterm_handler_holds_nobody_up(method, grace_period, gate, tmp_path, caplog):
    ready = tmp_path / "ready"
    context = start_processes(
        bodies.fail_first, (gate.path, bodies.be_deaf, str(ready)), 3, join=False, start_method=method
    )
    wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    gate.open()
    with pytest.raises(ProcessRaisedException, match="the first"):
        context.join(grace_period=grace_period)
    assert [process.exitcode for process in context.processes] == [1, -signal.SIGKILL, -signal.SIGKILL]
    assert caplog.records[-1].getMessage() == (
        f"Unable to shutdown process {context.pids()[2]} via SIGTERM, forcefully exiting via SIGKILL"
    )


def test_the_bound_without_a_grace_period_is_30_s_in_all(gate, tmp_path, monkeypatch):
    assert ours.DEFAULT_GRACE_S == 30
    monkeypatch.setattr(ours, "DEFAULT_GRACE_S", 0.2)
    ready = tmp_path / "ready"
    args = (gate.path, bodies.be_deaf, str(ready))
    context = start_processes(bodies.fail_first, args, 2, join=False, start_method="fork")
    wait_until(lambda: list(tmp_path.glob("ready-*")))
    gate.open()
    with pytest.raises(ProcessRaisedException, match="the first"):
        context.join()
    assert context.processes[1].exitcode == -signal.SIGKILL


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_a_killed_child_holds_nobody_up(method, tmp_path):
    # It has inherited the other end of multiprocessing's sentinel.
    ready = tmp_path / "orphan"
    context = start_processes(bodies.have_orphan, (str(ready),), join=False, start_method=method)
    try:
        with pytest.raises(ProcessExitedException, match=r"^process 0 terminated with signal SIGKILL$"):
            context.join(timeout=60)
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)


def test_a_child_that_closes_all_descriptors_is_still_waited_for(gate, tmp_path):
    context = start_processes(
        bodies.close_everything, (str(tmp_path / "ready"), gate.path), join=False, start_method="fork"
    )
    wait_until((tmp_path / "ready").exists)
    assert context.join(timeout=0) is False
    gate.open()
    assert context.join() is True


def test_an_interrupt_while_joining_ends_the_children(tmp_path):
    def interrupt_when_both_run():
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt_when_both_run)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        start_processes(bodies.stay, (str(tmp_path),), 2, start_method="spawn")
    watcher.join()
    pids = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    assert [pid for pid in pids if is_running(pid)] == []


# ---- starting


@pytest.mark.parametrize("is_parallel", [False, True])
def test_a_start_that_fails_half_way_leaves_nobody(is_parallel, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_MP_PARALLEL_START", str(int(is_parallel)))
    before = set(multiprocessing.active_children())
    with pytest.raises(OSError, match=r"^no more of it$"):
        start_processes(bodies.wait_and_end, (bodies.StubbornArgument(2),), 4, start_method="forkserver")
    assert set(multiprocessing.active_children()) <= before


def test_spawn_warns_of_another_start_method_and_uses_spawn():
    with pytest.warns(FutureWarning) as caught:
        context = ours.spawn(bodies.end_well, join=False, start_method="fork")
    assert str(caught[0].message) == (
        "This method only supports start_method=spawn (got: fork).\n"
        "To use a different start_method use:\n\t\t start_processes(...)"
    )
    assert caught[0].filename == __file__
    assert type(context.processes[0]).__name__ == "SpawnProcess"
    assert context.join() is True
    assert isinstance(context, ours.SpawnContext)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"nprocs": -1}, ValueError, r"^nprocs=-1: expected 0 or more$"),
        ({"nprocs": "2"}, TypeError, r"^nprocs='2': expected a whole number, not str$"),
        ({"start_method": "x"}, ValueError, r"^cannot find context for 'x'$"),
    ],
)
def test_bad_input_is_refused_with_its_value(options, error, text):
    with pytest.raises(error, match=text):
        start_processes(bodies.end_well, **options)


def test_daemon_children_are_daemons(gate):
    context = start_processes(bodies.wait_and_end, (gate.path,), join=False, daemon=True, start_method="fork")
    assert context.processes[0].daemon is True
    gate.open()
    assert context.join() is True


def test_a_context_of_other_processes_can_be_joined(temp_folder):
    # As callers that subclass or rebuild it do: torch's constructor.
    process = multiprocessing.get_context("fork").Process(target=bodies.exit_with, args=(0, 4))
    process.start()
    process.join()
    context = ours.ProcessContext([process], [spawned.error_file(0)])
    with pytest.raises(ProcessExitedException, match=r"^process 0 terminated with exit code 4$"):
        context.join()


def test_a_context_that_is_dropped_gives_everything_back(gate):
    context = start_processes(bodies.wait_and_end, (gate.path,), join=False, start_method="fork")
    process = context.processes[0]
    del context  # the census after the test would find its descriptors
    gate.open()
    process.join()
    assert process.exitcode == 0


# ---- ending with the owner


@pytest.mark.parametrize("method", METHODS)
def test_children_get_sigint_when_the_owner_dies(method, tmp_path):
    start_processes(bodies.tell_signal, (str(tmp_path / "told"),), start_method=method)
    assert (tmp_path / "told").read_text() == str(int(signal.SIGINT))


def test_where_sigint_is_ignored_they_get_sigterm(tmp_path):
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        start_processes(bodies.tell_signal, (str(tmp_path / "told"),), start_method="fork")
    finally:
        signal.signal(signal.SIGINT, former)
    assert (tmp_path / "told").read_text() == str(int(signal.SIGTERM))


@pytest.mark.parametrize(("method", "expected"), [("fork", "0"), ("forkserver", str(int(signal.SIGINT)))])
def test_started_from_another_thread_they_outlive_the_thread(method, expected, tmp_path, gate):
    contexts = []

    def start():
        contexts.append(start_processes(bodies.tell_signal, (str(tmp_path / "told"),), 1, False, False, method))
        contexts.append(start_processes(bodies.wait_and_end, (gate.path,), 1, False, False, method))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert contexts[0].join() is True
    assert (tmp_path / "told").read_text() == expected
    assert contexts[1].join(timeout=0) is False
    gate.open()
    assert contexts[1].join() is True


_OWNER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from ipyelastic.contexts.spawn import start_processes
from support import spawn_bodies
def start():
    start_processes(spawn_bodies.stay, (sys.argv[2],), 3, start_method=sys.argv[3])
if __name__ == "__main__":
    if sys.argv[4] == "main":
        start()
    threading.Thread(target=start).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("thread", ["main", "other"])
def test_children_go_with_a_killed_owner(method, thread, tmp_path):
    (tmp_path / "owner.py").write_text(_OWNER)
    tests = str(Path(HERE).parent.parent)
    owner = subprocess.Popen([sys.executable, str(tmp_path / "owner.py"), tests, str(tmp_path), method, thread])
    wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 3, within_s=30)
    pids = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(map(is_running, pids)), within_s=10)


def test_a_child_that_starts_from_nothing_imports_only_its_own_side():
    code = (
        "import sys, ipyelastic.contexts.spawned\n"
        "print(sorted({'logging', 'tempfile', 'torch', 'asyncio', 'ipyelastic.contexts.spawn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert done.stdout == "[]\n"


# ---- the same with torch's


def _outcome(module, name: str, method: str):
    function, args = bodies.BODIES[name]
    context = module.start_processes(function, args, join=False, start_method=method)
    try:
        return context.join()
    except module.ProcessException as raised:
        error = raised
    text = re.sub(r'  File ".*/spawn(ed)?\.py", line \d+, in _?wrap\n    fn\(i, \*args\)\n', "", str(error))
    fields = {name: getattr(error, name, "-") for name in ("error_index", "exit_code", "signal_name")}
    copy = pickle.loads(pickle.dumps(error))
    assert (error.error_pid, copy.error_pid) == (context.pids()[0],) * 2
    return type(error).__name__, text, str(copy) == str(error), fields


@pytest.fixture
def torchs(temp_folder, monkeypatch):
    """torch's module; what it leaves in the temporary folder is not ours to judge."""
    theirs = importlib.import_module("torch.multiprocessing.spawn")
    yield theirs
    for left in temp_folder.glob("pytorch-errorfile-*"):
        left.unlink()


@pytest.mark.torch
@pytest.mark.parametrize("name", bodies.BODIES)
def test_an_end_has_torchs_outcome_and_words(name, torchs):
    assert _outcome(ours, name, "fork") == _outcome(torchs, name, "fork")


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_have_torchs_outcome_too(method, torchs):
    for name in ("end well", "raise", "sys.exit(3)", "SIGKILL"):
        assert _outcome(ours, name, method) == _outcome(torchs, name, method)


@pytest.mark.torch
def test_the_signatures_are_torchs(torchs):
    def shape(function):
        return [(part.name, part.default) for part in inspect.signature(function).parameters.values()]

    for name in (
        "start_processes",
        "spawn",
        "ProcessContext",
        "ProcessException",
        "ProcessRaisedException",
        "ProcessExitedException",
    ):
        assert shape(getattr(ours, name)) == shape(getattr(torchs, name)), name
    assert shape(ours.ProcessContext.join) == shape(torchs.ProcessContext.join)
    assert ours.ENV_VAR_PARALLEL_START == torchs.ENV_VAR_PARALLEL_START


@pytest.mark.torch
def test_joining_goes_through_torchs_answers(torchs, tmp_path):
    answers = {}
    for module in (ours, torchs):
        folder = tmp_path / module.__name__
        folder.mkdir()
        gates = [Gate(folder / str(index)) for index in range(2)]
        context = module.start_processes(bodies.wait_for_own_gate, (str(folder),), 2, join=False, start_method="fork")
        found = [context.join(timeout=0), context.join(timeout=-1)]
        for gate in gates:
            gate.open()
            found += [context.join(), sorted(context.sentinels.values())]
        answers[module] = [*found, context.join(), context.join(timeout=0)]
        for gate in gates:
            gate.close()
    assert answers[ours] == answers[torchs]
