"""The options as `launch()` takes them: keywords with their types and defaults, for type checkers, `?` and Tab.

    engines/launch > [here] LaunchKeywords: what a checker accepts;   with_options: what `inspect.signature` says

Runs in: owner.
Other end: RunOptions' fields and checks; a field that is new there needs a keyword here (tests/house/test_typing.py).
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from .options import RunOptions, field_of_keyword

__all__ = ["LaunchKeywords", "with_options"]


class LaunchKeywords(TypedDict, total=False):
    """RunOptions' fields but `nproc`, by the names that `launch()` documents; what may be given, not what is kept."""

    timeout: float | None
    start_method: str
    env: Mapping[str, str]
    seed: int | None
    log_dir: str | os.PathLike[str] | None
    grace: float
    stop_signal: int | str
    ranks: str | Iterable[int] | None
    ui: str
    engine: str
    gpus: str | Sequence[int] | None
    numa: str | None
    virtual_local_rank: bool
    max_restarts: int


def with_options(function: Callable[..., Any]) -> inspect.Signature:
    """The function's signature with each option in the place of its last parameter, `**options`.

    The defaults shown are RunOptions' own; what `%elastic_config` saved stands above them.
    """
    signature = inspect.signature(function)
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=kind.__forward_arg__)
        for name, kind in LaunchKeywords.__annotations__.items()
    ]
    return signature.replace(parameters=[*list(signature.parameters.values())[:-1], *shown])


def _default(name: str) -> Any:
    field_name = field_of_keyword(name)
    default: Any = next(entry.default for entry in dataclasses.fields(RunOptions) if entry.name == field_name)
    if name == "stop_signal":
        return signal.Signals(default)  # which shows its name
    return {} if default is dataclasses.MISSING else default  # `env`: a new one each time
