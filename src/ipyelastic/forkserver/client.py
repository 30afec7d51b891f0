"""All fork servers of one owner: bring one up, warm a successor, hand a run to the right one.

    contexts/functions --launch--> [here] > handle (a server process), launched (a run on it)

Runs in: owner, any thread. No thread of its own: whoever waits for a run reads that run's channel.
Other end: server.py and group.py.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..payload.delivery import CallFds
from ..terms import env
from ..terms.errors import ServerError
from ..terms.policy import Policy
from .ahead import Ahead, guess
from .cost import idle_cost, spares_for
from .handle import NO_RUN, ServerProcess, import_environment, python_command
from .handover import status_page
from .launched import Launched
from .preload import is_fit, worth_preloading

if TYPE_CHECKING:
    from ..payload.circumstances import Circumstances

__all__ = ["ForkServers", "Launched", "servers"]

_AHEAD_S = 2.0  # how long spares are waited for that are to be told something ahead
_LOOK_S = 0.2  # between two looks whether there is still somebody to wait for
_READY_S = 60.0  # a server that has not come up by then never will
_RUN_DIGITS = len(NO_RUN)


class ForkServers:
    """All servers of this process: the one that takes new runs, the one being warmed, those with runs still alive."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.mark = secrets.token_hex(8)
        self._lock = threading.RLock()
        self._runs = 0
        self._current: ServerProcess | None = None
        self._warming: ServerProcess | None = None
        self._leaving: list[ServerProcess] = []
        self._lost_preload: set[str] = set()  # of a server that died: to be warmed again
        self._spares = 0  # how many a new server is to keep
        self._ahead: Ahead | None = None
        self._guards: dict[str, ServerProcess] = {}
        self._costs: dict[str, float] = {}  # what ranks had to import, and how many ms it took
        self._refused: dict[str, str] = {}  # preloads that were dropped, and why
        atexit.register(self.stop)

    # ------------------------------------------------------------------------------------------------------- warming up

    def start(self, preload: Iterable[str] = ()) -> None:
        """Bring up a bare server at once, and one with `preload` imported in the background. Waits for neither."""
        with self._lock:
            self._check_pid()
            self._settle()
            wanted = {name for name in {*preload, *self._lost_preload} if name not in self._refused}
            self._lost_preload = set()
            current = self._current
            if current is None or not self._fits(current):
                if current is not None:
                    wanted |= set(current.preload)
                self._drop_warming()
                self._replace_current(ServerProcess(self.mark, (), dict(os.environ)))
            have = self._warming or self._current
            assert have is not None
            if not wanted <= set(have.preload):
                self._drop_warming()
                self._warming = ServerProcess(self.mark, sorted({*have.preload, *wanted}), dict(os.environ))

    def learn(self, costs: Mapping[str, float]) -> None:
        """Remember what ranks had to import and how many milliseconds that took, for the next `start`."""
        with self._lock:
            for name, ms in costs.items():
                if is_fit(name):
                    self._costs[name] = max(ms, self._costs.get(name, 0.0))

    def look_again(self) -> None:
        """Have the next launch look whether a preloaded file was edited: something else has run since the last one."""
        with self._lock:
            for server in (self._current, self._warming):
                if server is not None:
                    server.look_again()

    @property
    def learned(self) -> frozenset[str]:
        """Modules of installed distributions that ranks had to import and that took long enough to be preloaded."""
        with self._lock:
            return worth_preloading(self._costs)

    def _fits(self, server: ServerProcess) -> bool:
        return (
            server.is_alive
            and server.fingerprint == import_environment(env.of_this_process())
            and not server.is_stale()
        )

    def _replace_current(self, successor: ServerProcess) -> None:
        former, self._current = self._current, successor
        self._drop_ahead()
        if self._spares:
            with contextlib.suppress(ServerError):  # it died already: the next look says so
                successor.keep(self._spares)
        if former is not None:
            former.leave()
            self._leaving.append(former)

    def _drop_warming(self) -> None:
        if self._warming is not None:
            self._warming.process.kill()
            self._warming.stop(is_polite=False)
            self._warming = None

    def _settle(self) -> None:
        """Let a warmed server take over, and bury the dead."""
        for server in [server for server in self._leaving if not server.is_alive]:
            self._leaving.remove(server)
            server.stop(is_polite=False)
        warming = self._warming
        if warming is not None:
            try:
                if warming.wait_ready(0):
                    self._warming = None
                    self._accept(warming)
            except ServerError as error:
                self._warming = None
                culprit, why = warming.importing(), str(error).splitlines()[0]
                warming.stop(is_polite=False)
                self._warm_without([culprit] if culprit else warming.preload, warming, why)
        if self._current is not None and not self._current.is_alive:
            self._lost_preload |= set(self._current.preload)
            self._drop_ahead()
            self._current.stop(is_polite=False)
            self._current = None

    def _accept(self, warmed: ServerProcess) -> None:
        assert warmed.ready is not None
        self._refused.update(warmed.ready["failed"])
        probe = warmed.ready["native_threads"]
        if not probe or not (probe["is_cuda_poisoned"] or probe["threads"] > 1):
            self._replace_current(warmed)
            return
        warmed.stop()
        if probe["is_cuda_poisoned"]:
            # torch itself does not touch CUDA when imported; what was imported beside it may.
            blamed = [name for name in warmed.preload if name.partition(".")[0] != "torch"] or list(warmed.preload)
            self._warm_without(blamed, warmed, "it makes CUDA unusable in ranks")
        else:
            blamed = warmed.ready["threaded"] or list(warmed.preload)
            self._warm_without(blamed, warmed, "it leaves threads behind that no rank would have")

    def _warm_without(self, blamed: Sequence[str], former: ServerProcess, why: str) -> None:
        """Remember what cannot be preloaded, and warm the rest."""
        self._refused.update(dict.fromkeys(blamed, why))
        rest = [name for name in former.preload if name not in self._refused]
        if rest:
            self._warming = ServerProcess(self.mark, rest, dict(os.environ))

    # ---------------------------------------------------------------------------------------------------------- running

    def new_mark(self) -> str:
        """A mark for one run, of fixed length (worker.carry_mark writes it in place)."""
        with self._lock:
            self._check_pid()
            self._runs += 1
            return self._mark_of(self._runs)

    def _mark_of(self, run: int) -> str:
        return f"{self.mark}-{run % 16**_RUN_DIGITS:0{_RUN_DIGITS}x}"

    def is_settled(self) -> bool:
        """Whether it is known which server takes the next run, whatever that run imports: none is being warmed."""
        with self._lock:
            self._check_pid()
            self.start()
            return self._warming is None and self._current is not None and self._current.ready is not None

    def launch(
        self,
        *,
        run_mark: str,
        nprocs: int,
        call_fds: CallFds,
        values_fd: int,
        policy: Policy,
        modules: Iterable[str] = (),
        console: Sequence[int] = (),
        is_exec: bool = False,
    ) -> Launched:
        """Start the ranks of one run.

        Args:
            run_mark: From `new_mark`.
            call_fds: How the call travels; they stay the caller's to close.
            values_fd: The ranks' end of the value channel; likewise.
            modules: What the ranks will import; a server that is importing one of them is waited for.
            console: Where streams without a log file go: descriptors for stdout and stderr, or none.
            is_exec: Start method spawn: each rank is a new Python, with a parent that outlives the owner all the same.

        Raises:
            ServerError: No server could be started.
        """
        with self._lock:
            self._check_pid()
            self.start()
            server = self._choose(modules)
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            status = -1
            try:
                status = status_page(nprocs)
                launched = Launched(server, here, run_mark)
                message: dict[str, Any] = {"op": "run", "mark": run_mark, "nprocs": nprocs, "policy": vars(policy)}
                if is_exec:
                    command = python_command("from ipyelastic.worker import main; main(argv[1:])")
                    message |= {"ranks": [], "command": command, "spares": None}
                else:
                    keep = self._spares = spares_for(nprocs)
                    for_spares = [*call_fds, values_fd, status, *console]
                    ranks, dismissed = server.hand_over(nprocs, for_spares, keep)
                    message |= {"ranks": ranks, "command": None, "spares": keep, "dismissed": dismissed}
                server.tell(message, [there.fileno(), status, *call_fds, values_fd, *console])
            except BaseException:
                here.close()
                raise
            finally:
                there.close()
                if status >= 0:
                    os.close(status)
            return launched

    # ---------------------------------------------------------------------------------------------------- what is ahead

    def tell_ahead(self, run_mark: str, given: Circumstances, nprocs: int) -> None:
        """Have spares do what the ranks of the next run do first, should it be like the one with this mark, which has
        ended: take over `given`. Waits for the spares, in a thread of its own, a moment at most; does nothing when
        another run has been launched meanwhile."""
        words = (run_mark, given, nprocs)  # no more is held meanwhile: a call may be large
        thread = threading.Thread(target=self._tell_ahead, args=words, name="ipyelastic-ahead", daemon=True)
        with contextlib.suppress(RuntimeError):  # this process is about to end, or may have no more threads
            thread.start()

    def _tell_ahead(self, run_mark: str, given: Circumstances, nprocs: int) -> None:
        until = time.monotonic() + _AHEAD_S
        while (left_s := until - time.monotonic()) > 0:
            with self._lock:
                server = self._current
                is_latest = run_mark == self._mark_of(self._runs)
                is_fit = server is not None and server.ready is not None and server.is_alive and self._warming is None
                if server is None or not (is_fit and is_latest and os.getpid() == self.pid and self._spares >= nprocs):
                    return
                if server.count_spares() >= nprocs:
                    self._drop_ahead()
                    with contextlib.suppress(OSError):  # without room the launch does it
                        self._ahead = guess(server, given, nprocs)
                    return
            server.wait_announced(min(left_s, _LOOK_S))

    def launch_ahead(self, *, run_mark: str, nprocs: int, policy: Policy) -> tuple[Ahead, Launched] | None:
        """Make a run of the ranks that were told ahead, if there are so many and all live; None: there are not.

        They wait for their call (`Ahead.delivery`); the Ahead is the caller's, to be closed once that is delivered.
        Raises ServerError.
        """
        with self._lock:
            self._check_pid()
            ahead, self._ahead = self._ahead, None
            if ahead is None:
                return None
            with contextlib.ExitStack() as undo:
                undo.callback(ahead.close)
                server = ahead.server
                if len(ahead.pids) != nprocs or server is not self._current or not server.has_spares(ahead.pids):
                    return None
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(here.close)
                keep = self._spares = spares_for(nprocs)
                ahead.ends = server.take_spares(nprocs)
                message = {"op": "run", "mark": run_mark, "nprocs": nprocs, "policy": vars(policy), "command": None}
                message |= {"ranks": ahead.pids, "spares": keep, "dismissed": server.dismiss(keep)}
                with there:
                    server.tell(message, [there.fileno(), ahead.status])
                undo.pop_all()
                return ahead, Launched(server, here, run_mark)

    def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()

    # ----------------------------------------------------------------------------------------------------------- guards

    def guard(self, run_mark: str) -> None:
        """Have a server end everything that carries this mark should this process die. Starts one if need be."""
        with self._lock:
            self._check_pid()
            self.start()
            server = self._current
            assert server is not None
            server.tell({"op": "guard", "mark": run_mark})
            self._guards[run_mark] = server

    def unguard(self, run_mark: str) -> None:
        """The run that carried this mark is over."""
        with self._lock:
            server = self._guards.pop(run_mark, None)
        if server is not None:
            with contextlib.suppress(ServerError):
                server.tell({"op": "unguard", "mark": run_mark})

    def _choose(self, modules: Iterable[str]) -> ServerProcess:
        warming = self._warming
        if warming is not None:
            tops = {name.partition(".")[0] for name in warming.preload}
            if tops & {name.partition(".")[0] for name in modules}:
                with contextlib.suppress(ServerError):  # it died: _settle says why and goes on without it
                    warming.wait_ready(_READY_S)
                self._settle()
        current = self._current
        assert current is not None
        try:
            is_ready = current.wait_ready(_READY_S)
        except ServerError:
            self._current = None
            current.stop(is_polite=False)
            raise
        if not is_ready:
            raise ServerError(f"the fork server (pid {current.pid}) did not come up within {_READY_S:.0f} s")
        return current

    # ---------------------------------------------------------------------------------------------------------- looking

    def describe(self) -> list[dict[str, Any]]:
        """One row per live server: `pid, role, preload, runs, spares, pss_mb`.

        `spares`: how many ranks wait for a call there. `pss_mb`: what the server and they take of the memory, in MB of
        10**6 bytes, pages that are shared with others counted in part.
        """
        with self._lock:
            self._settle()
            rows = [("current", self._current), ("warming", self._warming), *(("leaving", s) for s in self._leaving)]
            return [
                {
                    "pid": server.pid,
                    "role": role,
                    "preload": list(server.preload),
                    "runs": len(server.runs),
                    **idle_cost(server.pid, f"{self.mark}-{NO_RUN}"),
                }
                for role, server in rows
                if server is not None
            ]

    @property
    def refused(self) -> dict[str, str]:
        """`{module: why}` of preloads that were tried and dropped."""
        return dict(self._refused)

    # ---------------------------------------------------------------------------------------------------------- the end

    def stop(self) -> None:
        """End all servers and their ranks. Does nothing in a child that the owner forked."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            every = [self._current, self._warming, *self._leaving]
            self._current = self._warming = None
            self._leaving = []
            self._drop_ahead()
        for server in every:
            if server is not None:
                server.stop()
        atexit.unregister(self.stop)

    def _check_pid(self) -> None:
        if os.getpid() != self.pid:
            raise ServerError("this fork server belongs to the process that forked this one")


_servers: ForkServers | None = None
_servers_lock = threading.Lock()


def _renew_lock() -> None:
    """In a child that this process forked, perhaps while another thread held it."""
    global _servers_lock
    _servers_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def servers() -> ForkServers:
    """This process's fork servers; a process forked from an owner gets its own."""
    global _servers
    with _servers_lock:
        if _servers is None or _servers.pid != os.getpid():
            _servers = ForkServers()
        return _servers
