"""What a person writes about a rendezvous: `host:port`, `key=value,...`; and whether a host is this machine.

Runs in: launcher, agent. Pure but for `_matches_machine_hostname`, which asks the resolver about names.
Source: torch 2.13 (SEEDS section 15); outcomes compared with torch's in tests/rendezvous/test_endpoint.py.
"""

from __future__ import annotations

import ipaddress
import re
import socket

__all__ = ["parse_rendezvous_endpoint"]


def parse_rendezvous_endpoint(endpoint: str | None, default_port: int) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[IPv6]:port`.

    Args:
        endpoint: What a person wrote; empty or None is `localhost`. Without brackets the last ":" begins the port:
            `::1` is read as host `:`, port 1.
        default_port: When none is written.

    Raises:
        ValueError: The port is not a number of 1 to 5 digits below 65536, or the host has other characters than
            letters, digits, `_`, `.`, `:` and `-`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """
    text = (endpoint or "").strip()
    if not text:
        return "localhost", default_port
    host, port = text, default_port
    if ":" in text and not (text.startswith("[") and text.endswith("]")):
        host, _, written = text.rpartition(":")
        read = _try_parse_port(written)
        if read is None or read >= 1 << 16:
            raise ValueError(
                f"the port number of the rendezvous endpoint {endpoint!r} must be an integer between 0 and 65535,"
                f" not {written!r}"
            )
        port = read
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError(
            f"the hostname of the rendezvous endpoint {endpoint!r} must be a dot-separated list of labels,"
            " an IPv4 address, or an IPv6 address in brackets"
        )
    return host, port


def _try_parse_port(port_str: str) -> int | None:
    """The number that 1 to 5 digits write; None for anything else."""
    return int(port_str) if re.fullmatch("[0-9]{1,5}", port_str.rstrip("\n")) else None


def _parse_rendezvous_config(config_str: str) -> dict[str, str]:
    """`{key: value}` of `key=value,...`; blanks around keys and values go.

    Raises ValueError for an entry without key or value.
    """
    config: dict[str, str] = {}
    if not config_str.strip():
        return config
    for entry in config_str.split(","):
        key, _, value = (part.strip() for part in entry.partition("="))
        if not key:
            raise ValueError(
                f"the rendezvous configuration string must be in format <key1>=<value1>,...,<keyN>=<valueN>,"
                f" not {config_str!r}"
            )
        if not value:
            raise ValueError(f"the rendezvous configuration option {key!r} must have a value specified")
        config[key] = value
    return config


def _matches_machine_hostname(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine.

    A name that is neither `localhost` nor this machine's own is asked of the resolver, which can take seconds.
    """
    if not host:
        return False
    if host.lower() in ("localhost", socket.gethostname().lower()):
        return True
    try:
        return _is_own(host)
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return False  # nobody knows it: nobody can reach this machine by it
    return any(_is_own(str(address[0])) for *_, address in found)


def _is_own(address: str) -> bool:
    """Raises ValueError when it is no address."""
    import psutil  # here: the launcher of a local run never asks

    asked = ipaddress.ip_address(address.partition("%")[0])
    if asked.is_loopback:
        return True
    own = (one.address.partition("%")[0] for ones in psutil.net_if_addrs().values() for one in ones)
    return str(asked) in own
