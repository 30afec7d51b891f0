"""A function whose value may stay behind: what cannot be pickled of it is replaced by a placeholder, and is no failure.

    notebook/training.py makes it in the owner  ->  payload/call  ->  worker.py runs it, values.send_value asks it

Runs in: ranks (call), owner (made, never called).
"""

from __future__ import annotations

import functools

__all__ = ["Forgiving"]


class Forgiving(functools.partial):  # type: ignore[type-arg]  # of whatever it calls
    """A call of somebody else's launcher, which brings no values home: a loop that returns its trainer is fine."""

    may_stand_in = True
