"""Each function, class and public method of compat takes what torch's takes; ours beside that by keyword only."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from types import ModuleType
from typing import Any

import pytest

import ipyelastic.compat

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TREE = "ipyelastic.compat"
_ELSEWHERE = {"launcher": "torch.distributed.launcher", "numa": "torch.numa", "spawn": "torch.multiprocessing.spawn"}
# torch 2.13 has not got these yet; torch's next one has.
_NEWER = {"exit_barrier_timeout"}


def _torchs(name: str) -> ModuleType:
    """Torch's module that a module of ours stands for."""
    first, dot, rest = name.removeprefix(f"{TREE}.").partition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(_ELSEWHERE.get(first, f"torch.distributed.elastic.{first}") + dot + rest)


def _pairs() -> dict[str, tuple[Any, Any]]:
    """`{name: (ours, torch's)}` of all public callables, methods included, that are ours."""
    found: dict[str, tuple[Any, Any]] = {}
    for entry in pkgutil.walk_packages(ipyelastic.compat.__path__, f"{TREE}."):
        if "._" in entry.name:
            continue
        ours = importlib.import_module(entry.name)
        for name in vars(ours).get("__all__", ()):
            value = vars(ours).get(name)
            if (
                name.startswith("_")
                or not getattr(value, "__module__", "").startswith("ipyelastic")
                or not callable(value)
            ):
                continue
            their = getattr(_torchs(entry.name), name, None)
            if their is None:
                continue
            found[f"{entry.name}.{name}"] = (value, their)
            for method in vars(their) if inspect.isclass(their) else ():
                if not method.startswith("_") and inspect.isfunction(getattr(their, method)):
                    found[f"{entry.name}.{name}.{method}"] = (getattr(value, method, None), getattr(their, method))
    return found


def _parameters(value: Any) -> list[inspect.Parameter] | None:
    """What can be given by position, and keywords that must be given; None: nobody says (code in C)."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    taken = [one for one in parameters if one.kind is not one.KEYWORD_ONLY or one.default is one.empty]
    return [one for one in taken if one.name not in _NEWER]


def _is_same(ours: Any, theirs: Any) -> bool:
    """Enumerations by value; functions and factories are each side's own."""
    if any(callable(one) or repr(one) == "<factory>" for one in (ours, theirs)):
        return True
    return bool(getattr(ours, "value", ours) == getattr(theirs, "value", theirs))


def _differences(ours: Any, theirs: Any) -> list[str]:
    mine, their = _parameters(ours), _parameters(theirs)
    if mine is None or their is None:
        return []
    if [one.name for one in mine] != [one.name for one in their]:
        return [f"{[one.name for one in mine]} instead of {[one.name for one in their]}"]
    return [
        f"{one.name}={one.default!r} instead of {other.default!r}"
        for one, other in zip(mine, their, strict=True)
        if other.default is not other.empty  # what torch demands may be left out here
        if one.default is one.empty or not _is_same(one.default, other.default)
    ]


def test_arguments_and_defaults_are_torchs() -> None:
    pairs = _pairs()
    assert len(pairs) > 300
    different = {}
    for name, (ours, theirs) in pairs.items():
        is_plain_error = (
            inspect.isclass(theirs) and issubclass(theirs, BaseException) and "__init__" not in vars(theirs)
        )
        if not is_plain_error and (found := _differences(ours, theirs)):
            different[name] = found
    assert different == {}
