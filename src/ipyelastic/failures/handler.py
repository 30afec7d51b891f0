"""Torch's `ErrorHandler` and `@record`: a program's failed end goes into the error file its agent named.

    exception in a worker's main()              ->  error.json (TORCHELASTIC_ERROR_FILE)  ->  terms/failure (the agent)
    ChildFailedError in a program that launches  ->  a copy of its root failure's file     ->  the agent above it

Runs in: ranks, and programs that launch ranks themselves.
Other end: terms/failure.py reads the file; failures/record.py makes its words.
Source: torch 2.13 for names, endings and texts (SEEDS section 9).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from ..terms import env
from ..terms.errors import ChildFailedError
from ..terms.failure import NOT_AVAILABLE
from .record import error_data, exception_record, write_whole

__all__ = ["ErrorHandler", "get_error_handler", "record"]

logger = logging.getLogger("ipyelastic")

P = ParamSpec("P")
R = TypeVar("R")

stacks_file: Any = 2
"""Where `initialize` has faulthandler write: a file with `fileno()`, or a descriptor. A rank of ours that collects its
stacks in a file of its own says so here, else the user's `@record` would send them to stderr."""


class ErrorHandler:
    """Writes down why this process failed. Subclass it and give yours to `record(fn, error_handler=...)`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/errors.html.
    """

    def initialize(self) -> None:
        """Called once before the function: have fatal signals leave all threads' stacks. A failure only warns."""
        try:
            faulthandler.enable(file=stacks_file, all_threads=True)
        except Exception as error:  # the stacks would be nice to have, no more
            warnings.warn(f"Unable to enable fault handler. {type(error).__name__}: {error}", stacklevel=2)

    def record_exception(self, e: BaseException) -> None:
        """Write `e` to this process's error file; without one, or when it cannot be written, only the log says so.

        Never raises: the user's exception must not be hidden by ours (torch's does when the folder is gone).
        """
        path = self._get_error_file_path()
        if not path:
            logger.debug("no error file for this process: %s is not recorded", type(e).__name__)
            return
        noted = exception_record(e, lambda filename: "")
        try:
            # `__name__`, as torch; our own records keep the qualified one.
            write_whole(path, json.dumps(error_data(f"{type(e).__name__}: {noted.message}", noted.text)))
        except OSError as error:
            logger.warning("Unable to write error to file. %s: %s", type(error).__name__, error)

    def override_error_code_in_rootcause_data(
        self, rootcause_error_file: str, rootcause_error: dict[str, Any], error_code: int = 0
    ) -> None:
        """Put `errorCode` into a child's error data, in place; data of the old form stays, with a warning.

        Args:
            rootcause_error_file: Where the data comes from, for the log.
            rootcause_error: The data.
            error_code: The child's exit code, 0 included.
        """
        if not isinstance(rootcause_error, dict) or "message" not in rootcause_error:
            logger.warning(
                "child error file (%s) does not have field `message`. \ncannot override error code: %s",
                rootcause_error_file,
                error_code,
            )
        elif not isinstance(rootcause_error["message"], dict):
            logger.warning(
                "child error file (%s) has a new message format. \nskipping error code override", rootcause_error_file
            )
        else:
            rootcause_error["message"]["errorCode"] = error_code

    def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
        """Copy a child's error file to this process's own; one that is there is logged and replaced.

        Args:
            rootcause_error_file: The child's. One that is damaged is replaced by a note that says so.
            error_code: Goes in as `errorCode` unless 0.

        Raises:
            OSError: The child's file is missing, or ours cannot be written.
        """
        with open(rootcause_error_file, encoding="utf-8", errors="replace") as file:
            text = file.read()
        try:
            data = json.loads(text)
        except ValueError as error:
            said = f"the error file {rootcause_error_file} cannot be read: {type(error).__name__}: {error}"
            logger.error("%s", said)
            data = error_data(said, "")
        if error_code:
            self.override_error_code_in_rootcause_data(rootcause_error_file, data, error_code)
        logger.debug("child error file (%s) contents:\n%s", rootcause_error_file, json.dumps(data, indent=2))
        path = self._get_error_file_path()
        if not path:
            logger.error("no error file defined for parent, to copy child error file (%s)", rootcause_error_file)
            return
        self._rm(path)
        write_whole(path, json.dumps(data))
        logger.info("dumped error file to parent's %s", path)

    def _get_error_file_path(self) -> str | None:
        return os.environ.get(env.ERROR_FILE)

    def _write_error_file(self, file_path: str, error_msg: str) -> None:
        """Write text to a file; one that cannot be written only warns."""
        try:
            write_whole(file_path, error_msg)
        except OSError as error:
            warnings.warn(f"Unable to write error to file. {type(error).__name__}: {error}", stacklevel=2)

    def _rm(self, my_error_file: str) -> None:
        """Remove a file, its words kept in the log."""
        if not os.path.isfile(my_error_file):
            return
        with open(my_error_file, encoding="utf-8", errors="replace") as file:
            text = file.read()
        try:
            original = json.dumps(json.loads(text), indent=2)
            logger.warning("%s already exists and will be overwritten. Original contents:\n%s", my_error_file, original)
        except ValueError:
            logger.warning(
                "%s already exists and will be overwritten. Unable to load original contents:\n%s", my_error_file, text
            )
        with contextlib.suppress(FileNotFoundError):  # somebody else's was quicker
            os.remove(my_error_file)


def get_error_handler() -> ErrorHandler:
    """A new ErrorHandler, for whoever brings none.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/errors.html.
    """
    return ErrorHandler()


def record(fn: Callable[P, R], error_handler: ErrorHandler | None = None) -> Callable[P, R | None]:
    """Wrap a program's main function so that its agent learns why it failed.

    Args:
        fn: Called with the wrapper's arguments.
        error_handler: None: a new `get_error_handler()` at each call.

    Returns:
        A function that returns what `fn` returns; None for `SystemExit` with code 0. Other exits and
        `KeyboardInterrupt` pass unrecorded. `ChildFailedError` has its root failure's error file copied, any other
        exception is recorded; both pass on. What a handler itself raises meanwhile is logged and hides neither.

    Raises:
        TypeError: `fn` cannot be called. There is no form with arguments only (`@record(error_handler=...)`), as in
            torch: `functools.partial(record, error_handler=...)` is one.

    Example:
        >>> @record
        ... def main() -> str:
        ...     return "done"
        >>> main()
        'done'

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/errors.html.
    """
    if not callable(fn):
        raise TypeError(f"record({fn!r}): expected a function")

    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        handler = get_error_handler() if error_handler is None else error_handler
        handler.initialize()
        try:
            return fn(*args, **kwargs)
        except SystemExit as exit_:
            if exit_.code == 0:
                return None
            raise
        except ChildFailedError as failed:
            with _logged("copy the root failure's error file"):
                _copy_root_failure(handler, failed)
            raise
        except Exception as error:
            with _logged("record the exception"):
                handler.record_exception(error)
            raise

    return wrapper


def _copy_root_failure(handler: ErrorHandler, failed: ChildFailedError) -> None:
    rank, failure = failed.get_first_failure()
    if failure.error_file != NOT_AVAILABLE:
        handler.dump_error_file(failure.error_file, failure.exitcode)
        return
    logger.info(
        "local_rank %s FAILED with no error file."
        " Decorate your entrypoint fn with @record for traceback info."
        " See: https://pytorch.org/docs/stable/elastic/errors.html",
        rank,
    )


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Whatever fails in here is told by the log, so that the exception on its way out is the user's."""
    try:
        yield
    except Exception:
        logger.exception("cannot %s", what)
