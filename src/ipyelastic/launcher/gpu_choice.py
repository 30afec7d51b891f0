"""Which GPUs a run's ranks get, and so how many ranks there are when nobody says: `--gpus`, and the choice without it.

    options.choose_gpus > [here] > devices/gpus, devices/gpu_claims

    --gpus 0,2-3     those, in that order; when another run has one, a note says so
    --gpus free      no process computes on them, and no run of ours has them
    neither, no -n   all that no other run of ours has
    -n N             as torchrun: CUDA_VISIBLE_DEVICES as it is. When another run of ours has some, the others first

Runs in: owner. A run of an outer rank does not count its own outer run: the GPU is the rank's to use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..devices.gpu_claims import Holder, holders
from ..devices.gpus import VisibleGpu, compute_processes, visible_gpu_count, visible_gpus
from ..output import retention
from ..terms import env
from ..terms.errors import OptionError
from .checks import Gpus, Nproc, ranges_text

__all__ = ["GpuChoice", "choose_gpus", "lock_folder"]


@dataclass(frozen=True)
class GpuChoice:
    """The decision.

    Attributes:
        nproc: Ranks.
        why: A sentence on how that number was chosen; empty when it was given.
        names: What the ranks' CUDA_VISIBLE_DEVICES lists; None: it stays as it is.
        used: GPUs that the ranks are going to work on, by name: to be held for the run.
        note: What a person should know about the choice, or empty.
    """

    nproc: int
    why: str = ""
    names: tuple[str, ...] | None = None
    used: tuple[str, ...] = ()
    note: str = ""


def lock_folder() -> str:
    """Where the lock files of this user's GPUs are. Raises OSError as `retention.root_folder`."""
    return os.path.join(retention.root_folder(), "gpus")


def choose_gpus(nproc: Nproc, gpus: Gpus, environment: Mapping[str, str]) -> GpuChoice:
    """Decide, from what is free now.

    Args:
        nproc, gpus: As RunOptions has them.
        environment: Laid over the owner's in every rank; a CUDA_VISIBLE_DEVICES in it counts.

    Raises:
        OptionError: A GPU that is not there, none that is free, more ranks than GPUs; the text says which there are.
    """
    choice = _choose(nproc, gpus, environment.get(env.CUDA_VISIBLE_DEVICES))
    outer = os.environ.get(env.RUN_ID)
    if outer is None or not choice.used:
        return choice
    has = _holders(choice.used)
    return replace(choice, used=tuple(name for name in choice.used if name not in has or has[name].run_id != outer))


def _choose(nproc: Nproc, gpus: Gpus, named: str | None) -> GpuChoice:
    if gpus is not None:
        chosen = _free(named, nproc) if gpus == "free" else _numbered(gpus, named)
        count = _ranks_on(chosen, nproc, gpus)
        if gpus == "free":
            chosen = chosen[:count]
        names = tuple(gpu.name for gpu in chosen)
        return GpuChoice(count, _why(nproc, count, gpus, chosen), names, names, _shared(chosen, _other_runs(chosen)))
    # Device files first: without them nobody need be asked. With them, there may be no GPU that the driver knows.
    visible = visible_gpus(named) if nproc != "cpu" and visible_gpu_count(named) else []
    if not visible:
        return _without_gpus(nproc)
    has = _other_runs(visible)
    others = [gpu for gpu in visible if gpu.name not in has]
    if not isinstance(nproc, int):
        return _automatic(visible, others, has)
    if nproc > len(visible):  # more ranks than GPUs: whatever they do, it is not one GPU each
        return GpuChoice(nproc)
    if not has:
        return GpuChoice(nproc, used=tuple(gpu.name for gpu in visible[:nproc]))
    if named is not None or nproc > len(others):
        first = visible[:nproc]
        used = tuple(gpu.name for gpu in first if gpu.name not in has)
        return GpuChoice(nproc, used=used, note=_shared(first, has))
    names = tuple(gpu.name for gpu in others)
    note = f"ranks see GPU {_numbers(others)} only: {_taken(visible, has)}"
    return GpuChoice(nproc, names=names, used=names[:nproc], note=note)


def _without_gpus(nproc: Nproc) -> GpuChoice:
    if isinstance(nproc, int):
        return GpuChoice(nproc)
    if nproc == "gpu":
        raise OptionError("nproc='gpu': no GPU is visible here; give a number, or 'cpu'")
    if nproc is None:
        return GpuChoice(1, "one rank: no GPU is visible and no number was given")
    cpus = _cpu_count()
    return GpuChoice(cpus, f"nproc={cpus}: one rank per CPU")


def _automatic(visible: Sequence[VisibleGpu], others: Sequence[VisibleGpu], has: Mapping[str, Holder]) -> GpuChoice:
    if not others:
        everyone = ranges_text([gpu.number for gpu in visible])
        raise OptionError(
            f"no GPU is left for this run: {_taken(visible, has)}; wait, stop it, or share with --gpus {everyone}"
        )
    names, count = tuple(gpu.name for gpu in others), len(others)
    if not has:
        return GpuChoice(count, f"nproc={count}: one rank per visible GPU", used=names)
    why = f"nproc={count}: one rank per visible GPU that no other run has ({_taken(visible, has)})"
    return GpuChoice(count, why, names, names)


def _numbered(gpus: Sequence[int] | str, named: str | None) -> list[VisibleGpu]:
    assert not isinstance(gpus, str)
    visible = visible_gpus(named)
    missing = [number for number in gpus if number >= len(visible)]
    if missing:
        raise OptionError(f"--gpus {ranges_text(gpus)}: there is no GPU {missing[0]}; {_there_are(visible, named)}")
    return [visible[number] for number in gpus]


def _free(named: str | None, nproc: Nproc) -> list[VisibleGpu]:
    visible = visible_gpus(named)
    if not visible:
        raise OptionError(f"--gpus free: {_there_are(visible, named)}")
    has = _other_runs(visible)
    try:
        busy = compute_processes(visible)
    except RuntimeError as error:
        raise OptionError(f"--gpus free: {error}; name the GPUs, for example --gpus 0") from error
    free = [gpu for gpu in visible if gpu.name not in has and not busy[gpu.number]]
    wanted = nproc if isinstance(nproc, int) else 1
    if len(free) < wanted:
        users = "; ".join(
            f"GPU {gpu.number}: {has[gpu.name] if gpu.name in has else _processes(busy[gpu.number])}"
            for gpu in visible
            if gpu not in free
        )
        some = f"{len(free)} of {len(visible)} GPUs {'is' if len(free) == 1 else 'are'} free"
        raise OptionError(f"--gpus free{f' with {wanted} ranks' if wanted > 1 else ''}: {some} ({users})")
    return free


def _ranks_on(chosen: Sequence[VisibleGpu], nproc: Nproc, gpus: Sequence[int] | str) -> int:
    """How many ranks on the chosen GPUs."""
    count = nproc if isinstance(nproc, int) else _cpu_count() if nproc == "cpu" else len(chosen)
    if count > len(chosen):
        text = gpus if isinstance(gpus, str) else ranges_text(gpus)
        listed = ",".join(str(gpu.number) for gpu in chosen)
        raise OptionError(
            f"--gpus {text} with {count} ranks: NCCL refuses two ranks on one GPU; give -n {len(chosen)} or more GPUs,"
            f" or, to share them all the same, --env {env.CUDA_VISIBLE_DEVICES}={listed} instead of --gpus"
        )
    return count


def _why(nproc: Nproc, count: int, gpus: Sequence[int] | str, chosen: Sequence[VisibleGpu]) -> str:
    numbers = _numbers(chosen)
    if gpus != "free":
        return ""
    return f"free GPUs: {numbers}" if isinstance(nproc, int) else f"nproc={count}: one rank per free GPU ({numbers})"


def _there_are(visible: Sequence[VisibleGpu], named: str | None) -> str:
    text = named if named is not None else os.environ.get(env.CUDA_VISIBLE_DEVICES)
    within = "" if text is None else f" within {env.CUDA_VISIBLE_DEVICES}={text}"
    if not visible:
        return f"no GPU is visible here{within}"
    return f"visible here{within}: GPU {_numbers(visible)}"


def _other_runs(gpus: Sequence[VisibleGpu]) -> dict[str, Holder]:
    """Those that other live runs of ours have."""
    outer = os.environ.get(env.RUN_ID)
    found = _holders([gpu.name for gpu in gpus])
    return {name: holder for name, holder in found.items() if holder.run_id != outer}


def _holders(names: Sequence[str]) -> dict[str, Holder]:
    try:
        return holders(names, lock_folder())
    except OSError:  # a temp folder that cannot be used: nobody can hold anything there, and --log-dir needs none
        return {}


def _taken(gpus: Sequence[VisibleGpu], has: Mapping[str, Holder]) -> str:
    """`GPU 0-1: run ab12cd34`, by run."""
    by_run: dict[Holder, list[VisibleGpu]] = {}
    for gpu in gpus:
        if gpu.name in has:
            by_run.setdefault(has[gpu.name], []).append(gpu)
    return ", ".join(f"{holder} has GPU {_numbers(members)}" for holder, members in by_run.items())


def _shared(gpus: Sequence[VisibleGpu], has: Mapping[str, Holder]) -> str:
    taken = _taken(gpus, has)
    return f"shared GPUs: {taken}" if taken else ""


def _numbers(gpus: Sequence[VisibleGpu]) -> str:
    return ranges_text([gpu.number for gpu in gpus])


def _processes(pids: Sequence[int]) -> str:
    listed = ", ".join(map(str, pids))
    return f"process{'es' if len(pids) > 1 else ''} {listed}" + (", this one" if os.getpid() in pids else "")


def _cpu_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
