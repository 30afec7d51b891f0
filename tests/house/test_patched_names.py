"""A name replaced in a compat module is replaced where it is used: SEEDS section 17, one by one."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest

from ipyelastic.agent import watching
from ipyelastic.compat import events as compat_events
from ipyelastic.compat import multiprocessing as compat
from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, Std, api, start_processes, tail_log
from ipyelastic.compat.multiprocessing.subprocess_handler import SubprocessHandler, subprocess_handler
from ipyelastic.compat.numa import binding
from ipyelastic.telemetry import events as telemetry_events
from ipyelastic.telemetry import metrics as telemetry_metrics

API = "ipyelastic.compat.multiprocessing.api"


def _context(tmp_path: Path, entrypoint: object = int) -> api.MultiprocessContext:
    # Not fork: a forked worker would have the patches, too.
    specs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
    return api.MultiprocessContext("patched", entrypoint, {0: ()}, {0: {}}, "forkserver", specs)  # type: ignore[arg-type]


def test_patched_signal_takes_the_handlers(tmp_path: Path) -> None:
    with mock.patch(f"{API}.signal.signal") as taken:
        context = _context(tmp_path)
        context.start()
        context.wait()
    names = {call.args[0] for call in taken.call_args_list}
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT} <= names


def test_patched_threading_decides_whether_handlers_are_taken(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with mock.patch(f"{API}.threading") as fake:
        fake.current_thread.return_value, fake.main_thread.return_value = object(), object()
        context = _context(tmp_path)
        context.start()
        assert signal.getsignal(signal.SIGTERM) is before
        context.wait()


def test_patched_logger_is_told(tmp_path: Path) -> None:
    with mock.patch(f"{API}.logger") as told:
        context = _context(tmp_path, entrypoint=_fail)
        context.start()
        result = context.wait()
    assert result is not None
    assert result.is_failed()
    assert told.error.called


def _fail() -> None:
    raise ValueError("on purpose")


def _other_wrap(local_rank, fn, args, envs, stdouts, stderrs, ret_vals, event, numa_options) -> None:
    ret_vals[local_rank].put(("wrapped", fn(*args[local_rank])))
    event.wait()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_patched_wrap_is_what_a_worker_runs(tmp_path: Path, method: str) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
    with mock.patch(f"{API}._wrap", _other_wrap):
        context = start_processes("wrapped", abs, {0: (-3,)}, {0: {}}, specs, start_method=method)
        result = context.wait()
    assert result is not None
    assert result.return_values == {0: ("wrapped", 3)}


def test_patched_is_windows_changes_the_default_signal() -> None:
    with (
        mock.patch(f"{API}.IS_WINDOWS", True),
        mock.patch.object(signal, "CTRL_C_EVENT", "ctrl-c", create=True),
    ):
        assert api._get_default_signal() == "ctrl-c"
        assert api._get_kill_signal() == "ctrl-c"
    assert api._get_default_signal() is signal.SIGTERM
    assert api._get_kill_signal() is signal.SIGKILL


def test_patched_terminate_handler_is_the_one_installed(tmp_path: Path) -> None:
    seen: list[int] = []
    with mock.patch(f"{API}._terminate_process_handler", lambda signum, frame: seen.append(signum)):
        context = _context(tmp_path)
        context.start()
        signal.raise_signal(signal.SIGTERM)
        context.wait()
    assert seen == [signal.SIGTERM]


def test_patched_full_rank_check_is_asked(tmp_path: Path) -> None:
    with mock.patch(f"{API}._validate_full_rank") as asked:
        _context(tmp_path)
    assert asked.call_count == 2


def test_patched_context_class_is_made_by_start_processes(tmp_path: Path) -> None:
    with mock.patch(f"{API}.MultiprocessContext") as made:
        start_processes("patched", int, {0: ()}, {0: {}}, DefaultLogsSpecs(log_dir=str(tmp_path)))
    made.return_value.start.assert_called_once_with()


def test_patched_tail_logger_hears_of_a_tail_that_failed(tmp_path: Path) -> None:
    with mock.patch("ipyelastic.compat.multiprocessing.tail_log.logger") as told:
        tail = tail_log.TailLog("patched", {0: str(tmp_path)}, sys.stdout).start()
        tail.stop()
    assert told.exception.called


def test_patched_popen_starts_the_program() -> None:
    name = "ipyelastic.compat.multiprocessing.subprocess_handler.subprocess_handler.Popen"
    with mock.patch(name) as popen:
        handler = SubprocessHandler("true", (1,), {"A": "1"}, "", "", 0, None)
    assert popen.call_args.kwargs["args"] == ("true", "1")
    assert handler.proc is popen.return_value
    assert subprocess_handler.Popen is not popen


def test_patched_popen_hook_starts_the_program() -> None:
    with mock.patch.object(SubprocessHandler, "_popen") as popen:
        SubprocessHandler("true", (), {}, "", "", 0, None)
    assert popen.called


@pytest.mark.parametrize(
    "name", ["_get_numa_node_index_for_gpu_index", "_get_ranges_str_from_ints", "shutil", "signpost_event"]
)
def test_patched_numa_names_reach_their_room(name: str) -> None:
    from ipyelastic.devices import numa

    with mock.patch(f"ipyelastic.compat.numa.binding.{name}") as fake:
        assert getattr(numa, name) is fake
    assert getattr(numa, name) is getattr(binding, name)


@pytest.mark.parametrize("name", ["_is_done", "_poll", "_tail_logs", "pids", "wait", "close", "start"])
def test_attributes_that_callers_use_are_there(tmp_path: Path, name: str) -> None:
    assert hasattr(_context(tmp_path), name)


def test_worker_processes_are_found_under_pc(tmp_path: Path) -> None:
    context = _context(tmp_path)
    context.start()
    assert context._pc is not None
    assert context._pc.pids() == [context.pids()[0]]
    context.wait()
    assert [process.exitcode for process in context._pc.processes] == [0]


def test_everything_exported_is_there() -> None:
    assert all(hasattr(compat, name) for name in compat.__all__)
    assert isinstance(api.logger, logging.Logger)
    assert api.threading is threading


@pytest.mark.parametrize(
    ("module", "name", "room"),
    [
        ("utils", "_parse_rendezvous_config", "endpoint"),
        ("utils", "_try_parse_port", "endpoint"),
        ("utils", "_matches_machine_hostname", "endpoint"),
        ("utils", "socket", "endpoint"),
        ("utils", "_delay", "periodic"),
        ("utils", "_PeriodicTimer", "periodic"),
        ("utils", "time", "periodic"),
        ("utils", "parse_rendezvous_endpoint", "standalone"),
        ("static_tcp_rendezvous", "parse_rendezvous_endpoint", "static"),
        ("static_tcp_rendezvous", "StaticTCPRendezvous", "static"),
        ("registry", "get_rendezvous_handler", "choose"),
        ("registry", "_register_out_of_tree_handlers", "choose"),
        ("registry", "entry_points", "choose"),
        ("registry", "log", "choose"),
        ("api", "rendezvous_handler_registry", "choose"),
        ("api", "RendezvousStoreInfo", "handler"),
        ("api", "socket", "handler"),
    ],
)
def test_patched_rendezvous_names_reach_their_room(module: str, name: str, room: str) -> None:
    used_in = importlib.import_module(f"ipyelastic.rendezvous.{room}")
    before = getattr(used_in, name)
    with mock.patch(f"ipyelastic.compat.rendezvous.{module}.{name}") as fake:
        assert getattr(used_in, name) is fake
    assert getattr(used_in, name) is before


def test_patched_port_parser_reads_the_endpoint() -> None:
    from ipyelastic.compat.rendezvous.utils import parse_rendezvous_endpoint

    with mock.patch("ipyelastic.compat.rendezvous.utils._try_parse_port", return_value=7):
        assert parse_rendezvous_endpoint("host:any", 1) == ("host", 7)


def test_patched_free_port_is_the_masters() -> None:
    from ipyelastic.compat.rendezvous.api import RendezvousStoreInfo
    from ipyelastic.rendezvous.local_store import LocalStore

    with mock.patch("ipyelastic.compat.rendezvous.api.get_free_port", return_value=7):
        assert RendezvousStoreInfo.build(0, LocalStore(), "host").master_port == 7


def test_patched_registry_is_what_handlers_are_registered_in() -> None:
    from ipyelastic.compat.rendezvous import RendezvousHandlerRegistry, registry

    own = RendezvousHandlerRegistry()
    with (
        mock.patch("ipyelastic.compat.rendezvous.registry.handler_registry", own),
        mock.patch("ipyelastic.compat.rendezvous.registry._create_c10d_handler") as create,
    ):
        registry._register_default_handlers()
        create.return_value.get_backend.return_value = "c10d"
        params = registry.RendezvousParameters("c10d", "localhost:0", "run", 1, 1)
        assert registry.get_rendezvous_handler(params) is create.return_value
    create.assert_called_once_with(params)


def _event() -> compat_events.Event:
    return compat_events.Event("n", compat_events.EventSource.AGENT)


def test_patched_event_names_reach_who_records() -> None:
    name = "ipyelastic.compat.events"
    with mock.patch(f"{name}._get_or_create_logger") as made:
        telemetry_events.record(_event(), "mine")
    made.assert_called_once_with("mine")
    made.return_value.info.assert_called_once_with(_event().serialize())
    with mock.patch(f"{name}.get_logging_handler", return_value=logging.StreamHandler()) as asked:
        with mock.patch(f"{name}.record_rdzv_event") as recorded:
            telemetry_events.construct_and_record_rdzv_event("rid", "msg", compat_events.NodeState.RUNNING)
        assert asked.call_args.args == ("dynamic_rendezvous",)
    assert recorded.call_args.args[0].run_id == "rid"
    with mock.patch(f"{name}.record") as recorded:
        telemetry_events.record(_event(), "null")
    recorded.assert_called_once_with(_event(), "null")


def test_patched_handlers_are_where_events_go() -> None:
    heard = mock.Mock(spec=logging.Handler, level=0)
    with mock.patch("ipyelastic.compat.events.handlers._log_handlers", {"of a patch": heard}):
        compat_events.record(_event(), "of a patch")
    assert heard.handle.called
    logging.getLogger("torchelastic-events-of a patch").handlers.clear()
    compat_events._events_loggers.pop("of a patch")


def test_patched_metric_names_reach_who_measures() -> None:
    name = "ipyelastic.compat.metrics.api"
    with mock.patch(f"{name}.getStream") as stream, mock.patch(f"{name}._get_metric_name", return_value="patched"):
        telemetry_metrics.put_metric("a", 1)
        telemetry_metrics.prof(abs)(1)
    assert [call.args[0] for call in stream.return_value.add_value.call_args_list] == [
        "a",
        "patched.success",
        "patched.duration.ms",
    ]


def test_patched_health_check_is_what_an_agent_makes() -> None:
    name = "ipyelastic.compat.agent.server.health_check_server.create_healthcheck_server"
    with mock.patch(name) as made:
        assert watching.create_healthcheck_server is made
    assert watching.create_healthcheck_server is not made


@pytest.mark.parametrize("module", ["timer.api", "timer.local_timer", "timer.file_based_local_timer"])
def test_patched_timer_names_reach_their_rooms(module: str) -> None:
    face = importlib.import_module(f"ipyelastic.compat.{module}")
    rooms = {room for name in ("logger", "time") for room in face._rooms[name]}
    assert rooms
    with mock.patch(f"ipyelastic.compat.{module}.time") as fake:
        assert {room.time for room in rooms} == {fake}
