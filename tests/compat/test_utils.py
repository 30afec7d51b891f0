"""torch.distributed.elastic.utils, ours; and that compat needs no torch."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import pkgutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipyelastic.compat
from ipyelastic.compat import control_plane, utils
from ipyelastic.compat.agent.server import health_check_server
from ipyelastic.compat.utils import api, data, distributed
from ipyelastic.compat.utils.log_level import get_log_level
from ipyelastic.compat.utils.logging import get_logger


def test_a_logger_has_the_callers_name_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGLEVEL", raising=False)
    logger = get_logger()
    assert logger is logging.getLogger(__name__)
    assert logger.level == logging.WARNING
    assert get_log_level() == "WARNING"


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_a_loggers_level_is_what_loglevel_says(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("LOGLEVEL", level)
    logger = get_logger("tests.compat.of_a_name")
    assert logger.name == "tests.compat.of_a_name"
    assert logger.level == getattr(logging, level)


def test_a_logger_of_a_file_without_module_has_the_files_name() -> None:
    code = compile("logger = get_logger()", "/somewhere/script_without_module.py", "exec")
    names = {"get_logger": get_logger}
    exec(code, names)
    assert names["logger"].name == "script_without_module"  # type: ignore[attr-defined]


def test_a_variable_is_read_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "value")
    assert utils.get_env_variable_or_raise("SOME_VARIABLE") == "value"
    monkeypatch.setenv("SOME_VARIABLE", "")
    assert utils.get_env_variable_or_raise("SOME_VARIABLE") == ""
    monkeypatch.delenv("SOME_VARIABLE")
    with pytest.raises(ValueError) as caught:
        utils.get_env_variable_or_raise("SOME_VARIABLE")
    assert str(caught.value) == "Environment variable SOME_VARIABLE expected, but not set"


def test_a_port_is_held_by_a_listening_socket() -> None:
    with utils.get_socket_with_port() as held, utils.get_socket_with_port() as other:
        address = held.getsockname()
        assert address[1] > 0
        assert address[1] != other.getsockname()[1]
        with socket.create_connection(address[:2], timeout=10):
            pass


def test_no_port_raises_and_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("localhost", 0))  # cannot listen
    monkeypatch.setattr(api.socket, "getaddrinfo", lambda *args, **kwargs: [nowhere])
    with pytest.raises(RuntimeError) as caught:
        utils.get_socket_with_port()
    assert str(caught.value) == "Failed to create a socket"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--rank", "${local_rank}"], ["--rank", "3"]),
        (["--rank=$local_rank", "a${local_rank}b${local_rank}"], ["--rank=3", "a3b3"]),
        (["${other}", "$", "$$", "${"], ["${other}", "$", "$", "${"]),
        ([1, None, utils.macros], [1, None, utils.macros]),
        ([], []),
    ],
)
def test_macros_replace_the_local_rank_in_texts(given: list[object], expected: list[object]) -> None:
    before = list(given)
    assert utils.macros.local_rank == "${local_rank}"
    assert utils.macros.substitute(given, "3") == expected
    assert given == before


_WITHOUT_TORCH = """
    import importlib, json, pkgutil, sys, threading

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("torch", "ray"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Block())
    import ipyelastic.compat as compat

    names = [found.name for found in pkgutil.walk_packages(compat.__path__, "ipyelastic.compat.")]
    for name in names:
        importlib.import_module(name)
    print(json.dumps([names, threading.active_count(), "torch" in sys.modules]))
"""


def test_every_compat_module_imports_without_torch() -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(_WITHOUT_TORCH)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert (done.returncode, done.stderr) == (0, "")
    names, threads, has_torch = json.loads(done.stdout)
    assert {"ipyelastic.compat.multiprocessing.api", "ipyelastic.compat.spawn"} <= set(names)
    assert (threads, has_torch) == (1, False)


@pytest.mark.parametrize(
    "name", [found.name for found in pkgutil.walk_packages(ipyelastic.compat.__path__, "ipyelastic.compat.")]
)
def test_every_exported_name_is_there(name: str) -> None:
    module = importlib.import_module(name)
    assert [export for export in getattr(module, "__all__", ()) if not hasattr(module, export)] == []


def test_a_free_port_is_that_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        closed = False

        def getsockname(self) -> tuple[str, int]:
            return ("localhost", 1234)

        def close(self) -> None:
            self.closed = True

    held = Held()
    monkeypatch.setattr(distributed, "get_socket_with_port", lambda: held)
    assert distributed.get_free_port() == 1234
    assert held.closed


@pytest.mark.parametrize(
    ("n", "start", "expected"),
    [(0, 0, []), (1, 0, [0]), (3, 0, [0, 1, 1, 2, 2, 2]), (3, 2, [2, 2, 2]), (3, 3, []), (-1, 0, [])],
)
def test_epochs_follow_each_other(n: int, start: int, expected: list[int]) -> None:
    asked: list[int] = []

    def epoch(number: int) -> Iterator[int]:
        asked.append(number)
        return iter([number] * (number + 1))

    cycling = data.CyclingIterator(n, epoch, start)
    assert iter(cycling) is cycling
    assert list(cycling) == expected
    assert list(cycling) == []
    assert asked == list(range(start, n))


_TORCHS = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torch":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Block())
    from ipyelastic.compat import control_plane
    from ipyelastic.compat.utils import data, distributed

    def serve():
        import os
        os.environ["TORCH_WORKER_SERVER_SOCKET"] = "/nowhere/socket"
        with control_plane.worker_main():
            pass

    for use in (
        lambda: data.ElasticDistributedSampler,
        lambda: data.elastic_distributed_sampler.ElasticDistributedSampler,
        lambda: distributed.create_c10d_store(True, "localhost"),
        serve,
    ):
        try:
            use()
        except ImportError as error:
            print(error.name, "torch" in str(error))
"""


def test_names_that_only_torch_has_say_so_when_they_are_used() -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(_TORCHS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "torch True\n" * 4


def test_a_name_that_nobody_has_is_an_attribute_error() -> None:
    for module in (data, data.elastic_distributed_sampler):
        with pytest.raises(AttributeError, match="has no attribute 'Sampler'"):
            module.Sampler


def test_a_workers_main_function_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCH_WORKER_SERVER_SOCKET", raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    @control_plane.worker_main()
    def main(value: int) -> int:
        return 6 // value

    assert main(2) == 3
    assert not (tmp_path / "error.json").exists()
    with pytest.raises(SystemExit), control_plane.worker_main():
        sys.exit(0)
    assert not (tmp_path / "error.json").exists()
    with pytest.raises(ZeroDivisionError):
        main(0)
    written = json.loads((tmp_path / "error.json").read_text())
    assert written["message"]["message"].startswith("ZeroDivisionError: ")
    assert "return 6 // value" in written["message"]["extraInfo"]["py_callstack"]


def test_a_worker_server_listens_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def server(path: str) -> Iterator[None]:
        told.append(f"listens at {path}")
        yield
        told.append("ended")

    monkeypatch.setattr(control_plane, "_worker_server", server)
    monkeypatch.setenv("TORCH_WORKER_SERVER_SOCKET", "/a/socket")
    with control_plane.worker_main():
        assert told == ["listens at /a/socket"]
    assert told == ["listens at /a/socket", "ended"]


def test_a_health_check_server_is_a_place_for_one(caplog: pytest.LogCaptureFixture) -> None:
    def alive() -> int:
        return 5

    made = health_check_server.create_healthcheck_server(alive_callback=alive, port=1, timeout=60)
    assert type(made) is health_check_server.HealthCheckServer
    assert made.alive_callback is alive
    with caplog.at_level(logging.INFO, logger="ipyelastic"):
        made.start()
        made.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "No health check server started",
        "Stopping noop health check server.",
    ]
