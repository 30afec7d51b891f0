"""One fork server process, from its owner's side: started, spoken to, looked after, ended.

    client > [here] --Popen--> server.py

Runs in: owner, any thread.
Other end: server.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ..process.descriptors import receive_with, send_with
from ..process.signals import NO_SIGPIPE
from ..terms import env
from ..terms.errors import ServerError
from .edits import Edits
from .handover import Handover
from .preload import file_state, file_states, module_files

__all__ = ["ServerProcess", "close_in_children", "hand_on_stdin", "python_command", "import_environment"]

NO_RUN = "0" * 8  # the run number in a server's own mark; every mark has the same length
_MAX_MESSAGE = 1 << 16
IMPORTING_AT = 1 << 24  # as in server.py, which this side must not import
_LOOK_AGAIN_S = 2.0  # between two looks at the files a server has imported

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_pidfds: set[int] = set()


def _close_in_child() -> None:
    """A child the owner forks without exec must not keep our ends open: the server would never see the owner die."""
    for end in list(_sockets):
        end.close()
    for fd in list(_pidfds):
        with contextlib.suppress(OSError):
            os.close(fd)
    _pidfds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def close_in_children(end: socket.socket) -> None:
    """Have a socket of ours closed in every child that this process forks without exec."""
    _sockets.add(end)


_ranks_stdin: int | None = subprocess.DEVNULL


def hand_on_stdin() -> None:
    """Have servers that are started from now on, and so their ranks, read what this process reads. For a command, whose
    process is its own; else ranks read the null device."""
    global _ranks_stdin
    if sys.stdin is not None:  # `<&-`: the number may be anything of ours by now
        _ranks_stdin = None


class ServerProcess:
    """One server process, from its owner's side."""

    def __init__(self, owner_mark: str, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self.preload = tuple(preload)
        self.fingerprint = import_environment(environment)
        self._edits = Edits(module_files(preload), sys.path)  # heard of from before the first look on
        if self._edits.fd >= 0:
            _pidfds.add(self._edits.fd)
        self._files = file_states(preload)
        self._looked_at = time.monotonic()
        self._has_edits = False
        self.ready: dict[str, Any] | None = None
        self.runs: set[str] = set()  # marks of runs whose ranks it holds
        self._handover, self._keep = Handover(close_in_children), 0
        self._lock = threading.Lock()
        here, there = map(_above_standard, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        close_in_children(here)
        self.control = here
        self._errors = os.memfd_create("ipyelastic-server", os.MFD_CLOEXEC)
        command = python_command("from ipyelastic.forkserver.server import main; main(int(argv[1]), int(argv[2]))")
        child_env = {
            **environment,
            env.RUN_MARK: f"{owner_mark}-{NO_RUN}",
            # What a preloaded library reads once; ranks get their own numbers back (worker.py).
            env.OMP_NUM_THREADS: "1",
            env.OPENBLAS_NUM_THREADS: "1",
            env.NVML_CUDA_CHECK: "1",
            env.MPLBACKEND: "agg",
        }
        try:
            self.process = subprocess.Popen(
                [*command, str(there.fileno()), str(os.getpid())],
                pass_fds=[there.fileno()],
                stdin=_ranks_stdin,
                stdout=self._errors,
                stderr=self._errors,
                env=child_env,
                start_new_session=True,
            )
        except OSError as error:
            here.close()
            os.close(self._errors)
            _pidfds.discard(self._edits.fd)
            self._edits.close()
            raise ServerError(f"the fork server could not be started: {error}") from error
        finally:
            there.close()
        self.pid = self.process.pid
        self.pidfd = -1
        with contextlib.suppress(AttributeError, OSError):
            self.pidfd = os.pidfd_open(self.pid)
            _pidfds.add(self.pidfd)
        # The whole sys.path minus whatever is relative: preloading takes nothing from the working directory.
        sys_path = [entry for entry in sys.path if os.path.isabs(entry)]
        self.tell({"preload": list(preload), "sys_path": sys_path, "probe": bool(preload)})

    def tell(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one control message. Raises ServerError when the server is gone."""
        data = json.dumps(message).encode()
        try:
            with self._lock:
                if fds:
                    send_with(self.control, data, fds)
                else:
                    self.control.send(data, NO_SIGPIPE)
        except OSError as error:
            raise ServerError(self.death()) from error

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether it has said that it is ready, waiting at most that long. Raises ServerError when it died first."""
        if self.ready is not None:
            return True
        poller = select.poll()
        poller.register(self.control, select.POLLIN | select.POLLHUP)
        if self.pidfd >= 0:
            poller.register(self.pidfd, select.POLLIN)
        if not poller.poll(max(0, timeout_s) * 1000):
            return False
        with self._lock:
            if self.ready is None:
                try:
                    data = self.control.recv(_MAX_MESSAGE, socket.MSG_DONTWAIT)
                except OSError:
                    data = b""
                if not data:
                    raise ServerError(self.death())
                self.ready = json.loads(data)
        return True

    def keep(self, count: int) -> None:
        """Have it keep so many spares. Raises ServerError when it is gone."""
        with self._lock:
            self._keep = count
        self.tell({"op": "spares", "count": count})

    def hand_over(self, nprocs: int, fds: Sequence[int], keep: int) -> tuple[list[int], list[int]]:
        """Make ranks of its spares (see Handover.hand_over); and the pids of those that are too many.

        `keep`: how many it is to keep from now on.
        """
        with self._lock:
            self._take_in()
            self._keep = keep
            return self._handover.hand_over(nprocs, fds), self._handover.dismiss(keep)

    def tell_ahead(self, nprocs: int, fds: Sequence[int]) -> list[int]:
        """See Handover.tell_ahead."""
        with self._lock:
            return self._handover.tell_ahead(nprocs, fds)

    def count_spares(self) -> int:
        """How many it has announced that live."""
        with self._lock:
            self._take_in()
            return self._handover.count()

    def has_spares(self, pids: Sequence[int]) -> bool:
        """See Handover.are_there."""
        with self._lock:
            return self._handover.are_there(pids)

    def take_spares(self, count: int) -> list[socket.socket]:
        """See Handover.take."""
        with self._lock:
            return self._handover.take(count)

    def dismiss(self, keep: int) -> list[int]:
        """Keep so many from now on; returns the pids of those that are too many, which the server is to end."""
        with self._lock:
            self._take_in()
            self._keep = keep
            return self._handover.dismiss(keep)

    def wait_announced(self, timeout_s: float) -> None:
        """Until the server says something, at most that long."""
        poller = select.poll()
        with contextlib.suppress(ValueError):  # it was stopped just now
            poller.register(self.control, select.POLLIN)
            poller.poll(timeout_s * 1000)

    def trim(self) -> None:
        """Let go of spares that it made while it was being told that it has too many."""
        with self._lock:
            self._take_in()
            gone = self._handover.dismiss(self._keep)
        if gone:
            with contextlib.suppress(ServerError):
                self.tell({"op": "dismiss", "pids": gone})

    def _take_in(self) -> None:
        """Whatever it has announced since the last look."""
        with contextlib.suppress(OSError):  # there is nothing, or it is gone: the next message will say so
            while self.ready is not None:
                data, ends = receive_with(self.control, _MAX_MESSAGE, 1, socket.MSG_DONTWAIT)
                if not data:
                    return
                self._handover.take_in(json.loads(data)["pid"], *ends)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_stale(self) -> bool:
        """Whether a file it has imported was changed since (`pip install --upgrade`, an edit in site-packages)."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_AGAIN_S:
            return False
        self._looked_at = now
        if not self._files or not (self._edits.may_be or self._has_edits):
            return False
        self._has_edits = any(file_state(path) != state for path, state in self._files.items())
        return self._has_edits

    def look_again(self) -> None:
        """Have the next `is_stale` look, however soon it comes."""
        self._looked_at = -_LOOK_AGAIN_S

    def death(self) -> str:
        """What is known about the end of this server, as one sentence."""
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(1.0)
        how = (
            "is not answering"
            if code is None
            else f"was killed by signal {-code}"
            if code < 0
            else f"exited with {code}"
        )
        said = ""
        with contextlib.suppress(OSError):
            said = os.pread(self._errors, 4000, 0).decode("utf-8", "replace").strip()
        return f"the fork server (pid {self.pid}) {how}" + (f"; it said:\n{said}" if said else "")

    def importing(self) -> str:
        """The module it is importing, or was when it died; empty for none."""
        with contextlib.suppress(OSError):
            return os.pread(self._errors, 256, IMPORTING_AT).rstrip(b"\0").decode("utf-8", "replace")
        return ""

    def stop(self, is_polite: bool = True) -> None:
        """End it and give back what it cost here. Its ranks go with it."""
        if is_polite and self.is_alive:
            with contextlib.suppress(ServerError):
                self.tell({"op": "quit"})
        self.control.close()
        with self._lock:
            self._handover.dismiss(0)
        try:
            self.process.wait(3.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for fd in (self.pidfd, self._errors):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        for fd in (self.pidfd, self._edits.fd):
            _pidfds.discard(fd)
        self._edits.close()
        self.pidfd = self._errors = -1

    def leave(self) -> None:
        """Let it go when its last rank has."""
        with self._lock:
            self._handover.dismiss(0)
        with contextlib.suppress(ServerError):
            self.tell({"op": "leave"})


def _above_standard(end: socket.socket) -> socket.socket:
    """It under a number above 2: in a process whose standard streams are closed those are the first to be given, and
    what is started from it has its own there."""
    if end.fileno() > 2:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def import_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that a process must have been started with (OMP_*, LD_*, PYTHON*, ...)."""
    return {name: environment[name] for name in env.names_read_at_import(environment)}


def python_command(code: str) -> list[str]:
    """This Python with this package importable and nothing else changed, running `code` with `argv` at hand."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # An empty entry is the working directory, where a stray random.py must not be ours to import.
    prelude = f"import sys; sys.path[:] = [p for p in sys.path if p]; {home!r} in sys.path or sys.path.append({home!r})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    return [sys.executable, *flags, "-c", f"{prelude}; argv = sys.argv; {code}"]
