"""`launch()`: a function on several ranks, from a script, a notebook or any other program.

    launch(function, nproc=4) -> RunOptions -> [here] -> Run, which shows its output by itself

Runs in: owner, any thread.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from ..launcher.options import RunOptions
from ..terms.errors import OptionError
from .here import below_call
from .run import Run
from .scripts import check_script_options, find_script
from .showing import new_display

__all__ = ["launch"]

T = TypeVar("T")


@overload
def launch(
    function: str | os.PathLike[str],
    *,
    args: Sequence[Any] = (),
    kwargs: None = None,
    nproc: int | str | None = None,
    **options: Any,
) -> Run[None]: ...


@overload
def launch(
    function: Callable[..., T],
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    nproc: int | str | None = None,
    **options: Any,
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
        nproc: A number, `"gpu"`, `"cpu"` or `"auto"`; None: the visible GPUs, else 1.
        options: Fields of `RunOptions` (`timeout`, `start_method`, `env`, `seed`, `log_dir`, `grace`, `stop_signal`,
            `gpus`, `numa`, `virtual_local_rank`, `max_restarts`, `ranks` whose output is shown, `ui="none"` to show none).
            `engine="here"`: one rank in this very process and thread, for debugging; the run has ended on return, and
            its failure has the function's own frames.

    Returns:
        The run, at once: it is starting.

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
