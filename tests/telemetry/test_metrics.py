"""Metrics: which handler gets which number under which name."""

from __future__ import annotations

import functools
import re
import time
import warnings

import pytest

from ipyelastic.telemetry import metrics
from ipyelastic.telemetry.metrics import MetricData, MetricHandler, prof, put_metric


class Heard(MetricHandler):
    """Keeps the numbers; durations are kept as the name only."""

    def __init__(self) -> None:
        self.data: list[MetricData] = []

    def emit(self, metric_data: MetricData) -> None:
        self.data.append(metric_data)

    @property
    def names(self) -> list[str]:
        return [data.name for data in self.data]


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """The default handler, for this test only."""
    monkeypatch.setattr(metrics, "_metrics_map", {})
    monkeypatch.setattr(metrics, "_default_metrics_handler", metrics.NullMetricHandler())
    one = Heard()
    metrics.configure(one)
    return one


@prof
def returns(value: int) -> int:
    """Says so."""
    return value


@prof(group="others")
def raises() -> None:
    raise ValueError("on purpose")


@prof
def is_interrupted() -> None:
    raise KeyboardInterrupt


class Outer:
    @prof
    def method(self) -> int:
        return 1

    @staticmethod
    @prof
    def static() -> int:
        return 2

    class Inner:
        @prof
        def method(self) -> int:
            return 3


def test_a_number_goes_to_its_groups_handler_or_to_the_default(heard: Heard, capsys: pytest.CaptureFixture) -> None:
    others = Heard()
    metrics.configure(others, "others")
    before = time.time()
    put_metric("a", 1)
    put_metric("b", 2, "others")
    put_metric("c", 3, metric_group="new")
    assert [data[1:] for data in heard.data] == [("torchelastic", "a", 1), ("new", "c", 3)]
    assert [data[1:] for data in others.data] == [("others", "b", 2)]
    assert before <= heard.data[0].timestamp <= time.time()
    assert capsys.readouterr().out == ""


def test_the_console_handler_prints_and_the_null_handler_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    metrics.configure(metrics.ConsoleMetricHandler(), "shown")
    metrics.configure(metrics.NullMetricHandler())
    put_metric("a", 2, "shown")
    put_metric("a", 2)
    assert re.fullmatch(r"\[\d+\.\d+\]\[shown\]: a=2\n", capsys.readouterr().out)


def test_a_stream_keeps_the_handler_it_was_made_with(heard: Heard) -> None:
    stream = metrics.getStream("g")
    assert (stream.group_name, stream.handler) == ("g", heard)
    metrics.configure(Heard())
    stream.add_value("a", 1)
    assert heard.names == ["a"]


@pytest.mark.parametrize("handler", [None, print, Heard])
def test_what_cannot_take_a_number_is_refused(handler: object) -> None:
    if handler is Heard:
        with pytest.raises(TypeError):
            MetricHandler()  # type: ignore[abstract]
        return
    with pytest.raises(TypeError, match=r"expected an object with emit\(metric_data\)$"):
        metrics.configure(handler)  # type: ignore[arg-type]


def test_a_function_is_counted_and_measured(heard: Heard) -> None:
    assert returns(3) == 3
    assert (returns.__name__, returns.__doc__) == ("returns", "Says so.")
    assert heard.names == ["test_metrics.returns.success", "test_metrics.returns.duration.ms"]
    assert [data.group_name for data in heard.data] == ["torchelastic"] * 2
    assert heard.data[0].value == 1
    assert isinstance(heard.data[1].value, int)
    assert heard.data[1].value >= 0


def test_a_failure_is_counted_and_raised(heard: Heard) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        raises()
    assert [(data.group_name, data.name) for data in heard.data] == [
        ("others", "test_metrics.raises.failure"),
        ("others", "test_metrics.raises.duration.ms"),
    ]


def test_an_interrupt_is_neither_success_nor_failure(heard: Heard) -> None:
    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    assert heard.names == ["test_metrics.is_interrupted.duration.ms"]


def test_methods_go_by_their_class(heard: Heard) -> None:
    assert (Outer().method(), Outer.static(), Outer.Inner().method()) == (1, 2, 3)
    assert heard.names[::2] == ["Outer.method.success", "Outer.static.success", "Outer.Inner.method.success"]


def test_a_duration_comes_from_a_clock_that_is_not_set_back(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    walls = iter([1e9, 1e9 - 3600, 1e9 - 3600])
    monkeypatch.setattr(metrics.time, "time", lambda: next(walls))
    returns(1)
    assert heard.data[1].value >= 0


def test_names_of_what_has_none() -> None:
    assert metrics._get_metric_name(functools.partial(print)) == "functools.partial"
    assert metrics._get_metric_name(len) == "builtins.len"
    assert metrics._get_metric_name(Outer) == "test_metrics.Outer"


def test_deprecated_names_warn_where_they_are_used_and_work(heard: Heard) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped = metrics.profile("g")(abs)
        assert wrapped(-2) == 2
        metrics.publish_metric("g", "n", 3)
        failing = metrics.profile("g")(int)
        with pytest.raises(ValueError):
            failing("x")
    assert [(each.category, str(each.message), each.filename) for each in caught] == [
        (FutureWarning, "Deprecated, use `@prof` instead", __file__),
        (FutureWarning, "Deprecated, use `put_metric(metric_group)(metric_name, metric_value)` instead", __file__),
        (FutureWarning, "Deprecated, use `@prof` instead", __file__),
    ]
    assert heard.names == ["abs.success", "abs.duration.ms", "n", "int.failure", "int.duration.ms"]
    assert {data.group_name for data in heard.data} == {"g"}


def test_a_config_holds_its_parameters() -> None:
    assert metrics.MetricsConfig().params == {}
    assert metrics.MetricsConfig({"a": "b"}).params == {"a": "b"}
    assert metrics.initialize_metrics(metrics.MetricsConfig()) is None  # type: ignore[func-returns-value]


def test_elapsed_time_is_in_whole_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.time, "time", lambda: 12.3456)
    assert metrics.get_elapsed_time_ms(10) == 2345
