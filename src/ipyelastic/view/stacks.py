"""The traceback of a rank as plain text, whatever is left of it.

    ProcessFailure -> [here] -> view/html; notebook/traceback has IPython draw the same

Runs in: owner. Pure functions.
"""

from __future__ import annotations

from ..terms.failure import ProcessFailure

__all__ = ["traceback_text", "trimmed_stacks"]

_OURS = ("/ipyelastic/worker.py", "/ipyelastic/payload/body.py", "/ipyelastic/payload/script.py")
_MOST_STACK_LINES = 40


def traceback_text(failure: ProcessFailure) -> str:
    """The exception's traceback, else what faulthandler wrote, else what torch's own `record` noted; else empty."""
    if failure.exception is not None:
        return failure.exception.text.rstrip()
    if failure.stacks:
        return "\n".join(trimmed_stacks(failure.stacks))
    message = failure.message
    if isinstance(message, dict):
        extra = message.get("extraInfo")
        return str(extra.get("py_callstack") or "").rstrip() if isinstance(extra, dict) else ""
    return ""


def trimmed_stacks(stacks: str) -> list[str]:
    """faulthandler's text without the frames that are ours, which every rank has below the user's."""
    kept, is_below_user = [], False
    for line in stacks.splitlines():
        if not line.startswith("  "):
            is_below_user = False
        elif any(part in line for part in _OURS):
            is_below_user = True  # innermost first: from here on the frames are ours, or (fork) the kernel's
        if line.strip() and not is_below_user and not line.startswith("Extension modules:"):
            kept.append(line)
    return kept[:_MOST_STACK_LINES]
