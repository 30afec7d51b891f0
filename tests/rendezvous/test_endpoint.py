"""Endpoints and options as a person writes them. Outcomes beside torch's: tests/compat/test_rendezvous.py."""

from __future__ import annotations

import socket
from unittest import mock

import pytest

from ipyelastic.rendezvous import endpoint as room
from ipyelastic.rendezvous.endpoint import (
    _matches_machine_hostname,
    _parse_rendezvous_config,
    parse_rendezvous_endpoint,
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (None, ("localhost", 29400)),
        (" ", ("localhost", 29400)),
        ("node-a", ("node-a", 29400)),
        ("node-a:0", ("node-a", 0)),
        ("[::1]", ("::1", 29400)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1", (":", 1)),  # torch's reading, too
    ],
)
def test_endpoint_is_read_into_host_and_port(text: str | None, read: tuple[str, int]) -> None:
    assert parse_rendezvous_endpoint(text, 29400) == read


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a:65536", "the port number of the rendezvous endpoint 'a:65536' must be an integer between 0 and 65535"),
        ("a:b", "the port number of the rendezvous endpoint 'a:b' must be an integer between 0 and 65535, not 'b'"),
        ("tcp://a:1", "the hostname of the rendezvous endpoint 'tcp://a:1' must be a dot-separated list of labels"),
    ],
)
def test_bad_endpoint_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_rendezvous_endpoint(text, 1)
    assert str(raised.value).startswith(why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a=1,", "must be in format <key1>=<value1>,...,<keyN>=<valueN>, not 'a=1,'"),
        ("a=1,b", "option 'b' must have a value specified"),
    ],
)
def test_bad_options_are_named(text: str, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        _parse_rendezvous_config(text)
    assert str(raised.value).endswith(why)


def test_name_is_this_machine_when_it_resolves_to_one_of_its_addresses() -> None:
    resolved = {"own.alias": "127.0.0.5", "other": "192.0.2.1"}

    def look_up(host: str, *_: object, **__: object) -> list[tuple]:
        if host not in resolved:
            raise socket.gaierror(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (resolved[host], 0))]

    with mock.patch.object(room.socket, "getaddrinfo", look_up):
        found = {host: _matches_machine_hostname(host) for host in ("own.alias", "other", "unknown", "x" * 300)}
    assert found == {"own.alias": True, "other": False, "unknown": False, "x" * 300: False}


def test_own_name_and_addresses_ask_no_resolver() -> None:
    with mock.patch.object(room.socket, "getaddrinfo", side_effect=AssertionError):
        assert _matches_machine_hostname(socket.gethostname().upper())
        assert _matches_machine_hostname("LocalHost")
        assert _matches_machine_hostname("::1")
        assert not _matches_machine_hostname("192.0.2.1")
