"""`torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler`."""

from __future__ import annotations

from ....contexts import program as _program
from ....contexts.base import IS_WINDOWS
from ....contexts.base import default_signal as _get_default_signal
from ....contexts.program import Popen, SubprocessHandler
from ..._face import face

__all__ = ["SubprocessHandler", "Popen", "IS_WINDOWS", "_get_default_signal"]

face(__name__, {"Popen": [_program], "_get_default_signal": [(_program, "default_signal")]})
