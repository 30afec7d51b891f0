"""Events, metrics, timers, states: the same words with torch and with us, and a pipe with one at either end."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.waiting import wait_until

pytestmark = pytest.mark.torch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _both(name: str) -> tuple[ModuleType, ModuleType]:
    with _quiet():
        torchs = importlib.import_module(f"torch.distributed.elastic.{name}")
    return importlib.import_module(f"ipyelastic.compat.{name}"), torchs


def _events_of(module: Any) -> list[Any]:
    agent = module.Event("n", module.EventSource.AGENT, 3, {"a": 1, "b": None, "c": 1.5, "d": True, "e": "ü\n"})
    node = module.RdzvEvent("n", "id", "msg", "host", 1, module.NodeState.FAILED, "e", 3, 0, "trace")
    return [
        str(agent),
        agent.serialize(),
        str(module.Event("n", module.EventSource.WORKER)),
        str(node),
        node.serialize(),
        module.Event.deserialize(agent.serialize()) == agent,
        module.RdzvEvent.deserialize(node.serialize()) == node,
        [each.name for kind in (module.EventSource, module.NodeState) for each in kind],
        [type(module.get_logging_handler(name)).__mro__[-3].__name__ for name in ("null", "dynamic_rendezvous")],
    ]


def test_events_have_torchs_words() -> None:
    ours, torchs = _both("events")
    assert _events_of(ours) == _events_of(torchs)


_SAME_METRICS = """
import sys
from {package} import metrics
from {package}.metrics import api

class Shown(metrics.MetricHandler):
    def emit(self, data):
        print(data.group_name, data.name, type(data.value).__name__, type(data.timestamp).__name__, len(data))

metrics.configure(Shown())

@metrics.prof
def returns(): return 1

@metrics.prof(group="g")
def fails(): raise ValueError

@metrics.prof
def stops(): raise KeyboardInterrupt

class Outer:
    @metrics.prof
    def method(self): return 1
    @staticmethod
    @metrics.prof
    def static(): return 1
    @classmethod
    @metrics.prof
    def of_class(cls): return 1
    class Inner:
        @metrics.prof
        def method(self): return 1

def local():
    @metrics.prof
    def function(): return 1
    return function

for call in (returns, fails, stops, Outer().method, Outer.static, Outer.of_class, Outer.Inner().method, local(),
             metrics.prof(lambda: 1)):
    try:
        call()
    except BaseException as error:
        print(type(error).__name__)
for named in (print, len, Outer, Outer.method, Outer().method, returns, local):
    print(api._get_metric_name(named))
metrics.put_metric("a", 1)
metrics.put_metric("a", 1, "other")
metrics.configure(metrics.NullMetricHandler(), "other")
metrics.put_metric("a", 1, "other")
metrics.getStream("third").add_value("b", 2)
print(metrics.MetricsConfig().params, metrics.initialize_metrics(metrics.MetricsConfig({{"a": "b"}})))
"""


@pytest.mark.slow
def test_metrics_have_torchs_names() -> None:
    printed = []
    for package in ("ipyelastic.compat", "torch.distributed.elastic"):
        command = [sys.executable, "-W", "ignore", "-c", _SAME_METRICS.format(package=package)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0] == printed[1]
    assert len(printed[0]) > 25


def test_requests_have_torchs_fields() -> None:
    ours, torchs = _both("timer")
    given = (7, 'a "scope"\n', 1.25, 9)
    assert ours.FileTimerRequest(*given).to_json() == torchs.FileTimerRequest(*given).to_json()
    for module in (ours, torchs):
        requests = [module.TimerRequest(*fields) for fields in ((1, "a", 2), (1, "a", 2), (1, "a", 3))]
        assert requests[0] == requests[1] != requests[2]


@pytest.mark.slow
def test_our_client_is_understood_by_torchs_server(tmp_path: Path) -> None:
    ours, torchs = _both("timer")
    path = str(tmp_path / "pipe")
    server = torchs.FileTimerServer(path, "a run", max_interval=0.05)
    server.start()
    try:
        client = ours.FileTimerClient(path, signal=0)
        client.acquire("a", time.time() + 1e6)
        client.acquire("b", time.time() + 1e6)
        wait_until(lambda: len(server._timers) == 2)
        client.release("a")
        wait_until(lambda: list(server._timers) == [(os.getpid(), "b")])
    finally:
        server.stop()


_TORCHS_CLIENT = """
import sys
from torch.distributed.elastic.timer import FileTimerClient, configure, expires
configure(FileTimerClient(sys.argv[1]))
with expires(after=1000, scope="done"):
    pass
with expires(after=0.1, scope="late"):
    sys.stdin.read()
"""


@pytest.mark.slow
def test_torchs_client_is_understood_by_our_server(tmp_path: Path) -> None:
    ours, _ = _both("timer")
    told: list[Any] = []
    path = str(tmp_path / "pipe")
    server = ours.FileTimerServer(
        path, "a run", log_event=lambda name, request: told.append(request and json.loads(request.to_json()))
    )
    server.start()
    command = [sys.executable, "-W", "ignore", "-c", _TORCHS_CLIENT, path]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert worker.wait(100) == -signal.SIGKILL, worker.communicate()
        wait_until(lambda: len(told) == 3)
        assert [(each["pid"], each["scope_id"], each["signal"]) for each in told[1:]] == [(worker.pid, "late", 9)] * 2
    finally:
        worker.kill()
        worker.communicate()
        server.stop()


@pytest.mark.parametrize("state", ["D", "D+", "S", "R", "Z", "", "d", None])
def test_states_are_judged_as_by_torch(state: str | None) -> None:
    ours, torchs = _both("utils.process_state")
    assert ours.is_uninterruptible_state(state) == torchs.is_uninterruptible_state(state)


@pytest.mark.parametrize("pid", [1, -1, 0, 2**22 + 5])
def test_states_are_read_as_by_torch(pid: int) -> None:
    ours, torchs = _both("utils.process_state")
    assert ours.read_proc_state(pid) == torchs.read_proc_state(pid) or pid == 1  # init may wake between the two
    assert (ours.read_proc_state(pid) is None) == (torchs.read_proc_state(pid) is None)


@pytest.mark.parametrize(
    ("n", "start", "sizes"), [(3, 0, [2, 2, 2]), (3, 1, [2, 2, 2]), (3, 0, [0, 1, 0]), (1, 0, [3]), (2, 0, [0, 0])]
)
def test_epochs_follow_each_other_as_with_torch(n: int, start: int, sizes: list[int]) -> None:
    for_each = [list(module.CyclingIterator(n, lambda epoch: iter([epoch] * sizes[epoch]), start))
                for module in _both("utils.data")]  # fmt: skip
    assert for_each[0] == for_each[1]


def test_torchs_own_sampler_is_handed_on() -> None:
    ours, torchs = _both("utils.data")
    assert ours.ElasticDistributedSampler is torchs.ElasticDistributedSampler
    sampler = ours.ElasticDistributedSampler(list(range(10)), num_replicas=2, rank=1, start_index=4)
    assert len(set(sampler)) == len(sampler) == 3


_STORE = """
from ipyelastic.compat.utils.distributed import create_c10d_store
store = create_c10d_store(True, "localhost", timeout=30)
store.set("a", "b")
print(type(store).__name__, store.get("a"))
"""


@pytest.mark.slow
def test_torchs_own_store_is_handed_on() -> None:
    # In a process of its own: torch keeps two descriptors after the store is gone.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _STORE], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "TCPStore b'b'\n"), done.stderr


_SAME_NAMES = [
    "events",
    "events.api",
    "events.handlers",
    "metrics",
    "metrics.api",
    "timer",
    "timer.api",
    "timer.local_timer",
    "timer.file_based_local_timer",
    "timer.debug_info_logging",
    "utils",
    "utils.api",
    "utils.data",
    "utils.data.cycling_iterator",
    "utils.distributed",
    "utils.logging",
    "utils.log_level",
    "utils.process_state",
    "control_plane",
    "agent.server.health_check_server",
]


@pytest.mark.parametrize("name", _SAME_NAMES)
def test_public_names_and_their_arguments_are_torchs(name: str) -> None:
    """Every public name that torch's module defines is in ours, and takes the same arguments with the same defaults."""
    import inspect

    def arguments(value: Any) -> list[tuple[str, Any]]:
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):
            return []
        return [(one.name, getattr(one.default, "value", one.default)) for one in parameters]

    ours, torchs = _both(name)
    for each, value in vars(torchs).items():
        at_home = torchs.__name__ if not hasattr(torchs, "__path__") else "torch.distributed.elastic"
        if each.startswith("_") or not str(getattr(value, "__module__", "")).startswith(at_home):
            continue
        assert hasattr(ours, each), each
        if not (inspect.isclass(value) and issubclass(value, Exception)):
            assert arguments(getattr(ours, each)) == arguments(value), each
