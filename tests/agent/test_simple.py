"""An agent's loop without workers: what it does about each state, in which order, and how it ends."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from ipyelastic.agent import simple
from ipyelastic.agent.ranks import RoleInstanceInfo, assign
from ipyelastic.agent.simple import SimpleElasticAgent
from ipyelastic.agent.spec import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from ipyelastic.process.signals import SignalException
from ipyelastic.rendezvous.handler import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from ipyelastic.rendezvous.local_store import LocalStore
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.errors import RendezvousGracefulExitError
from ipyelastic.terms.failure import ProcessFailure
from support.waiting import wait_until

S = WorkerState


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[RendezvousHandler]]:
    """The handlers that `_agent` makes; their ports are given back after the test."""
    yield _handlers
    while _handlers:
        _handlers.pop().shutdown()


_handlers: list[RendezvousHandler] = []


class Agent(SimpleElasticAgent):
    """Its workers are numbers; `states` are what is seen of them, one by one."""

    def __init__(self, spec: WorkerSpec, *states: WorkerState, **options: Any) -> None:
        super().__init__(spec, **options)
        self.states = list(states)
        self.calls: list[Any] = []

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.calls.append("start")
        return {worker.local_rank: worker.global_rank for worker in worker_group.workers}

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self.calls.append("stop")

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        state = self.states.pop(0)
        self.calls.append(state.value)
        failures = {0: ProcessFailure(0, 999, 1, "")} if state == S.FAILED else {}
        return RunResult(state, {0: "value"} if state == S.SUCCEEDED else {}, failures)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        self.calls.append(("shutdown", death_sig, timeout))


def _agent(*states: WorkerState, max_restarts: int = 0, handler: RendezvousHandler | None = None, **more: Any) -> Agent:
    handler = handler or StandaloneRendezvous("run")
    _handlers.append(handler)
    spec = WorkerSpec("trainer", 1, handler, entrypoint=abs, max_restarts=max_restarts, monitor_interval=0.001)
    return Agent(spec, *states, **more)


SHUTDOWN = ("shutdown", signal.SIGTERM, 30)


@pytest.mark.parametrize(
    ("states", "max_restarts", "waiting", "calls", "left"),
    [
        ([S.HEALTHY, S.SUCCEEDED], 3, [0], ["start", "HEALTHY", "SUCCEEDED", SHUTDOWN], 3),
        ([S.FAILED], 0, [], ["start", "FAILED", "stop", SHUTDOWN], 0),
        ([S.FAILED, S.SUCCEEDED], 2, [], ["start", "FAILED", "stop", "start", "SUCCEEDED", SHUTDOWN], 1),
        ([S.UNHEALTHY, S.FAILED], 1, [], ["start", "UNHEALTHY", "stop", "start", "FAILED", "stop", SHUTDOWN], 0),
        # Who joins costs no restart.
        ([S.HEALTHY, S.SUCCEEDED], 0, [2], ["start", "HEALTHY", "stop", "start", "SUCCEEDED", SHUTDOWN], 0),
    ],
)
def test_what_is_done_about_each_state(
    states: list[WorkerState], max_restarts: int, waiting: list[int], calls: list[Any], left: int
) -> None:
    agent = _agent(*states, max_restarts=max_restarts)
    with mock.patch.object(StandaloneRendezvous, "num_nodes_waiting", side_effect=waiting):
        result = agent.run()
    assert agent.calls == calls
    assert agent._remaining_restarts == left
    assert result.is_failed() == (states[-1] is not S.SUCCEEDED)
    assert agent.get_worker_group().state == (S.FAILED if result.is_failed() else S.SUCCEEDED)


def test_a_group_that_stays_unhealthy_ends_as_a_failure() -> None:
    result = _agent(S.UNHEALTHY).run()
    assert result.state == S.FAILED  # torch hands on UNHEALTHY, which its launcher takes for success


def test_an_unknown_state_raises_and_is_not_tried_again() -> None:
    agent = _agent(S.UNKNOWN, max_restarts=5)
    with pytest.raises(Exception, match=r"^\[trainer\] Worker group in UNKNOWN state$"):
        agent.run()
    assert agent.calls == ["start", "UNKNOWN", SHUTDOWN]
    assert agent._remaining_restarts == 5


def test_a_graceful_exit_has_a_result() -> None:
    agent = _agent()
    with mock.patch.object(StandaloneRendezvous, "next_rendezvous", side_effect=RendezvousGracefulExitError("enough")):
        result = agent.run()
    assert (result.state, result.return_values, result.failures) == (S.SUCCEEDED, {}, {})
    assert agent.calls == [SHUTDOWN]


def test_a_signal_ends_the_workers_by_the_same_within_the_timeout_and_is_raised_again() -> None:
    agent = _agent(shutdown_timeout=7)
    error = SignalException("interrupted", signal.SIGINT)
    with mock.patch.object(Agent, "_monitor_workers", side_effect=error), pytest.raises(SignalException) as raised:
        agent.run()
    assert raised.value is error
    assert agent.calls == ["start", ("shutdown", signal.SIGINT, 7)]


def test_shutdown_timeout_is_given_at_the_end() -> None:
    agent = _agent(S.SUCCEEDED, shutdown_timeout=7)
    agent.run()
    assert agent.calls[-1] == ("shutdown", signal.SIGTERM, 7)


# ---- the exit barrier


def test_an_exit_barrier_that_fails_is_no_failure_of_the_run() -> None:
    agent = _agent(S.SUCCEEDED)
    with mock.patch.object(simple.store_util, "barrier", side_effect=RuntimeError("the store is gone")) as barrier:
        assert not agent.run().is_failed()
    assert barrier.call_args.kwargs["barrier_timeout"] == 300
    assert agent._in_exit_barrier is False


def test_a_signal_in_the_exit_barrier_is_raised() -> None:
    agent = _agent(S.SUCCEEDED)
    error = SignalException("stop", signal.SIGTERM)
    with mock.patch.object(simple.store_util, "barrier", side_effect=error), pytest.raises(SignalException):
        agent.run()


class _Shared(RendezvousHandler):
    """Agents of one process, in the order of their numbers, with one table."""

    def __init__(self, rank: int, world_size: int, store: LocalStore) -> None:
        self._met = RendezvousInfo(store, rank, world_size, RendezvousStoreInfo("host", 29500))

    def get_backend(self) -> str:
        return "shared"

    def next_rendezvous(self) -> RendezvousInfo:
        return self._met

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        raise NotImplementedError

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "run"

    def shutdown(self) -> bool:
        return True


def test_agents_wait_for_one_another_at_the_end() -> None:
    store = LocalStore()
    first, second = (_agent(S.SUCCEEDED, handler=_Shared(rank, 2, store)) for rank in range(2))
    thread = threading.Thread(target=first.run)
    with mock.patch.object(Agent, "_assign_worker_ranks", return_value=[Worker(0, 0)]):
        thread.start()
        store.wait(["torchelastic/agent/terminal_state/num_members"])
        assert thread.is_alive()
        assert second.run().state == S.SUCCEEDED
        thread.join(20)
    assert not thread.is_alive()


# ---- ranks

ROLES = [("ps", 4), ("trainer", 1), ("trainer", 2), ("trainer", 3), ("ps", 5)]
EXPECTED = [
    # local, role, global rank; size of the role, of the world
    [(0, 0, 0, 9, 15), (1, 1, 1, 9, 15), (2, 2, 2, 9, 15), (3, 3, 3, 9, 15)],
    [(0, 0, 4, 6, 15)],
    [(0, 1, 5, 6, 15), (1, 2, 6, 6, 15)],
    [(0, 3, 7, 6, 15), (1, 4, 8, 6, 15), (2, 5, 9, 6, 15)],
    [(0, 4, 10, 9, 15), (1, 5, 11, 9, 15), (2, 6, 12, 9, 15), (3, 7, 13, 9, 15), (4, 8, 14, 9, 15)],
]


def _numbers(workers: list[Worker]) -> list[tuple[int, ...]]:
    return [(w.local_rank, w.role_rank, w.global_rank, w.role_world_size, w.world_size) for w in workers]


def _assigned(roles: list[tuple[str, int]]) -> list[list[tuple[int, ...]]]:
    """What each of these agents comes to, all through one table."""
    store = LocalStore()

    def one(rank: int) -> list[tuple[int, ...]]:
        role, size = roles[rank]
        spec = WorkerSpec(role, size, StandaloneRendezvous("run"), entrypoint=abs)
        return _numbers(Agent(spec)._assign_worker_ranks(store, rank, len(roles), spec))

    with ThreadPoolExecutor(len(roles)) as pool:
        return list(pool.map(one, range(len(roles))))


def test_heterogeneous_agents_agree_on_ranks_through_the_store() -> None:
    assert _assigned(ROLES) == EXPECTED


def test_homogeneous_agents_count_through(monkeypatch: pytest.MonkeyPatch) -> None:
    by_store = _assigned([("trainer", 2)] * 3)
    assert by_store[2] == [(0, 4, 4, 6, 6), (1, 5, 5, 6, 6)]
    monkeypatch.setenv("TORCH_ELASTIC_WORKER_IDENTICAL", "1")
    assert _assigned([("trainer", 2)] * 3) == by_store
    spec = WorkerSpec("trainer", 2, StandaloneRendezvous("run"), entrypoint=abs)
    assert _numbers(Agent(spec)._assign_worker_ranks(None, 1, 3, spec)) == by_store[1]  # nothing is asked of a store


def test_role_infos_travel_as_torchs_json() -> None:
    info = RoleInstanceInfo("trainer", 2, 3)
    assert json.loads(info.serialize()) == {"role": "trainer", "rank": 2, "local_world_size": 3}
    back = RoleInstanceInfo.deserialize(info.serialize())
    assert (back.role, back.rank, back.local_world_size) == ("trainer", 2, 3)
    assert assign([info, RoleInstanceInfo("ps", 1, 1)]) == [(0, 4, 0, 3), (3, 4, 0, 1)]


@pytest.mark.parametrize(("role", "boundaries"), [("a", (0, 1)), ("b", (2, 2)), ("c", (-1, -1))])
def test_role_boundaries(role: str, boundaries: tuple[int, int]) -> None:
    infos = [RoleInstanceInfo("a", 0, 1), RoleInstanceInfo("a", 2, 1), RoleInstanceInfo("b", 1, 3)]
    assert RoleInstanceInfo.find_role_boundaries(infos, role) == boundaries


def test_role_infos_are_ordered_by_role_then_rank() -> None:
    a0, a1, b0 = RoleInstanceInfo("a", 0, 1), RoleInstanceInfo("a", 1, 1), RoleInstanceInfo("b", 0, 1)
    compare = RoleInstanceInfo.compare
    assert [compare(a0, b0), compare(b0, a1), compare(a0, a1), compare(a0, a0)] == [-1, 1, -1, 0]


# ---- the words


@pytest.mark.parametrize(
    "wrong", [{"local_world_size": 0}, {"monitor_interval": 0}, {"entrypoint": None}, {"entrypoint": ""}]
)
def test_a_spec_that_cannot_run_is_refused(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "role": "trainer",
        "local_world_size": 1,
        "rdzv_handler": None,
        "entrypoint": abs,
        **wrong,
    }
    with pytest.raises(AssertionError):
        WorkerSpec(**fields)


def test_fn_is_deprecated_and_works() -> None:
    with pytest.warns(DeprecationWarning, match=r"WorkerSpec.fn"):
        spec = WorkerSpec("trainer", 1, StandaloneRendezvous("run"), fn=abs)
    assert spec.entrypoint is abs
    assert spec.get_entrypoint_name() == "abs"


def test_states_that_run() -> None:
    assert [state.value for state in S if S.is_running(state)] == ["HEALTHY", "UNHEALTHY"]


class _Deaf(LocalStore):
    """As torch's stores, whose own waits hear no signal: they must not be asked for what is not there yet."""

    def get(self, key: str) -> bytes:
        assert self.check([key]), key
        return super().get(key)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        assert self.check(keys), keys
        return super().multi_get(keys)


@pytest.mark.parametrize("early", [0, 1])
def test_an_agent_that_waits_for_others_ranks_can_hear_a_signal(early: int) -> None:
    store = _Deaf()
    spec = WorkerSpec("trainer", 2, StandaloneRendezvous("run"), entrypoint=abs)

    def ranks(group_rank: int) -> list[int]:
        return [worker.global_rank for worker in Agent(spec)._assign_worker_ranks(store, group_rank, 2, spec)]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ranks, early)
        wait_until(lambda: store.check([f"torchelastic/role_info/{early}"]), within_s=10)
        second = pool.submit(ranks, 1 - early)
        assert (first.result(20), second.result(20)) == (([0, 1], [2, 3]) if early == 0 else ([2, 3], [0, 1]))
