"""Launches that are tried for real: one rank by each start method, and one that imports torch.

    doctor > [here] > engines/launch

Runs in: owner (a shell's process); the functions at the end in ranks. torch is never imported in the owner.
"""

from __future__ import annotations

import importlib.util
import os
import time
from typing import Any

from ..contexts.settings import START_METHODS
from ..engines.launch import launch
from ..launcher.options import RunOptions
from ..terms.errors import ChildFailedError
from ..view.amounts import counted
from .findings import Finding
from .gpus import Seen

__all__ = ["start_methods", "torch"]

_SECTION = "start methods, one rank each"
_PATIENCE_S = 60.0
_TORCH_PATIENCE_S = 180.0  # its first import from a cold disk, or over a network


def start_methods() -> list[Finding]:
    """Whether each works here, and how long a rank takes from the call to its value."""
    found = []
    for method in START_METHODS:
        first_ms, why = _timed(method)
        if why and method == RunOptions.start_method:
            do = "give --start-method spawn, and tell us the line above"
            found.append(Finding(_SECTION, method, "do", f"{method}, the default: {why}", do))
        elif why:
            found.append(Finding(_SECTION, method, "note", f"{method}: {why}", "nothing, unless a run asks for it"))
        else:
            second_ms, _ = _timed(method)
            text = f"{method}: works, {first_ms:.0f} ms the first time, then {second_ms:.0f} ms"
            found.append(Finding(_SECTION, method, "ok", text))
    return found


def _timed(method: str) -> tuple[float, str]:
    """From the call to the value of one rank in ms; or why there is none."""
    began = time.monotonic()
    _, why = _tried(os.getpid, method, _PATIENCE_S)
    return (time.monotonic() - began) * 1000, why


def torch(seen: Seen) -> list[Finding]:
    """torch as a rank finds it, against the GPUs and their driver; nothing to say where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "torch", "ok", "torch is not installed; ipyelastic does not need it")]
    told, why = _tried(_torch_words, "spawn", _TORCH_PATIENCE_S)
    if why:
        return [Finding("torch", "torch", "do", f"torch cannot be imported: {why}", "install it anew")]
    text = f"torch {told['version']}, {_build(told)}; backends: {', '.join(told['backends']) or 'none'}"
    return [_judged(told, seen, text)]


def _judged(told: dict[str, Any], seen: Seen, text: str) -> Finding:
    if not seen.gpu_count:
        return Finding("torch", "torch", "ok", text)
    gpus = counted(seen.gpu_count, "GPU")
    if told["cuda"] is None:
        do = "install torch's build for CUDA: https://pytorch.org/get-started/locally"
        return Finding("torch", "torch", "do", f"{text}, but there are {gpus}", do)
    built = tuple(int(part) for part in str(told["cuda"]).split(".")[:2])
    # Within one major version newer builds run on older drivers (CUDA's "minor version compatibility").
    if seen.cuda is not None and built[0] > seen.cuda[0]:
        do = f"a newer driver, or torch built for CUDA {seen.cuda[0]}"
        return Finding("torch", "torch", "do", f"{text}, but the driver knows CUDA {seen.cuda[0]}.{seen.cuda[1]}", do)
    if told["count"] != seen.gpu_count:
        why = f"{text}, but it finds {told['count']} of {gpus}"
        return Finding("torch", "torch", "do", why, told["warning"] or "look at nvidia-smi, and CUDA_VISIBLE_DEVICES")
    return Finding("torch", "torch", "ok", f"{text}; it finds {gpus}")


def _build(told: dict[str, Any]) -> str:
    return f"built for CUDA {told['cuda']}" if told["cuda"] else "built for CPUs" + (told["other"] or "")


def _tried(function: Any, method: str, patience_s: float) -> tuple[Any, str]:
    """A rank's value, or why there is none."""
    try:
        run = launch(function, nproc=1, start_method=method, ui="none", timeout=patience_s)
        return run.result()[0], ""
    except ChildFailedError as error:
        failure = error.get_first_failure()[1]
        raised = failure.exception
        return None, f"{raised.type_name}: {raised.message}" if raised is not None else f"exit code {failure.exitcode}"
    except Exception as error:  # whatever keeps a launch from working is what is asked for here
        return None, f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------------------------------------------------- in ranks


def _torch_words() -> dict[str, Any]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch as found

        count = found.cuda.device_count() if found.cuda.is_available() else 0
    names = ("gloo", "nccl", "mpi")
    distributed = found.distributed if found.distributed.is_available() else None
    return {
        "version": str(found.__version__),
        "cuda": found.version.cuda,
        "other": f" and ROCm {found.version.hip}" if getattr(found.version, "hip", None) else "",
        "count": count,
        "backends": [name for name in names if distributed and getattr(distributed, f"is_{name}_available")()],
        "warning": str(caught[-1].message).splitlines()[0] if caught else "",
    }
