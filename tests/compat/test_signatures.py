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

pytestmark = pytest.mark.torch

pytest.importorskip("torch", reason="needs torch")

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
        ours = importlib.import_module(entry.name)
        for name in vars(ours).get("__all__", ()):
            value = vars(ours).get(name)
            if not getattr(value, "__module__", "").startswith("ipyelastic") or not callable(value):
                continue
            their = getattr(_torchs(entry.name), name, None)
            if their is None:
                continue
            found[f"{entry.name}.{name}"] = (value, their)
            for method in vars(their) if inspect.isclass(their) else ():
                if not method.startswith("_") and inspect.isfunction(getattr(their, method)):
                    found[f"{entry.name}.{name}.{method}"] = (getattr(value, method, None), getattr(their, method))
    return found


def _taken(value: Any) -> list[tuple[str, Any]]:
    """Names and defaults of what can be given by position, and of keywords that must be given."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        (one.name, getattr(one.default, "value", one.default))
        for one in parameters
        if one.kind is not one.KEYWORD_ONLY or one.default is one.empty
        if one.name not in _NEWER
    ]


def test_arguments_and_defaults_are_torchs() -> None:
    pairs = _pairs()
    assert len(pairs) > 150
    different = {}
    for name, (ours, theirs) in pairs.items():
        if inspect.isclass(theirs) and issubclass(theirs, BaseException) and "__init__" not in vars(theirs):
            continue
        if _taken(ours) != _taken(theirs):
            different[name] = (_taken(ours), _taken(theirs))
    assert different == {}
