"""Metrics: numbers by group and name, handed to whatever handler was configured, by default to none.

    put_metric(name, value, group), @prof  ->  getStream(group)  ->  handler.emit(MetricData)

Runs in: owner and ranks, any thread; handlers are called in the thread that measured.
Source: torch 2.13 for names and texts; compared with torch's by tests/compat/test_metrics.py.
"""

from __future__ import annotations

import abc
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

__all__ = [
    "MetricsConfig",
    "MetricData",
    "MetricHandler",
    "ConsoleMetricHandler",
    "NullMetricHandler",
    "MetricStream",
    "configure",
    "initialize_metrics",
    "getStream",
    "put_metric",
    "prof",
    "profile",
    "publish_metric",
    "get_elapsed_time_ms",
]

F = TypeVar("F", bound=Callable[..., Any])


class MetricData(NamedTuple):
    """One number.

    Attributes:
        timestamp: When, in seconds since 1970.
        group_name: Of which group.
        name: What it is called there.
        value: The number.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    timestamp: float
    group_name: str
    name: str
    value: float


class MetricsConfig:
    """What a launcher hands to `initialize_metrics`.

    Args:
        params: Of a handler, by name; None: none.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    __slots__ = ["params"]

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = {} if params is None else params


class MetricHandler(abc.ABC):
    """Takes the numbers; derive one of your own and `configure` it.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    @abc.abstractmethod
    def emit(self, metric_data: MetricData) -> None:
        """Take one number, `metric_data`, in the thread that measured it."""


class ConsoleMetricHandler(MetricHandler):
    """Prints each number on stdout.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    def emit(self, metric_data: MetricData) -> None:
        """Print `metric_data`: `[timestamp][group]: name=value`."""
        print(f"[{metric_data.timestamp}][{metric_data.group_name}]: {metric_data.name}={metric_data.value}")


class NullMetricHandler(MetricHandler):
    """Drops each number.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    def emit(self, metric_data: MetricData) -> None:
        """Do nothing with `metric_data`."""


class MetricStream:
    """One group's way to its handler. Had from `getStream`.

    Args:
        group_name: The group.
        handler: Takes its numbers.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    def __init__(self, group_name: str, handler: MetricHandler) -> None:
        self.group_name = group_name
        self.handler = handler

    def add_value(self, metric_name: str, metric_value: float) -> None:
        """Hand on one number of now.

        Args:
            metric_name: What it is called.
            metric_value: The number.
        """
        self.handler.emit(MetricData(time.time(), self.group_name, metric_name, metric_value))


_metrics_map: dict[str, MetricHandler] = {}
_default_metrics_handler: MetricHandler = NullMetricHandler()


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Send one group's numbers to `handler`, or those of every group that has no handler of its own.

    Raises TypeError for something that cannot `emit`.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    global _default_metrics_handler
    if not callable(getattr(handler, "emit", None)):
        raise TypeError(f"metric handler {handler!r}: expected an object with emit(metric_data)")
    if group is None:
        _default_metrics_handler = handler
    else:
        _metrics_map[group] = handler


def initialize_metrics(cfg: MetricsConfig | None = None) -> None:
    """What a launcher calls with its `cfg` before its agent runs; nothing to do, as in the open build of torch.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """


def getStream(group: str) -> MetricStream:  # torch's spelling
    """The stream of a `group`, to the handler that is configured now.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    return MetricStream(group, _metrics_map.get(group, _default_metrics_handler))


def put_metric(metric_name: str, metric_value: float, metric_group: str = "torchelastic") -> None:
    """Hand on one number of now.

    Args:
        metric_name: What it is called.
        metric_value: The number.
        metric_group: Its group, which says which handler takes it.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    stream = getStream(metric_group)
    if type(stream.handler) is not NullMetricHandler:
        stream.add_value(metric_name, metric_value)


@overload
def prof(fn: F, group: str = ...) -> F: ...
@overload
def prof(fn: None = None, group: str = ...) -> Callable[[F], F]: ...


def prof(fn: Any = None, group: str = "torchelastic") -> Any:
    """Count a function's successes and failures, and measure it: `NAME.success`, `NAME.failure`, `NAME.duration.ms`.

    Args:
        fn: The function; with `@prof(group="g")` the result takes it.
        group: Of the metrics.

    NAME is `Class.method`, or `module.function` with the module's last part. What an exception other than `Exception`
    ends (KeyboardInterrupt) is neither success nor failure; its time counts.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """

    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            name = _get_metric_name(function)
            started = time.monotonic()
            try:
                result = function(*args, **kwargs)
            except Exception:
                put_metric(f"{name}.failure", 1, group)
                raise
            else:
                put_metric(f"{name}.success", 1, group)
            finally:
                put_metric(f"{name}.duration.ms", int((time.monotonic() - started) * 1000), group)
            return result

        return wrapper

    return wrap if fn is None else wrap(fn)


def _get_metric_name(fn: Any) -> str:
    """`Class.method` or `module.function`; a callable object goes by its class."""
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    qualified: str = named.__qualname__
    if "." in qualified:
        return qualified
    module = named.__module__
    return f"{module.split('.')[-1]}.{qualified}" if module else qualified


def profile(group: Any = None) -> Callable[[F], F]:
    """Deprecated: `prof`. As it, under the function's bare name.

    `group` is the metrics' group.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    warnings.warn("Deprecated, use `@prof` instead", FutureWarning, stacklevel=2)

    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started = time.monotonic()
            stream = getStream(group)
            try:
                result = function(*args, **kwargs)
            except Exception:
                stream.add_value(f"{function.__name__}.failure", 1)
                raise
            else:
                stream.add_value(f"{function.__name__}.success", 1)
            finally:
                stream.add_value(f"{function.__name__}.duration.ms", int((time.monotonic() - started) * 1000))
            return result

        return wrapper

    return wrap


def publish_metric(metric_group: str, metric_name: str, metric_value: float) -> None:
    """Deprecated: `put_metric`.

    Args:
        metric_group: Its group.
        metric_name: What it is called.
        metric_value: The number.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    warnings.warn(
        "Deprecated, use `put_metric(metric_group)(metric_name, metric_value)` instead", FutureWarning, stacklevel=2
    )
    getStream(metric_group).add_value(metric_name, metric_value)


def get_elapsed_time_ms(start_time_in_seconds: float) -> int:
    """Whole milliseconds since `start_time_in_seconds`, a time of `time.time()`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/metrics.html.
    """
    return int((time.time() - start_time_in_seconds) * 1000)
