"""`torch.distributed.elastic.multiprocessing.errors`: failures as records, `record`, `ChildFailedError`."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import Any

from ....failures import handler as _handler
from ....failures.handler import ErrorHandler, get_error_handler, logger, record
from ....terms.errors import ChildFailedError
from ....terms.failure import NOT_AVAILABLE as _NOT_AVAILABLE
from ....terms.failure import ProcessFailure
from ..._face import face
from ...utils.logging import get_logger
from . import error_handler as error_handler
from . import handlers as handlers

__all__ = [
    "ProcessFailure",
    "ChildFailedError",
    "record",
    "ErrorHandler",
    "get_error_handler",
    "GlobalRank",
    "JSON",
    "_NOT_AVAILABLE",
    "get_logger",
    "json",
    "logger",
    "os",
    "signal",
    "socket",
    "time",
]

JSON = dict[str, Any]
GlobalRank = int

face(__name__, {"get_error_handler": [_handler], "ErrorHandler": [_handler], "logger": [_handler]})
