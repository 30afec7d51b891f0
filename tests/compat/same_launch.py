"""One small job, unchanged but for its import: launched by torch and by us, outcomes written as JSON.

python same_launch.py torch|ours OUT.json
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

WHICH = sys.argv[1] if __name__ == "__main__" else os.environ.get("SAME_LAUNCH", "")
os.environ["SAME_LAUNCH"] = WHICH
if WHICH == "torch":
    from torch.distributed.elastic import events, metrics
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
else:
    from ipyelastic.compat import events, metrics
    from ipyelastic.compat.launcher.api import ChildFailedError, LaunchConfig, elastic_launch
    from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, Std

# In each attempt before number `good` rank 1 fails, once rank 0 has said all it has to say; rank 0 waits to be ended.
PROGRAM = """
import json, os, signal, sys
good, path = int(sys.argv[1]), sys.argv[2]
attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), os.environ["RANK"]
json.dump(dict(os.environ), open(os.path.join(path, "env" + rank), "w"))
print("local", sys.argv[3], flush=True)
if attempt < good:
    open(os.path.join(path, "meeting"), "wb" if rank == "0" else "rb")
    if rank == "0":
        signal.pause()
    sys.exit(3)
"""


def environment(good: int, path: str, local_rank: str) -> dict[str, str]:
    """As the program; the failure is an exception."""
    print("local", local_rank, flush=True)
    if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < good:
        _meet(path)
        raise ValueError("on purpose")
    return dict(os.environ)


def killed(good: int, path: str, local_rank: str) -> None:
    """The failure is a signal."""
    _meet(path)
    os.kill(os.getpid(), signal.SIGKILL)


def _meet(path: str) -> None:
    with open(os.path.join(path, "meeting"), "wb" if os.environ["RANK"] == "0" else "rb"):
        pass
    if os.environ["RANK"] == "0":
        signal.pause()


class _Events(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(json.loads(record.getMessage()))


class _Metrics(metrics.MetricHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []

    def emit(self, metric_data: Any) -> None:
        self.told.append((metric_data.group_name, metric_data.name, metric_data.value))


def _of_launch(environment: dict[str, str]) -> dict[str, str]:
    """What the agent sets, without what differs from launch to launch."""
    names = ("RANK", "WORLD", "GROUP", "ROLE", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL", "OMP_NUM", "CUDA_VISIBLE")
    kept = {name: value for name, value in environment.items() if any(part in name for part in names)}
    kept["MASTER_PORT"] = "PORT" if kept.pop("MASTER_PORT").isdigit() else "no port"
    kept["TORCHELASTIC_ERROR_FILE"] = "/".join(kept["TORCHELASTIC_ERROR_FILE"].split("/")[-3:])
    # Named exceptions: where no store of ours is hosted, and no address is looked up.
    for name in ("MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID"):
        kept.pop(name)
    return kept


def _of_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what differs from launch to launch."""
    told = event["metadata"]
    inner = json.loads(told["metadata"])
    for name in ("worker_id", "total_run_time", "duration_ms", "hostname", "run_id", "rdzv_backend"):
        told[name] = None if told[name] is None else "some"
    if inner.get("worker_pid", [None]) != [None]:
        inner["worker_pid"] = "some"
    if told["raw_error"]:
        told["raw_error"] = sorted(json.loads(told["raw_error"]))
    return {**event, "metadata": {**told, "metadata": inner}}


def run(entrypoint: Any, good: int, max_restarts: int, **options: Any) -> dict[str, Any]:
    """Launch it on two ranks."""
    handler = _Events()
    events.handlers._log_handlers["test"] = handler
    events._events_loggers.pop("test", None)
    measured = _Metrics()
    metrics.configure(measured, "torchelastic")
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(os.path.join(folder, "meeting"))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            run_id="same",
            rdzv_backend="c10d" if WHICH == "torch" else "standalone",
            rdzv_endpoint="localhost:0" if WHICH == "torch" else "",
            max_restarts=max_restarts,
            start_method="fork",
            event_log_handler="test",
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL),
            monitor_interval=0.01,
            **options,
        )
        outcome: dict[str, Any] = {}
        args = (
            (good, folder, "${local_rank}") if callable(entrypoint) else ("-c", PROGRAM, good, folder, "${local_rank}")
        )
        try:
            values = elastic_launch(config, entrypoint)(*args)
            outcome["environments"] = {rank: value and _of_launch(value) for rank, value in values.items()}
        except ChildFailedError as error:
            outcome["failed"] = error.name
            outcome["failures"] = {rank: (one.exitcode, one.local_rank) for rank, one in error.failures.items()}
            outcome["first"] = error.get_first_failure()[0]
        outcome["program environments"] = {
            path.name: _of_launch(json.loads(path.read_text())) for path in sorted(Path(folder).glob("env*"))
        }
        outcome["files"] = {
            "/".join(path.parts[-3:]): path.read_text() if "stdout" in path.name else ""
            for path in sorted(Path(folder).rglob("*.log"))
        }
    outcome["events"] = [_of_event(event) for event in handler.told]
    of_workers = {(name, value) for _, name, value in measured.told if name.startswith("workers.")}
    # How often a group is seen to be healthy is a matter of time.
    outcome["metrics"] = sorted([*pair] for pair in of_workers if not pair[0].endswith(".healthy"))
    outcome["measured"] = sorted({name for _, name, _ in measured.told if name.endswith(".success")})
    return outcome


def main(target: str) -> None:
    """Everything."""
    logging.disable(logging.NOTSET)
    outcomes = {}
    for kind, entrypoint in (("function", environment), ("program", sys.executable)):
        outcomes[f"{kind} succeeds"] = run(entrypoint, 0, 0)
        outcomes[f"{kind} fails"] = run(entrypoint, 9, 0)
        outcomes[f"{kind} is flaky"] = run(entrypoint, 2, 3)
        outcomes[f"{kind} runs out of restarts"] = run(entrypoint, 9, 1)
        outcomes[f"{kind} has a virtual local rank"] = run(entrypoint, 0, 0, virtual_local_rank=True, role="trainer")
    outcomes["function is killed"] = run(killed, 0, 0)
    Path(target).write_text(json.dumps(outcomes, indent=1, default=str))


if __name__ == "__main__":
    main(sys.argv[2])
