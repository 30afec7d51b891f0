"""What each rank uses of the machine, once a second, while somebody looks.

    WorkerStarted, WorkerEnded -> [UsageWatch] <- one thread for all watches -> UsageSample -> sink

Runs in: owner. No thread and no cost without an open watch that has a live rank.
Other end: terms/events.UsageSample; view/board keeps the latest of each rank.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import dataclass, field

import psutil

from ..terms.events import Event, RunEnded, Sink, UsageSample, WorkerEnded, WorkerStarted
from .gpu_use import GpuUse, Nvml
from .processes import ProcessUse, children_of, cpu_between, look, tree

__all__ = ["UsageWatch"]

_PERIOD_S = 1.0
_MOST_LOOKING = 0.05  # of the time, on a machine with very many processes
_SHORTEST_S = 0.25  # CPU time is counted in steps of 10 ms
_MEMORY_PART = 0.01  # of the time may go into asking for private memory, which walks a process's page tables


class UsageWatch:
    """A sink that has one run's ranks sampled, from each one's start to its end.

    Put it before the sinks that show things: then no sample comes after its rank's `WorkerEnded`.

    Args:
        sink: Gets a `UsageSample` per live rank and second, from the sampling thread. It must neither block nor wait
            for a thread that hands events to this watch.

    `cpu_percent` is of one CPU: a rank with two busy threads has 200. It, and the GPU fields, count the rank, all
    processes below it, and those of its session. `rss_bytes` is the rank's resident memory, and of its other processes
    what they share with nobody: a DataLoader worker does not count the rank's data once more. Ranks of another
    host are left to that host.

    Runs in: owner. Thread-safe. `close` is final.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.RLock()  # a sink may close us
        self._ranks: dict[int, _Rank] = {}
        self._is_closed = False

    def __call__(self, event: Event) -> None:
        """Take any event; those of workers and the run's end matter."""
        if isinstance(event, WorkerStarted):
            with self._lock:
                if not self._is_closed and event.host in ("", socket.gethostname()):
                    self._ranks[event.rank] = _Rank(event.rank, event.pid, event.host)
                    _sampler.add(self)
        elif isinstance(event, WorkerEnded):
            with self._lock:
                rank = self._ranks.get(event.rank)
                if rank is not None and rank.pid == event.pid:
                    del self._ranks[event.rank]
                self._leave_if_idle()
        elif isinstance(event, RunEnded):
            self.close()

    def close(self) -> None:
        """No more samples; the thread ends with the last watch. Closing twice changes nothing."""
        with self._lock:
            self._is_closed = True
            self._ranks.clear()
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if not self._ranks:
            _sampler.remove(self)

    def _take(self, seen: _Look) -> None:
        """One sample of each rank; called by the sampling thread."""
        with self._lock:
            for rank in list(self._ranks.values()):
                sample = rank.sample(seen)
                if sample is not None and rank.rank in self._ranks:
                    self._sink(sample)


@dataclass
class _Look:
    """The machine at one moment."""

    at_s: float
    uses: dict[int, ProcessUse]
    children: dict[int, list[int]]
    gpus: dict[int, GpuUse]
    private: _PrivateMemory


@dataclass
class _Rank:
    """One rank that is watched, and what it had used at the last look."""

    rank: int
    pid: int
    host: str
    at_s: float = field(default_factory=time.monotonic)
    before: dict[int, ProcessUse] = field(default_factory=dict)

    def sample(self, seen: _Look) -> UsageSample | None:
        """Its use since the last sample; None when it is gone or it is too early to say."""
        pids = tree(self.pid, seen.uses, seen.children)
        passed_s = seen.at_s - self.at_s
        if not pids or passed_s < _SHORTEST_S:
            return None
        now = {pid: seen.uses[pid] for pid in pids}
        cpu_s = cpu_between({**self.before, **now}, self.before, now)
        self.before, self.at_s = now, seen.at_s
        gpu: GpuUse | None = None
        for pid in pids:
            if pid in seen.gpus:
                gpu = gpu or GpuUse()
                gpu.percent += seen.gpus[pid].percent
                gpu.size_bytes += seen.gpus[pid].size_bytes
        others = sum(seen.private.of(pid, seen.uses[pid]) for pid in pids[1:])
        return UsageSample(
            rank=self.rank,
            cpu_percent=100 * cpu_s / passed_s,
            rss_bytes=seen.uses[self.pid].rss_bytes + others,
            gpu_percent=None if gpu is None else gpu.percent,
            gpu_bytes=None if gpu is None else gpu.size_bytes,
            host=self.host,
        )


@dataclass
class _Share:
    """The part of a process's resident memory that is its own, as it was when it was asked."""

    started_s: float
    asked_s: float = 0.0  # on the monotonic clock; 0: not yet
    part: float = 0.0


class _PrivateMemory:
    """How much memory of a process is its own: asked seldom, scaled with the resident memory in between.

    Asking took 3 to 15 ms for a process of 4 GiB, against 12 us for everything else (Linux 6.18).
    """

    def __init__(self) -> None:
        self._shares: dict[int, _Share] = {}
        self._wanted: dict[int, ProcessUse] = {}
        self._left_s = 0.0

    def of(self, pid: int, use: ProcessUse) -> int:
        """Bytes as of the last answer; 0 before the first, which comes with a later round."""
        self._wanted[pid] = use
        share = self._shares.get(pid)
        return round(share.part * use.rss_bytes) if share is not None and share.started_s == use.started_s else 0

    def refresh(self, passed_s: float) -> None:
        """Ask about those that were wanted in this round, the oldest answers first, as long as there is time."""
        self._left_s = min(0.0, self._left_s) + _MEMORY_PART * passed_s
        held, self._shares = self._shares, {}
        for pid, use in self._wanted.items():
            old = held.get(pid)
            self._shares[pid] = old if old is not None and old.started_s == use.started_s else _Share(use.started_s)
        for pid, share in sorted(self._shares.items(), key=lambda item: item[1].asked_s):
            began = time.monotonic()
            if self._left_s <= 0:
                break
            try:
                private = psutil.Process(pid).memory_full_info().uss
            except (psutil.Error, AttributeError):  # it is gone, or not ours to ask about
                private = 0
            share.asked_s = time.monotonic()
            share.part = min(1.0, private / (self._wanted[pid].rss_bytes or 1))
            self._left_s -= share.asked_s - began
        self._wanted = {}


class _Sampler:
    """The one thread. It is there as long as there are watches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._watches: dict[UsageWatch, None] = {}
        self._thread: threading.Thread | None = None
        self._pause_s = _PERIOD_S

    def add(self, watch: UsageWatch) -> None:
        with self._lock:
            self._watches[watch] = None
            if self._thread is None or not self._thread.is_alive():  # not alive: this is a fork of its process
                self._changed.clear()
                self._thread = threading.Thread(target=self._run, name="ipyelastic-usage", daemon=True)
                self._thread.start()

    def remove(self, watch: UsageWatch) -> None:
        with self._lock:
            self._watches.pop(watch, None)
            if not self._watches:
                self._changed.set()

    def _run(self) -> None:
        nvml = Nvml.open()
        private = _PrivateMemory()
        try:
            while watches := self._wait():
                began = time.monotonic()
                uses = look()
                seen = _Look(began, uses, children_of(uses), nvml.look() if nvml else {}, private)
                for watch in watches:
                    self._serve(watch, seen)
                self._pause_s = max(_PERIOD_S, (time.monotonic() - began) / _MOST_LOOKING)
                private.refresh(self._pause_s)
        finally:
            if nvml is not None:
                nvml.close()

    def _serve(self, watch: UsageWatch, seen: _Look) -> None:
        try:
            watch._take(seen)
        except Exception:
            logging.getLogger("ipyelastic").exception("a sink raised; its run is sampled no more")
            watch.close()

    def _wait(self) -> list[UsageWatch]:
        """The watches to serve after a period; none when the thread is to end, which it does in the same breath."""
        while True:
            is_changed = self._changed.wait(self._pause_s)
            with self._lock:
                if not self._watches:
                    self._thread = None
                    return []
                self._changed.clear()
                if not is_changed:
                    return list(self._watches)


_sampler = _Sampler()
