"""`torch.distributed.elastic.multiprocessing.redirects`: send a standard stream to a file for a while."""

from __future__ import annotations

import ctypes
import os
import sys

from ...contexts.base import IS_WINDOWS
from ...output import std_redirect as _std_redirect
from ...output.std_redirect import get_libc, logger, redirect, redirect_stderr, redirect_stdout
from .._face import face

__all__ = [
    "get_libc",
    "redirect",
    "redirect_stderr",
    "redirect_stdout",
    "IS_MACOS",
    "IS_WINDOWS",
    "ctypes",
    "logger",
    "os",
    "sys",
]

IS_MACOS = sys.platform == "darwin"

face(
    __name__,
    {
        "get_libc": [_std_redirect],
        "logger": [_std_redirect],
        "os": [_std_redirect],
        "redirect": [_std_redirect],
        "sys": [_std_redirect],
    },
)
