"""`torch.distributed.elastic.multiprocessing.subprocess_handler`: one program worker."""

from __future__ import annotations

from ....contexts.program import SubprocessHandler, get_subprocess_handler

__all__ = ["SubprocessHandler", "get_subprocess_handler"]
