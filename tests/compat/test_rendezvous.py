"""`compat.rendezvous` answers as torch's does, hands on what is torch's own, and says so where torch is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

CASES = Path(__file__).with_name("rendezvous_cases.py")
HANDED_ON = {
    "dynamic_rendezvous": "DynamicRendezvousHandler",
    "c10d_rendezvous_backend": "C10dRendezvousBackend",
    "etcd_rendezvous": "EtcdRendezvousHandler",
    "etcd_rendezvous_backend": "EtcdRendezvousBackend",
    "etcd_store": "EtcdStore",
    "etcd_server": "EtcdServer",
}
ETCDS = [name for name in HANDED_ON if name.startswith("etcd")]

_PLUG_IN = """
    class Plugged:
        def get_backend(self):
            return "plugged"

    def plugged():
        return lambda params: Plugged()

    def not_callable():
        return None

    def raising():
        raise OSError("on purpose")
"""
_ENTRY_POINTS = """
    [torchrun.handlers]
    plugged = plugged_rendezvous:plugged
    not callable = plugged_rendezvous:not_callable
    raising = plugged_rendezvous:raising
    missing = there_is_no_such_module:plugged
    static = plugged_rendezvous:plugged
"""


@pytest.fixture
def plug_ins(tmp_path: Path) -> str:
    """A folder with a distribution that offers handlers, good and bad."""
    (tmp_path / "plugged_rendezvous.py").write_text(textwrap.dedent(_PLUG_IN))
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(_ENTRY_POINTS))
    return str(tmp_path)


def answers(tree: str, plug_ins: str) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), plug_ins]))
    ended = subprocess.run(
        [sys.executable, str(CASES), tree],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.torch
@pytest.mark.slow
def test_answers_equal_torchs(plug_ins: str) -> None:
    ours, theirs = answers("ours", plug_ins), answers("torch", plug_ins)
    assert len(theirs) > 300
    # Torch has asked its plug-ins at import, and takes one that it cannot call.
    for on_purpose in ("plug-in not callable", "a plug-in that fails warns"):
        del theirs[on_purpose]
    assert {question: ours.get(question) for question in theirs} == theirs


@pytest.mark.slow
def test_plug_ins_make_handlers_and_those_that_fail_only_warn(plug_ins: str) -> None:
    found = answers("ours", plug_ins)
    assert found["plug-in plugged"] == "Plugged"
    assert found["plug-in static"] == "StaticTCPRendezvous"
    for failing in ("not callable", "raising", "missing", "nobody's"):
        assert found[f"plug-in {failing}"] in ("raises ValueError", "raises TypeError")
    assert found["a plug-in that fails warns"] == ["WARNING"]


def in_fresh_interpreter(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_importing_every_module_imports_no_torch_and_starts_nothing() -> None:
    names = [*HANDED_ON, "api", "registry", "utils", "static_tcp_rendezvous"]
    printed = in_fresh_interpreter(f"""
        import importlib, sys, threading
        for name in {names!r}:
            importlib.import_module("ipyelastic.compat.rendezvous." + name)
        print("torch" in sys.modules, threading.active_count())
    """)
    assert printed == "False 1\n"


@pytest.mark.parametrize(("module", "name"), HANDED_ON.items())
def test_without_torch_a_name_of_torchs_says_what_is_missing_at_use(module: str, name: str) -> None:
    printed = in_fresh_interpreter(f"""
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        import ipyelastic.compat.rendezvous.{module} as handed_on

        print(hasattr(handed_on, "__path__"), "hand_on" in dir(handed_on))
        for use in ("handed_on.{name}", "exec('from ipyelastic.compat.rendezvous.{module} import {name}')"):
            try:
                eval(use)
            except ImportError as error:
                print(error.name, str(error))
    """)
    needs = f"ipyelastic.compat.rendezvous.{module}.{name} needs torch, which is not installed: pip install torch"
    assert printed.splitlines() == ["False True", f"torch {needs}", f"torch {needs}"]


@pytest.mark.torch
@pytest.mark.parametrize(("module", "name"), HANDED_ON.items())
def test_torchs_own_are_handed_on(module: str, name: str) -> None:
    import importlib

    ours = importlib.import_module(f"ipyelastic.compat.rendezvous.{module}")
    theirs = importlib.import_module(f"torch.distributed.elastic.rendezvous.{module}")
    assert getattr(ours, name) is getattr(theirs, name)
    assert name in dir(ours)
    assert not hasattr(ours, "no_such_name")
    assert getattr(ours, "__all__", None) == getattr(theirs, "__all__", None)


NAMES_REPLACED = [
    *["datetime", "time", "_delay", "_Action", "_NodeDesc", "_NodeDescGenerator", "_RendezvousState"],
    *["_RendezvousContext", "_RendezvousCloseOp", "_RendezvousExitOp", "_RendezvousJoinOp", "_RendezvousKeepAliveOp"],
    *["_RendezvousOpExecutor", "_RendezvousStateHolder", "_BackendRendezvousStateHolder"],
    "_DistributedRendezvousOpExecutor",
]


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES_REPLACED)
def test_name_replaced_here_is_replaced_in_torch(name: str) -> None:
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as theirs

    before = getattr(theirs, name)
    with mock.patch(f"ipyelastic.compat.rendezvous.dynamic_rendezvous.{name}") as fake:
        assert getattr(theirs, name) is fake
    assert getattr(theirs, name) is before


@pytest.mark.torch
def test_attribute_of_a_name_replaced_here_is_replaced_in_torch() -> None:
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as theirs

    with mock.patch("ipyelastic.compat.rendezvous.dynamic_rendezvous.time.sleep") as fake:
        assert theirs.time.sleep is fake
