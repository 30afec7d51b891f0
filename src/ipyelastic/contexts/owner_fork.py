"""Start method fork: ranks forked from the owner's own memory, kept by a process of their own.

    functions --start--> [here] --os.fork--> keeper (a fork server for this one run) --os.fork--> worker.run_in_fork

Runs in: owner, in the thread that forks; the keeper in its own session, for one run.
Other end: speaks as forkserver/client.Launched does; the keeper is forkserver/server's loop with one group.

The keeper is what makes fork as safe as the fork server: subreaper of whatever the ranks start, ended with the owner,
acting by itself. What stays unsafe is fork itself: the owner's threads and CUDA state do not survive it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NoReturn

from ..forkserver.group import Group
from ..forkserver.handle import close_in_children
from ..forkserver.handover import status_page
from ..forkserver.launched import Launched
from ..forkserver.server import Server
from ..payload.delivery import Load
from ..process.exits import drop_inherited_exits
from ..process.orphans import become_subreaper, is_zombie_or_gone
from ..terms.errors import ServerError
from ..terms.policy import Policy
from ..worker import Circumstances, RankFds, isolate, run_in_fork

__all__ = ["OwnerFork"]


class _Keeper:
    """The keeper process, from the owner's side; what Launched asks of a server."""

    def __init__(self, pid: int) -> None:
        self.pid, self.pidfd = pid, os.pidfd_open(pid)
        self.runs: set[str] = set()
        self._status: int | None = None

    @property
    def is_alive(self) -> bool:
        return not is_zombie_or_gone(self.pid)

    def death(self) -> str:
        self.bury()
        code = os.waitstatus_to_exitcode(self._status or 0)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        return f"the process that kept the forked ranks (pid {self.pid}) {how}"

    def trim(self) -> None:
        """It keeps no spares."""

    def bury(self) -> None:
        """Wait for its end and give its descriptor back. Idempotent."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            try:
                _, self._status = os.waitpid(self.pid, 0)
            except ChildProcessError:  # somebody else's waitpid(-1) in this process was faster
                self._status = 0


class OwnerFork(Launched):
    """One run whose ranks share the owner's memory as it was.

    Raises ServerError when the system refuses the fork.
    """

    def __init__(self, given: Circumstances, nprocs: int, load: Load, values_fd: int, policy: Policy) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        close_in_children(here)
        owner = os.getpid()
        # Blocked until the child has its own handlers: a signal between the fork and there would be lost.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _keep(given, nprocs, load, values_fd, policy, there, owner)
        except OSError as error:
            here.close()
            raise ServerError(f"the ranks could not be forked: {error}") from error
        finally:
            there.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        self._keeper = _Keeper(pid)
        super().__init__(self._keeper, here, given["run_mark"])

    def close(self) -> None:
        """As Launched.close; the keeper is waited for."""
        super().close()
        self._keeper.bury()


def _keep(
    given: Circumstances, nprocs: int, load: Load, values_fd: int, policy: Policy, channel: socket.socket, owner: int
) -> NoReturn:
    """In the keeper: fork the ranks, serve until the last is gone."""
    try:
        isolate([channel.fileno(), values_fd], has_owners_objects=True)
        drop_inherited_exits()
        become_subreaper()
        owner_fd = os.pidfd_open(owner)
        if os.getppid() != owner:
            os._exit(0)
        server = Server(None, owner_fd, owner)
        group = _ForkedGroup(channel, given["run_mark"], nprocs, policy)
        server.take_over(group)
        group.fork_all(given, load, values_fd)
        server.run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


class _ForkedGroup(Group):
    def fork_all(self, given: Circumstances, load: Load, values_fd: int) -> None:
        """`Group.start` for a process that has everything in memory already."""

        def enter(local_rank: int, parent: int) -> None:
            run_in_fork(given, local_rank, load, RankFds(values_fd, self._status), parent)

        self._status = status_page(self.nprocs)
        try:
            self._start_each(enter)
            self.begin_clock()
        finally:
            os.close(values_fd)

    def owns(self, pid: int) -> bool:
        """This process serves one run: whatever it has adopted is that run's."""
        return not is_zombie_or_gone(pid)
