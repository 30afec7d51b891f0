"""`torch.distributed.elastic.multiprocessing.redirects`: send a standard stream to a file for a while."""

from __future__ import annotations

from ...output.std_redirect import get_libc, redirect, redirect_stderr, redirect_stdout

__all__ = ["get_libc", "redirect", "redirect_stderr", "redirect_stdout"]
