"""`launch()`: a function on several ranks, from a script, a notebook or any other program.

    launch(function, nproc=4) -> RunOptions -> [here] -> Run, which shows its output by itself

Runs in: owner, any thread.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..launcher.keywords import LaunchKeywords, with_options
from ..launcher.options import RunOptions
from ..terms.errors import OptionError
from .here import below_call
from .run import Run
from .scripts import check_script_options, find_script
from .showing import new_display

if TYPE_CHECKING:
    from typing_extensions import Unpack  # every checker has it; ours is the standard library's from 3.11 on

__all__ = ["launch"]

T = TypeVar("T")


@overload
def launch(
    function: str | os.PathLike[str],
    *,
    args: Sequence[Any] = (),
    kwargs: None = None,
    nproc: int | str | None = None,
    **options: Unpack[LaunchKeywords],
) -> Run[None]: ...


@overload
def launch(
    function: Callable[..., T],
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    nproc: int | str | None = None,
    **options: Unpack[LaunchKeywords],
) -> Run[T]: ...


def launch(
    function: Callable[..., T] | str | os.PathLike[str],
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    nproc: int | str | None = None,
    **options: Any,
) -> Run[T] | Run[None]:
    """Run a function on several ranks of this machine, each a fresh process.

    What they write is shown while they run, each line with its rank: on a script's stdout, or under the notebook's
    cell. All of it is shown before `run.result()` returns.

    Args:
        function: Called in every rank as `function(*args, **kwargs)`; what it returns comes back. No rank argument is
            put in: `os.environ["RANK"]`, `LOCAL_RANK`, `WORLD_SIZE` and all that torchrun sets are there. Or the path
            of a script (a `pathlib.Path`, or text that ends in `.py`): every rank does what `python train.py` does,
            with `args` (text, numbers, paths) as its command line; its values are None.
        args: Its positional arguments, a list or tuple, the same for every rank.
        kwargs: Its keyword arguments by name; a script takes none.
        nproc: How many ranks: a number from 1 to 1024, `"gpu"`, `"cpu"` or `"auto"`; None: one per GPU of `gpus`,
            else per visible GPU, else 1.
        options: The keywords below. One that is not given: what `%elastic_config` saved, else the default shown.

            timeout: The run's time limit in seconds; every rank's stacks are shown at its end. None: no limit.
            start_method: `"forkserver"` (a fork of a warm server), `"spawn"` (a new Python) or `"fork"` (of this
                process).
            env: Environment variables, `{name: text}`, laid over this process's in every rank.
            seed: `random`, numpy and torch of rank r are seeded with `seed + r`; None: anew.
            log_dir: The folder below which log files stay; None: one that goes with this process, that of a failed
                run after a week.
            grace: Seconds between asking a rank to end and killing it.
            stop_signal: How it is asked: a signal's number, or its name such as `"SIGINT"`.
            ranks: Whose output is shown (all run): `"0,2-3"` or `[0, 2, 3]`; None: all.
            ui: Where: `"auto"` (what fits the place), `"panel"`, `"text"` (prefixed lines), `"none"` (nowhere).
            engine: `"local"`: processes on this machine. `"here"`: one rank in this very process and thread, for
                debugging; the run has ended on return, and its failure has the function's own frames.
            gpus: Which GPUs, one rank each unless `nproc` says less, as numbers within CUDA_VISIBLE_DEVICES: `"0,2-3"`
                or `[0, 2, 3]`; `"free"`: those on which nobody computes; None: all.
            numa: Keep each rank on CPUs near its GPU: `"node"`, `"socket"`, `"exclusive"` or `"core-complex"`.
            virtual_local_rank: Every rank has LOCAL_RANK 0 and sees its own GPU only, as number 0.
            max_restarts: How often all ranks are started again after one has failed, 0 or more.

    Returns:
        The run, at once: it is starting. `run.result()` waits and gives a list of length nproc, by rank.

    Raises:
        OptionError: An option that cannot be taken, a script that is not there. What goes wrong later is raised by
            `run.result()`.
        KeyboardInterrupt: With `engine="here"`, as in any function.
        OSError: The log folder cannot be made.

    Source: the ranks' environment is torchrun's, https://docs.pytorch.org/docs/stable/elastic/run.html.

    Example:
        >>> import os
        >>> launch(lambda: int(os.environ["RANK"]) * 10, nproc=2).result()
        [0: 0, 1: 10]
    """
    try:
        return _launched(function, args, kwargs, RunOptions.from_keywords(nproc=nproc, **options))
    except OptionError as error:
        error.forget_frames()
        raise
    except KeyboardInterrupt as error:
        error.__traceback__ = below_call(error.__traceback__)  # its context, a cancelled coroutine's, stays
        raise


launch.__signature__ = with_options(launch)  # type: ignore[attr-defined]  # what `?` and Tab show


def _launched(
    function: Callable[..., T] | str | os.PathLike[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    options: RunOptions,
) -> Run[T]:
    if isinstance(function, os.PathLike) or (isinstance(function, str) and function.endswith(".py")):
        return _launch_script(function, args, kwargs, options)
    if not callable(function):
        raise OptionError(f"function={function!r}: expected something that can be called, or a script's path")
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise OptionError(f"args={args!r}: expected a list or tuple of arguments, such as ({args!r},)")
    call = functools.partial(function, **kwargs) if kwargs else function
    name = getattr(function, "__name__", type(function).__name__)
    return Run(call, args, options, display=new_display(options), name=name)


def _launch_script(
    path: str | os.PathLike[str], args: Any, kwargs: Mapping[str, Any] | None, options: RunOptions
) -> Run[Any]:
    if kwargs:
        raise OptionError(f"kwargs={dict(kwargs)!r}: a script takes args, as on a command line")
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise OptionError(f"args={args!r}: expected a list or tuple of words, such as ('--lr', '1e-3')")
    check_script_options(options)
    return Run(find_script(path, args), (), options, display=new_display(options))
