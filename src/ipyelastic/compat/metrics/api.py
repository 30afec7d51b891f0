"""`torch.distributed.elastic.metrics.api`: streams, handlers, `prof`."""

from __future__ import annotations

import time

from ...telemetry import metrics as _metrics
from ...telemetry.metrics import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    MetricsConfig,
    MetricStream,
    NullMetricHandler,
    _get_metric_name,
    _metrics_map,
    configure,
    get_elapsed_time_ms,
    getStream,
    initialize_metrics,
    prof,
    profile,
    publish_metric,
    put_metric,
)
from .._face import face

__all__ = [
    "MetricsConfig",
    "MetricHandler",
    "ConsoleMetricHandler",
    "NullMetricHandler",
    "MetricStream",
    "configure",
    "getStream",
    "prof",
    "profile",
    "put_metric",
    "publish_metric",
    "get_elapsed_time_ms",
    "MetricData",
    "initialize_metrics",
    "time",
    "_get_metric_name",
    "_metrics_map",
]

face(
    __name__,
    {
        "getStream": [_metrics],
        "put_metric": [_metrics],
        "time": [_metrics],
        "_get_metric_name": [_metrics],
        "_metrics_map": [_metrics],
    },
)
