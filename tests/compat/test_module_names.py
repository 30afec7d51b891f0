"""Names that torch's modules hold besides their own: submodules, imports. Scripts import them, tests patch them."""

from __future__ import annotations

import importlib
from pathlib import Path
from unittest import mock

import pytest

from ipyelastic.compat import multiprocessing as compat
from ipyelastic.compat.multiprocessing import errors
from ipyelastic.terms.errors import ChildFailedError
from ipyelastic.terms.failure import ProcessFailure

NAMES = {
    "agent.server": "api health_check_server local_elastic_agent",
    "agent.server.api": "json logger os rdzv record socket store_util time",
    "agent.server.health_check_server": "HealthCheckServer get_logger",
    "events": "api handlers logging os socket traceback",
    "events.api": "json",
    "events.handlers": "logging",
    "multiprocessing": "api errors redirects subprocess_handler tail_log NumaOptions get_logger",
    "multiprocessing.api": "NumaOptions _maybe_wrap_with_numa_binding logging os re shutil subprocess tempfile time",
    "multiprocessing.errors": "GlobalRank JSON _NOT_AVAILABLE error_handler get_logger handlers json logger os signal",
    "multiprocessing.errors.error_handler": "json os time traceback warnings",
    "multiprocessing.redirects": "IS_MACOS IS_WINDOWS ctypes logger os sys",
    "multiprocessing.subprocess_handler": "handlers subprocess_handler",
    "multiprocessing.subprocess_handler.subprocess_handler": "NumaOptions os signal sys",
    "multiprocessing.tail_log": "Event ThreadPoolExecutor os time",
    "rendezvous": "api dynamic_rendezvous registry utils _register_default_handlers _register_out_of_tree_handlers",
    "rendezvous.static_tcp_rendezvous": "RendezvousHandler RendezvousInfo RendezvousParameters RendezvousStoreInfo",
    "timer.api": "abc logging threading",
    "timer.file_based_local_timer": "TimerClient TimerRequest get_logger json signal threading",
    "timer.local_timer": "Empty RequestQueue TimerClient TimerRequest TimerServer signal",
    "utils.distributed": "get_logger logger os socket",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_module_has_the_names_that_torchs_has(module: str) -> None:
    ours = importlib.import_module(f"ipyelastic.compat.{module}")
    assert [name for name in NAMES[module].split() if not hasattr(ours, name)] == []


@pytest.mark.torch
@pytest.mark.slow
def test_torch_has_these_names() -> None:
    lacking = [
        f"{module}.{name}"
        for module, names in NAMES.items()
        for name in names.split()
        if not hasattr(importlib.import_module(f"torch.distributed.elastic.{module}"), name)
    ]
    assert lacking == []


def test_patched_logger_of_errors_hears_what_cannot_be_recorded() -> None:
    def fail() -> None:
        raise ChildFailedError("main", {0: ProcessFailure(0, 1, 1, "/nowhere/error.json")})

    with mock.patch.object(errors, "logger") as told, pytest.raises(ChildFailedError):
        errors.record(fail)()
    assert told.info.called or told.exception.called


def test_patched_numa_wrapper_is_what_a_program_gets(tmp_path: Path) -> None:
    path = "ipyelastic.compat.multiprocessing.subprocess_handler.subprocess_handler"
    specs = compat.DefaultLogsSpecs(log_dir=str(tmp_path))
    with mock.patch(f"{path}._maybe_wrap_command_args_with_numa_binding", return_value=("true",)) as wrap:
        context = compat.start_processes("patched", "false", {0: ()}, {0: {}}, specs)
        result = context.wait()
    assert result is not None
    assert not result.is_failed()
    wrap.assert_called_once()
