"""Names that only torch has: handed on when it is installed, a clear error at their use when not."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

__all__ = ["torchs"]


def torchs(module: str, name: str) -> Any:
    """`module.name` of the installed torch. Raises ImportError that says what it is for when there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says at its own import is nothing of the user's doing
            found = importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "torch":
            raise
        raise ImportError(
            f"{name} is torch's own ({module}): install torch, for example `pip install ipyelastic[torch]`",
            name=error.name,
        ) from error
    return getattr(found, name)
