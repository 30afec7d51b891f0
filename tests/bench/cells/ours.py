# Sent to a kernel as one cell by tests/bench/first_cell.py, after `%load_ext ipyelastic`: how to measure ourselves.
# Every measure_* returns seconds since just before the launch. Other end: rank_side.py has the same bodies.
# ruff: noqa: F821
import os
import subprocess
import sys
import tempfile
import time

from ipyelastic import launch


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


def measure_cell(n):
    began = time.monotonic()
    values = get_ipython().run_cell_magic("elastic_run", f"-n {n}", FIRST_LINE)
    return _first_line_figures(began, values, time.monotonic())


def measure_launch(n):
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


def rank_modules(n, method):
    return list(get_ipython().run_cell_magic("elastic_run", f"-n {n} --start-method {method}", _MODULES))
