"""`torch.distributed.elastic.utils.api`: a variable that must be there, a free port, `${local_rank}`."""

from __future__ import annotations

import os
import socket
from string import Template
from typing import Any

__all__ = ["get_env_variable_or_raise", "get_socket_with_port", "macros"]


def get_env_variable_or_raise(env_name: str) -> str:
    """The value of the environment variable `env_name`. Raises ValueError when it is not set.

    Source: torch 2.13, `torch.distributed.elastic.utils.api`.
    """
    value = os.environ.get(env_name)
    if value is None:
        raise ValueError(f"Environment variable {env_name} expected, but not set")
    return value


def get_socket_with_port() -> socket.socket:
    """A listening socket on a free port of localhost. Raises RuntimeError when there is none.

    Source: torch 2.13, `torch.distributed.elastic.utils.api`.
    """
    for family, kind, protocol, _, _ in socket.getaddrinfo("localhost", None, socket.AF_UNSPEC, socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.bind(("localhost", 0))
            made.listen(0)
        except OSError:
            made.close()
        else:
            return made
    raise RuntimeError("Failed to create a socket")


class macros:
    """Replaces `${local_rank}` in program arguments.

    Attributes:
        local_rank: What stands for it in an argument.

    Source: torch 2.13, `torch.distributed.elastic.utils.api`.
    """

    local_rank = "${local_rank}"

    @staticmethod
    def substitute(args: list[Any], local_rank: str) -> list[Any]:
        """A copy of `args` with the text ones substituted by `local_rank`; unknown names stay."""
        return [Template(arg).safe_substitute(local_rank=local_rank) if isinstance(arg, str) else arg for arg in args]
