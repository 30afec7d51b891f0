# Sent to a kernel as one cell by tests/bench/first_cell.py, after `%load_ext ipyelastic`: how to measure ourselves.
# Every measure_* returns seconds since just before the launch. Other end: rank_side.py has the same bodies.
# ruff: noqa: F821
import os
import subprocess
import sys
import tempfile
import time

from ipyelastic import launch
from ipyelastic.forkserver.client import servers


class Arrived:
    def __reduce__(self):
        return time.monotonic, ()


def first_line():
    now = time.monotonic()
    return now, Arrived()


FIRST_LINE = """now = time.monotonic()
now, Arrived()
"""

DDP_STEP = """distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(256, 16))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(torch.randn(32, 256)).square().mean()
loss.backward()
optimizer.step()
distributed.destroy_process_group()
float(loss)
"""

RAISE = """if rank < world_size - 1:
    open(os.path.join(gate, str(rank)), "w").close()
while len(os.listdir(gate)) < world_size - 1:
    time.sleep(0.002)
if rank < world_size - 1:
    end = time.monotonic() + compute_s
    while time.monotonic() < end:
        pass
else:
    time.sleep(0.1)
    with open(os.path.join(gate, "raised"), "w") as file:
        file.write(repr(time.monotonic()))
    raise RuntimeError("one rank raises")
"""

TORCH_GROUP = """from torch import distributed
import torch
distributed.init_process_group("gloo")
total = torch.ones(1) * (rank + 1)
distributed.all_reduce(total)
distributed.destroy_process_group()
float(total)
"""

_MODULES = """import sys
wrong = ("ipyelastic.notebook", "ipyelastic.view", "ipyelastic.output.tail", "ipywidgets", "IPython")
[name for name in sys.modules if name.startswith(wrong)], len(sys.modules)
"""


def _first_line_figures(began, values, ended):
    return {
        "first line": max(now for now, _ in values) - began,
        "values back": max(back for _, back in values) - began,
        "run ended": ended - began,
    }


def be_warm(n):
    """A warm launch is one of as many ranks as the last had, a moment after it: a cell that is run again."""

    def ready():
        spares = [row["spares"] for row in servers().describe() if row["role"] == "current"]
        return spares == [min(n, max(8, os.cpu_count()))]

    if not ready():
        launch(first_line, nproc=n).result()
        while not ready():
            time.sleep(0.005)
    time.sleep(0.1)


def measure_cell(n):
    be_warm(n)
    began = time.monotonic()
    values = get_ipython().run_cell_magic("elastic_run", f"-n {n}", FIRST_LINE)
    return _first_line_figures(began, values, time.monotonic())


def measure_launch(n):
    be_warm(n)
    began = time.monotonic()
    values = launch(first_line, nproc=n).result()
    return _first_line_figures(began, values, time.monotonic())


def measure_bare(n):
    code = "import time; print(time.monotonic(), flush=True)"
    began = time.monotonic()
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(n)]
    clocks = [float(process.stdout.readline()) for process in started]
    back = time.monotonic()
    for process in started:
        process.wait()
        process.stdout.close()
    return {"first line": max(clocks) - began, "values back": back - began, "run ended": time.monotonic() - began}


def measure_ddp(n):
    be_warm(n)
    began = time.monotonic()
    values = get_ipython().run_cell_magic("elastic_run", f"-n {n}", DDP_STEP)
    assert len(values) == n
    return {"values back": time.monotonic() - began}


def measure_raise(n):
    global gate
    with tempfile.TemporaryDirectory() as gate:
        try:
            get_ipython().run_cell_magic("elastic_run", f"-n {n}", RAISE)
        except Exception:
            ended = time.monotonic()
        else:
            raise AssertionError("no error came")
        with open(os.path.join(gate, "raised")) as file:
            return {"error": ended - float(file.read())}


def measure_group(n):
    be_warm(n)
    began = time.monotonic()
    values = get_ipython().run_cell_magic("elastic_run", f"-n {n}", TORCH_GROUP)
    assert values == [n * (n + 1) / 2] * n
    return {"values back": time.monotonic() - began}


def _block():
    import signal

    while True:
        signal.pause()


def _block_and_say(gate, n):
    open(os.path.join(gate, str(os.getpid())), "w").close()
    _block()


def _is_there(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def measure_stop(n):
    with tempfile.TemporaryDirectory() as gate:
        run = launch(_block_and_say, args=(gate, n), nproc=n)
        while len(os.listdir(gate)) < n:
            time.sleep(0.002)
        time.sleep(0.1)
        pids = [int(name) for name in os.listdir(gate)]
        began = time.monotonic()
        run.stop()
        while any(map(_is_there, pids)):
            pass
        gone = time.monotonic() - began
        run.wait()
        return {"ranks gone": gone, "run ended": time.monotonic() - began}


def touch(gate, n, array):
    import os
    import time

    total = int(array[::4096].sum())
    read = time.monotonic()
    open(os.path.join(gate, str(os.getpid())), "w").close()
    while len(os.listdir(gate)) < n:
        time.sleep(0.005)
    with open("/proc/self/smaps_rollup") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    open(os.path.join(gate, f"{os.getpid()}-measured"), "w").close()
    while len(os.listdir(gate)) < 2 * n:
        time.sleep(0.005)
    return read, pss / 1024, total


def array_of(mib):
    import numpy

    array = numpy.ones(max(mib << 20, 4096), numpy.uint8)
    return array


def measure_array(n, mib):
    array = array_of(mib)
    with tempfile.TemporaryDirectory() as gate:
        began = time.monotonic()
        values = launch(touch, args=(gate, n, array), nproc=n).result()
    return {"every page read": max(read for read, _, _ in values) - began, "MiB": sum(pss for _, pss, _ in values)}


def big_result(mib):
    import numpy

    return numpy.ones(mib << 20, numpy.uint8)


def measure_result(n, mib):
    began = time.monotonic()
    values = launch(big_result, args=(mib,), nproc=n).result()
    back = time.monotonic()
    total = sum(int(value[::4096].sum()) for value in values)
    read = time.monotonic()
    assert total == n * (mib << 20) // 4096
    return {"values back": back - began, "every page read": read - began}


def measure_print(count):
    def say(count):
        began = time.monotonic()
        for number in range(count):
            print(f"line {number} of a rank's output")
        return time.monotonic() - began

    (seconds,) = launch(say, args=(count,), nproc=1).result()
    return {"lines/s": count / seconds}


def measure_print_bare(count):
    code = (
        "import sys, time; sys.stdout.reconfigure(line_buffering=True); began = time.monotonic()\n"
        f'for number in range({count}): print(f"line {{number}} of a rank\'s output")\n'
        "print(time.monotonic() - began, file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with tempfile.NamedTemporaryFile(dir=os.environ.get("IPYELASTIC_RUN_ROOT")) as file:
        done = subprocess.run([sys.executable, "-c", code], stdout=file, stderr=subprocess.PIPE, env=environment)
    return {"lines/s": count / float(done.stderr)}


def rank_modules(n, method):
    return list(get_ipython().run_cell_magic("elastic_run", f"-n {n} --start-method {method}", _MODULES))
