"""What options are when nobody gives them: the notebook's saved defaults, over the administrator's.

    %elastic_config          -> layer "notebook"      \\
    ipython_config.py's c.ElasticMagics -> "administrator"  -> [here] -> options.parse_line, RunOptions.from_keywords

Runs in: owner, any thread; one set per process, so that `launch()` sees what the notebook says.
Other end: notebook/config.py checks values and puts them here; launcher/options.py takes them from here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..terms import env

__all__ = ["LAYERS", "SavedDefault", "current", "merged", "of_layer", "save", "saved", "take_back"]

LAYERS = ("administrator", "notebook")
"""Later ones win."""

_lock = threading.Lock()
_layers: dict[str, dict[str, Any]] = {layer: {} for layer in LAYERS}


_HOLD_IN_THIS_PROCESS = frozenset(["engine", "env", "seed"])
"""Not `ui`: a rank in this very process writes where the process does, wherever others are to be shown."""


@dataclass(frozen=True)
class SavedDefault:
    """One option's value now and whose it is; of `env`, one variable: `variable` is its name."""

    field: str
    value: Any
    layer: str
    variable: str = ""


def save(layer: str, values: Mapping[str, Any]) -> None:
    """Keep values, checked ones, by RunOptions' field. `env` joins the variables that are kept already."""
    with _lock:
        kept = _layers[layer]
        for name, value in values.items():
            kept[name] = {**kept.get(name, {}), **value} if name == "env" else value


def take_back(layer: str, field: str | None = None, variable: str = "") -> bool:
    """Forget one field (of `env`: one variable, when named), or the whole layer. Whether there was anything."""
    with _lock:
        kept = _layers[layer]
        if field is None:
            had = bool(kept)
            kept.clear()
        elif variable:
            environment = dict(kept.get(field, {}))
            had = environment.pop(variable, None) is not None
            kept[field] = environment
            if not environment:
                del kept[field]
        else:
            had = kept.pop(field, None) is not None
        return had


def of_layer(layer: str) -> dict[str, Any]:
    """`{field: value}` of one layer; a copy."""
    with _lock:
        return dict(_layers[layer])


def current() -> dict[str, Any]:
    """`{field: value}` of what is saved, the layers joined; a copy."""
    joined: dict[str, Any] = {}
    for layer in LAYERS:
        joined = merged(of_layer(layer), joined)
    return joined


def merged(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What was given, over `defaults` (None: the saved ones).

    Environments are joined by name. GPUs that are given say how many ranks, whatever number is saved; and of two ways
    to say which GPUs, the saved one gives way. For a rank in this very process what is saved about processes is left
    out.
    """
    base = dict(current() if defaults is None else defaults)
    if given.get("engine", base.get("engine")) == "here":
        base = {name: value for name, value in base.items() if name in _HOLD_IN_THIS_PROCESS}
    environment = given.get("env")
    if given.get("gpus") is not None:
        if "nproc" not in given:
            base.pop("nproc", None)
        if env.CUDA_VISIBLE_DEVICES in base.get("env", ()):
            base["env"] = {name: value for name, value in base["env"].items() if name != env.CUDA_VISIBLE_DEVICES}
    elif isinstance(environment, Mapping) and env.CUDA_VISIBLE_DEVICES in environment:
        base.pop("gpus", None)
    if isinstance(environment, Mapping) and base.get("env"):
        return {**base, **given, "env": {**base["env"], **environment}}
    return {**base, **given}


def saved() -> list[SavedDefault]:
    """What is saved and by whom, by name; only what is in force."""
    rows: dict[tuple[str, str], SavedDefault] = {}
    in_force = current()
    for layer in LAYERS:
        for field, value in of_layer(layer).items():
            if field == "env":
                for variable, text in value.items():
                    if variable in in_force.get("env", ()):
                        rows[field, variable] = SavedDefault(field, text, layer, variable)
            elif field in in_force:
                rows[field, ""] = SavedDefault(field, value, layer)
    return [rows[key] for key in sorted(rows)]
