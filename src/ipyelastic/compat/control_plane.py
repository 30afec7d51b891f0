"""`torch.distributed.elastic.control_plane`: a worker's main function, recorded, with torch's worker server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..rendezvous.torchs import torchs_module
from ..terms import env
from .multiprocessing.errors import get_error_handler, record

__all__ = ["worker_main"]

TORCH_WORKER_SERVER_SOCKET = env.WORKER_SERVER_SOCKET


@contextmanager
def _worker_server(socket_path: str) -> Iterator[None]:
    torchs = torchs_module("torch.distributed.elastic.control_plane", f"{TORCH_WORKER_SERVER_SOCKET}={socket_path}")
    with torchs._worker_server(socket_path):
        yield


@contextmanager
def worker_main() -> Iterator[None]:
    """Around a worker's main function: its exception goes to the error file, as with `record`.

    When TORCH_WORKER_SERVER_SOCKET names a socket, torch's worker server listens there meanwhile; ImportError when
    torch is not installed then.

    Example:
        >>> @worker_main()
        ... def main():
        ...     return 3
        >>> main()
        3

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/control_plane.html.
    """
    handler = get_error_handler()
    handler.initialize()
    with ExitStack() as stack:
        socket_path = os.environ.get(TORCH_WORKER_SERVER_SOCKET)
        if socket_path is not None:
            stack.enter_context(_worker_server(socket_path))
        try:
            yield
        except Exception as error:
            record(_raise, handler)(error)


def _raise(error: Exception) -> None:
    raise error
