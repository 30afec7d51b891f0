"""`torch.distributed.elastic.utils.process_state`: what a process is doing, as the kernel sees it."""

from __future__ import annotations

from ...process import states as _states
from ...process.states import is_uninterruptible_state, read_proc_state
from .._face import face

__all__ = ["read_proc_state", "is_uninterruptible_state"]

face(__name__, {"read_proc_state": [_states], "is_uninterruptible_state": [_states]})
