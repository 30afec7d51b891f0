"""`torch.distributed.elastic.multiprocessing.errors.error_handler`."""

from __future__ import annotations

import faulthandler
import json
import os
import time
import traceback
import warnings

from ....failures import handler as _handler
from ....failures.handler import ErrorHandler, logger
from ..._face import face

__all__ = [
    "ErrorHandler",
    "faulthandler",
    "logger",
    "json",
    "os",
    "time",
    "traceback",
    "warnings",
]

face(__name__, {"logger": [_handler], "faulthandler": [_handler], "warnings": [_handler]})
