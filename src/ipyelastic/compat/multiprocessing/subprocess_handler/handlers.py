"""`torch.distributed.elastic.multiprocessing.subprocess_handler.handlers`."""

from __future__ import annotations

from ....contexts import program as _program
from ....contexts.program import SubprocessHandler, get_subprocess_handler
from ....devices.numa import NumaOptions
from ..._face import face

__all__ = [
    "SubprocessHandler",
    "get_subprocess_handler",
    "NumaOptions",
]

face(__name__, {"SubprocessHandler": [_program], "get_subprocess_handler": [_program]})
