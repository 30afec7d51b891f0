"""`torch.distributed.elastic.utils.distributed`: free ports, and torch's own TCP store when torch is installed."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import Any

from ...rendezvous.torchs import torchs_module
from .api import get_socket_with_port
from .logging import get_logger

__all__ = [
    "create_c10d_store",
    "get_free_port",
    "get_socket_with_port",
    "get_logger",
    "logger",
    "os",
    "socket",
]

logger = get_logger(__name__)


def get_free_port() -> int:
    """A port of localhost that is free now. It is not held: anybody may have it the next moment.

    `rendezvous.held_port.HeldPort` keeps one. Raises RuntimeError when there is none.

    Source: torch 2.13, `torch.distributed.elastic.utils.distributed`.
    """
    with closing(get_socket_with_port()) as held:
        port: int = held.getsockname()[1]
        return port


def create_c10d_store(
    is_server: bool,
    server_addr: str,
    server_port: int = -1,
    world_size: int = 1,
    timeout: float = 600,
    wait_for_workers: bool = True,
    retries: int = 3,
    use_libuv: bool | None = None,
) -> Any:
    """A `TCPStore` made by torch's own function of this name.

    Args:
        is_server: Whether this process hosts it.
        server_addr, server_port: Where; port -1: one that is free.
        world_size: How many processes use it.
        timeout: Seconds.
        wait_for_workers: Whether it returns only when all have come.
        retries: How often another port is tried.
        use_libuv: Torch's backend for the server; None: torch's default.

    Raises:
        ImportError: Torch is not installed. Other errors are torch's.

    Source: torch 2.13, `torch.distributed.elastic.utils.distributed`.
    """
    torchs = torchs_module("torch.distributed.elastic.utils.distributed", "create_c10d_store")
    return torchs.create_c10d_store(
        is_server, server_addr, server_port, world_size, timeout, wait_for_workers, retries, use_libuv
    )
