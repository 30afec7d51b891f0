# Sent to the rivals' kernel as one cell by tests/bench/first_cell.py: how to measure each of them, by its documented
# calls. Every measure_* returns seconds since just before the launch; `missing` says which are not installed.
import multiprocessing
import os
import tempfile
import time

from rank_side import ddp_step, first_line, raise_or_compute

missing = {}
try:
    import torch  # noqa: F401
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
except ImportError as error:
    missing["torch"] = str(error)
try:
    from accelerate import notebook_launcher
except ImportError as error:
    missing["accelerate"] = str(error)
try:
    import ipyparallel
except ImportError as error:
    missing["ipyparallel"] = str(error)
try:
    import torchrunx
except ImportError as error:
    missing["torchrunx"] = str(error)


def _figures(began, clocks, back, ended):
    return {"first line": max(clocks) - began, "values back": back - began, "run ended": ended - began}


def _error_figure(gate, call):
    try:
        call(gate)
    except BaseException:
        ended = time.monotonic()
        with open(os.path.join(gate, "raised")) as file:
            return {"error": ended - float(file.read())}
    raise AssertionError("no error came")


# torch's start_processes


def _start_processes(entrypoint, args, n):
    with tempfile.TemporaryDirectory() as logs:
        envs = {rank: {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)} for rank in range(n)}
        context = start_processes("bench", entrypoint, args, envs, DefaultLogsSpecs(log_dir=logs), start_method="spawn")
        try:
            result = context.wait()
        finally:
            context.close()
        if result.is_failed():
            raise RuntimeError(str(next(iter(result.failures.values()))))
        return result.return_values


def measure_torch(n):
    began = time.monotonic()
    values = _start_processes(first_line, dict.fromkeys(range(n), ()), n).values()
    return _figures(began, [now for now, _ in values], max(back for _, back in values), time.monotonic())


def raise_torch(n, compute_s):
    with tempfile.TemporaryDirectory() as gate:
        args = {rank: (gate, rank, n, compute_s) for rank in range(n)}
        return _error_figure(gate, lambda gate: _start_processes(raise_or_compute, args, n))


def ddp_torch(n):
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, run_id="bench", start_method="spawn",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
    )  # fmt: skip
    began = time.monotonic()
    values = elastic_launch(config, ddp_step)()
    assert len(values) == n
    return {"values back": time.monotonic() - began}


# Accelerate: its function's values stay in the ranks, so they come home by a queue


def measure_accelerate(n):
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def body():
        queue.put(first_line())

    began = time.monotonic()
    notebook_launcher(body, (), num_processes=n)
    ended = time.monotonic()
    clocks = [queue.get()[0] for _ in range(n)]
    return _figures(began, clocks, ended, ended)


def ddp_accelerate(n):
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def body():
        queue.put(ddp_step())

    began = time.monotonic()
    notebook_launcher(body, (), num_processes=n)
    values = [queue.get() for _ in range(n)]
    assert len(values) == n
    return {"values back": time.monotonic() - began}


def raise_accelerate(n, compute_s):
    with tempfile.TemporaryDirectory() as gate:

        def body():
            raise_or_compute(gate, int(os.environ["RANK"]), n, compute_s)

        return _error_figure(gate, lambda gate: notebook_launcher(body, (), num_processes=n))


# ipyparallel: its engines are up before and stay after

_clusters = []
_views = {}


def _warm_view(n):
    if n not in _views:
        if not _clusters:
            _clusters.append(ipyparallel.Cluster(n=8, log_level=40))
            _clusters[0].start_and_connect_sync()
        client = _clusters[0].connect_client_sync()
        client.wait_for_engines(8, interactive=False)
        _views[n] = client[:n]
        _views[n].apply_sync(first_line)
    return _views[n]


def measure_ipyparallel(n):
    view = _warm_view(n)
    began = time.monotonic()
    values = view.apply_async(first_line).get()
    ended = time.monotonic()
    return _figures(began, [now for now, _ in values], ended, ended)


def raise_ipyparallel(n, compute_s):
    view = _warm_view(n)
    with tempfile.TemporaryDirectory() as gate:
        call = view.map_async(raise_or_compute, [gate] * n, range(n), [n] * n, [compute_s] * n)
        return _error_figure(gate, lambda gate: call.get())


def stop_ipyparallel():
    for cluster in _clusters:
        cluster.stop_cluster_sync()
    _clusters.clear()


# torchrunx


def _torchrunx(n, function, *args):
    launcher = torchrunx.Launcher(hostnames=["localhost"], workers_per_host=n, backend=None)
    return launcher.run(function, *args).results["localhost"]


def measure_torchrunx(n):
    began = time.monotonic()
    values = _torchrunx(n, first_line)
    ended = time.monotonic()
    return _figures(began, [now for now, _ in values], ended, ended)


def _raise_by_environment(gate, n, compute_s):
    raise_or_compute(gate, int(os.environ["RANK"]), n, compute_s)


def raise_torchrunx(n, compute_s):
    with tempfile.TemporaryDirectory() as gate:
        return _error_figure(gate, lambda gate: _torchrunx(n, _raise_by_environment, gate, n, compute_s))
