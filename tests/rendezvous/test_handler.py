"""Parameters, registry and store info: what is refused says why. Outcomes beside torch's: tests/compat."""

from __future__ import annotations

import socket
from datetime import timedelta
from unittest import mock

import pytest

from ipyelastic.rendezvous import handler as room
from ipyelastic.rendezvous.handler import RendezvousHandlerRegistry, RendezvousParameters, RendezvousStoreInfo
from ipyelastic.rendezvous.local_store import LocalStore
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms import errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("", "", "", 1, 1), "backend='': the rendezvous backend name must be a non-empty string"),
        (("a", "", "", 0, 1), "min_nodes=0: expected a number greater than 0"),
        (("a", "", "", 3, 2), "max_nodes=2: expected min_nodes (3) or more"),
    ],
)
def test_bad_parameters_are_named(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError) as raised:
        RendezvousParameters(*arguments)
    assert str(raised.value) == text


def test_option_of_another_kind_is_named() -> None:
    params = RendezvousParameters("a", "", "", 1, 1, flag="perhaps", count="many")
    with pytest.raises(ValueError, match="option 'flag' does not represent a valid boolean value: 'perhaps'; expected"):
        params.get_as_bool("flag")
    with pytest.raises(ValueError, match="option 'count' does not represent a valid integer value: 'many'"):
        params.get_as_int("count")


def test_parameters_show_no_values_of_options() -> None:
    shown = repr(RendezvousParameters("a", "h:1", "run", 1, 2, password="secret", rank=0))
    assert shown == (
        "RendezvousParameters(backend='a', endpoint='h:1', run_id='run', min_nodes=1, max_nodes=2, local_addr=None, "
        "options: ['password', 'rank'])"
    )


def test_unknown_backend_is_answered_with_the_known_ones() -> None:
    registry = RendezvousHandlerRegistry()
    registry.register("b", lambda params: StandaloneRendezvous("run"))
    registry.register("a", lambda params: StandaloneRendezvous("run"))
    with pytest.raises(ValueError, match=r"'c' is not registered; there are: a, b\. Did you forget"):
        registry.create_handler(RendezvousParameters("c", "", "", 1, 1))
    with pytest.raises(RuntimeError, match="backend 'standalone' does not match the requested backend 'a'"):
        registry.create_handler(RendezvousParameters("a", "", "", 1, 1))


def test_rank_0_says_where_the_master_is_and_the_others_read_it() -> None:
    store = LocalStore(timedelta(seconds=20))
    said = RendezvousStoreInfo.build(0, store, "node-a", 4321)
    assert said == RendezvousStoreInfo("node-a", 4321)
    assert RendezvousStoreInfo.build(1, store, "node-b", 9) == said


def test_master_without_an_address_is_this_machine_with_a_free_port() -> None:
    with mock.patch.object(room.socket, "getfqdn", return_value="this.machine"):
        said = RendezvousStoreInfo.build(0, LocalStore(), None)
    assert said.master_addr == "this.machine"
    with socket.socket() as rank_0:
        rank_0.bind(("", said.master_port))


def test_every_rendezvous_error_is_one_of_ours() -> None:
    names = [name for name in errors.__all__ if name.startswith("Rendezvous") and name != "RendezvousError"]
    assert len(names) == 5
    for name in names:
        assert getattr(errors, name).__mro__[1:3] == (errors.RendezvousError, errors.IpyelasticError)
