"""`torch.numa.binding`: which CPUs are near a GPU, and binding a worker to them."""

from __future__ import annotations

import shutil

from ...contexts import functions as _functions
from ...contexts import program as _program
from ...devices import numa as _numa
from ...devices.numa import (
    AffinityMode,
    NumaOptions,
    _get_numa_node_index_for_gpu_index,
    _get_ranges_str_from_ints,
    _get_set_of_int_from_ranges_str,
    _maybe_wrap_command_args_with_numa_binding,
    _maybe_wrap_with_numa_binding,
    get_default_numa_options,
    signpost_event,
)
from .._face import face

__all__ = [
    "AffinityMode",
    "NumaOptions",
    "get_default_numa_options",
    "shutil",
    "signpost_event",
    "_get_numa_node_index_for_gpu_index",
    "_get_ranges_str_from_ints",
    "_get_set_of_int_from_ranges_str",
    "_maybe_wrap_command_args_with_numa_binding",
    "_maybe_wrap_with_numa_binding",
]

face(
    __name__,
    {
        "shutil": [_numa],
        "signpost_event": [_numa],
        "_get_numa_node_index_for_gpu_index": [_numa],
        "_get_ranges_str_from_ints": [_numa],
        "_get_set_of_int_from_ranges_str": [_numa],
        "_maybe_wrap_command_args_with_numa_binding": [_program],
        "_maybe_wrap_with_numa_binding": [_functions],
    },
)
