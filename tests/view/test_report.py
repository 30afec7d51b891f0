"""Whole reports, as a person reads them."""

from __future__ import annotations

import signal

import pytest

from ipyelastic.failures.record import exception_record
from ipyelastic.terms.errors import ChildFailedError
from ipyelastic.terms.failure import ExceptionRecord, FrameRecord, MemoryState, ProcessFailure
from ipyelastic.view.report import describe, ranges, report

GIB = 1 << 30
CELL = FrameRecord("/tmp/ipykernel_1/2.py", 3, "<module>", "train()", "Cell In[7]")
LIBRARY = FrameRecord("/site/lib.py", 40, "load")
OURS = FrameRecord("/site/ipyelastic/worker.py", 9, "main", is_internal=True)


def failed(
    exitcode: int = 1, *, local_rank: int = 0, timestamp_ns: int = 1, is_stopped: bool = False
) -> ProcessFailure:
    failure = ProcessFailure(local_rank, pid=100 + local_rank, exitcode=exitcode, error_file="")
    failure.timestamp_ns = timestamp_ns
    failure.is_stopped = is_stopped
    failure.stderr_path = "/logs/1/stderr.log"
    return failure


def raised(
    type_name: str,
    message: str,
    *frames: FrameRecord,
    module: str = "builtins",
    local_rank: int = 0,
    timestamp_ns: int = 1,
) -> ProcessFailure:
    failure = failed(local_rank=local_rank, timestamp_ns=timestamp_ns)
    failure.exception = ExceptionRecord(type_name, module, message, frames or (OURS, CELL))
    return failure


def described(failure: ProcessFailure) -> list[str]:
    """The lines below the first, for rank 1 of 4."""
    head, *rest = describe(failure, rank=1, world_size=4).splitlines()
    assert head == "rank 1 of 4 failed (local_rank 0)"
    return rest


def test_exception_is_told_with_its_place_in_the_cell() -> None:
    failure = raised("ValueError", "bad")
    assert describe(failure, rank=0, world_size=2) == (
        "rank 0 of 2 failed (local_rank 0)\n  what    ValueError: bad (Cell In[7], line 3)"
    )


def test_place_is_the_last_frame_that_is_not_ours() -> None:
    assert described(raised("OSError", "gone", OURS, CELL, LIBRARY, OURS)) == [
        "  what    OSError: gone (/site/lib.py, line 40)"
    ]
    assert described(raised("OSError", "", OURS)) == ["  what    OSError"]


def test_head_names_host_and_attempt_when_there_is_something_to_say() -> None:
    failure = raised("ValueError", "bad", local_rank=3)
    failure.host = "node-b"
    assert describe(failure, rank=3, world_size=8, attempt=1, max_restarts=2) == (
        "rank 3 of 8 failed (local_rank 3, host node-b, attempt 2 of 3)\n  what    ValueError: bad (Cell In[7], line 3)"
    )


def test_message_is_cut_to_its_first_line_and_to_300_characters() -> None:
    assert described(raised("ValueError", "\nfirst\nsecond")) == ["  what    ValueError: first (Cell In[7], line 3)"]
    assert described(raised("ValueError", "x" * 301)) == [f"  what    ValueError: {'x' * 297}... (Cell In[7], line 3)"]


def test_class_of_a_library_is_named_with_its_module_and_one_of_the_notebook_without() -> None:
    assert described(raised("Oops", "no", module="pkg.errors")) == [
        "  what    pkg.errors.Oops: no (Cell In[7], line 3)"
    ]
    assert described(raised("Oops", "no", module="__main__")) == ["  what    Oops: no (Cell In[7], line 3)"]


def test_syntax_error_is_placed_where_the_syntax_is_wrong() -> None:
    failure = failed()
    failure.exception = ExceptionRecord(
        "SyntaxError", "builtins", "invalid syntax", (OURS,), syntax={"filename": "bad.py", "lineno": 5}
    )
    assert described(failure) == ["  what    SyntaxError: invalid syntax (bad.py, line 5)"]


def test_place_of_a_syntax_error_is_told_once() -> None:
    failure = failed()
    try:
        compile("x = (", "<string>", "exec")
    except SyntaxError as error:
        failure.exception = exception_record(error, lambda filename: "")
    assert described(failure) == ["  what    SyntaxError: '(' was never closed (<string>, line 1)"]


def test_error_file_of_torch_is_told_from_its_message() -> None:
    failure = failed()
    failure.message = {"message": "RuntimeError: CUDA error: an illegal memory access", "extraInfo": {}}
    assert described(failure) == [
        "  what    RuntimeError: CUDA error: an illegal memory access",
        "  likely  CUDA tells of errors late: an earlier line may be the one at fault",
        "  do      run again with --env CUDA_LAUNCH_BLOCKING=1",
    ]


def test_damaged_error_file_is_told() -> None:
    failure = failed()
    failure.message = "the error file /x/error.json cannot be read: JSONDecodeError: Expecting value"
    assert described(failure) == [
        "  what    the error file /x/error.json cannot be read: JSONDecodeError: Expecting value"
    ]


def test_kill_in_a_full_machine_is_likely_the_memory() -> None:
    failure = failed(-signal.SIGKILL, local_rank=3)
    failure.duration_s = 41.23
    failure.host = "node-b"
    failure.memory = MemoryState(int(63.1 * GIB), 64 * GIB)
    assert describe(failure, rank=3, world_size=8, attempt=1, max_restarts=2) == (
        "rank 3 of 8 failed (local_rank 3, host node-b, attempt 2 of 3)\n"
        "  what    killed by SIGKILL after 41.2 s; it left no Python traceback\n"
        "  likely  the machine ran out of memory: 63.1 of 64.0 GiB were in use\n"
        "  do      try --nproc 4, or smaller data in each rank"
    )


def test_kill_of_the_only_rank_does_not_advise_fewer() -> None:
    failure = failed(-signal.SIGKILL)
    failure.memory = MemoryState(500 << 20, 512 << 20)
    assert describe(failure, rank=0, world_size=1).splitlines()[2:] == [
        "  likely  the machine ran out of memory: 500.0 of 512.0 MiB were in use",
        "  do      try smaller data or batches",
    ]


def test_kill_in_a_machine_with_room_came_from_outside() -> None:
    failure = failed(-signal.SIGKILL)
    failure.memory = MemoryState(10 * GIB, 64 * GIB)
    assert described(failure) == [
        "  what    killed by SIGKILL; it left no Python traceback",
        "  likely  killed from outside, or by a memory limit lower than the machine's: 10.0 of 64.0 GiB were in use",
        "  do      look for it in the machine's log (dmesg), and at the limits of the job or container",
    ]
    failure.memory = None
    assert described(failure)[1:] == [
        "  likely  killed from outside: by a person, a batch system or a memory limit",
        "  do      look for it in the machine's log (dmesg)",
    ]


STACKS = """Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "/lib/threading.py", line 320 in wait

Current thread 0x00007f02 (most recent call first):
  File "train.py", line 3 in step
  File "train.py", line 9 in <module>

Extension modules: numpy._core
"""


def test_crash_names_the_innermost_python_line_of_the_thread_that_crashed() -> None:
    failure = failed(-signal.SIGSEGV)
    failure.duration_s = 2.0
    failure.stacks = STACKS
    assert described(failure) == [
        "  what    crashed with SIGSEGV after 2.0 s in train.py, line 3 (step)",
        "  likely  native code (an extension module or a library) crashed below that Python line",
        "  do      read its last lines (/logs/1/stderr.log)",
    ]


def test_crash_without_python_frames_names_no_line() -> None:
    failure = failed(-signal.SIGSEGV)
    failure.stacks = STACKS.replace(
        '  File "train.py", line 3 in step\n  File "train.py", line 9 in <module>', "  <no>"
    )
    assert described(failure)[:2] == [
        "  what    crashed with SIGSEGV",
        "  likely  native code (an extension module or a library) crashed",
    ]


@pytest.mark.parametrize(
    ("number", "what", "likely"),
    [
        (signal.SIGBUS, "crashed with SIGBUS", "often a full /dev/shm, or a mapped file that became shorter"),
        (signal.SIGABRT, "crashed with SIGABRT", "native code gave up and, as a rule, said why on stderr"),
        (signal.SIGFPE, "crashed with SIGFPE", "an integer division by zero in native code"),
        (signal.SIGILL, "crashed with SIGILL", "native code that was built for another processor"),
        *(
            (
                number,
                f"ended by {number.name}; it left no Python traceback",
                "something outside this run asked it to end: a batch system, a person, another program",
            )
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        ),
        (signal.SIGXCPU, "ended by SIGXCPU; it left no Python traceback", "a limit of this account (`ulimit -a`)"),
        (
            signal.SIGALRM,
            "ended by SIGALRM; it left no Python traceback",
            "a timer that the code itself, or a library, had set",
        ),
    ],
)
def test_signals_are_told_by_name(number: signal.Signals, what: str, likely: str) -> None:
    assert described(failed(-number))[:2] == [f"  what    {what}", f"  likely  {likely}"]


def test_signal_of_which_nothing_is_known_gets_no_advice() -> None:
    assert described(failed(-signal.SIGUSR2)) == ["  what    ended by SIGUSR2; it left no Python traceback"]
    assert described(failed(-120)) == ["  what    ended by signal 120; it left no Python traceback"]


def test_exit_without_a_value_points_at_sys_exit() -> None:
    failure = failed(0)
    failure.note = "it exited with code 0 without handing over a value"
    assert described(failure) == [
        "  what    it exited with code 0 without handing over a value",
        "  likely  sys.exit(), os._exit() or quit() in the body, or in something it calls",
        "  do      let the body end by itself; raise an exception to end it as failed",
    ]


@pytest.mark.parametrize(
    ("exitcode", "likely"),
    [
        (3, "sys.exit(3), or a program that said why on stderr"),
        (126, "a file that may not be executed"),
        (127, "a program that was not found"),
        (137, "128 + 9 is how a shell tells that a program in it was ended by SIGKILL"),
        (200, "sys.exit(200), or a program that said why on stderr"),
    ],
)
def test_exit_codes_are_told(exitcode: int, likely: str) -> None:
    failure = failed(exitcode)
    failure.duration_s = 1.04
    assert described(failure) == [
        f"  what    exited with code {exitcode} after 1.0 s; it left no Python traceback",
        f"  likely  {likely}",
        "  do      read its last lines (/logs/1/stderr.log)",
    ]


@pytest.mark.parametrize(
    ("type_name", "module", "message", "likely"),
    [
        ("OutOfMemoryError", "torch", "CUDA out of memory. Tried to allocate 2 GiB", "this GPU's memory is full"),
        (
            "RuntimeError",
            "builtins",
            "Cannot re-initialize CUDA in forked subprocess. To",
            "CUDA was in use in the pro",
        ),
        ("AcceleratorError", "torch", "CUDA error: device-side assert triggered", "CUDA tells of errors late"),
        (
            "OSError",
            "builtins",
            "[Errno 98] Address already in use",
            "another process, an earlier run perhaps, listens",
        ),
        ("DistBackendError", "torch.distributed", "NCCL error in: x.cpp:1", "usually another rank failed first"),
        ("RuntimeError", "builtins", "[/gloo/tcp/pair.cc:1] Connection closed by peer", "usually another rank failed"),
        ("RuntimeError", "builtins", "Distributed package doesn't have NCCL built in", "this build of torch has no NC"),
        ("OSError", "builtins", "[Errno 28] No space left on device", "a disk is full: that of the log files, or one"),
        ("OSError", "builtins", "[Errno 27] File too large", "a limit on the size of files (`ulimit -f`)"),
        ("MemoryError", "builtins", "Unable to allocate 9 TiB", "this rank could not get the memory it asked for"),
        (
            "EOFError",
            "builtins",
            "EOF when reading a line",
            "input() found the end of stdin: nobody typed, or what was",
        ),
        ("ModuleNotFoundError", "builtins", "No module named 'a.b'", "a.b is not installed in this kernel's environ"),
        (
            "TypeError",
            "builtins",
            "work() missing 1 required positional argument: 'rank'",
            "the function waits for its rank as an argument",
        ),
        ("NameError", "builtins", "name 'x' is not defined", "x is not defined in the notebook: its cell was not r"),
    ],
)
def test_well_known_errors_have_a_likely_cause_and_advice(
    type_name: str, module: str, message: str, likely: str
) -> None:
    what, why, do = described(raised(type_name, message, module=module))
    assert what.endswith(f"{type_name}: {message} (Cell In[7], line 3)")
    assert why.startswith(f"  likely  {likely}")
    assert do.startswith("  do      ")


def test_missing_module_is_installed_by_its_top_name() -> None:
    assert described(raised("ModuleNotFoundError", "No module named 'a.b'"))[2] == (
        "  do      %pip install a (or the package that brings it), then run the cell again"
    )


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ("ConnectionResetError", "[Errno 104] Connection reset by peer"),
        ("UnboundLocalError", "cannot access local variable 'x'"),
    ],
)
def test_other_errors_get_no_advice(type_name: str, message: str) -> None:
    assert described(raised(type_name, message)) == [f"  what    {type_name}: {message} (Cell In[7], line 3)"]


def test_name_that_a_library_lacks_is_not_blamed_on_the_notebook() -> None:
    assert len(described(raised("NameError", "name 'x' is not defined", CELL, LIBRARY))) == 1


def test_report_has_the_root_cause_first_then_the_others_then_the_stopped() -> None:
    failures = {
        rank: failed(-signal.SIGTERM, local_rank=rank, timestamp_ns=50, is_stopped=True) for rank in (1, 3, 4, 5, 6, 7)
    }
    failures[2] = raised(
        "KeyError", "'x'", FrameRecord("c", 9, "f", label="Cell In[3]"), local_rank=2, timestamp_ns=200
    )
    failures[0] = raised("ValueError", "bad", timestamp_ns=100)
    assert report(failures, world_size=8) == (
        "rank 0 of 8 failed (local_rank 0)\n"
        "  what    ValueError: bad (Cell In[7], line 3)\n"
        "rank 2 also failed: KeyError: 'x' (Cell In[3], line 9)\n"
        "ranks 1, 3-7 were stopped because of it"
    )
    assert ChildFailedError("run", failures).get_first_failure()[0] == 0


def test_one_stopped_rank_is_told_in_the_singular() -> None:
    failures = {
        0: raised("ValueError", "bad"),
        1: failed(-signal.SIGTERM, local_rank=1, timestamp_ns=2, is_stopped=True),
    }
    assert report(failures, world_size=2, attempt=2, max_restarts=2) == (
        "rank 0 of 2 failed (local_rank 0, attempt 3 of 3)\n"
        "  what    ValueError: bad (Cell In[7], line 3)\n"
        "rank 1 was stopped because of it"
    )


def test_ranks_that_failed_alike_share_a_line() -> None:
    failures = {rank: raised("ValueError", "bad", local_rank=rank, timestamp_ns=rank + 1) for rank in range(4)}
    for rank in (2, 3):
        failures[rank] = failed(-signal.SIGKILL, local_rank=rank, timestamp_ns=10)
        failures[rank].duration_s = float(rank)
    assert report(failures, world_size=4) == (
        "rank 0 of 4 failed (local_rank 0)\n"
        "  what    ValueError: bad (Cell In[7], line 3)\n"
        "rank 1 also failed: ValueError: bad (Cell In[7], line 3)\n"
        "ranks 2-3 also failed: killed by SIGKILL"
    )


def test_failures_without_nanoseconds_are_ordered_by_their_seconds() -> None:
    late, early = failed(1, timestamp_ns=0), failed(2, local_rank=1, timestamp_ns=0)
    late.timestamp, early.timestamp = 20, 10
    assert report({0: late, 1: early}, world_size=2).splitlines()[0] == "rank 1 of 2 failed (local_rank 1)"


def test_run_whose_ranks_were_all_stopped_blames_none() -> None:
    failures = {rank: failed(-signal.SIGTERM, local_rank=rank, is_stopped=True) for rank in range(3)}
    assert report(failures, world_size=3) == (
        "rank 0 of 3 was stopped (local_rank 0)\n"
        "  what    ended by SIGTERM; it left no Python traceback\n"
        "ranks 1-2 were stopped as well"
    )


def test_report_of_nothing_is_empty() -> None:
    assert report({}, world_size=2) == ""


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([5], "5"), ([1, 2], "1-2"), ([7, 1, 3, 4, 5, 6], "1, 3-7"), ([0, 2, 4], "0, 2, 4")]
)
def test_numbers_are_written_as_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_last_lines_are_where_the_reader_can_look() -> None:
    failure = failed(3)
    words = describe(failure, rank=1, world_size=2, has_magics=True)
    assert words.endswith("  do      read its last lines (%elastic_logs 1)")
    assert report({1: failure}, world_size=2, has_magics=True) == words
    failure.stderr_path = ""
    assert describe(failure, rank=1, world_size=2).endswith("  do      read its last lines")
