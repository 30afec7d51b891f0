"""A failure as words: what happened, what is likely, what to do.

    ProcessFailure -> [here] -> under the cell, in the static page, on the command line

Runs in: owner. Pure functions; nothing is looked up on the machine.
Other end: failures/read.py fills the fields that these words are made of. `str(ChildFailedError)` stays torch's text.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..terms.failure import NO_TRACEBACK_HINT, FrameRecord, MemoryState, ProcessFailure

__all__ = ["describe", "ranges", "report"]

_LONGEST_MESSAGE = 300
_FULL = 0.9  # of the machine's memory: above it the kernel's out-of-memory killer is the likely sender


def report(
    failures: Mapping[int, ProcessFailure],
    *,
    world_size: int,
    attempt: int = 0,
    max_restarts: int = 0,
    earlier: Sequence[tuple[int, str]] = (),
    why_not_restarted: str = "",
    has_magics: bool = False,
) -> str:
    """Say in words why a run failed: the root cause whole, every other rank in short.

    Args:
        failures: `{rank: failure}`; empty gives an empty text.
        world_size: Ranks in the run.
        attempt: The try that failed, from 0.
        max_restarts: How many more tries there could have been; 0: attempts are not mentioned.
        earlier, why_not_restarted: See terms/errors.Tries.
        has_magics: Whether the reader can type `%elastic_logs`; else the log file is named.

    Returns:
        Lines without a final newline: `describe` of the root cause (as `ChildFailedError.get_first_failure` finds
        it), one line for each other way in which ranks failed, one for the ranks that this run stopped, one for each
        way in which earlier attempts ended.
    """
    if not failures:
        return ""
    root = min(failures, key=lambda rank: _order(failures[rank]))
    lines = [
        describe(
            failures[root],
            rank=root,
            world_size=world_size,
            attempt=attempt,
            max_restarts=max_restarts,
            has_magics=has_magics,
        )
    ]
    stopped: list[int] = []
    others: dict[str, list[int]] = {}
    for rank in sorted(failures):
        if rank == root:
            continue
        if failures[rank].is_stopped:
            stopped.append(rank)
        else:
            others.setdefault(_what(failures[rank], is_short=True), []).append(rank)
    lines += [f"{_named(ranks)} also failed: {what}" for what, ranks in others.items()]
    if stopped:
        verb = "was" if len(stopped) == 1 else "were"
        why = "as well" if failures[root].is_stopped else "because of it"
        lines.append(f"{_named(stopped)} {verb} stopped {why}")
    if why_not_restarted:
        lines.append(why_not_restarted)
    lines += _earlier_words(earlier, max_restarts)
    return "\n".join(lines)


def _earlier_words(earlier: Sequence[tuple[int, str]], max_restarts: int) -> list[str]:
    """A line for each earlier attempt; one for all that ended in the same way one after the other."""
    lines = []
    of_all = f" of {max_restarts + 1}" if max_restarts else ""
    for reason, group in itertools.groupby(earlier, key=lambda entry: entry[1]):
        numbers = sorted({attempt + 1 for attempt, _ in group})
        verb = "" if len(numbers) == 1 else "s"
        lines.append(f"attempt{verb} {ranges(numbers)}{of_all}: {_first_line(reason)}")
    return lines


def describe(
    failure: ProcessFailure,
    *,
    rank: int,
    world_size: int,
    attempt: int = 0,
    max_restarts: int = 0,
    has_magics: bool = False,
) -> str:
    """Say in words how one rank failed; STYLE.md, "Errors", shows the form. Arguments as in `report`.

    `likely` and `do` are left out where nothing true can be said.
    """
    where = [f"local_rank {failure.local_rank}"]
    if failure.host:
        where.append(f"host {failure.host}")
    if max_restarts:
        where.append(f"attempt {attempt + 1} of {max_restarts + 1}")
    verb = "was stopped" if failure.is_stopped else "failed"
    logs = f"%elastic_logs {rank}" if has_magics else failure.stderr_path
    last_lines = f"read its last lines{f' ({logs})' if logs else ''}"
    cause = _cause(failure, last_lines, world_size)
    rows = {"what": _what(failure), "likely": cause.likely, "do": cause.do}
    return "\n".join(
        [f"rank {rank} of {world_size} {verb} ({', '.join(where)})"]
        + [f"  {name:<7} {words}" for name, words in rows.items() if words]
    )


def ranges(numbers: Collection[int]) -> str:
    """Numbers as a person writes them.

    >>> ranges([7, 1, 3, 4, 5, 6])
    '1, 3-7'
    """
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _named(ranks: Collection[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {ranges(ranks)}"


def _order(failure: ProcessFailure) -> tuple[bool, int, int]:
    # As terms/errors.py orders them: torch's second is all there is without the rank's own nanoseconds.
    return (failure.is_stopped, failure.timestamp_ns or failure.timestamp * 1_000_000_000, failure.local_rank)


_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")


def _what(failure: ProcessFailure, *, is_short: bool = False) -> str:
    """One line of facts; the short one leaves out what differs between ranks that failed the same way."""
    raised = _raised(failure)
    if raised is not None:
        return raised.head + (f" ({raised.where})" if raised.where else "")
    after = "" if is_short or failure.duration_s is None else f" after {failure.duration_s:.1f} s"
    if failure.exitcode < 0:
        return _signal_words(failure, after, is_short)
    if failure.note:
        return _first_line(failure.note)
    return f"exited with code {failure.exitcode}{after}; it left no Python traceback"


def _signal_words(failure: ProcessFailure, after: str, is_short: bool) -> str:
    name = _signal_name(failure)
    if name in _CRASHES:
        line = _innermost_line(failure.stacks)
        return f"crashed with {name}{after}" + (f" in {line}" if line else "")
    text = f"{'killed' if name == 'SIGKILL' else 'ended'} by {name}{after}"
    return text if is_short else f"{text}; it left no Python traceback"


def _signal_name(failure: ProcessFailure) -> str:
    name = failure.signal_name()
    return name if name.startswith("SIG") else f"signal {-failure.exitcode}"


def _innermost_line(stacks: str) -> str:
    """`train.py, line 3 (step)` from faulthandler's text: the thread that got the signal, most recent call first."""
    _, found, rest = stacks.partition("Current thread")
    of_thread = rest.split("\n\n", 1)[0] if found else stacks
    match = re.search(r'^  File "(.+)", line (\d+) in (.+)$', of_thread, re.MULTILINE)
    return f"{match[1]}, line {match[2]} ({match[3]})" if match else ""


@dataclass(frozen=True)
class _Raised:
    """An exception, as far as it is known."""

    type_name: str
    message: str
    where: str = ""
    is_in_cell: bool = True

    @property
    def head(self) -> str:
        return f"{self.type_name}: {_first_line(self.message)}" if self.message.strip() else self.type_name


def _raised(failure: ProcessFailure) -> _Raised | None:
    record = failure.exception
    if record is not None:
        is_plain = record.module in ("builtins", "__main__", "")
        frames = [frame for frame in record.frames if not frame.is_internal]
        last = frames[-1] if frames else None
        place = _place_of_syntax_error(record.syntax, frames)
        # The text of a SyntaxError ends with its place; once is enough.
        message = str((record.syntax or {}).get("msg") or record.message) if place else record.message
        return _Raised(
            record.type_name if is_plain else f"{record.module}.{record.type_name}",
            message,
            place or (_place(last) if last else ""),
            last is None or _place(last).startswith("Cell In["),
        )
    # A file that torch's own `record` wrote, or one that cannot be read: text is all there is.
    text = _message_text(failure)
    if not text:
        return None
    type_name, colon, message = text.partition(": ")
    if colon and re.fullmatch(r"[A-Za-z_][\w.]*", type_name):
        return _Raised(type_name, message)
    return _Raised(_first_line(text), "")


def _message_text(failure: ProcessFailure) -> str:
    message = failure.message
    if isinstance(message, dict):
        return str(message.get("message") or "")
    text = str(message or "")
    is_made_up = text == NO_TRACEBACK_HINT or re.match(r"Signal \d+ \(.*\) received by PID", text)
    return "" if is_made_up else text


def _place(frame: FrameRecord) -> str:
    return f"{frame.label or frame.filename}, line {frame.lineno}"


def _place_of_syntax_error(syntax: Mapping[str, object] | None, frames: list[FrameRecord]) -> str:
    if not syntax or not syntax.get("filename") or not syntax.get("lineno"):
        return ""
    filename = str(syntax["filename"])
    label = next((frame.label for frame in frames if frame.filename == filename and frame.label), filename)
    return f"{label}, line {syntax['lineno']}"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."


@dataclass(frozen=True)
class _Cause:
    likely: str = ""
    do: str = ""


def _cause(failure: ProcessFailure, last_lines: str, world_size: int) -> _Cause:
    if failure.is_stopped:
        return _Cause()
    raised = _raised(failure)
    if raised is not None:
        return _cause_of_exception(raised)
    if failure.exitcode < 0:
        return _cause_of_signal(failure, last_lines, world_size)
    return _cause_of_exit(failure, last_lines)


def _cause_of_signal(failure: ProcessFailure, last_lines: str, world_size: int) -> _Cause:
    name = _signal_name(failure)
    if name == "SIGKILL":
        return _cause_of_kill(failure.memory, world_size)
    if name == "SIGBUS":
        return _Cause("often a full /dev/shm, or a mapped file that became shorter", "check `df -h /dev/shm`")
    if name == "SIGABRT":
        return _Cause("native code gave up and, as a rule, said why on stderr", last_lines)
    if name == "SIGFPE":
        return _Cause("an integer division by zero in native code")
    if name == "SIGILL":
        return _Cause("native code that was built for another processor")
    if name == "SIGSEGV":
        line = " below that Python line" if _innermost_line(failure.stacks) else ""
        return _Cause(f"native code (an extension module or a library) crashed{line}", last_lines)
    if name in ("SIGTERM", "SIGINT", "SIGHUP"):
        return _Cause("something outside this run asked it to end: a batch system, a person, another program")
    if name in ("SIGXCPU", "SIGXFSZ"):
        return _Cause("a limit of this account (`ulimit -a`)")
    if name in ("SIGALRM", "SIGVTALRM", "SIGPROF"):
        return _Cause("a timer that the code itself, or a library, had set")
    return _Cause()


def _cause_of_kill(memory: MemoryState | None, world_size: int) -> _Cause:
    if memory is None or memory.total_bytes <= 0:
        return _Cause(
            "killed from outside: by a person, a batch system or a memory limit",
            "look for it in the machine's log (dmesg)",
        )
    unit, size = ("GiB", 1 << 30) if memory.total_bytes >= 1 << 30 else ("MiB", 1 << 20)
    figures = f"{memory.used_bytes / size:.1f} of {memory.total_bytes / size:.1f} {unit} were in use"
    if memory.used_bytes / memory.total_bytes > _FULL:
        fewer = f"try --nproc {world_size // 2}, or smaller data in each rank"
        return _Cause(
            f"the machine ran out of memory: {figures}", fewer if world_size > 1 else "try smaller data or batches"
        )
    return _Cause(
        f"killed from outside, or by a memory limit lower than the machine's: {figures}",
        "look for it in the machine's log (dmesg), and at the limits of the job or container",
    )


def _cause_of_exit(failure: ProcessFailure, last_lines: str) -> _Cause:
    if failure.exitcode == 0:
        if failure.note and not failure.note.startswith("it exited"):
            return _Cause("", "")  # it did end well; the note says what came after
        return _Cause(
            "sys.exit(), os._exit() or quit() in the body, or in something it calls",
            "let the body end by itself; raise an exception to end it as failed",
        )
    if failure.exitcode == 127:
        return _Cause("a program that was not found", last_lines)
    if failure.exitcode == 126:
        return _Cause("a file that may not be executed", last_lines)
    number = failure.exitcode - 128
    if number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
        name = signal.Signals(number).name
        return _Cause(f"128 + {number} is how a shell tells that a program in it was ended by {name}", last_lines)
    return _Cause(f"sys.exit({failure.exitcode}), or a program that said why on stderr", last_lines)


_KNOWN = (  # (what to find in `type: message`, likely, do), the special before the general
    (
        r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "this GPU's memory is full: by this rank, or by another process on the same GPU",
        "try smaller batches or fewer ranks per GPU; nvidia-smi names the processes",
    ),
    (
        r"missing \d+ required positional arguments?: '(?:rank|local_rank|index|i)'",
        "the function waits for its rank as an argument, as torch.multiprocessing.spawn gives it; here none is put in",
        'read os.environ["RANK"] in it instead',
    ),
    (
        r"Cannot re-initialize CUDA in forked subprocess",
        "CUDA was in use in the process that this one was forked from",
        'try --start-method spawn; where the body itself makes processes, the "spawn" method there',
    ),
    (
        r"CUDA error",
        "CUDA tells of errors late: an earlier line may be the one at fault",
        "run again with --env CUDA_LAUNCH_BLOCKING=1",
    ),
    (
        r"Address already in use|EADDRINUSE",
        "another process, an earlier run perhaps, listens at that port",
        "choose another port, or 0; %elastic_status names runs that are alive",
    ),
    (r"doesn't have NCCL built in", "this build of torch has no NCCL", 'use the "gloo" backend'),
    (
        r"Duplicate GPU detected",
        "two ranks use the same GPU",
        "give each rank its own: torch.cuda.set_device(local_rank)",
    ),
    (
        r"(?i:\bnccl|\bgloo\b|\bTCPStore)|DistBackendError|DistNetworkError|DistStoreError",
        "usually another rank failed first, and this one lost its connection to it",
        "look at the other ranks' last lines",
    ),
    (
        r"insufficient shared memory|unable to write to file </torch_",
        "/dev/shm is full or too small",
        "try fewer DataLoader workers, or a larger /dev/shm",
    ),
    (
        r"\[Errno 28\]|No space left on device",
        "a disk is full: that of the log files, or one that the code writes to",
        "make room (`df -h`), or keep the log files elsewhere with --log-dir",
    ),
    (
        r"\[Errno 27\]|File too large",
        "a limit on the size of files (`ulimit -f`), which log files count under",
        "raise the limit, or print less",
    ),
    (
        r"^MemoryError",
        "this rank could not get the memory it asked for: the machine is full, or a limit (`ulimit -v`) is reached",
        "try smaller data or batches, or fewer ranks",
    ),
    (
        r"^EOFError: EOF when reading a line",
        "input() found the end of stdin: nobody typed, or what was piped in had been read",
        "ask before the run, and use the answer in it",
    ),
)


def _cause_of_exception(raised: _Raised) -> _Cause:
    message = raised.message
    if raised.type_name == "ModuleNotFoundError" and (match := re.search(r"No module named '([^']+)'", message)):
        package = match[1].partition(".")[0]
        place, sign, again = ("kernel's environment", "%", "run the cell again")
        if not raised.is_in_cell:
            place, sign, again = ("environment", "", "run it again")
        return _Cause(
            f"{match[1]} is not installed in this {place}",
            f"{sign}pip install {package} (or the package that brings it), then {again}",
        )
    if raised.type_name == "NameError" and (match := re.search(r"name '([^']+)' is not defined", message)):
        if not raised.is_in_cell:
            return _Cause()
        return _Cause(
            f"{match[1]} is not defined in the notebook: its cell was not run, or only ranks ran it",
            "run its cell, then this one again; values of a %%elastic_run cell come home by -o NAME",
        )
    text = f"{raised.type_name}: {message}"
    for pattern, likely, do in _KNOWN:
        if re.search(pattern, text):
            return _Cause(likely, do)
    return _Cause()
