"""`notebook_launcher()`: Accelerate's function of that name, as a one-import replacement.

    from ipyelastic import notebook_launcher -> [here] -> foreground -> engines/run

Runs in: owner (kernel or script). Accelerate is never imported here; a program that uses it finds in its rank's
environment what `accelerate launch` puts there.
Source: accelerate 1.15, signature and public documentation of `notebook_launcher`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..engines.cause import port_trouble
from ..engines.results import Quiet, Results
from ..launcher import defaults
from ..launcher.options import RunOptions
from ..payload.forgiving import Forgiving
from ..terms import env
from ..terms.errors import OptionError, RendezvousConnectionError, nearest
from ..view.text import PrefixedText, templated_prefix
from .foreground import run_in_foreground
from .front_end import is_live_front_end
from .interrupts import Interrupts

__all__ = ["notebook_launcher"]

T = TypeVar("T")

_PRECISIONS = ("no", "fp16", "bf16", "fp8")


class _NotGiven(str):
    """Accelerate's own default, told from the same word typed by a person, which wins over a saved default."""


class _NotGivenNumber(int):
    """Likewise for a number."""


_NO = _NotGiven("no")
_NONE = _NotGivenNumber(0)


def notebook_launcher(
    function: Callable[..., T],
    args: Sequence[Any] = (),
    num_processes: int | None = None,
    mixed_precision: str = _NO,
    use_port: str | int = "29500",
    master_addr: str = "127.0.0.1",
    node_rank: int = 0,
    num_nodes: int = 1,
    rdzv_backend: str = "static",
    rdzv_endpoint: str = "",
    rdzv_conf: Mapping[str, Any] | None = None,
    rdzv_id: str = "none",
    max_restarts: int = _NONE,
    monitor_interval: float = 0.1,
    log_line_prefix_template: str | None = None,
) -> Results[T]:
    """Run a training function on several ranks of this machine, show what they write, and return their values.

    Takes what Accelerate's `notebook_launcher` takes. Three things differ: the values come back, by rank; CUDA may
    have been used in the notebook before; one rank, too, is a process of its own.

    Args:
        function: Called in every rank as `function(*args)`.
        args: Its arguments, a list or tuple.
        num_processes: How many ranks, 1 to 1024; None: the visible GPUs, else 1.
        mixed_precision: `"no"`, `"fp16"`, `"bf16"` or `"fp8"`; what `Accelerator()` in a rank takes as its default.
            Not given: what `%elastic_config env.ACCELERATE_MIXED_PRECISION=...` saved, else `"no"`.
        use_port: The port at which ranks find each other, MASTER_PORT, 1 to 65535; 0: any that is free.
        master_addr: The address at which they do, MASTER_ADDR.
        node_rank: Always 0: there is one machine.
        num_nodes: Always 1.
        rdzv_backend: Not used: one machine agrees with itself.
        rdzv_endpoint, rdzv_conf, rdzv_id: Likewise.
        max_restarts: How often all ranks are started again after one has failed. Not given: what
            `%elastic_config max-restarts=...` saved, else 0.
        monitor_interval: Seconds between two looks; not used: a rank's end is heard of at once.
        log_line_prefix_template: What stands before each line, with `${rank}`, `${local_rank}` and `${role_name}`.

    Returns:
        What each rank returned: a list of length `num_processes`, by rank. A notebook does not show it when all of it
        is None. In the place of a value that cannot be pickled (an Accelerator, a trainer) stands a placeholder, and a
        note says so.

    Raises:
        OptionError: A value that cannot be taken (many machines among them), or a port in use.
        ChildFailedError, RunStopped, ServerError, UnpicklableError: As `Run.result()`.
        KeyboardInterrupt: After an interrupt, once all ranks are gone.

    Example:
        >>> import os
        >>> notebook_launcher(lambda base: base + int(os.environ["RANK"]), (40,), num_processes=2, use_port=0)
        [0: 40, 1: 41]

    Source: accelerate 1.15, https://huggingface.co/docs/accelerate/basic_tutorials/notebook.
    """
    try:
        return _launched(
            function,
            args,
            num_processes,
            mixed_precision,
            (master_addr, use_port),
            (num_nodes, node_rank),
            max_restarts,
            log_line_prefix_template,
        )
    except OptionError as error:
        error.forget_frames()
        raise


def _launched(
    function: Callable[..., T],
    args: Sequence[Any],
    num_processes: int | None,
    mixed_precision: str,
    rendezvous: tuple[str, str | int],
    many: tuple[int, int],
    max_restarts: int,
    log_line_prefix_template: str | None,
) -> Results[T]:
    if not callable(function):
        raise OptionError(f"function={function!r}: expected something that can be called")
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise OptionError(f"args={args!r}: expected a tuple of arguments, such as ({args!r},)")
    _refuse_what_is_missing(*many)
    precision = _checked_precision(mixed_precision)
    master_addr, port = rendezvous[0], _checked_port(rendezvous[1])
    is_saved = env.ACCELERATE_MIXED_PRECISION in defaults.current().get("env", {})
    is_left_to_it = is_saved and isinstance(mixed_precision, _NotGiven)
    environment = {} if is_left_to_it else {env.ACCELERATE_MIXED_PRECISION: precision}
    restarts = {} if isinstance(max_restarts, _NotGivenNumber) else {"max_restarts": max_restarts}
    options = RunOptions.from_keywords(nproc=num_processes, env=environment, engine="local", **restarts)
    shell = _shell()
    is_live = is_live_front_end(shell)
    interrupts = Interrupts()
    try:
        values = run_in_foreground(
            Forgiving(function),
            args,
            options,
            PrefixedText(ranks=options.shown, is_live=is_live, prefix=templated_prefix(log_line_prefix_template)),
            interrupts,
            shell=shell,
            is_live=is_live,
            name=getattr(function, "__name__", type(function).__name__),
            rendezvous=(str(master_addr), port),
        )
    except (OSError, RendezvousConnectionError) as error:
        why = port_trouble(error)
        if not why or not port:
            raise
        raise OptionError(f"use_port={port}: this port {why}; give another, or 0 for any that is free") from None
    finally:
        interrupts.give_back()
    return Quiet(values) if all(value is None for value in values) else values


def _refuse_what_is_missing(num_nodes: int, node_rank: int) -> None:
    if num_nodes != 1 or node_rank != 0:
        what = f"num_nodes={num_nodes!r}" if num_nodes != 1 else f"node_rank={node_rank!r}"
        raise OptionError(f"{what}: not yet (many machines); expected num_nodes=1 and node_rank=0")


def _checked_precision(given: Any) -> str:
    precision = str(getattr(given, "value", given)).lower()  # Accelerate's own PrecisionType is an enum of texts
    if precision not in _PRECISIONS:
        raise OptionError(f"mixed_precision={given!r}: expected no, fp16, bf16 or fp8{nearest(precision, _PRECISIONS)}")
    return precision


def _checked_port(given: Any) -> int:
    text = "0" if given is None else str(given).strip()
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise OptionError(f"use_port={given!r}: expected a port from 1 to 65535, or 0 for any that is free")
    return int(text)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
