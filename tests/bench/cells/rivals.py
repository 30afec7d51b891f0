# Sent to the rivals' kernel as one cell by tests/bench/first_cell.py: how to measure each of them, by its documented
# calls. Every measure_* returns seconds since just before the launch; `missing` says which are not installed.
import multiprocessing
import os
import tempfile
import time

from rank_side import array_of, big_result, ddp_step, first_line, group_sum, raise_or_compute, touch

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
try:
    import loky
except ImportError as error:
    missing["loky"] = str(error)
try:
    import ray
except ImportError as error:
    missing["ray"] = str(error)


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


def stop_rivals():
    if "ray" not in missing and ray.is_initialized():
        ray.shutdown()
    for cluster in _clusters:
        cluster.stop_cluster_sync()
    _clusters.clear()


# loky: reusable workers, warm


def _loky(n, function, *args):
    pool = loky.get_reusable_executor(max_workers=n, timeout=None)
    return [call.result() for call in [pool.submit(function, *args) for _ in range(n)]]


def measure_loky(n):
    began = time.monotonic()
    values = _loky(n, first_line)
    ended = time.monotonic()
    return _figures(began, [now for now, _ in values], ended, ended)


# Ray: its workers are up before and stay after


def _ray(n, function, *args):
    if not ray.is_initialized():
        ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR", object_store_memory=3 << 30)
    task = ray.remote(num_cpus=1)(function)
    return ray.get([task.remote(*args) for _ in range(n)])


def measure_ray(n):
    _ray(n, first_line)
    began = time.monotonic()
    values = _ray(n, first_line)
    ended = time.monotonic()
    return _figures(began, [now for now, _ in values], ended, ended)


# One array to all ranks; each rank's array home


def _fork_all(n, function, *args):
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def body():
        queue.put(function(*args))

    notebook_launcher(body, (), num_processes=n)
    return [queue.get() for _ in range(n)]


def _ipyparallel(n, function, *args):
    return _warm_view(n).apply_async(function, *args).get()


def _pipes(n, function, *args):
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(n):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=lambda end: end.send(function(*args)), args=(there,))
        process.start()
        there.close()
        ends.append((here, process))
    values = [here.recv() for here, _ in ends]
    for _, process in ends:
        process.join()
    return values


def measure_array(way, n, mib):
    array = array_of(mib)
    call = {"loky": _loky, "ray": _ray, "ipyparallel": _ipyparallel, "accelerate": _fork_all}[way]
    if way != "accelerate":
        with tempfile.TemporaryDirectory() as gate:
            call(n, touch, gate, n, array_of(0))
    with tempfile.TemporaryDirectory() as gate:
        began = time.monotonic()
        values = call(n, touch, gate, n, ray.put(array) if way == "ray" else array)
    return {"every page read": max(read for read, _, _ in values) - began, "MiB": sum(pss for _, pss, _ in values)}


def measure_result(way, n, mib):
    call = {"loky": _loky, "ray": _ray, "ipyparallel": _ipyparallel, "pipe": _pipes}[way]
    call(n, big_result, 1)
    began = time.monotonic()
    values = call(n, big_result, mib)
    back = time.monotonic()
    total = sum(int(value[::4096].sum()) for value in values)
    read = time.monotonic()
    assert total == n * (mib << 20) // 4096
    return {"values back": back - began, "every page read": read - began}


# torch with a group, and all_reduce


def group_torch(n):
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, run_id="bench", start_method="spawn",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
    )  # fmt: skip
    began = time.monotonic()
    values = elastic_launch(config, group_sum)()
    assert len(values) == n
    return {"values back": time.monotonic() - began}


def group_accelerate(n):
    began = time.monotonic()
    values = _fork_all(n, group_sum)
    assert len(values) == n
    return {"values back": time.monotonic() - began}


def measure_elastic_launch(n):
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, run_id="bench", start_method="spawn",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
    )  # fmt: skip
    began = time.monotonic()
    values = elastic_launch(config, first_line)().values()
    return _figures(began, [now for now, _ in values], max(back for _, back in values), time.monotonic())


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
