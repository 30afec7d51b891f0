"""`torch.distributed.elastic.multiprocessing.errors.handlers`."""

from __future__ import annotations

from ....failures import handler as _handler
from ....failures.handler import ErrorHandler, get_error_handler
from ..._face import face

__all__ = ["ErrorHandler", "get_error_handler"]

face(__name__, {"ErrorHandler": [_handler]})
