"""`torch.distributed.elastic.multiprocessing.errors`: failures as records, `record`, `ChildFailedError`."""

from __future__ import annotations

from ....failures import handler as _handler
from ....failures.handler import ErrorHandler, get_error_handler, record
from ....terms.errors import ChildFailedError
from ....terms.failure import ProcessFailure
from ..._face import face

__all__ = ["ProcessFailure", "ChildFailedError", "record", "ErrorHandler", "get_error_handler"]

face(__name__, {"get_error_handler": [_handler], "ErrorHandler": [_handler], "logger": [_handler]})
