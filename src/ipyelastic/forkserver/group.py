"""The ranks of one run, as their fork server holds them: forked, watched, asked, killed, cleaned up after.

    server --fork--> ranks;   waitpid -> exited() -> policy -> run channel -> owner

Runs in: fork server. Imports nothing after the first fork; never blocks.
Other end: forkserver/client.py's Launched reads the run channel.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from os import _exit  # by our own name: a rank's code may replace the one in `os`
from typing import Any

from .. import worker
from ..payload.delivery import CallFds, read_head
from ..process.orphans import children_of, environment_has, is_zombie_or_gone, session_of
from ..process.semaphores import remove_semaphores
from ..process.signals import DUMP_SIGNAL, NO_SIGPIPE
from ..process.stop import kill_group, send
from ..terms import env
from ..terms.policy import Policy
from .fork import fork_into
from .spares import Spares

__all__ = ["Group"]

_DUMP_S = 0.15  # how long ranks have to write their stacks at a time limit before they are asked to end
_SWEEP_S = 2.0  # how long killed strays may take to go (uninterruptible sleep) before they are named and left


class Group:
    """One run's ranks. All times are of the monotonic clock, in seconds; reports carry nanoseconds."""

    def __init__(self, channel: socket.socket, run_mark: str, nprocs: int, policy: Policy) -> None:
        channel.setblocking(False)
        self.channel, self.run_mark, self.nprocs, self.policy = channel, run_mark, nprocs, policy
        self.pids: list[int] = []
        self.alive: dict[int, int] = {}  # pid -> local rank
        self.is_ended = False
        self.is_heard = True  # until the owner closes its end
        self._killed: set[int] = set()
        self._spares: Spares | None = None
        self._sent_sigkill: set[int] = set()  # ranks, by pid
        self._unsent: deque[bytes] = deque()
        self._status = -1
        self._why = ""
        self._kill_at: float | None = None
        self._dump_until: float | None = None
        self._deadline: float | None = None
        self._give_up_at: float | None = None

    # ------------------------------------------------------------------------------------------------------- starting

    def start(
        self, fds: Sequence[int], ready: Sequence[int], command: list[str] | None, mark_address: int, spares: Spares
    ) -> None:
        """Adopt the spares that the owner made ranks of, and fork the others; with `command` each execs that Python
        instead (start method spawn).

        `ready`: the spares' pids, by local rank.
        `fds`: the status page; and, where not all ranks are spares, the call's (CallFds), ranks' end of the value
        channel, and where streams without a log file go: the owner's own stdout and stderr, if it sent them. They are
        closed here. A fork that fails (`EAGAIN`, `ENOMEM`) ends the run with a report.
        """
        self._spares = spares
        self._status, *others = fds

        def enter(local_rank: int, parent: int) -> None:
            head_fd, call_fd, gate_fd, values_fd, *console = others
            call_fds = CallFds(head_fd, call_fd, gate_fd)
            for fd, own in enumerate(console, start=1):
                os.dup2(own, fd)
            if command is None:
                kept = worker.RankFds(values_fd, self._status)
                worker.run_forked(local_rank, call_fds, kept, parent, mark_address)
            self._exec(command, local_rank, call_fds, values_fd, parent)

        ended = {pid: spares.adopt(pid) for pid in ready}
        try:
            self._start_each(enter, ready)
        finally:
            for fd in others:
                os.close(fd)
        for pid, status in ended.items():
            if status is not None:
                self.exited(pid, status)

    def _start_each(self, enter: Callable[[int, int], None], ready: Sequence[int] = ()) -> None:
        parent = os.getpid()
        try:
            for local_rank in range(self.nprocs):
                is_ready = local_rank < len(ready)
                pid = ready[local_rank] if is_ready else fork_into(functools.partial(enter, local_rank, parent))
                self.pids.append(pid)
                self.alive[pid] = local_rank
        except OSError as error:
            self.report(ev="start-failed", error=f"{type(error).__name__}: {error}")
            self.stop("start failed", grace_s=0.0)
        self.report(ev="started", pids=self.pids, time_ns=time.monotonic_ns())
        if not self.alive:
            self._begin_sweep()

    def begin_clock(self) -> None:
        """The call is on its way: the run's time limit counts from now."""
        if self.policy.timeout_s is not None and not self._why:
            self._deadline = time.monotonic() + self.policy.timeout_s

    def _exec(self, command: list[str], local_rank: int, call_fds: CallFds, values_fd: int, parent: int) -> None:
        kept = [*call_fds, values_fd, self._status]
        try:
            worker.isolate(kept)
            for fd in kept:
                os.set_inheritable(fd, True)
            given: worker.Circumstances = pickle.loads(read_head(call_fds.head))
            environment = {**given["base_env"], **given["envs"][local_rank], env.RUN_MARK: self.run_mark}
            numbers = [str(value) for value in (local_rank, parent, *kept)]
            os.execve(command[0], [*command, *numbers], environment)
        except BaseException as error:
            os.write(2, f"rank {local_rank} could not be started: {error}\n".encode())
        finally:
            _exit(127)

    # ---------------------------------------------------------------------------------------------------- what happens

    def exited(self, pid: int, status: int) -> None:
        """One of our ranks was reaped."""
        local_rank = self.alive.pop(pid)
        word, code = os.pread(self._status, 1, local_rank), os.waitstatus_to_exitcode(status)
        # A SIGKILL that is not ours had hit it before we asked it to end because of a peer: its sockets close before it
        # can be reaped, so a peer that lost its connection to it may fail, and be heard of, earlier.
        is_foreign = code == -signal.SIGKILL and pid not in self._sent_sigkill and self._why == "peer failed"
        self.report(
            ev="exit",
            rank=local_rank,
            pid=pid,
            code=code,
            time_ns=time.monotonic_ns(),
            why="" if is_foreign else self._why,
        )
        is_fine = word == worker.WITH_VALUE or (self.policy.is_exit_0_fine and code == 0)
        if not is_fine and self.policy.fail_fast and not self._why:
            self.stop("peer failed")
        if not self.alive:
            self._begin_sweep()

    def stop(self, why: str, signum: int | None = None, grace_s: float | None = None) -> None:
        """Ask all ranks to end; kill what is left after the grace. A second call can only shorten it."""
        grace = self.policy.grace_s if grace_s is None else grace_s
        now = time.monotonic()
        if not self._why:
            self._why = why
            self.report(ev="stopping", why=why, time_ns=time.monotonic_ns())
        self._dump_until = None
        kill_at = now + grace
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        if grace > 0:
            for pid in self.alive:
                self._send(pid, self.policy.stop_signal if signum is None else signum)
                send(pid, signal.SIGCONT)
        else:
            self.tick(now)

    def kill(self, local_rank: int | None) -> None:
        """SIGKILL one rank, or all of them and their sessions."""
        for pid, rank in self.alive.items():
            if local_rank in (None, rank):
                self._send(pid, signal.SIGKILL)

    def _send(self, pid: int, signum: int) -> None:
        if signum == signal.SIGKILL:
            self._sent_sigkill.add(pid)
        send(pid, signum)

    def request(self, message: dict[str, Any]) -> None:
        """Do what the owner asks on the run channel."""
        kind = message["op"]
        if kind == "stop":
            why = message.get("why", "stopped")
            if not (self._why and why == "peer failed"):
                self.stop(why, message.get("signal"), message.get("grace_s"))
        elif kind == "kill":
            if message.get("rank") is None:
                self.stop("stopped", grace_s=0.0)
            else:
                self.kill(message["rank"])
        elif kind == "signal":
            for pid, rank in self.alive.items():
                if message.get("rank") in (None, rank):
                    self._send(pid, message["signal"])
        elif kind == "called":
            self.begin_clock()
        elif kind == "close":
            self.stop("closed", grace_s=0.0)

    def owner_gone(self, grace_s: float) -> None:
        """Nobody will read our reports: end everything soon."""
        if not self.is_ended:
            self.stop("owner gone", grace_s=grace_s)

    # ----------------------------------------------------------------------------------------------------------- time

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest, None for never."""
        times = [self._kill_at, self._dump_until, self._deadline, self._give_up_at]
        return min((moment for moment in times if moment is not None), default=None)

    def tick(self, now: float) -> None:
        """Do whatever is due."""
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            if self.alive and not self._why:
                self._why = "timed out"
                self.report(ev="stopping", why=self._why, time_ns=time.monotonic_ns())
                for pid in self.alive:
                    send(pid, DUMP_SIGNAL)
                self._dump_until = now + _DUMP_S
        if self._dump_until is not None and now >= self._dump_until:
            self.stop("timed out")
        if self._kill_at is not None and now >= self._kill_at and self.alive:
            self._kill_at = None
            for pid in self.alive:
                kill_group(pid)
                self._send(pid, signal.SIGKILL)  # in case it has not reached its setsid yet
        if self._give_up_at is not None and now >= self._give_up_at:
            self._end()

    # ---------------------------------------------------------------------------------------------------------- strays

    def _begin_sweep(self) -> None:
        self._kill_at = self._dump_until = self._deadline = None
        self._give_up_at = time.monotonic() + _SWEEP_S
        self.sweep()

    def sweep(self) -> None:
        """Kill what the ranks left behind; the run has ended when a look finds nothing. Called after every reaping.

        The topmost living process of whatever they left has become our own child (we are its subreaper), so looking
        at our children is enough: killing one brings up those below it.
        """
        if self.alive or self.is_ended or self._give_up_at is None:
            return
        strays = self._strays()
        self._killed |= set(strays)
        for pid in strays:
            session = session_of(pid)
            if session in self.pids:
                kill_group(session)
            send(pid, signal.SIGKILL)
        if not strays:
            self._end()

    def _strays(self) -> list[int]:
        # One that is dying has no environment any more and is no zombie yet: it is known by its pid.
        spares = self._spares or ()
        others = (pid for pid in children_of(os.getpid()) if pid not in spares)
        return [pid for pid in others if self.owns(pid) or self._is_dying(pid)]

    def _is_dying(self, pid: int) -> bool:
        return pid in self._killed and not is_zombie_or_gone(pid)

    def owns(self, pid: int) -> bool:
        """Whether an adopted process comes from this run: by its session, or by the mark in its environment."""
        if is_zombie_or_gone(pid):
            return False
        return session_of(pid) in self.pids or environment_has(pid, f"{env.RUN_MARK}={self.run_mark}".encode())

    def _end(self) -> None:
        left = self._strays()
        remove_semaphores(self.run_mark)
        self.is_ended = True
        self._give_up_at = None
        os.close(self._status)
        self.report(ev="ended", left=left, time_ns=time.monotonic_ns())

    # ---------------------------------------------------------------------------------------------------------- reports

    def report(self, **fields: Any) -> None:
        """Tell the owner; what its full socket does not take waits here."""
        self._unsent.append(json.dumps(fields).encode())
        self.send_reports()

    def send_reports(self) -> None:
        """Send what waits. An owner that has gone takes it with it."""
        while self._unsent:
            try:
                self.channel.send(self._unsent[0], NO_SIGPIPE)
            except BlockingIOError:
                return
            except OSError:
                self.is_heard = False
                self._unsent.clear()
                return
            self._unsent.popleft()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)
