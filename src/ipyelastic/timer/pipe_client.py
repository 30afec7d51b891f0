"""A worker's end of timers over a named pipe: one line of JSON per request, short enough to be written whole.

    FileTimerClient -> {"version": 1, "pid": 7, "scope_id": "step", "expiration_time": 1.5, "signal": 9} -> named pipe

Runs in: ranks, any thread or child. Other end: `pipe_server.py`; the line's fields are torch's, either end may be.
Source: torch 2.13 for names, fields and texts; checked against torch's own ends by tests/compat/test_timer.py.
"""

from __future__ import annotations

import errno
import json
import os
import select
import time
from signal import SIGKILL
from typing import Any

from .countdown import TimerClient, TimerRequest

__all__ = ["FileTimerRequest", "FileTimerClient"]

_TRIES = 10
_BETWEEN_TRIES_S = 0.1
_LATER = (errno.ENXIO, errno.ENOENT, errno.EAGAIN, errno.EPIPE)  # no reader, no pipe yet, pipe full, reader left


class FileTimerRequest(TimerRequest):
    """What a worker asks for through the pipe.

    Args:
        worker_pid: Of the worker.
        scope_id: Which of its timers; one by the same name is replaced.
        expiration_time: Seconds since 1970; negative: the timer is released.
        signal: What ends the worker when the time is up; 0 or below: nothing does.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    __slots__ = ["signal", "version"]

    def __init__(self, worker_pid: int, scope_id: str, expiration_time: float, signal: int = 0) -> None:
        super().__init__(worker_pid, scope_id, expiration_time)
        self.version = 1
        self.signal = signal

    @property
    def worker_pid(self) -> int:
        """The worker's id."""
        pid: int = self.worker_id
        return pid

    def to_json(self) -> str:
        """The request as it is written, without the line's end."""
        return json.dumps(
            {
                "version": self.version,
                "pid": self.worker_pid,
                "scope_id": self.scope_id,
                "expiration_time": self.expiration_time,
                "signal": self.signal,
            }
        )

    @staticmethod
    def from_json(line: str | bytes) -> FileTimerRequest:
        """The request of such a line; fields of later versions are ignored.

        Raises ValueError for anything else, a pid that is none (0 and below are groups of processes) included.
        """
        fields = json.loads(line)
        try:
            pid, scope = fields["pid"], fields["scope_id"]
            expires, signum = fields["expiration_time"], fields["signal"]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{line!r} is no timer request: {error!r}") from error
        if not (_is_number(pid, int) and pid > 0 and isinstance(scope, str)):
            raise ValueError(f"{line!r} is no timer request: expected the pid of one process and a scope's name")
        if not (_is_number(expires, (int, float)) and _is_number(signum, int)):
            raise ValueError(f"{line!r} is no timer request: expected a time and a signal's number")
        return FileTimerRequest(pid, scope, expires, signum)


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value == value


class FileTimerClient(TimerClient):
    """A worker's end; its pid is its id.

    Args:
        file_path: The pipe that a `FileTimerServer` on this machine made.
        signal: What ends the worker when its time is up; 0 or below: nothing does, the server only logs it.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(self, file_path: str, signal: int = SIGKILL) -> None:
        self._file_path = file_path
        self.signal = signal

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Ask for a timer.

        Args:
            scope_id: Its name; one by the same name is replaced.
            expiration_time: When it runs out, a time of `time.time()`.

        Raises:
            BrokenPipeError: No server reads the pipe, or none had room in it, for a second.
            RuntimeError: The request is longer than what a pipe takes whole (4096 bytes on Linux).
        """
        self._send_request(FileTimerRequest(os.getpid(), scope_id, expiration_time, int(self.signal)))

    def release(self, scope_id: str) -> None:
        """Release the timer of the name `scope_id`; errors as `acquire`'s."""
        self._send_request(FileTimerRequest(os.getpid(), scope_id, -1, 0))

    def _send_request(self, request: FileTimerRequest) -> None:
        text = request.to_json()
        line = text.encode() + b"\n"
        if len(line) > select.PIPE_BUF:  # longer ones of two workers could be written into each other
            raise RuntimeError(f"FileTimerRequest larger than {select.PIPE_BUF} bytes is not supported: {text}")
        for left in reversed(range(_TRIES)):
            try:
                self._write(line)
                return
            except OSError as error:
                if error.errno not in _LATER or not left:
                    raise BrokenPipeError(
                        "Could not send the FileTimerRequest because FileTimerServer is not available."
                    ) from error
            time.sleep(_BETWEEN_TRIES_S)

    def _write(self, line: bytes) -> None:
        # Without O_NONBLOCK this would wait, for ever perhaps, for a server that reads.
        fd = os.open(self._file_path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, line)  # whole or not at all: it is no longer than PIPE_BUF
        finally:
            os.close(fd)
