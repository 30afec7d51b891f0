"""What a rank uses is told as it is: real busy processes, compared with what they say of themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ipyelastic.devices.gpu_use import GpuUse, Nvml
from ipyelastic.devices.processes import ProcessUse, children_of, cpu_between, look, tree
from ipyelastic.devices.usage import UsageWatch
from ipyelastic.terms.events import OutputChunk, RunEnded, UsageSample, WorkerEnded, WorkerStarted
from support.waiting import wait_until

MIB = 1 << 20
BURN = """
import os, sys, threading, time, hashlib, signal
def burn(seconds, threads=1):
    data = b"x" * (1 << 20)  # hashing it lets go of the GIL
    def work():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            hashlib.sha256(data)
    made = [threading.Thread(target=work) for _ in range(threads)]
    [one.start() for one in made]
    [one.join() for one in made]
def say(text):
    os.write(1, f"{text}\\n".encode())  # at once, so that lines of two processes stay whole
def wait():
    sys.stdin.read()
"""


class Rank:
    """A process as ranks are, in a session of its own; `wait()` in its body lasts until the test ends it."""

    def __init__(self, body: str, *, own_session: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BURN + body],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=own_session,
            text=True,
        )
        self.pid = self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        if self.process.returncode is None and os.getsid(self.pid) == self.pid:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def ranks() -> Iterator[list[Rank]]:
    started: list[Rank] = []
    yield started
    for rank in started:
        rank.end()


class Samples(list[UsageSample]):
    """A sink that knows when each sample came."""

    def __init__(self) -> None:
        self.times = [time.monotonic()]

    def __call__(self, event: object) -> None:
        assert isinstance(event, UsageSample)
        self.append(event)
        self.times.append(time.monotonic())

    def cpu_s(self) -> float:
        """CPU seconds that the samples make in all."""
        spans = zip(self.times, self.times[1:], strict=False)
        return sum(sample.cpu_percent / 100 * (end - start) for sample, (start, end) in zip(self, spans, strict=True))


def started(rank: Rank, number: int = 0, host: str = "") -> WorkerStarted:
    return WorkerStarted(number, number, rank.pid, host=host)


def ended(rank: Rank, number: int = 0) -> WorkerEnded:
    return WorkerEnded(number, number, rank.pid, 0)


def sampling_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ipyelastic-usage"]


def measured(pid: int, before: dict[int, ProcessUse]) -> tuple[float, dict[int, ProcessUse]]:
    """CPU seconds of a rank since `before`, and its processes now."""
    uses = look()
    now = {member: uses[member] for member in tree(pid, uses, children_of(uses))}
    return cpu_between({**before, **now}, before, now), now


# ------------------------------------------------------------------------------------------------------------------ CPU


def test_two_busy_threads_count_twice(ranks: list[Rank]) -> None:
    rank = Rank("say('ready'); sys.stdin.readline(); burn(0.4, threads=2); say(time.process_time()); wait()")
    ranks.append(rank)
    rank.line()
    _, before = measured(rank.pid, {})
    began = before[rank.pid].cpu_s
    assert rank.process.stdin is not None
    rank.process.stdin.write("\n")
    rank.process.stdin.flush()
    used = float(rank.line()) - began
    cpu_s, _ = measured(rank.pid, before)
    assert used > 0.78
    assert cpu_s == pytest.approx(used, abs=0.05)


def test_cpu_of_children_counts_whether_they_live_or_were_waited_for(ranks: list[Rank]) -> None:
    rank = Rank("""
say("ready")
for seconds in (0.3, 0.2):
    sys.stdin.readline()
    child = os.fork()
    if not child:
        burn(seconds)
        say("burnt")
        signal.pause()
    if seconds == 0.3:
        kept = child
sys.stdin.readline()
os.kill(kept, 9); os.waitpid(kept, 0); os.kill(child, 9); os.waitpid(child, 0)
say("reaped")
wait()
""")
    ranks.append(rank)
    rank.line()

    def go() -> None:
        assert rank.process.stdin is not None
        rank.process.stdin.write("\n")
        rank.process.stdin.flush()

    _, before = measured(rank.pid, {})
    go()
    assert rank.line() == "burnt"
    first, now = measured(rank.pid, before)
    assert len(now) == 2
    assert first == pytest.approx(0.3, abs=0.08)
    go()
    assert rank.line() == "burnt"
    second, now = measured(rank.pid, now)
    assert second == pytest.approx(0.2, abs=0.08)
    go()
    assert rank.line() == "reaped"
    third, now = measured(rank.pid, now)  # what both had used is with their parent now, and was counted before
    assert len(now) == 1
    assert third == pytest.approx(0.0, abs=0.08)


def use(parent: int, cpu_s: float, children_cpu_s: float = 0.0, started_s: float = 1.0) -> ProcessUse:
    return ProcessUse(parent, 1, started_s, cpu_s, children_cpu_s, 0)


@pytest.mark.parametrize(
    ("before", "now", "cpu_s"),
    [
        ({1: use(0, 5)}, {1: use(0, 6)}, 1),
        ({1: use(0, 5), 2: use(1, 3)}, {1: use(0, 5, 4)}, 1),  # waited for after one second more
        ({1: use(0, 5), 2: use(1, 3)}, {1: use(0, 5)}, 0),  # nobody waited for it
        ({1: use(0, 5), 2: use(1, 1), 3: use(2, 2)}, {1: use(0, 5, 3.5)}, 0.5),  # grandchild and child
        ({1: use(0, 5), 2: use(1, 3)}, {1: use(0, 5, 3), 2: use(1, 1, started_s=2.0)}, 1),  # its pid is another's now
        ({1: use(0, 5)}, {1: use(0, 5, 0.7)}, 0.7),  # a child that lived between two looks
    ],
)
def test_cpu_is_counted_once_whoever_holds_it(
    before: dict[int, ProcessUse], now: dict[int, ProcessUse], cpu_s: float
) -> None:
    assert cpu_between({**before, **now}, before, now) == pytest.approx(cpu_s)


@pytest.mark.slow
def test_samples_add_up_to_what_the_rank_used(ranks: list[Rank]) -> None:
    samples = Samples()
    watch = UsageWatch(samples)
    rank = Rank("burn(0.6, threads=2); os.system('true'); say('done'); wait()")
    ranks.append(rank)
    watch(started(rank))
    assert rank.line() == "done"
    count = len(samples)
    wait_until(lambda: len(samples) >= count + 2, 60)  # the second began after the work was over
    uses = look()[rank.pid]
    watch(ended(rank))
    assert {sample.rank for sample in samples} == {0}
    assert samples.cpu_s() == pytest.approx(uses.cpu_s + uses.children_cpu_s, rel=0.25)
    assert samples[-1].cpu_percent < 20
    assert (samples[-1].gpu_percent, samples[-1].gpu_bytes, samples[-1].host) == (None, None, "")


# ---------------------------------------------------------------------------------------------------------------- trees


def test_orphan_in_the_ranks_session_belongs_to_it_and_the_session_of_another_does_not(ranks: list[Rank]) -> None:
    rank = Rank("""
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        wait()
    say(grandchild)
    os._exit(0)
os.waitpid(child, 0)
say("ready")
wait()
""")
    beside = Rank("say('ready'); wait()", own_session=False)
    ranks += [rank, beside]
    orphan = int(rank.line())
    rank.line()
    beside.line()
    uses = look()
    assert uses[orphan].parent != rank.pid
    assert tree(rank.pid, uses, children_of(uses)) == [rank.pid, orphan]
    assert tree(beside.pid, uses, children_of(uses)) == [beside.pid]  # not all of this test's session
    assert tree(2**30, uses, children_of(uses)) == []


def test_processes_that_end_while_they_are_looked_at_do_no_harm(ranks: list[Rank]) -> None:
    rank = Rank("""
say("ready")
while True:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
""")
    ranks.append(rank)
    rank.line()
    before: dict[int, ProcessUse] = {}
    seen: set[int] = set()
    while len(seen) < 20:  # children of a millisecond, caught in the act
        cpu_s, before = measured(rank.pid, before)
        assert cpu_s >= 0
        assert rank.pid in before
        seen |= before.keys()


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_memory_that_children_share_with_the_rank_counts_once(ranks: list[Rank]) -> None:
    rank = Rank("""
data = b"\\1" * (96 << 20)
for number in range(2):
    if not os.fork():
        assert data[::4096]  # all of it is mapped in the child, too
        say("child")
        if number:
            os.read(0, 1)
            own = b"\\2" * (64 << 20)
            say("own")
        signal.pause()
signal.pause()
""")
    ranks.append(rank)
    assert [rank.line(), rank.line()] == ["child", "child"]
    samples = Samples()
    watch = UsageWatch(samples)
    watch(started(rank))
    wait_until(lambda: len(samples) >= 2, 60)
    assert 96 * MIB < samples[-1].rss_bytes < 150 * MIB
    assert rank.process.stdin is not None
    rank.process.stdin.write("\n")
    rank.process.stdin.flush()
    assert rank.line() == "own"
    wait_until(lambda: samples[-1].rss_bytes > 155 * MIB, 60)
    assert samples[-1].rss_bytes < 215 * MIB
    watch.close()


# ---------------------------------------------------------------------------------------------------------- the thread


def test_no_thread_without_a_live_rank(ranks: list[Rank]) -> None:
    one, other = UsageWatch(Samples()), UsageWatch(Samples())
    assert sampling_threads() == []
    ranks += [Rank("wait()"), Rank("wait()")]
    one(OutputChunk(0, "stdout", "hello\n", ""))
    one(started(ranks[0], host="some-other-machine"))
    assert sampling_threads() == []
    one(started(ranks[0]))
    other(started(ranks[1], 3))
    assert sampling_threads() == ["ipyelastic-usage"]
    one(ended(ranks[0]))
    assert sampling_threads() == ["ipyelastic-usage"]
    other(RunEnded("stopped", 1.0))
    wait_until(lambda: not sampling_threads())
    one(started(ranks[0]))  # a restart
    assert sampling_threads() == ["ipyelastic-usage"]
    one.close()
    one.close()
    wait_until(lambda: not sampling_threads())
    one(started(ranks[0]))
    assert sampling_threads() == []


def test_word_of_an_earlier_process_does_not_end_the_new_one(ranks: list[Rank]) -> None:
    watch = UsageWatch(Samples())
    ranks += [Rank("wait()"), Rank("wait()")]
    watch(started(ranks[0]))
    watch(started(ranks[1]))
    watch(ended(ranks[0]))
    assert sampling_threads() == ["ipyelastic-usage"]
    watch(ended(ranks[1]))
    wait_until(lambda: not sampling_threads())


@pytest.mark.slow
def test_rank_that_vanished_is_passed_over_and_the_others_are_sampled(ranks: list[Rank]) -> None:
    samples = Samples()
    watch = UsageWatch(samples)
    ranks += [Rank("wait()"), Rank("wait()")]
    ranks[0].end()
    watch(started(ranks[0], 0))
    watch(started(ranks[1], 1))
    wait_until(lambda: len(samples) >= 2, 60)
    assert {sample.rank for sample in samples} == {1}
    watch.close()


@pytest.mark.slow
def test_sink_that_raises_is_told_to_the_log_and_harms_no_other_run(
    ranks: list[Rank], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: object) -> None:
        raise ValueError("the page is gone")

    samples = Samples()
    ranks.append(Rank("wait()"))
    bad, good = UsageWatch(broken), UsageWatch(samples)
    bad(started(ranks[0]))
    good(started(ranks[0]))
    wait_until(lambda: len(samples) >= 2, 60)
    good.close()
    assert [record.message for record in caplog.records] == ["a sink raised; its run is sampled no more"]


@pytest.mark.slow
def test_sink_may_close_its_own_watch(ranks: list[Rank]) -> None:
    got: list[object] = []

    def once(event: object) -> None:
        got.append(event)
        watch.close()

    watch = UsageWatch(once)
    ranks += [Rank("wait()"), Rank("wait()")]
    watch(started(ranks[0], 0))
    watch(started(ranks[1], 1))
    wait_until(lambda: not sampling_threads(), 60)
    assert len(got) == 1


# ----------------------------------------------------------------------------------------------------------------- GPUs


class FakeError(Exception):
    """As pynvml's: with the library's code."""

    def __init__(self, value: int) -> None:
        self.value = value


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A driver with two GPUs, in nvidia-ml-py's words; the test says who runs on them."""
    state = SimpleNamespace(running={0: [], 1: []}, samples={0: [], 1: []}, opened=0, whole=None, asked=[])

    def init() -> None:
        state.opened += 1

    def shutdown() -> None:
        state.opened -= 1

    def utilization(handle: int, since_us: int) -> list[SimpleNamespace]:
        state.asked.append((handle, since_us))
        if state.whole is not None:
            raise FakeError(3)  # not supported
        newer = [sample for sample in state.samples[handle] if sample.timeStamp > since_us]
        if not newer:
            raise FakeError(6)  # not found
        return newer

    fake = ModuleType("pynvml")
    vars(fake).update(
        NVMLError=FakeError,
        NVML_ERROR_NOT_FOUND=6,
        nvmlInit=init,
        nvmlShutdown=shutdown,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: state.running[handle],
        nvmlDeviceGetProcessUtilization=utilization,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=state.whole[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return state


def running(pid: int, size_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size_bytes)


def sampled(pid: int, percent: int, at_us: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, smUtil=percent, timeStamp=at_us)


def test_process_on_two_gpus_has_the_sum(nvml: SimpleNamespace) -> None:
    nvml.running = {0: [running(7, 100), running(8, None)], 1: [running(7, 50)]}
    nvml.samples = {0: [sampled(7, 10, 1), sampled(7, 60, 2), sampled(8, 5, 2)], 1: [sampled(7, 70, 2)]}
    opened = Nvml.open()
    assert opened is not None
    assert opened.look() == {7: GpuUse(130, 150), 8: GpuUse(5, 0)}
    assert opened.look() == {7: GpuUse(0, 150), 8: GpuUse(0, 0)}  # nothing since
    assert nvml.asked == [(0, 0), (1, 0), (0, 2), (1, 2)]
    opened.close()
    assert nvml.opened == 0


def test_where_the_driver_counts_no_processes_the_gpus_own_figure_is_shared(nvml: SimpleNamespace) -> None:
    nvml.running = {0: [running(7, 100), running(8, 100)], 1: []}
    nvml.whole = {0: 90, 1: 40}
    opened = Nvml.open()
    assert opened is not None
    assert opened.look() == {7: GpuUse(45, 100), 8: GpuUse(45, 100)}
    opened.close()


def test_no_driver_and_no_package_are_no_gpus(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetCount", lambda: 0)
    assert Nvml.open() is None
    assert nvml.opened == 0

    def no_driver() -> None:
        raise FakeError(12)

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", no_driver)
    assert Nvml.open() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what an import of it then raises is ImportError
    assert Nvml.open() is None


@pytest.mark.slow
def test_gpu_use_of_a_ranks_children_is_the_ranks(nvml: SimpleNamespace, ranks: list[Rank], tmp_path: Path) -> None:
    rank = Rank("child = os.fork()\nsay(os.getpid()) if not child else None\nwait()")
    ranks.append(rank)
    child = int(rank.line())
    nvml.running = {0: [running(child, 300), running(os.getpid(), 7)], 1: [running(rank.pid, 200)]}
    samples = Samples()
    watch = UsageWatch(samples)
    watch(started(rank))
    wait_until(lambda: samples, 60)
    assert (samples[0].gpu_percent, samples[0].gpu_bytes) == (0, 500)
    watch.close()
    wait_until(lambda: nvml.opened == 0)
