"""torch.distributed.elastic.utils, ours; and that compat needs no torch."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import socket
import subprocess
import sys
import textwrap

import pytest

import ipyelastic.compat
from ipyelastic.compat import utils
from ipyelastic.compat.utils import api
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
