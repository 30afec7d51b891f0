"""The rendezvous of one machine: complete at once, without a server, with another port for every attempt."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import closing

import pytest

from ipyelastic.rendezvous.choose import get_rendezvous_handler
from ipyelastic.rendezvous.handler import RendezvousParameters
from ipyelastic.rendezvous.local_store import LocalStore
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.errors import RendezvousClosedError, RendezvousConnectionError


def is_held(port: int) -> bool:
    with closing(socket.socket()) as stranger:
        try:
            stranger.bind(("", port))
        except OSError:
            return True
    return False


def test_one_node_of_one_with_a_table_and_a_held_port_of_this_machine() -> None:
    rendezvous = StandaloneRendezvous("run 7")
    info = rendezvous.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)
    assert isinstance(info.store, LocalStore)
    assert info.bootstrap_store_info.master_addr == "127.0.0.1"
    assert is_held(info.bootstrap_store_info.master_port)
    assert (rendezvous.get_backend(), rendezvous.get_run_id()) == ("standalone", "run 7")
    assert (rendezvous.use_agent_store, rendezvous.num_nodes_waiting(), rendezvous.is_closed()) == (False, 0, False)
    assert rendezvous.shutdown() is True
    assert not is_held(info.bootstrap_store_info.master_port)


def test_nothing_listens_and_no_thread_begins() -> None:
    threads = set(threading.enumerate())
    rendezvous = StandaloneRendezvous("run")
    port = rendezvous.next_rendezvous().bootstrap_store_info.master_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    assert set(threading.enumerate()) <= threads
    rendezvous.shutdown()


def test_each_attempt_has_another_port_and_an_empty_table() -> None:
    rendezvous = StandaloneRendezvous("run")
    before = rendezvous.next_rendezvous()
    before.store.set("of the first attempt", "1")
    for _ in range(10):
        now = rendezvous.next_rendezvous()
        port, former = now.bootstrap_store_info.master_port, before.bootstrap_store_info.master_port
        assert port != former
        assert is_held(port)
        assert not is_held(former)
        assert isinstance(now.store, LocalStore)
        assert now.store.num_keys() == 0
        before = now
    rendezvous.shutdown()


def test_next_attempt_does_not_wait_for_a_rank_that_still_listens() -> None:
    rendezvous = StandaloneRendezvous("run")
    port = rendezvous.next_rendezvous().bootstrap_store_info.master_port
    with closing(socket.socket()) as rank_0:
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank_0.bind(("127.0.0.1", port))
        rank_0.listen()
        assert rendezvous.next_rendezvous().bootstrap_store_info.master_port != port
    rendezvous.shutdown()


def test_chosen_port_is_the_same_for_every_attempt() -> None:
    rendezvous = StandaloneRendezvous("run")
    port = rendezvous.next_rendezvous().bootstrap_store_info.master_port
    rendezvous.shutdown()
    chosen = StandaloneRendezvous("run", master_addr="localhost", master_port=port)
    for _ in range(2):
        info = chosen.next_rendezvous().bootstrap_store_info
        assert (info.master_addr, info.master_port) == ("localhost", port)
        assert is_held(port)
    chosen.shutdown()


def test_port_of_somebody_else_is_an_error_that_names_it() -> None:
    with closing(socket.socket()) as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RendezvousConnectionError, match=f"port {port} of this machine cannot be had") as raised:
            StandaloneRendezvous("run", master_port=port).next_rendezvous()
    assert isinstance(raised.value.__cause__, OSError)


@pytest.mark.parametrize("end", ["set_closed", "shutdown"])
def test_closed_rendezvous_has_no_next_attempt(end: str) -> None:
    rendezvous = StandaloneRendezvous("run")
    rendezvous.next_rendezvous()
    getattr(rendezvous, end)()
    assert rendezvous.is_closed()
    with pytest.raises(RendezvousClosedError, match="'run' is closed"):
        rendezvous.next_rendezvous()
    assert rendezvous.shutdown() is True


def test_forgotten_rendezvous_gives_its_port_back() -> None:
    rendezvous = StandaloneRendezvous("run")
    port = rendezvous.next_rendezvous().bootstrap_store_info.master_port
    del rendezvous
    gc.collect()
    assert not is_held(port)


@pytest.mark.parametrize(
    ("endpoint", "address"), [("", "127.0.0.1"), ("localhost:0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("h:0", "h")]
)
def test_endpoint_says_what_the_ranks_connect_to(endpoint: str, address: str) -> None:
    rendezvous = get_rendezvous_handler(RendezvousParameters("standalone", endpoint, "run", 1, 1))
    info = rendezvous.next_rendezvous().bootstrap_store_info
    assert info.master_addr == address
    assert is_held(info.master_port)
    rendezvous.shutdown()


def test_several_nodes_are_refused_with_what_to_use() -> None:
    with pytest.raises(ValueError) as raised:
        get_rendezvous_handler(RendezvousParameters("standalone", "", "run", 2, 2))
    assert str(raised.value) == (
        "min_nodes=2: the rendezvous backend 'standalone' is for one machine; several need 'c10d' or 'static', "
        "with torch installed"
    )


_RANK = """
    import datetime, warnings
    warnings.simplefilter("ignore")
    import torch, torch.distributed as dist

    dist.init_process_group("gloo", init_method="env://", timeout=datetime.timedelta(seconds=60))
    mine = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(mine)
    print(int(mine))
    dist.destroy_process_group()
"""


@pytest.mark.torch
@pytest.mark.slow
def test_torchs_process_group_meets_at_the_held_port() -> None:
    rendezvous = StandaloneRendezvous("run")
    for _ in range(2):
        master = rendezvous.next_rendezvous().bootstrap_store_info
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(_RANK)],
                stdout=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "MASTER_ADDR": master.master_addr,
                    "MASTER_PORT": str(master.master_port),
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "TORCHELASTIC_USE_AGENT_STORE": str(rendezvous.use_agent_store),
                },
            )
            for rank in range(2)
        ]
        try:
            assert [(rank.communicate(timeout=90)[0], rank.returncode) for rank in ranks] == [("3\n", 0), ("3\n", 0)]
        finally:
            for rank in ranks:
                rank.kill()
    rendezvous.shutdown()
