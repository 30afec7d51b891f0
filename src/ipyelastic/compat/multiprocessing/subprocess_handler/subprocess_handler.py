"""`torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler`."""

from __future__ import annotations

import os
import signal
import sys

from ....contexts import program as _program
from ....contexts.base import IS_WINDOWS
from ....contexts.base import default_signal as _get_default_signal
from ....contexts.program import Popen, SubprocessHandler
from ....devices.numa import NumaOptions, _maybe_wrap_command_args_with_numa_binding
from ..._face import face

__all__ = [
    "SubprocessHandler",
    "Popen",
    "IS_WINDOWS",
    "_get_default_signal",
    "NumaOptions",
    "_maybe_wrap_command_args_with_numa_binding",
    "os",
    "signal",
    "sys",
]

face(
    __name__,
    {
        "Popen": [_program],
        "_maybe_wrap_command_args_with_numa_binding": [_program],
        "os": [_program],
        "signal": [_program],
        "_get_default_signal": [(_program, "default_signal")],
    },
)
