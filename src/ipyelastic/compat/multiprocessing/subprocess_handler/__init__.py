"""`torch.distributed.elastic.multiprocessing.subprocess_handler`: one program worker."""

from __future__ import annotations

from ....contexts.program import SubprocessHandler, get_subprocess_handler
from . import handlers as handlers
from . import subprocess_handler as subprocess_handler

__all__ = ["SubprocessHandler", "get_subprocess_handler"]
