"""`run.json`: what a run was and how it ended, beside its log files; enough for a bug report.

    events -> [here] -> <log_dir>/run.json     written soon after the start, soon after all ranks are up, and at the end

Runs in: owner; the first two times in the thread that follows the output, so that no rank waits for it, and a run that
is over at once writes its end only. Each time the whole file is written aside and put in place, so that a reader never
meets half of one, and nobody else can read it. Arguments, values and the environment are not in it; what was given with
`env=` is, less the values of names that look like secrets.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..agent.attempts import Attempt
from ..launcher.options import RunOptions
from ..terms.errors import ChildFailedError, RunTimedOut
from ..terms.events import Event, RunNote, WorkerEnded, WorkerStarted
from ..terms.failure import ProcessFailure
from ..view.board import Board
from .folder import working_folder

__all__ = ["RunRecord", "FILE_NAME"]

FILE_NAME = "run.json"
_FORMAT = 1
_SOON_S = 0.05  # what happened longer ago than this is in the file
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_WORTH_NAMING = ("ipyelastic", "ipykernel", "IPython", "cloudpickle", "numpy", "torch", "jax", "accelerate")


class RunRecord:
    """Keeps one run's `run.json` up to date. A sink; what cannot be written is said once by `take_trouble`."""

    def __init__(
        self,
        run_id: str,
        name: str,
        nproc: int,
        options: RunOptions,
        board: Board,
        attempts: Callable[[], Sequence[Attempt]],
    ) -> None:
        self._run_id, self._name, self._options = run_id, name, options
        self._cwd = working_folder() or ""
        self._nproc, self._board, self._attempts = nproc, board, attempts
        self._started_ns, self._began = time.time_ns(), time.monotonic()
        self._lock = threading.Lock()
        self._times: dict[int, dict[str, int]] = {}
        self._starts = 0
        self._due = math.inf
        self._path = ""
        self._paths: tuple[Mapping[int, str], Mapping[int, str]] = ({}, {})
        self._trouble = ""

    def __call__(self, event: Event) -> None:
        """Take an event; after the last rank's start the file is due."""
        if isinstance(event, WorkerStarted):
            self._times[event.rank] = {"started": time.time_ns()}
            self._starts += 1
            if self._starts % self._nproc == 0:  # of this attempt the last
                self._due = time.monotonic() + _SOON_S
        elif isinstance(event, WorkerEnded):
            self._times.setdefault(event.rank, {})["ended"] = time.time_ns()

    def begin(self, folder: str, stdouts: Mapping[int, str], stderrs: Mapping[int, str]) -> None:
        """The run's folder and its ranks' files are known."""
        self._path = os.path.join(folder, FILE_NAME) if folder else ""
        self._paths = (stdouts, stderrs)
        self._due = time.monotonic() + _SOON_S

    def write_if_due(self) -> None:
        """Write what there is, when something new happened and the run goes on. Called often, by one thread."""
        if time.monotonic() >= self._due:
            self._due = math.inf
            self.write("running")

    def end(self, status: str, error: BaseException | None, values: Mapping[int, Any]) -> None:
        """Write the end."""
        self.write(status, error, values, is_over=True)

    def take_trouble(self) -> RunNote | None:
        """Why the file could not be written, once."""
        trouble, self._trouble = self._trouble, ""
        return RunNote(trouble) if trouble else None

    def write(
        self,
        status: str,
        error: BaseException | None = None,
        values: Mapping[int, Any] | None = None,
        *,
        is_over: bool = False,
    ) -> None:
        """Put a new file in the place of the old one."""
        if not self._path:
            return
        with self._lock:
            text = _text_of(self._data(status, error, values or {}, is_over))
            aside = f"{self._path}.new"
            try:
                with open(aside, "w", encoding="utf-8", errors="backslashreplace", opener=_open_private) as file:
                    file.write(text)
                os.replace(aside, self._path)
            except OSError as failed:
                self._trouble = f"{self._path} could not be written: {failed.strerror or failed}"
                try:
                    os.unlink(aside)
                except OSError:
                    pass  # it was never made, or its folder is gone

    @functools.cached_property
    def _head(self) -> dict[str, Any]:
        """What stays the same, found out when it is first written: a launch need not wait for it."""
        return {
            "format": _FORMAT,
            "run_id": self._run_id,
            "name": self._name,
            "host": socket.gethostname(),
            "owner_pid": os.getpid(),
            "owner": os.path.basename(sys.argv[0]) if sys.argv else "",
            "cwd": self._cwd,
            "nproc": self._nproc,
            "options": _options(self._options),
            "versions": _versions(),
        }

    def _data(
        self, status: str, error: BaseException | None, values: Mapping[int, Any], is_over: bool
    ) -> dict[str, Any]:
        board = self._board.snapshot()
        duration_s = time.monotonic() - self._began
        return {
            **self._head,
            "status": status,
            "started": _iso(self._started_ns),
            "ended": _iso(self._started_ns + int(duration_s * 1e9)) if is_over else None,
            "duration_s": round(duration_s, 3) if is_over else None,
            "attempts": [_attempt(one) for one in self._attempts()],
            "ranks": [
                {
                    "rank": rank.rank,
                    "local_rank": rank.local_rank,
                    "host": rank.host or self._head["host"],
                    "pid": rank.pid,
                    "state": rank.state,
                    "exitcode": rank.exitcode,
                    "has_value": rank.rank in values,
                    "started": _iso(self._times.get(rank.rank, {}).get("started")),
                    "ended": _iso(self._times.get(rank.rank, {}).get("ended")),
                    "stdout": self._paths[0].get(rank.rank, ""),
                    "stderr": self._paths[1].get(rank.rank, ""),
                }
                for rank in board.ranks
            ],
            "notes": list(board.notes),
            "failure": None if error is None else _failure(error),
            "failed_ranks": _failed_ranks(error),
        }


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _text_of(data: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, rank and attempt: `json` itself is ten times slower where it indents."""
    lines = []
    for name, value in data.items():
        is_list = name in ("ranks", "attempts") and value
        told = "[\n  " + ",\n  ".join(map(_encode, value)) + "\n ]" if is_list else _encode(value)
        lines.append(f" {_encode(name)}: {told}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _options(options: RunOptions) -> dict[str, Any]:
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    fields["env"] = {name: "***" if _SECRET.search(name) else value for name, value in options.env.items()}
    fields["shown"] = None if options.shown is None else sorted(options.shown)
    fields["stop_signal"] = _signal_name(options.stop_signal)
    return {name: value if _is_plain(value) else repr(value) for name, value in fields.items()}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    """One start of all ranks; where its log files are follows from its folder."""
    folders = {os.path.dirname(os.path.dirname(path)) for path in attempt.stdouts.values() if path}
    return {
        "attempt": attempt.attempt,
        "folder": folders.pop() if len(folders) == 1 else "",
        "started": _iso(int(attempt.started * 1e9)),
        "ended": None if attempt.ended is None else _iso(int(attempt.ended * 1e9)),
        "failed_ranks": {
            str(rank): _of_rank(failure, is_short=True) for rank, failure in sorted(attempt.failures.items())
        },
        "why_not_restarted": attempt.why_not_restarted,
    }


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, dict, list))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _versions() -> dict[str, str]:
    """Of ourselves, Python, the machine, and what is imported already: nothing is imported for this."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _WORTH_NAMING:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        return {"rank": rank, **_of_rank(failure)}
    told: dict[str, Any] = {"rank": None, "type": type(error).__name__, "message": str(error), "traceback": ""}
    if isinstance(error, RunTimedOut):
        told["stacks"] = {str(rank): text for rank, text in error.stacks.items()}
    return told


def _failed_ranks(error: BaseException | None) -> dict[str, Any]:
    if not isinstance(error, ChildFailedError):
        return {}
    return {str(rank): _of_rank(failure, is_short=True) for rank, failure in sorted(error.failures.items())}


def _of_rank(failure: ProcessFailure, *, is_short: bool = False) -> dict[str, Any]:
    raised = failure.exception
    told: dict[str, Any] = {
        "type": raised.type_name if raised is not None else failure.signal_name() if failure.exitcode < 0 else None,
        "message": raised.message if raised is not None else failure.note or _text(failure.message),
        "exitcode": failure.exitcode,
        "is_stopped": failure.is_stopped,
    }
    if not is_short:
        told["traceback"] = raised.text if raised is not None else failure.stacks
        told["error_file"] = failure.error_file
    return told


def _text(message: Any) -> str:
    return str(message.get("message", "")) if isinstance(message, dict) else str(message or "")


def _iso(time_ns: int | None) -> str | None:
    """Local time with its offset, to the millisecond: `2026-11-20T22:19:30.125+01:00`."""
    if time_ns is None:
        return None
    seconds, rest = divmod(time_ns, 1_000_000_000)
    local = time.localtime(seconds)
    offset = local.tm_gmtoff // 60
    sign = "-" if offset < 0 else "+"
    hours, minutes = divmod(abs(offset), 60)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{rest // 1_000_000:03}{sign}{hours:02}:{minutes:02}"
