"""Static rendezvous: one node without torch or a server, several with torch's store."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.rendezvous.choose import get_rendezvous_handler
from ipyelastic.rendezvous.handler import RendezvousHandler, RendezvousParameters
from ipyelastic.rendezvous.held_port import HeldPort
from ipyelastic.rendezvous.static import StaticTCPRendezvous
from ipyelastic.terms.errors import RendezvousConnectionError, StoreTimeoutError


def static(endpoint: str = "localhost:0", max_nodes: int = 1, **options: Any) -> RendezvousHandler:
    return get_rendezvous_handler(RendezvousParameters("static", endpoint, "run", 1, max_nodes, **options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "rank is absent in RendezvousParameters; try --node-rank"),
        (
            {"rank": 0, "endpoint": " "},
            "endpoint is absent in RendezvousParameters; try --master-addr and --master-port",
        ),
        ({"rank": 0, "endpoint": "host"}, "port is absent in endpoint 'host'; try --master-port"),
        ({"rank": 1}, "rank=1: expected 0 .. 0 of 1 nodes"),
        ({"rank": -1}, "rank=-1: expected 0 .. 0 of 1 nodes"),
        (
            {"rank": "first"},
            "the rendezvous configuration option 'rank' does not represent a valid integer value: 'first'",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as raised:
        static(**options)
    assert str(raised.value) == text


def test_one_node_holds_the_port_that_its_rank_0_will_listen_on() -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    rendezvous = static(f"localhost:{port}", rank=0)
    for _ in range(2):  # the same for every attempt
        info = rendezvous.next_rendezvous()
        assert (info.rank, info.world_size) == (0, 1)
        where = info.bootstrap_store_info
        assert (where.master_addr, where.master_port) == ("localhost", port)
        with closing(socket.socket()) as stranger, pytest.raises(OSError):
            stranger.bind(("", port))
    assert rendezvous.use_agent_store is False  # its agent hosts none: rank 0 does
    assert rendezvous.shutdown() is True
    with closing(socket.socket()) as stranger:
        stranger.bind(("", port))


def test_port_0_of_one_node_is_any_that_is_free() -> None:
    rendezvous = static(rank=0)
    assert rendezvous.next_rendezvous().bootstrap_store_info.master_port > 0
    rendezvous.shutdown()


def test_taken_port_of_one_node_is_named() -> None:
    with closing(socket.socket()) as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RendezvousConnectionError, match=f"port {port} of this machine cannot be had"):
            static(f"localhost:{port}", rank=0).next_rendezvous()


def test_waits_in_the_table_end_with_the_timeout_given() -> None:
    rendezvous = StaticTCPRendezvous("localhost", 0, 0, 1, "run", timeout=1)
    store = rendezvous.next_rendezvous().store
    with pytest.raises(StoreTimeoutError, match="not set within 1 s: never"):
        store.get("never")
    with pytest.raises(StoreTimeoutError):
        store.wait(["never"], timedelta(milliseconds=1))
    rendezvous.shutdown()


def test_nobody_waits_and_nothing_closes_it() -> None:
    rendezvous = static(rank=0)
    rendezvous.set_closed()
    assert (rendezvous.is_closed(), rendezvous.num_nodes_waiting()) == (False, 0)
    assert (rendezvous.get_backend(), rendezvous.get_run_id()) == ("static", "run")


def test_several_nodes_without_torch_say_what_to_install() -> None:
    code = """
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        from ipyelastic.rendezvous.choose import get_rendezvous_handler
        from ipyelastic.rendezvous.handler import RendezvousParameters

        one = get_rendezvous_handler(RendezvousParameters("static", "localhost:0", "run", 1, 1, rank=0))
        print(one.next_rendezvous().world_size)
        one.shutdown()
        try:
            get_rendezvous_handler(RendezvousParameters("static", "localhost:0", "run", 2, 2, rank=0))
        except ImportError as error:
            print(error)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    needs = "a static rendezvous of several nodes needs torch, which is not installed: pip install torch"
    assert ended.stdout.splitlines() == ["1", needs]


@pytest.mark.torch
@pytest.mark.slow
def test_several_nodes_share_torchs_store_hosted_by_the_first() -> None:
    nodes = Path(__file__).with_name("one_node.py")
    port = HeldPort()
    options = {"backend": "static", "endpoint": f"127.0.0.1:{port.port}", "timeout": 60}
    started = [
        subprocess.Popen(
            [sys.executable, str(nodes), json.dumps({**options, "rank": rank})], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        found = [json.loads(node.communicate(timeout=90)[0]) for node in started]
    finally:
        port.close()
        for node in started:
            node.kill()
    same = {"world_size": 2, "everybody": ["node 0", "node 1"], "use_agent_store": True}
    master = ["127.0.0.1", port.port]
    assert found == [{"rank": rank, "master": master, **same} for rank in range(2)]


@pytest.mark.torch
@pytest.mark.slow
def test_store_that_nobody_hosts_is_named_after_the_timeout() -> None:
    port = HeldPort()  # nobody listens on it
    rendezvous = static(f"127.0.0.1:{port.port}", 2, rank=1, timeout=1)
    with pytest.raises(RendezvousConnectionError, match=f"run 'run' at 127.0.0.1:{port.port} cannot be reached"):
        rendezvous.next_rendezvous()
    port.close()
