"""Torch's own handlers behind our interface: they meet, and their errors are ours."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.rendezvous import torchs
from ipyelastic.rendezvous.choose import get_rendezvous_handler
from ipyelastic.rendezvous.handler import RendezvousHandler, RendezvousParameters
from ipyelastic.rendezvous.held_port import HeldPort
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms import errors

NODE = Path(__file__).with_name("one_node.py")
TORCHS = ("c10d", "etcd", "etcd-v2")


def c10d(folder: Path, nodes: int, **options: Any) -> RendezvousHandler:
    """A handler whose shared state is in a file: no port, nobody else's business."""
    state = str(folder / "state")
    return get_rendezvous_handler(
        RendezvousParameters("c10d", state, "run", nodes, nodes, "127.0.0.1", store_type="file", **options)
    )


@pytest.mark.torch
@pytest.mark.slow
def test_two_processes_form_one_rendezvous_and_its_end_is_our_error() -> None:
    port = HeldPort()
    nodes = []
    for is_host in (True, False):
        asked = {"backend": "c10d", "endpoint": f"127.0.0.1:{port.port}", "is_host": is_host, "closes": True}
        nodes.append(
            subprocess.Popen([sys.executable, str(NODE), json.dumps(asked)], stdout=subprocess.PIPE, text=True)
        )
    try:
        found = [json.loads(node.communicate(timeout=100)[0]) for node in nodes]
    finally:
        port.close()
        for node in nodes:
            node.kill()
    assert found[0].pop("next") == ["RendezvousClosedError", "torch"]
    by_rank = sorted(found, key=lambda node: node["rank"])
    assert by_rank[0].pop("master") == by_rank[1].pop("master")
    same = {"world_size": 2, "everybody": ["node 0", "node 1"], "use_agent_store": True}
    assert by_rank == [{"rank": rank, **same} for rank in range(2)]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(300)  # torch looks once a second, and gives up a node after five
def test_node_joins_later_and_its_death_leaves_the_other() -> None:
    port = HeldPort()
    with ExitStack() as stack:
        stack.callback(port.close)
        host, guest = (stack.enter_context(changing_node(port.port, role)) for role in ("host", "guest"))

        def told(node: subprocess.Popen[str], nodes: int) -> None:
            print(nodes, file=node.stdin, flush=True)

        def met(node: subprocess.Popen[str]) -> list[int]:
            assert node.stdout is not None
            found: list[int] = json.loads(node.stdout.readline())
            return found

        told(host, 1)
        *alone, first_port = met(host)
        assert alone == [0, 1]
        told(host, 2)
        told(guest, 2)
        (*one, port_of_one), (*other, port_of_other) = sorted([met(host), met(guest)])
        assert (one, other) == ([0, 2], [1, 2])
        assert port_of_one == port_of_other != first_port
        guest.kill()
        guest.wait()
        told(host, 1)
        assert met(host)[:2] == [0, 1]


@contextmanager
def changing_node(port: int, role: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(NODE.with_name("changing_node.py")), str(port), role]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        yield node
        node.kill()


@pytest.mark.torch
@pytest.mark.slow
def test_nodes_that_do_not_come_are_our_timeout(tmp_path: Path) -> None:
    handler = c10d(tmp_path, 2, join_timeout=1)
    with pytest.raises(errors.RendezvousTimeoutError) as raised:
        handler.next_rendezvous()
    assert type(raised.value.__cause__).__module__ == "torch.distributed.elastic.rendezvous.api"
    handler.shutdown()


@pytest.mark.torch
@pytest.mark.slow
def test_store_that_nobody_hosts_is_our_connection_error() -> None:
    port = HeldPort()  # nobody listens on it
    params = RendezvousParameters("c10d", f"127.0.0.1:{port.port}", "run", 1, 1, is_host=False, read_timeout=1)
    with pytest.raises(errors.RendezvousConnectionError) as raised:
        get_rendezvous_handler(params)
    assert type(raised.value.__cause__).__module__ == "torch.distributed.elastic.rendezvous.api"
    port.close()


@pytest.mark.torch
@pytest.mark.slow
def test_one_node_of_torchs_meets_itself_and_shows_what_torchs_has(tmp_path: Path) -> None:
    # In a process of its own: torch keeps its store's descriptors.
    code = """
        import sys
        from ipyelastic.rendezvous.choose import get_rendezvous_handler
        from ipyelastic.rendezvous.handler import RendezvousParameters

        options = {"store_type": "file", "join_timeout": 60}
        handler = get_rendezvous_handler(
            RendezvousParameters("c10d", sys.argv[1], "run", 1, 1, "127.0.0.1", **options)
        )
        print(type(handler).__name__, handler.get_backend(), handler.get_run_id(), handler.is_closed())
        print(handler.settings.timeout.join)
        info = handler.next_rendezvous()
        print(info.rank, info.world_size, info.bootstrap_store_info.master_addr)
        info.store.set("a", "1")
        print(info.store.get("a"), handler.num_nodes_waiting())
        print(handler.shutdown(), handler.is_closed())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "state")],
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "TorchRendezvous c10d run False",
        "0:01:00",
        "0 1 127.0.0.1",
        "b'1' 0",
        "True True",
    ]


@pytest.mark.torch
def test_parameters_that_torch_does_not_take_are_its_value_error() -> None:
    params = RendezvousParameters("c10d", "localhost:0", "run", 1, 1, store_type="shelf")
    with pytest.raises(ValueError, match="store type"):
        get_rendezvous_handler(params)


ERRORS = [name for name in errors.__all__ if name.startswith("Rendezvous")]


@pytest.mark.torch
@pytest.mark.parametrize("name", ERRORS)
def test_each_error_of_torchs_is_ours_of_the_same_name(name: str) -> None:
    api = torchs.torchs_module("torch.distributed.elastic.rendezvous.api", "the test")
    theirs = getattr(api, name)("the reason")
    with pytest.raises(errors.RendezvousError) as raised, torchs.translated_errors():
        raise theirs
    assert type(raised.value) is getattr(errors, name)
    assert str(raised.value) == "the reason"
    assert raised.value.__cause__ is theirs


@pytest.mark.torch
def test_error_derived_from_torchs_is_the_nearest_of_ours() -> None:
    api = torchs.torchs_module("torch.distributed.elastic.rendezvous.api", "the test")
    derived = type("PlugInError", (api.RendezvousGracefulExitError,), {})
    with pytest.raises(errors.RendezvousGracefulExitError), torchs.translated_errors():
        raise derived("enough nodes")


@pytest.mark.parametrize("error", [ValueError("a"), errors.RendezvousClosedError("b"), KeyboardInterrupt()])
def test_other_errors_pass_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, torchs.translated_errors():
        raise error
    assert raised.value is error


@pytest.mark.torch
def test_handler_that_a_plug_in_made_for_torch_is_put_behind_our_interface() -> None:
    api = torchs.torchs_module("torch.distributed.elastic.rendezvous.api", "the test")

    class Made(api.RendezvousHandler):  # type: ignore[misc, name-defined]
        def get_backend(self) -> str:
            return "made"

        def next_rendezvous(self) -> None:
            raise api.RendezvousGracefulExitError("not needed")

        is_closed = set_closed = num_nodes_waiting = get_run_id = shutdown = get_backend

    ours = torchs.as_ours(Made())
    assert isinstance(ours, RendezvousHandler)
    assert ours.get_backend() == "made"
    with pytest.raises(errors.RendezvousGracefulExitError, match="not needed"):
        ours.next_rendezvous()


def test_handler_of_ours_stays_what_it_is() -> None:
    handler = StandaloneRendezvous("run")
    assert torchs.as_ours(handler) is handler


@pytest.mark.parametrize("backend", TORCHS)
def test_without_torch_each_says_what_to_install(backend: str) -> None:
    code = f"""
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        from ipyelastic.rendezvous.choose import get_rendezvous_handler
        from ipyelastic.rendezvous.handler import RendezvousParameters

        params = RendezvousParameters({backend!r}, "localhost:0", "run", 1, 1)
        try:
            get_rendezvous_handler(params)
        except ImportError as error:
            print(error.name, str(error))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        f"torch the rendezvous backend {backend!r} needs torch, which is not installed: pip install torch\n"
    )


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["etcd", "etcd-v2"])
def test_without_python_etcd_each_says_what_to_install(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "etcd", None)
    with pytest.raises(ImportError, match=f"{backend!r} needs python-etcd and an etcd server: pip install python-etcd"):
        get_rendezvous_handler(RendezvousParameters(backend, "localhost:0", "run", 1, 1))


def test_choosing_one_of_ours_imports_no_torch() -> None:
    code = """
        import sys
        from ipyelastic.rendezvous.choose import get_rendezvous_handler
        from ipyelastic.rendezvous.handler import RendezvousParameters

        for backend in ("standalone", "static"):
            handler = get_rendezvous_handler(RendezvousParameters(backend, "localhost:0", "run", 1, 1, rank=0))
            handler.next_rendezvous()
            handler.shutdown()
        print([name for name in ("torch", "importlib.metadata", "psutil") if name in sys.modules])
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
