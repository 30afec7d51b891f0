"""What is known about a worker that failed: torch's `ProcessFailure`, and the exception behind it as plain data.

    error file or exit status  ->  [ProcessFailure]  ->  ChildFailedError, view/report

Runs in: agent and owner. Reads the one file it is named for, nothing else.
Other end: failures/record.py writes that file in the rank; failures/read.py fills the fields that are ours.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ProcessFailure", "ExceptionRecord", "FrameRecord", "MemoryState"]

NOT_AVAILABLE = "<N/A>"
NO_DATA = "<NONE>"
NO_TRACEBACK_HINT = (
    "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"  # torch's text, LICENSE names it
)
_LONGEST_IN_REPR = 200


@dataclass(frozen=True)
class FrameRecord:
    """One frame of a traceback: where it was, and the words of that line if they were at hand.

    Attributes:
        filename: The file, or what Python calls a cell.
        lineno: The line, from 1.
        name: The function's; `<module>` outside of one.
        line: That line's words; empty: not at hand.
        label: What a person calls the file: `Cell In[7]`; empty: the file name says it.
        is_internal: Whether the frame is ours and should not be shown.
        first_lineno: The first line of the function (or module) the frame runs.
    """

    filename: str
    lineno: int
    name: str
    line: str = ""
    label: str = ""
    is_internal: bool = False
    first_lineno: int = 1


@dataclass(frozen=True)
class ExceptionRecord:
    """An exception as plain data: what a rank can send home whatever its class is made of.

    Attributes:
        type_name: Its class, as in `ValueError: bad`.
        module: That class's module.
        message: Its text.
        frames: Of its traceback, the outermost first.
        notes: What `add_note` added.
        cause: The exception it was raised `from`; None without one.
        context: The one that was being handled; None without one.
        suppress_context: Whether the context is not to be shown.
        text: The whole traceback as `traceback` prints it, cells named by their labels, our own frames left out.
        is_group: Whether it holds several exceptions; `text` shows them.
        syntax: For a SyntaxError: `filename, lineno, offset, text, msg`; else None.
    """

    type_name: str
    module: str
    message: str
    frames: tuple[FrameRecord, ...] = ()
    notes: tuple[str, ...] = ()
    cause: ExceptionRecord | None = None
    context: ExceptionRecord | None = None
    suppress_context: bool = False
    text: str = ""
    is_group: bool = False
    syntax: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """This record as JSON-ready data; `from_dict` reads it back."""
        return {
            "type_name": self.type_name,
            "module": self.module,
            "message": self.message,
            "frames": [vars(frame) for frame in self.frames],
            "notes": list(self.notes),
            "cause": self.cause.to_dict() if self.cause else None,
            "context": self.context.to_dict() if self.context else None,
            "suppress_context": self.suppress_context,
            "text": self.text,
            "is_group": self.is_group,
            "syntax": self.syntax,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExceptionRecord:
        """Read what `to_dict` wrote, `data`. Raises `KeyError` or `TypeError` for anything else."""
        return cls(
            type_name=data["type_name"],
            module=data["module"],
            message=data["message"],
            frames=tuple(FrameRecord(**frame) for frame in data["frames"]),
            notes=tuple(data["notes"]),
            cause=cls.from_dict(data["cause"]) if data["cause"] else None,
            context=cls.from_dict(data["context"]) if data["context"] else None,
            suppress_context=data["suppress_context"],
            text=data["text"],
            is_group=data["is_group"],
            syntax=data["syntax"],
        )


@dataclass(frozen=True)
class MemoryState:
    """The machine's memory (or the container's limit, where that is lower) at one moment.

    Attributes:
        used_bytes: In use by everybody.
        total_bytes: How much there is.
    """

    used_bytes: int
    total_bytes: int


@dataclass(repr=False)
class ProcessFailure:
    """A worker's failed end, with torch's fields first and torch's constructor.

    Args:
        local_rank: The worker's rank within its agent.
        pid: Its process id.
        exitcode: Its exit code; negative: the signal that ended it.
        error_file: Where the rank would have written what went wrong; missing is no error.

    Attributes:
        local_rank, pid, exitcode, error_file: As given; the file is `<N/A>` when there is none.
        error_file_data: What the file holds.
        message: Its message, text or torch's dict; without a file a sentence.
        timestamp: When it failed, in seconds since 1970.
        timestamp_ns: The same on the machine's monotonic clock, in nanoseconds; 0: not known.
        host: The machine's name; empty: not known.
        duration_s: Seconds since its start; None: not known.
        exception: What it raised, an ExceptionRecord: `type_name`, `message`, `text`; None: it raised nothing.
        stacks: What faulthandler wrote: the Python stacks at a fatal signal or at the run's timeout.
        memory: The machine's memory after a SIGKILL, a MemoryState; else None.
        note: A plain word on an end that has neither traceback nor signal: `sys.exit()` without a value, say.
        stderr_path: Where its stderr was written; empty: not known.
        is_stopped: Whether we ended it because another rank had failed, or a person or a timeout asked.

    Those from `timestamp_ns` on are ours and are filled by failures/read.py.
    A damaged error file makes a failure that says so, never an exception (SEEDS section 18, 6).
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/errors.html.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    error_file_data: dict[str, Any] = field(init=False)
    message: Any = field(init=False)
    timestamp: int = field(init=False)

    timestamp_ns: int = field(init=False, default=0, compare=False)
    host: str = field(init=False, default="", compare=False)
    duration_s: float | None = field(init=False, default=None, compare=False)
    exception: ExceptionRecord | None = field(init=False, default=None, compare=False)
    stacks: str = field(init=False, default="", compare=False)
    memory: MemoryState | None = field(init=False, default=None, compare=False)
    note: str = field(init=False, default="", compare=False)
    stderr_path: str = field(init=False, default="", compare=False)
    is_stopped: bool = field(init=False, default=False, compare=False)

    def __post_init__(self) -> None:
        self._read_error_file()
        if not self.message:
            if self.exitcode < 0:
                self.message = f"Signal {-self.exitcode} ({self.signal_name()}) received by PID {self.pid}"
            else:
                self.message = NO_TRACEBACK_HINT
            self.error_file_data["errorTraits"] = {"category": "system_terminated_error", "retryability": "False"}

    def _read_error_file(self) -> None:
        try:
            with open(self.error_file, encoding="utf-8") as file:
                data = json.load(file)
            message = data["message"]
            if isinstance(message, dict):
                self.timestamp = int(message["extraInfo"]["timestamp"])
            elif isinstance(message, str):
                self.timestamp = int(data.get("timestamp", 0))
            else:
                raise ValueError(f"its message is neither text nor an object: {message!r}")
        except FileNotFoundError:
            self._without_file()
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self.error_file:
                self._without_file()
                return
            self._without_file(keep_name=True)
            self.message = f"the error file {self.error_file} cannot be read: {type(error).__name__}: {error}"
            self.error_file_data = {"message": self.message}
        else:
            self.error_file_data = data
            self.message = message

    def _without_file(self, keep_name: bool = False) -> None:
        if not keep_name:
            self.error_file = NOT_AVAILABLE
        # A dict of its own: torch's shared one leaked traits into later failures (SEEDS section 18, 7).
        self.error_file_data = {"message": NO_DATA}
        self.message = ""
        self.timestamp = int(time.time())

    def __repr__(self) -> str:
        """Short, without torch's fields: `<ProcessFailure: local_rank 1, pid 7, exit code 1, ValueError: bad>`."""
        message = self.message.get("message") if isinstance(self.message, dict) else self.message
        text = str(message or "")
        if self.exception is not None:
            text = f"{self.exception.type_name}: {self.exception.message}"
        elif text == NO_TRACEBACK_HINT:
            text = self.note
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        if len(first) > _LONGEST_IN_REPR:
            first = first[: _LONGEST_IN_REPR - 3] + "..."
        said = [
            f"local_rank {self.local_rank}",
            f"pid {self.pid}",
            f"exit code {self.exitcode}",
            *([first] * bool(first)),
        ]
        return f"<ProcessFailure: {', '.join(said)}>"

    def signal_name(self) -> str:
        """`SIGKILL` and so on for an end by signal; `<N/A>` for an exit code or an unknown number."""
        if self.exitcode < 0:
            try:
                return signal.Signals(-self.exitcode).name
            except ValueError:
                return NOT_AVAILABLE
        return NOT_AVAILABLE

    def timestamp_isoformat(self) -> str:
        """The time of failure in local time, `YYYY-MM-DD_HH:MM:SS`."""
        return time.strftime("%Y-%m-%d_%H:%M:%S", time.localtime(self.timestamp))
