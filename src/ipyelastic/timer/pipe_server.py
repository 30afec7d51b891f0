"""The server of timers over a named pipe: reads what workers write, ends those whose time is up.

    worker: FileTimerClient -> named pipe -> [here, one thread] -> the signal that the worker asked for

Runs in: agent. Other end: `pipe_client.py`; the pipe's path is in the workers' environment (TORCHELASTIC_TIMER_FILE).
A worker that is ended this way is a failed worker to its agent, which goes on: torch's server ends its own process too.
Source: torch 2.13 for names, texts and the callback's words.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable

from .pipe_client import FileTimerRequest
from .timers import Timers, Workers, is_running

__all__ = ["FileTimerServer", "log_debug_info_for_expired_timers"]

logger = logging.getLogger("ipyelastic")

_READ_BYTES = 1 << 16  # what a pipe holds by default
_AFTER_ERROR_S = 1.0
_LONGEST_S = 3600.0  # poll() takes no infinity


class FileTimerServer:
    """Watches workers of this machine that know the pipe's path.

    Args:
        file_path: Of the named pipe, made here for this user alone. An empty file or a pipe of that name is replaced.
        run_id: Of the run, for the log.
        max_interval: Seconds after which workers that ended are looked for, at the latest.
        daemon: Whether the process may end while the thread runs.
        log_event: Called with "timer expired", and "kill worker process" or "unable to kill worker process", each with
            a timer that ran out, in the server's thread; with "watchdog started" and "watchdog stopped" and None in the
            caller's. What it raises is logged.

    Raises:
        FileExistsError: At `file_path` is something that holds data.
        OSError: The pipe cannot be made there.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """

    def __init__(
        self,
        file_path: str,
        run_id: str,
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
    ) -> None:
        self._file_path = file_path
        self._run_id = run_id
        self._max_interval = max_interval
        self._daemon = daemon
        self._log_event = log_event
        self._timers: Timers[FileTimerRequest] = Timers()
        self._workers = Workers()
        self._watchdog_thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._fd = -1
        self._wake_fds = (-1, -1)
        self._half_line = b""
        self._is_client_started = False
        self._last_progress_time = int(time.time())
        self._owner = os.getpid()
        self._make_pipe()

    # ------------------------------------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Begin to watch. Nothing when it watches already. Raises as the constructor, when the pipe is to be made."""
        if self._watchdog_thread is not None:
            return
        logger.info(
            "Starting %s... max_interval=%s, daemon=%s, file_path=%s",
            type(self).__name__,
            self._max_interval,
            self._daemon,
            self._file_path,
        )
        self._open()
        self._stopping.clear()
        self._watchdog_thread = threading.Thread(target=self._watchdog_loop, daemon=self._daemon)
        self._tell("watchdog started", None)  # before the thread has anything to tell
        self._watchdog_thread.start()

    def stop(self) -> None:
        """Stop watching and remove the pipe. Idempotent; it can be started again."""
        was_running = self._watchdog_thread is not None
        self._end_thread()
        self._close()
        if was_running:
            self._tell("watchdog stopped", None)

    def run_once(self) -> None:
        """Take what is in the pipe, end whose time is up, and stop."""
        self._end_thread()
        try:
            self._open()
            self._round()
        finally:
            self._close()

    def _end_thread(self) -> None:
        thread, self._watchdog_thread = self._watchdog_thread, None
        if thread is None or os.getpid() != self._owner:  # a fork has no thread, and the parent's must go on
            return
        logger.info("Stopping %s", type(self).__name__)
        self._stopping.set()
        os.write(self._wake_fds[1], b"\0")
        if thread is not threading.current_thread():  # `log_event` may stop the server
            thread.join()

    def _make_pipe(self) -> None:
        try:
            found = os.lstat(self._file_path)
        except FileNotFoundError:
            pass
        else:
            is_free = stat.S_ISFIFO(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_size == 0)
            if not is_free:
                raise FileExistsError(f"{self._file_path!r}: expected a path for the timers' pipe, this holds data")
            os.remove(self._file_path)
        os.mkfifo(self._file_path, 0o600)

    def _open(self) -> None:
        if self._fd >= 0:
            return
        if not os.path.exists(self._file_path):
            self._make_pipe()
        # For writing too: without a writer, poll() would report the pipe's end again and again.
        self._fd = os.open(self._file_path, os.O_RDWR | os.O_NONBLOCK)
        self._wake_fds = os.pipe()

    def _close(self) -> None:
        if os.getpid() == self._owner:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._file_path)
        for fd in (self._fd, *self._wake_fds):
            if fd >= 0:
                os.close(fd)
        self._fd, self._wake_fds, self._half_line = -1, (-1, -1), b""

    # ------------------------------------------------------------------------------------------------------ watching

    def _watchdog_loop(self) -> None:
        fds = select.poll()
        fds.register(self._fd, select.POLLIN)
        fds.register(self._wake_fds[0], select.POLLIN)
        while not self._stopping.is_set():
            try:
                wait_s = self._timers.seconds_to_next(time.time(), min(self._max_interval, _LONGEST_S))
                fds.poll(wait_s * 1000 + 1)
                if self._stopping.is_set():
                    return
                self._round()
            except Exception:
                logger.exception("Error running watchdog")
                self._stopping.wait(min(_AFTER_ERROR_S, self._max_interval))

    def _round(self) -> None:
        self.register_timers(self._get_requests())
        self.clear_timers({pid for pid, _ in list(self._timers) if self._workers.is_gone(pid)})
        expired = self.get_expired_timers(time.time())
        log_debug_info_for_expired_timers(
            self._run_id, {pid: self._get_scopes(requests) for pid, requests in expired.items()}
        )
        reaped = set()
        for pid, requests in expired.items():
            logger.warning("Reaping worker_pid=[%s]. Expired timers: %s", pid, self._get_scopes(requests))
            for request in requests:
                self._tell("timer expired", request)
            deadly = [request for request in requests if request.signal > 0]
            if not deadly:
                logger.info("No signal specified with worker=[%s]. Do not reap it.", pid)
                reaped.add(pid)
            elif self._reap_worker(pid, deadly[0].signal):
                logger.info("Successfully reaped worker=[%s] with signal=%s", pid, deadly[0].signal)
                self._tell("kill worker process", deadly[0])
                reaped.add(pid)
            else:
                logger.error("Error reaping worker=[%s]. Will retry on next watchdog.", pid)
                self._tell("unable to kill worker process", deadly[0])
        self.clear_timers(reaped)
        self._last_progress_time = int(time.time())

    def _get_requests(self) -> list[FileTimerRequest]:
        """What is in the pipe now."""
        written = self._half_line
        while True:
            try:
                read = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                break
            written += read
            if len(read) < _READ_BYTES:
                break
        *lines, self._half_line = written.split(b"\n")
        requests = []
        for line in filter(None, lines):
            try:
                requests.append(FileTimerRequest.from_json(line))
            except ValueError:
                logger.exception("a line in %s is no timer request", self._file_path)
        self._is_client_started = self._is_client_started or bool(requests)
        return requests

    def register_timers(self, timer_requests: list[FileTimerRequest]) -> None:
        """Start and release what `timer_requests` ask for."""
        for request in timer_requests:
            if request.expiration_time >= 0:
                self._workers.note(request.worker_pid)
        self._timers.take(timer_requests)

    def clear_timers(self, worker_pids: set[int]) -> None:
        """Forget all timers of these pids, `worker_pids`."""
        self._timers.drop(worker_pids)
        for pid in worker_pids:
            self._workers.forget(pid)

    def get_expired_timers(self, deadline: float) -> dict[int, list[FileTimerRequest]]:
        """`{pid: timers}` that have run out at `deadline` (seconds since 1970), that instant included."""
        return self._timers.expired(deadline)

    def get_last_progress_time(self) -> int:
        """When the server last looked at its timers, in seconds since 1970; now, before the first request."""
        return self._last_progress_time if self._is_client_started else int(time.time())

    @staticmethod
    def is_process_running(pid: int) -> bool:
        """Whether there is a process with this pid."""
        return is_running(pid)

    def _reap_worker(self, worker_pid: int, signal: int) -> bool:
        if worker_pid <= 0 or self._workers.is_gone(worker_pid):
            logger.info("Process with pid=%s does not exist. Skipping", worker_pid)
            return True
        try:
            os.kill(worker_pid, signal)
        except ProcessLookupError:
            logger.info("Process with pid=%s does not exist. Skipping", worker_pid)
        except Exception:
            logger.exception("Error terminating pid=%s", worker_pid)
            return False
        return True

    def _get_scopes(self, timer_requests: list[FileTimerRequest]) -> list[str]:
        return [request.scope_id for request in timer_requests]

    def _tell(self, name: str, request: FileTimerRequest | None) -> None:
        if self._log_event is not None:
            try:
                self._log_event(name, request)
            except Exception:
                logger.exception("the timer server's log_event failed for %r", name)


def log_debug_info_for_expired_timers(run_id: str, expired_timers: dict[int, list[str]]) -> None:
    """Log which timers ran out; nothing for none.

    Args:
        run_id: Of the run.
        expired_timers: `{pid: scopes}`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/timer.html.
    """
    if expired_timers:
        logger.info("Timers expired for run:[%s] [%s].", run_id, expired_timers)
