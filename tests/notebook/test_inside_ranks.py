"""What people do in a body: children of every start method over cell code, inspection, event loops, late endings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]
METHODS = ("fork", "forkserver", "spawn")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    made = module_kernel.run(_NOTEBOOK)
    assert made.ok, made.text
    return module_kernel


_NOTEBOOK = """
import multiprocessing
offset = 1
def plus(n): return n + offset
def fails(n): raise KeyError('of the cell')
class Point:
    made = 0
    def __init__(self, x):
        self.x = x
        Point.made += 1
def doubled(point): return Point(point.x * 2)
class Walk:
    # a comment that getsource brings along
    def step(self): return 1
"""


# ----------------------------------------------------------------------------------------------- children of ranks


@pytest.mark.parametrize("method", METHODS)
def test_pool_works_over_functions_and_classes_of_cells(ranks: Ranks, method: str) -> None:
    body = f"def twice(n): return 2 * plus(n)\nwith multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
    body += "    numbers, points = pool.map(twice, range(3)), pool.map(doubled, [Point(1), Point(2)])\n"
    body += "(numbers, [type(point) is Point for point in points], [point.x for point in points], Point.made)"
    assert ranks(body, "-n 2") == [([2, 4, 6], [True, True], [2, 4], 2)] * 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank_method", ["spawn", "fork"])
def test_pool_works_in_ranks_of_every_start_method(ranks: Ranks, rank_method: str, method: str) -> None:
    body = f"with multiprocessing.get_context({method!r}).Pool(1) as pool:\n"
    body += "    out = pool.map(doubled, [Point(3)])\n(type(out[0]) is Point, out[0].x)"
    assert ranks(body, f"-n 1 --start-method {rank_method}") == [(True, 6)]


@pytest.mark.parametrize("method", METHODS)
def test_process_pool_executor_works_over_functions_of_cells(ranks: Ranks, method: str) -> None:
    body = "from concurrent.futures import ProcessPoolExecutor\n"
    body += f"with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({method!r})) as pool:\n"
    body += "    out = list(pool.map(plus, range(3)))\nout"
    assert ranks(body) == [[1, 2, 3]]


@pytest.mark.parametrize("method", METHODS)
def test_process_sends_objects_of_a_class_in_the_body_home(ranks: Ranks, method: str) -> None:
    body = f"context = multiprocessing.get_context({method!r})\nqueue = context.Queue()\n"
    body += "class Own:\n    def __init__(self): self.rank = rank\n"
    body += "def put(queue): queue.put(Own())\n"
    body += "child = context.Process(target=put, args=(queue,))\nchild.start()\nown = queue.get()\nchild.join()\n"
    body += "(type(own) is Own, own.rank, child.exitcode)"
    assert ranks(body, "-n 2") == [(True, rank, 0) for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_what_an_initializer_sets_stays_in_the_child(ranks: Ranks, method: str) -> None:
    body = "model, count = None, 0\ndef load():\n    global model\n    model = 'loaded'\n"
    body += "def use(n):\n    global count\n    count += 1\n    return n, model, count\n"
    body += f"with multiprocessing.get_context({method!r}).Pool(1, initializer=load) as pool:\n"
    body += "    out = [pool.apply(use, (n,)) for n in range(3)]\n(out, model, count)"
    assert ranks(body) == [([(0, "loaded", 1), (1, "loaded", 2), (2, "loaded", 3)], None, 0)]


@pytest.mark.parametrize("method", METHODS)
def test_lock_given_to_an_initializer_is_used_by_the_tasks(ranks: Ranks, method: str) -> None:
    body = f"context = multiprocessing.get_context({method!r})\nlock, total = context.Lock(), context.Value('i')\n"
    body += "def load(*given):\n    global lock, total\n    lock, total = given\n"
    body += "def add(n):\n    with lock: total.value += n\n"
    body += (
        "with context.Pool(2, initializer=load, initargs=(lock, total)) as pool: pool.map(add, range(10))\ntotal.value"
    )
    assert ranks(body, "-n 2") == [45, 45]


def test_forked_pool_of_a_rank_with_spawned_children_keeps_its_classes(ranks: Ranks) -> None:
    body = "class Own: pass\ndef make(n): return Own()\nsame = []\nfor method in ('spawn', 'fork'):\n"
    body += "    with multiprocessing.get_context(method).Pool(1) as pool:\n"
    body += "        same.append(type(pool.apply(make, (0,))) is Own)\nsame"
    assert ranks(body) == [[True, True]]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_everything_a_class_may_be_reaches_a_child_and_comes_back(ranks: Ranks, method: str) -> None:
    body = "import collections, dataclasses, enum, functools\nclass Colour(enum.Enum): RED = 1\n"
    body += "@dataclasses.dataclass\nclass Car:\n    colour: Colour\n"
    body += "Pair = collections.namedtuple('Pair', 'a b')\n@functools.lru_cache\ndef car(n): return Car(Colour.RED)\n"
    body += "def make(n): return car(n), Pair(1, 2), (lambda: n)\n"
    body += (
        f"with multiprocessing.get_context({method!r}).Pool(1) as pool:\n    out = pool.apply_async(car, (1,)).get()\n"
    )
    body += "    pair = pool.apply(Pair, (1, 2))\n    late = pool.apply(functools.partial(make, 5))\n"
    body += "(out.colour is Colour.RED, out == Car(Colour.RED), type(pair) is Pair, late[2](), type(late[0]) is Car)"
    assert ranks(body) == [(True, True, True, 5, True)]


@pytest.mark.parametrize("method", METHODS)
def test_error_in_a_pools_child_names_the_cell(kernel: Kernel, method: str) -> None:
    result = kernel.run(
        f"%%elastic_run -n 1\nwith multiprocessing.get_context({method!r}).Pool(1) as pool:\n    pool.map(fails, [1])"
    )
    assert (result.ok, result.error_name) == (False, "ChildFailedError")
    lines = result.traceback.splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith(", in fails"))
    assert lines[at].startswith('  File "Cell In[')
    assert lines[at + 1] == "    def fails(n): raise KeyError('of the cell')"
    assert lines[-1] == "KeyError: 'of the cell'"


@pytest.mark.parametrize("method", METHODS)
def test_pool_left_open_ends_with_its_rank(kernel: Kernel, method: str) -> None:
    body = f"pool = multiprocessing.get_context({method!r}).Pool(2)\npool.map(plus, [1])"
    result = kernel.run(f"%%elastic_run -n 2\n{body}", timeout_s=30)
    assert (result.value, result.out) == ("[0: [2], 1: [2]]", "")


def test_joblib_works_over_functions_of_cells(ranks: Ranks) -> None:
    pytest.importorskip("joblib")
    body = "import joblib\n[joblib.Parallel(2, backend=one)(joblib.delayed(plus)(n) for n in range(3)) "
    body += "for one in ('loky', 'threading', 'multiprocessing')]"
    assert ranks(body) == [[[1, 2, 3]] * 3]


def test_manager_and_shared_memory_leave_no_noise(kernel: Kernel) -> None:
    body = (
        "from multiprocessing import shared_memory\nmanager = multiprocessing.Manager()\nheld = manager.dict(a=rank)\n"
    )
    body += "block = shared_memory.SharedMemory(create=True, size=64)\nblock.buf[0] = 7\nfirst = block.buf[0]\n"
    body += "block.close()\nblock.unlink()\n(dict(held), first)"
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert (result.value, result.out) == ("[0: ({'a': 0}, 7), 1: ({'a': 1}, 7)]", ""), result.text


def test_shared_memory_that_a_rank_leaves_is_removed(kernel: Kernel, ranks: Ranks) -> None:
    body = "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=64).name"
    (name,) = ranks(body)
    assert kernel.value(f"__import__('os').path.exists('/dev/shm/{name}')") is False


def test_forked_rank_uses_none_of_the_notebooks_own_servers(kernel: Kernel, ranks: Ranks) -> None:
    """Their descriptors are closed in it, and their numbers are other files' by then."""
    started = kernel.run(
        "from multiprocessing import shared_memory\nblock = shared_memory.SharedMemory(create=True, size=64)\n"
        "child = multiprocessing.get_context('forkserver').Process(target=print)\nchild.start()\nchild.join()"
    )
    assert started.ok, started.text
    try:
        body = "own = shared_memory.SharedMemory(create=True, size=64)\nown.close()\nown.unlink()\n"
        body += "with multiprocessing.get_context('forkserver').Pool(1) as pool: out = pool.apply(plus, (1,))\nout"
        assert ranks(body, "-n 2 --start-method fork") == [2, 2]
        assert kernel.value("bytes(block.buf[:1])") == b"\0"
    finally:
        kernel.run("block.close()\nblock.unlink()")


def test_forked_rank_leaves_the_notebooks_executors_alone(kernel: Kernel) -> None:
    started = kernel.run(
        "from concurrent.futures import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))\npool.submit(plus, 1).result()"
    )
    assert started.value == "2", started.text
    try:
        body = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nrank"
        result = kernel.run(f"%%elastic_run -n 2 --start-method fork --grace 300\n{body}", timeout_s=30)
        assert (result.value, result.out) == ("[0: 0, 1: 1]", ""), result.text
        assert kernel.value("pool.submit(plus, 2).result()") == 3
    finally:
        kernel.run("pool.shutdown()")


# -------------------------------------------------------------------------------------------------------- torch's


_DATA = """
import torch
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 4
    def __getitem__(self, n): return torch.tensor([n + offset])
class Broken(Numbers):
    def __getitem__(self, n): raise ValueError('bad item')
"""


@pytest.fixture
def torch_kernel(kernel: Kernel) -> Kernel:
    made = kernel.run(_DATA)
    assert made.ok, made.text
    return kernel


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_data_loader_works_over_a_dataset_of_the_notebook(torch_kernel: Kernel, ranks: Ranks, method: str) -> None:
    body = f"loader = DataLoader(Numbers(), batch_size=2, num_workers=2, multiprocessing_context={method!r})\n"
    body += "[batch.flatten().tolist() for batch in loader]"
    assert ranks(body, "-n 2") == [[[1, 2], [3, 4]]] * 2


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_data_loader_works_over_a_dataset_of_the_body_with_a_lambda(
    torch_kernel: Kernel, ranks: Ranks, method: str
) -> None:
    body = "class Own(Dataset):\n    def __len__(self): return 4\n    def __getitem__(self, n): return n * 10 + rank\n"
    body += f"loader = DataLoader(Own(), batch_size=2, num_workers=2, multiprocessing_context={method!r},\n"
    body += "    persistent_workers=True, collate_fn=lambda items: sum(items))\n[list(loader) for _ in range(2)]"
    assert ranks(body, "-n 2") == [[[10 + 2 * rank, 50 + 2 * rank]] * 2 for rank in (0, 1)]


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_error_in_a_data_loaders_worker_names_the_cell(torch_kernel: Kernel, method: str) -> None:
    body = f"list(DataLoader(Broken(), num_workers=2, multiprocessing_context={method!r}))"
    result = torch_kernel.run(f"%%elastic_run -n 1\n{body}")
    found = re.search(r'File "Cell In\[\d+\]", line 7, in __getitem__\n +(.*)\n', result.traceback)
    assert found is not None, result.text
    assert found[1] == "def __getitem__(self, n): raise ValueError('bad item')"


@pytest.mark.torch
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_data_loaders_worker_finds_a_module_beside_the_notebook(
    torch_kernel: Kernel, ranks: Ranks, method: str
) -> None:
    torch_kernel.run(
        "open('numbers_beside.py', 'w').write("
        "'class Few:\\n    def __len__(self): return 2\\n    def __getitem__(self, n): return n')"
    )
    body = "import numbers_beside\nloader = DataLoader(numbers_beside.Few(), num_workers=1,"
    body += f" multiprocessing_context={method!r})\n[batch.item() for batch in loader]"
    assert ranks(body) == [[0, 1]]


@pytest.mark.torch
def test_torchs_own_spawn_works_over_a_function_of_the_body(torch_kernel: Kernel) -> None:
    body = "import torch.multiprocessing as mp\ndef say(index, tensor): print('child', index, tensor.sum().item())\n"
    result = torch_kernel.run(f"%%elastic_run -n 1\n{body}mp.spawn(say, args=(torch.ones(3),), nprocs=2)")
    assert sorted(result.out.splitlines()) == ["[rank 0] child 0 3.0", "[rank 0] child 1 3.0"], result.text


@pytest.mark.torch
def test_gradients_are_averaged_over_ranks_with_ddp(torch_kernel: Kernel, ranks: Ranks) -> None:
    body = "import torch.distributed as dist\ndist.init_process_group('gloo')\n"
    body += "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))\n"
    body += "model(torch.ones(1, 2) * rank).sum().backward()\nmodel.module.weight.grad.tolist()"
    assert ranks(body, "-n 2") == [[[0.5, 0.5]]] * 2


@pytest.mark.torch
def test_scripted_function_of_a_body_is_compiled_from_the_cells_text(torch_kernel: Kernel, ranks: Ranks) -> None:
    body = "import warnings\nwarnings.simplefilter('ignore')\n@torch.jit.script\ndef more(x):\n    return x + 1\n"
    assert ranks(body + "more(torch.ones(1)).item()") == [2.0]


# ----------------------------------------------------------------------------------------------------- inspection


def test_getsource_knows_functions_and_classes_of_cells(ranks: Ranks) -> None:
    body = "import inspect, dataclasses\n@dataclasses.dataclass\nclass Own:\n    size: int\n"
    body += "class Outer:\n    class Inner:\n        def go(self): return 2\n"
    body += "[inspect.getsource(one) for one in (plus, Walk, Walk.step, Own, Outer.Inner)]"
    assert ranks(body) == [
        [
            "def plus(n): return n + offset\n",
            "class Walk:\n    # a comment that getsource brings along\n    def step(self): return 1\n",
            "    def step(self): return 1\n",
            "@dataclasses.dataclass\nclass Own:\n    size: int\n",
            "    class Inner:\n        def go(self): return 2\n",
        ]
    ]


def test_getsource_of_what_no_cell_has_says_so(ranks: Ranks) -> None:
    body = "import inspect\nMade = type('Made', (), {})\n"
    body += "try: inspect.getsource(Made)\nexcept OSError as error: out = str(error)\n"
    assert ranks(body + "(out, inspect.getsource(inspect.Signature)[:16])") == [
        ("source code not available", "class Signature:")
    ]


def test_body_is_a_module_as_libraries_expect(ranks: Ranks) -> None:
    body = "from __future__ import annotations\nimport copy, dataclasses, doctest, pickle, sys, typing\n"
    body += "@dataclasses.dataclass\nclass Node:\n    size: int\n    next: typing.Optional[Node] = None\n"
    body += "def more(n):\n    '''\n    >>> more(1)\n    2\n    '''\n    return n + 1\n"
    body += (
        "(typing.get_type_hints(Node)['size'] is int, pickle.loads(pickle.dumps(Node(1))) == copy.deepcopy(Node(1)),"
    )
    body += " tuple(doctest.testmod()), __name__, hasattr(sys.modules['__main__'], '__file__'))"
    assert ranks(body) == [(True, True, (0, 1), "__main__", False)]


# ------------------------------------------------------------------------------------------------- loops and ends


@pytest.mark.parametrize(
    "body",
    [
        "import asyncio\nasync def three(): return 3\nasyncio.run(three())",
        "async def three(): return 3\nawait three()",
        "import asyncio\nasync def three(): return 3\nasync def outer(): return await three()\nasyncio.run(outer())",
        "import asyncio\nasync def three(): return 3\n(await asyncio.gather(three(), three()))[1]",
    ],
)
def test_event_loops_work_as_in_a_script(ranks: Ranks, body: str) -> None:
    assert ranks(body) == [3]


def test_signal_handlers_of_the_body_work(ranks: Ranks) -> None:
    body = "import os, signal\ngot = []\nfor one in (signal.SIGUSR1, signal.SIGTERM):\n"
    body += "    signal.signal(one, lambda signum, frame: got.append(signum))\n    os.kill(os.getpid(), one)\ngot"
    assert ranks(body) == [[10, 15]]


def test_getpass_says_that_nobody_is_there(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nimport getpass\ngetpass.getpass()")
    words = (
        "EOFError: getpass() has nobody to ask inside a rank:"
        " pass the value in as a notebook variable, or use --engine here"
    )
    assert (result.ok, result.out, result.traceback.splitlines()[-1]) == (False, "", words)


def test_daemon_thread_does_not_hold_its_rank_up(kernel: Kernel) -> None:
    body = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nrank"
    assert kernel.run(f"%%elastic_run -n 2 --grace 300\n{body}", timeout_s=30).value == "[0: 0, 1: 1]"


def test_child_forked_in_an_exit_handler_can_be_ended(kernel: Kernel) -> None:
    """It must not inherit the deaf ear that its rank turns to SIGTERM by then."""
    body = "import atexit, signal\ndef end():\n"
    body += "    child = multiprocessing.get_context('fork').Process(target=signal.pause)\n    child.start()\n"
    body += "    child.terminate()\n    child.join()\n    print('ended', child.exitcode)\natexit.register(end)\nrank"
    result = kernel.run(f"%%elastic_run -n 2\n{body}", timeout_s=30)
    assert result.value == "[0: 0, 1: 1]"
    assert sorted(result.out.splitlines()) == [f"[rank {rank}] ended -15" for rank in (0, 1)]


def test_executors_that_fail_to_close_do_not_cost_the_grace(kernel: Kernel) -> None:
    body = "import threading\ndef bad(): raise ValueError('at the end')\nthreading._register_atexit(bad)\n"
    body += "threading.Thread(target=threading.Event().wait, daemon=True).start()\nrank"
    result = kernel.run(f"%%elastic_run -n 1 --grace 300\n{body}", timeout_s=30)
    assert result.value == "[0: 0]", result.text
    assert result.out.splitlines()[-1] == "[rank 0 stderr] ValueError: at the end"


def test_slow_exit_handlers_say_where_they_are_and_are_waited_for(kernel: Kernel, notebook_folder: Path) -> None:
    body = "import atexit, os, threading\ndef slow():\n"
    body += "    while not os.path.exists('let-go'): threading.Event().wait(0.01)\n"
    body += "atexit.register(slow)\natexit.register(print, 'last')\nrank"
    sent = kernel.send(f"%%elastic_run -n 1 --grace 0.2\n{body}")
    words = "[rank 0 stderr] ipyelastic: exit handlers are running for 0.2 s now, in "
    first = kernel.collect(sent, until=words, timeout_s=30)
    assert first.out.splitlines()[0] == "[rank 0] last"
    (notebook_folder / "let-go").touch()
    assert kernel.collect(sent).value == "[0: 0]"


def test_shared_memory_of_the_notebook_outlives_the_ranks_that_used_it(kernel: Kernel) -> None:
    made = kernel.run(
        "from multiprocessing import shared_memory\nblock = shared_memory.SharedMemory(create=True, size=64)\n"
        "name, block.buf[0:2] = block.name, b'ab'"
    )
    assert made.ok, made.text
    body = "from multiprocessing import shared_memory\nmine = shared_memory.SharedMemory(name)\n"
    body += "mine.buf[rank] += 1\nmine.close()"
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert (result.ok, result.out.strip()) == (True, "")
    assert kernel.value("(bytes(block.buf[0:2]), shared_memory.SharedMemory(name).size >= 64)") == (b"bc", True)
    assert kernel.run("block.close(); block.unlink()").ok


def test_shared_memory_of_a_rank_is_removed_by_that_rank(kernel: Kernel) -> None:
    body = """
from multiprocessing import shared_memory
import os
name = f'ours-{os.getppid()}'
if rank == 0:
    mine = shared_memory.SharedMemory(name, create=True, size=64)
    open('made', 'w').close()
    while not os.path.exists('taken'): os.sched_yield()
    mine.unlink()
else:
    while not os.path.exists('made'): os.sched_yield()
    mine = shared_memory.SharedMemory(name)
    open('taken', 'w').close()
mine.close()
"""
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert (result.ok, result.out.strip()) == (True, ""), result.text
    assert kernel.run("import os\nos.remove('made'), os.remove('taken')").ok
