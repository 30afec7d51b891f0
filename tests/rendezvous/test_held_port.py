"""A held port: nobody gets it but who asks for exactly this one with SO_REUSEADDR, as rank 0 does."""

from __future__ import annotations

import errno
import gc
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ipyelastic.rendezvous.held_port import HeldPort
from support.gates import Gate
from support.waiting import wait_until

LAUNCHES = 20
LAUNCHER = Path(__file__).with_name("one_launch.py")
ADDRESSES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")]


@pytest.fixture
def held() -> Iterator[HeldPort]:
    port = HeldPort()
    yield port
    port.close()


def bound(family: socket.AddressFamily, address: str, port: int, reuse: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def usable(family: socket.AddressFamily, address: str) -> bool:
    try:
        bound(family, address, 0, reuse=False).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("family", "address"), ADDRESSES)
def test_held_port_is_refused_without_reuse_and_can_be_listened_on_with_it(
    held: HeldPort, family: socket.AddressFamily, address: str
) -> None:
    if not usable(family, address):
        pytest.skip(f"this machine has no {address}")
    with pytest.raises(OSError) as refused:
        bound(family, address, held.port, reuse=False)
    assert refused.value.errno == errno.EADDRINUSE
    with closing(bound(family, address, held.port, reuse=True)) as rank_0:
        rank_0.listen()
        target = {"": "127.0.0.1", "::": "::1"}.get(address, address)
        with closing(socket.create_connection((target, held.port), timeout=10)):
            pass


def test_rank_0_may_ask_for_reuse_of_address_and_port_both(held: HeldPort) -> None:
    # gRPC, and so JAX's coordinator, sets both.
    with closing(socket.socket()) as rank_0:
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        rank_0.bind(("", held.port))
        rank_0.listen()


def test_port_that_somebody_listens_on_cannot_be_held() -> None:
    with closing(bound(socket.AF_INET, "", 0, reuse=True)) as other:
        other.listen()
        with pytest.raises(OSError) as refused:
            HeldPort(other.getsockname()[1])
    assert refused.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("number", [-1, 65536, 1 << 40])
def test_number_that_is_no_port_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        HeldPort(number)


def test_given_port_is_the_one_held(held: HeldPort) -> None:
    held.close()
    again = HeldPort(held.port)
    assert again.port == held.port
    again.close()


def test_port_is_given_back_by_close_and_with_the_last_reference() -> None:
    port = HeldPort()
    port.close()
    port.close()
    bound(socket.AF_INET, "", port.port, reuse=False).close()
    forgotten = HeldPort()
    number = forgotten.port
    del forgotten
    gc.collect()
    bound(socket.AF_INET, "", number, reuse=False).close()


@pytest.mark.slow
def test_twenty_launches_at_once_each_keep_their_port(tmp_path: Path) -> None:
    with ExitStack() as stack, Gate(tmp_path / "gate") as gate:
        chosen = tmp_path / "chosen"
        chosen.mkdir()
        launches = []
        for number in range(LAUNCHES):
            command = [sys.executable, str(LAUNCHER), str(number), str(chosen), gate.path]
            launch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.callback(launch.kill)
            launches.append(launch)
        wait_until(lambda: len(list(chosen.iterdir())) == LAUNCHES, within_s=60, what="all have chosen a port")
        gate.open()
        outcomes = []
        for launch in launches:
            stdout, stderr = launch.communicate(timeout=60)
            assert (launch.returncode, stderr) == (0, "")
            outcomes.append(json.loads(stdout))
    assert [outcome["heard"] for outcome in outcomes] == [f"rank 0 of launch {number}" for number in range(LAUNCHES)]
    assert len({outcome["port"] for outcome in outcomes}) == LAUNCHES
