"""`torch.distributed.elastic.multiprocessing.api`: contexts, log specifications, signals."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from ...contexts import base as _base
from ...contexts import commands as _commands
from ...contexts import functions as _functions
from ...contexts import program as _program
from ...contexts import start as _start
from ...contexts import wrap as _wrap_room
from ...contexts.base import IS_WINDOWS, PContext, RunProcsResult, logger
from ...contexts.base import default_signal as _get_default_signal
from ...contexts.base import kill_signal as _get_kill_signal
from ...contexts.base import validate_full_rank as _validate_full_rank
from ...contexts.commands import SubprocessContext
from ...contexts.functions import MultiprocessContext
from ...contexts.program import SubprocessHandler, get_subprocess_handler
from ...contexts.wrap import _wrap
from ...devices.numa import NumaOptions, _maybe_wrap_with_numa_binding
from ...failures.handler import record
from ...output import logs as _logs
from ...output.logs import DefaultLogsSpecs, LogsDest, LogsSpecs
from ...output.std_redirect import get_std_cm, redirect_stderr, redirect_stdout
from ...output.tail_log import TailLog
from ...process import signals as _signals
from ...process.signals import SignalException, _terminate_process_handler
from ...terms.failure import ProcessFailure
from ...terms.std import Std, to_map
from .._face import face

__all__ = [
    "DefaultLogsSpecs",
    "SignalException",
    "Std",
    "to_map",
    "RunProcsResult",
    "PContext",
    "get_std_cm",
    "MultiprocessContext",
    "SubprocessContext",
    "LogsDest",
    "LogsSpecs",
    "ProcessFailure",
    "SubprocessHandler",
    "TailLog",
    "get_subprocess_handler",
    "record",
    "redirect_stderr",
    "redirect_stdout",
    "IS_MACOS",
    "IS_WINDOWS",
    "logger",
    "signal",
    "threading",
    "_get_default_signal",
    "_get_kill_signal",
    "_terminate_process_handler",
    "_validate_full_rank",
    "_wrap",
    "NumaOptions",
    "_maybe_wrap_with_numa_binding",
    "logging",
    "os",
    "re",
    "shutil",
    "subprocess",
    "tempfile",
    "time",
]

IS_MACOS = sys.platform == "darwin"

face(
    __name__,
    {
        "_maybe_wrap_with_numa_binding": [_functions],
        "os": [_logs, _signals],
        "shutil": [_logs],
        "subprocess": [_commands],
        "tempfile": [_logs],
        "threading": [_base, _signals],
        "time": [_base],
        "signal": [_base, _signals],
        "logger": [_base, _commands, _functions, _signals],
        "IS_WINDOWS": [_base],
        "PContext": [_base, _start],
        "TailLog": [_base],
        "MultiprocessContext": [_start],
        "SubprocessContext": [_start],
        "_wrap": [_wrap_room, _functions],
        "_validate_full_rank": [(_base, "validate_full_rank"), (_start, "validate_full_rank")],
        "_terminate_process_handler": [_signals],
        "_get_default_signal": [(_base, "default_signal"), (_program, "default_signal")],
        "_get_kill_signal": [(_base, "kill_signal"), (_commands, "kill_signal")],
        "get_subprocess_handler": [_program],
        "record": [_wrap_room],
        "get_std_cm": [_wrap_room],
        "redirect_stdout": [_wrap_room],
        "redirect_stderr": [_wrap_room],
    },
)
