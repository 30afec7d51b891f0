"""The fork server's own process: import what is to be warm, then fork, reap and report until the owner is gone.

    client --control socket--> [here] --fork--> ranks
              run channels <--- group.py

Runs in: its own session, one thread; started by forkserver/client.py as `python -c`.
Other end: client.py speaks to the control socket, contexts through Launched to the run channels.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from ..payload import body as _body  # noqa: F401  # loaded here once, so that no rank has to
from ..payload import family as _family  # noqa: F401  # likewise
from ..process.descriptors import receive_with, send_with
from ..process.orphans import become_subreaper, children_of, libc
from ..process.stop import kill_group, kill_marked, send
from ..terms import env
from ..terms.policy import Policy
from ..worker import prepare_rehearsal
from .group import Group
from .pages import collapsing
from .spares import Spares

__all__ = ["main"]

OWNER_GONE_GRACE_S = 0.15  # what ranks get to end by themselves when their owner is dead
IMPORTING_AT = 1 << 24  # where in the file that stdout is stands what is being imported
_MAX_MESSAGE = 1 << 16  # bytes
_MAX_FDS = 8  # channel, call (3), values, status, stdout and stderr
_REFILL_S = 0.25  # after a launch, while runs live: its ranks have the processors to themselves until then


def main(control_fd: int, owner_pid: int) -> NoReturn:
    """Serve one owner. Returns never: the process ends with its owner, or when told to."""
    # What the owner ignores and blocks came along: without SIGCHLD no rank's end would be noticed.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    os.chdir("/")  # hold no folder of the owner's
    become_subreaper()
    libc()
    owner_fd = _watch_owner(control, owner_pid)
    first = json.loads(control.recv(_MAX_MESSAGE))
    ready = _preload(first, control, owner_fd)
    prepare_rehearsal()
    gc.collect()
    gc.freeze()  # a collection in a rank would otherwise touch, and so copy, every page
    ready["native_threads"] = _probe_fork(first["probe"])
    pages = collapsing() if first["preload"] else None
    Server(control, owner_fd, owner_pid, pages).run(ready)
    os._exit(0)


def _watch_owner(control: socket.socket, owner_pid: int) -> int:
    """A descriptor that becomes readable when the owner dies; -1 where the system has none."""
    fd = -1
    with contextlib.suppress(AttributeError, OSError):
        fd = os.pidfd_open(owner_pid)
    if os.getppid() != owner_pid:  # it died before we could look
        end_guarded(control)
        os._exit(0)
    return fd


def end_guarded(control: socket.socket) -> None:
    """The owner is gone: end the programs it asked us to guard in messages that nobody has read yet."""
    while True:
        try:
            data, fds = receive_with(control, _MAX_MESSAGE, _MAX_FDS, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            continue
        except OSError:
            return
        for fd in fds:
            os.close(fd)
        if not data:
            return
        message = json.loads(data)
        if message.get("op") == "guard":
            kill_marked(f"{env.RUN_MARK}={message['mark']}".encode())


# ---------------------------------------------------------------------------------------------------------- preloading


def _preload(first: dict[str, Any], control: socket.socket, owner_fd: int) -> dict[str, Any]:
    """Import what is to be warm. A helper thread ends the process if the owner dies meanwhile, and is gone after."""
    ready: dict[str, Any] = {"ev": "ready", "loaded": [], "failed": {}, "threaded": []}
    names = first["preload"]
    if not names:
        return ready
    wake_here, wake_there = os.pipe()
    watcher = threading.Thread(target=_die_with_owner, args=(control, owner_fd, wake_here), daemon=True)
    watcher.start()
    began = time.monotonic()
    import asyncio  # noqa: F401  # for bodies that await; a bare server is up sooner without

    import threadpoolctl  # noqa: F401  # ranks with BLAS libraries loaded use it (worker.py)

    sys.path[:] = first["sys_path"]
    for name in names:
        # Where the client looks if we die of it: far behind anything a package prints to the same file.
        os.pwrite(1, name.encode().ljust(256, b"\0"), IMPORTING_AT)
        threads_before = _thread_count()
        try:
            importlib.import_module(name)
            ready["loaded"].append(name)
        except BaseException as error:  # whatever a package does at import, SystemExit too: reported, not fatal
            ready["failed"][name] = f"{type(error).__name__}: {error}"[:300]
        if _thread_count() > threads_before:
            ready["threaded"].append(name)
    os.pwrite(1, bytes(256), IMPORTING_AT)
    os.write(wake_there, b".")
    watcher.join()
    os.close(wake_here)
    os.close(wake_there)
    ready["seconds"] = round(time.monotonic() - began, 3)
    return ready


def _die_with_owner(control: socket.socket, owner_fd: int, wake_fd: int) -> None:
    poller = select.poll()
    poller.register(control, select.POLLRDHUP | select.POLLHUP)
    poller.register(wake_fd, select.POLLIN)
    if owner_fd >= 0:
        poller.register(owner_fd, select.POLLIN)
    ready = [fd for fd, _ in poller.poll()]
    if wake_fd not in ready:
        end_guarded(control)
        os._exit(0)


def _probe_fork(is_wanted: bool) -> dict[str, Any]:
    """Fork once, and see what a rank would see: poisoned CUDA, and threads that this process did not lose by it."""
    if not is_wanted:
        return {}
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cuda = getattr(sys.modules.get("torch"), "cuda", None)
            is_bad = bool(cuda is not None and cuda._is_in_bad_fork())
            os.write(write_end, b"bad" if is_bad else b"good")
        finally:
            os._exit(0)
    os.close(write_end)
    word = os.read(read_end, 10)
    os.close(read_end)
    os.waitpid(pid, 0)
    return {"is_cuda_poisoned": word != b"good", "threads": _thread_count()}


def _thread_count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


# -------------------------------------------------------------------------------------------------------------- serving


class Server:
    """The loop of a fork server, or of the keeper of one forked run (contexts/owner_fork.py: no control socket)."""

    def __init__(
        self, control: socket.socket | None, owner_fd: int, owner_pid: int, pages: Iterator[None] | None = None
    ) -> None:
        self.control, self.owner_fd, self.owner_pid = control, owner_fd, owner_pid
        self.groups: dict[int, Group] = {}  # by run channel descriptor
        self.pages = pages if pages is not None else iter(())
        self.is_tidy = False
        self.has_owner = True
        self.is_leaving = False
        self._is_terminated = False
        self.guarded: set[str] = set()
        self.mark_address = _mark_address()
        self.spares = Spares(self.mark_address, self._announce)
        self._refill_at = 0.0
        self.wake_here, self.wake_there = socket.socketpair()
        for end in (self.wake_here, self.wake_there):
            end.setblocking(False)

    def take_over(self, group: Group) -> None:
        """Serve this one run, then leave."""
        self.groups[group.channel.fileno()] = group
        self.is_leaving = True

    def run(self, ready: dict[str, Any] | None = None) -> None:
        """Answer whatever becomes ready until there is nobody left to serve."""
        signal.set_wakeup_fd(self.wake_there.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.signal(signal.SIGTERM, self._terminated)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.wake_there.send(b".")  # a child may have ended before there was a handler to notice
        if self.control is not None:
            with contextlib.suppress(OSError):  # the owner has gone; what it sent before that is still to be read
                self.control.send(json.dumps({**(ready or {}), "pid": os.getpid()}).encode())
        while not (self.is_leaving and not self.groups and not self.guarded):
            for fd, events in self._wait():
                self._answer(fd, events)
            if self._is_terminated:
                self._is_terminated = False
                self._owner_gone(grace_s=0.0)
            self._reap()
            now = time.monotonic()
            for group in list(self.groups.values()):
                group.tick(now)
                group.sweep()
            self._forget_ended()
            if self._may_refill(now):
                self.spares.add()  # one a turn: a launch that comes meanwhile waits for one fork at most
        self.spares.end()
        self._end_strays()

    def _wait(self) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(self.wake_here, select.POLLIN)
        if self.has_owner:
            if self.control is not None:
                poller.register(self.control, select.POLLIN)
            if self.owner_fd >= 0:
                poller.register(self.owner_fd, select.POLLIN)
        for fd, group in self.groups.items():
            if group.is_heard:
                poller.register(fd, select.POLLIN | (select.POLLOUT if group.has_unsent else 0))
        times = [moment for group in self.groups.values() if (moment := group.next_time()) is not None]
        if self.has_owner and self.owner_fd < 0:
            times.append(time.monotonic() + 0.2)  # no pidfd: the parent's number is looked at
            if os.getppid() != self.owner_pid:
                self._owner_gone()
        if self.spares.is_short and not self.is_leaving and (self.is_tidy or self.groups):
            times.append(self._refill_at if self.groups else 0.0)
        wait_s = None if not times else max(0.0, min(times) - time.monotonic())
        if not self.groups and not self.is_tidy:
            self.is_tidy = next(self.pages, self) is self
            wait_s = 0.0
        return poller.poll(None if wait_s is None else int(wait_s * 1000) + bool(wait_s))

    def _may_refill(self, now: float) -> bool:
        """No descriptor of a call is held here (Group.start has closed them), and a fork is in nobody's way."""
        if self.is_leaving or not self.spares.is_short:
            return False
        return now >= self._refill_at if self.groups else self.is_tidy

    def _answer(self, fd: int, events: int) -> None:
        if fd == self.wake_here.fileno():
            with contextlib.suppress(BlockingIOError):
                while self.wake_here.recv(4096):
                    pass
        elif fd == self.owner_fd:
            self._owner_gone()
        elif self.control is not None and fd == self.control.fileno():
            self._control(self.control)
        elif fd in self.groups:
            self._run_channel(self.groups[fd], events)

    def _control(self, control: socket.socket) -> None:
        try:
            data, fds = receive_with(control, _MAX_MESSAGE, _MAX_FDS)
        except ConnectionError:
            data, fds = b"", []
        if not data:
            self._owner_gone()
            return
        message = json.loads(data)
        if message["op"] == "run":
            channel_fd, *for_ranks = fds
            channel = socket.socket(fileno=channel_fd)
            group = Group(channel, message["mark"], message["nprocs"], Policy(**message["policy"]))
            self.groups[channel_fd] = group
            group.start(for_ranks, message["ranks"], message["command"], self.mark_address, self.spares)
            if message["spares"] is not None:
                self.spares.want(message["spares"])
                self.spares.dismiss(message["dismissed"])
            self._refill_at = time.monotonic() + _REFILL_S
        elif message["op"] == "spares":
            self.spares.want(message["count"])
        elif message["op"] == "dismiss":
            self.spares.dismiss(message["pids"])
        elif message["op"] == "guard":
            self.guarded.add(message["mark"])
        elif message["op"] == "unguard":
            self.guarded.discard(message["mark"])
        elif message["op"] == "leave":
            self.is_leaving = True
            self.spares.end()
        elif message["op"] == "quit":
            self._owner_gone(grace_s=0.0)

    def _announce(self, pid: int, end: socket.socket) -> bool:
        if self.control is None or not self.has_owner:
            return False
        message = json.dumps({"ev": "spare", "pid": pid}).encode()
        try:
            send_with(self.control, message, [end.fileno()], socket.MSG_DONTWAIT)
        except OSError:  # it has gone, or has not looked for a long time
            return False
        return True

    def _run_channel(self, group: Group, events: int) -> None:
        if events & select.POLLOUT:
            group.send_reports()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = group.channel.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                group.request(json.loads(data))
            else:
                group.is_heard = False
                group.owner_gone(OWNER_GONE_GRACE_S)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.spares.buried(pid, status):
                continue
            for group in self.groups.values():
                if pid in group.alive:
                    group.exited(pid, status)
                    break

    def _forget_ended(self) -> None:
        for fd, group in list(self.groups.items()):
            if group.is_ended and not group.has_unsent:
                del self.groups[fd]
                group.channel.close()
        if not self.groups:
            self._end_strays()

    def _end_strays(self) -> None:
        """With no run alive, a child that we do not know has hidden from its run: session and environment wiped."""
        for pid in children_of(os.getpid()):
            if pid in self.spares:
                continue
            kill_group(pid)
            send(pid, signal.SIGKILL)

    def _owner_gone(self, grace_s: float = OWNER_GONE_GRACE_S) -> None:
        self.has_owner = False
        self.is_leaving = True
        if self.control is not None:
            end_guarded(self.control)
        for mark in self.guarded:  # programs the owner started itself (contexts/commands.py)
            kill_marked(f"{env.RUN_MARK}={mark}".encode())
        self.guarded.clear()
        for group in self.groups.values():
            group.owner_gone(grace_s)

    def _terminated(self, signum: int, frame: object) -> None:
        self._is_terminated = True


def _mark_address() -> int:
    """Where this process's environment block holds its run mark, for ranks to write their own over it (0: nowhere)."""
    getenv = libc().getenv
    getenv.restype = ctypes.c_void_p
    return getenv(env.RUN_MARK.encode()) or 0
