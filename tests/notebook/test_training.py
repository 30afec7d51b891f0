"""`notebook_launcher`: Accelerate's arguments, and values, output and failures as a cell's."""

from __future__ import annotations

import inspect
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipyelastic
from ipyelastic import OptionError
from ipyelastic.launcher import defaults
from support.gates import Gate
from support.kernels import Kernel

SIGNATURE = (
    "(function, args=(), num_processes=None, mixed_precision='no', use_port='29500', master_addr='127.0.0.1', "
    "node_rank=0, num_nodes=1, rdzv_backend='static', rdzv_endpoint='', rdzv_conf=None, rdzv_id='none', "
    "max_restarts=0, monitor_interval=0.1, log_line_prefix_template=None)"
)


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    module_kernel.run("from ipyelastic import notebook_launcher\nimport os")
    module_kernel.run("factor = 10\ndef scaled(n):\n    return factor * n")
    return module_kernel


def bare(signature: inspect.Signature) -> str:
    return str(
        signature.replace(
            parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
            return_annotation=inspect.Signature.empty,
        )
    )


def test_arguments_and_defaults_are_accelerates() -> None:
    assert bare(inspect.signature(ipyelastic.notebook_launcher)) == SIGNATURE


def test_the_installed_accelerate_has_the_same_arguments() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    assert bare(inspect.signature(accelerate.notebook_launcher)) == SIGNATURE


def test_output_is_shown_and_values_come_back_by_rank(kernel: Kernel) -> None:
    kernel.run("def train(n):\n    print('training')\n    return scaled(n) + int(os.environ['RANK'])")
    result = kernel.run("notebook_launcher(train, (4,), num_processes=2, use_port=0)")
    assert sorted(result.out.splitlines()) == ["[rank 0] training", "[rank 1] training"]
    assert result.value == "[0: 40, 1: 41]"


def test_values_that_are_all_none_are_not_shown_and_are_returned(kernel: Kernel) -> None:
    kernel.run("def nothing(): pass")
    assert kernel.run("notebook_launcher(nothing, num_processes=2, use_port='0')").value is None
    assert kernel.value("notebook_launcher(nothing, num_processes=2, use_port='0') == [None, None]") is True


def test_failure_is_shown_as_a_cells(kernel: Kernel) -> None:
    kernel.run("def breaks():\n    assert os.environ['RANK'] == '0', 'bad rank'\n    open(os.devnull).close()")
    result = kernel.run("notebook_launcher(breaks, num_processes=2, use_port=0)")
    assert result.error_name == "ChildFailedError"
    assert result.traceback.startswith(
        "rank 1 of 2 failed (local_rank 1)\n  what    AssertionError: bad rank (Cell In["
    )
    assert "----> 2     assert os.environ['RANK'] == '0', 'bad rank'" in result.traceback


def test_interrupt_stops_every_rank(kernel: Kernel, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        kernel.run(f"def waits():\n    print('up')\n    open({gate.path!r}).close()")
        sent = kernel.send("notebook_launcher(waits, num_processes=2, use_port=0)")
        kernel.collect(sent, until="up")
        kernel.interrupt()
        result = kernel.collect(sent)
    assert result.traceback == "KeyboardInterrupt: all 2 ranks were stopped"
    assert kernel.value("1 + 1") == 2


@pytest.mark.torch
def test_torch_that_was_used_in_the_notebook_does_no_harm(kernel: Kernel) -> None:
    kernel.run("import torch\ntorch.cuda.is_available(), torch.cuda.device_count(), torch.ones(3).sum()")
    kernel.run(
        "def summed():\n    import torch.distributed as dist\n    dist.init_process_group('gloo')\n"
        "    t = torch.tensor([float(dist.get_rank() + 1)])\n    dist.all_reduce(t)\n"
        "    dist.destroy_process_group()\n    return t.item()"
    )
    assert kernel.run("notebook_launcher(summed, num_processes=2)").value == "[0: 3.0, 1: 3.0]"


# ------------------------------------------------------------------------------------------------------------- options


def environment(*names: str) -> Callable[[], list[str]]:
    def told() -> list[str]:
        import os

        return [os.environ.get(name, "-") for name in names]

    return told


def test_precision_port_and_address_are_in_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("", 0))
        port = held.getsockname()[1]
    told = environment("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE")
    values = ipyelastic.notebook_launcher(told, num_processes=2, mixed_precision="bf16", use_port=str(port))
    assert values == [["bf16", str(port), "127.0.0.1", "2"]] * 2
    (value,) = ipyelastic.notebook_launcher(told, num_processes=1, master_addr="localhost", use_port=port)
    assert value == ["no", str(port), "localhost", "1"]


@pytest.fixture
def saved() -> Iterator[None]:
    yield
    defaults.take_back("notebook")


@pytest.mark.usefixtures("saved")
def test_saved_precision_gives_way_to_a_given_one_only() -> None:
    defaults.save("notebook", {"env": {"ACCELERATE_MIXED_PRECISION": "fp16"}})
    told = environment("ACCELERATE_MIXED_PRECISION")
    ways = ({}, {"mixed_precision": "no"}, {"mixed_precision": "bf16"})
    seen = [ipyelastic.notebook_launcher(told, num_processes=1, use_port=0, **way) for way in ways]  # type: ignore[arg-type]
    assert seen == [[["fp16"]], [["no"]], [["bf16"]]]


@pytest.mark.usefixtures("saved")
def test_saved_ranks_are_those_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    defaults.save("notebook", {"shown": frozenset([1])})
    ipyelastic.notebook_launcher(lambda: print("word"), num_processes=2, use_port=0)
    assert capsys.readouterr().out == "[rank 1] word\n"


def test_refusal_shows_the_callers_line_and_none_of_ours() -> None:
    for options in ({"use_port": "http"}, {"num_processes": 0}, {"num_nodes": 2}):
        with pytest.raises(OptionError) as caught:
            ipyelastic.notebook_launcher(environment(), **options)  # type: ignore[arg-type]
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names == [test_refusal_shows_the_callers_line_and_none_of_ours.__name__]


def test_port_in_use_is_refused_in_one_sentence() -> None:
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(OptionError) as caught:
            ipyelastic.notebook_launcher(environment(), num_processes=1, use_port=port)
    assert str(caught.value) == f"use_port={port}: this port is in use; give another, or 0 for any that is free"


def test_prefix_template_is_filled(capsys: pytest.CaptureFixture[str]) -> None:
    ipyelastic.notebook_launcher(
        lambda: print("word"),
        num_processes=2,
        use_port=0,
        log_line_prefix_template="<${role_name} ${rank}/${local_rank} $other>: ",
    )
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == ["<default 0/0 $other>: word", "<default 1/1 $other>: word"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_nodes": 2}, "num_nodes=2: not yet (many machines); expected num_nodes=1 and node_rank=0"),
        ({"node_rank": 1}, "node_rank=1: not yet (many machines); expected num_nodes=1 and node_rank=0"),
        ({"max_restarts": -1}, "max_restarts=-1: expected a whole number, 0 or more"),
        ({"mixed_precision": "bf61"}, "mixed_precision='bf61': expected no, fp16, bf16 or fp8, did you mean bf16?"),
        ({"use_port": "http"}, "use_port='http': expected a port from 1 to 65535, or 0 for any that is free"),
        ({"use_port": 70000}, "use_port=70000: expected a port from 1 to 65535, or 0 for any that is free"),
        ({"num_processes": 0}, "nproc=0: expected 1 to 1024 ranks"),
        ({"args": 5}, "args=5: expected a tuple of arguments, such as (5,)"),
        ({"function": None}, "function=None: expected something that can be called"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_sentence(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(words)}$"):
        ipyelastic.notebook_launcher(**{"function": environment(), "use_port": 0, **options})  # type: ignore[arg-type]


def test_other_arguments_change_nothing_on_one_machine() -> None:
    values = ipyelastic.notebook_launcher(
        lambda: 3,
        num_processes=1,
        use_port=0,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_conf={"timeout": 3},
        rdzv_id="job",
        monitor_interval=5.0,
    )
    assert values == [3]


# ---------------------------------------------------------------------------------------------------------- accelerate


@pytest.mark.torch
@pytest.mark.slow
def test_accelerate_program_runs_unchanged(kernel: Kernel) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    kernel.run(
        "def train(start):\n"
        "    import torch\n"
        "    from accelerate import Accelerator\n"
        "    accelerator = Accelerator()\n"
        "    accelerator.print('only once')\n"
        "    mine = torch.tensor([accelerator.process_index + start], device=accelerator.device)\n"
        "    model, optimizer = accelerator.prepare(model_and_optimizer := torch.nn.Linear(1, 1), "
        "torch.optim.SGD(model_and_optimizer.parameters(), 0.1))\n"
        "    accelerator.backward(model(mine.float()[None]).sum())\n"
        "    optimizer.step()\n"
        "    weights = accelerator.unwrap_model(model).weight.detach()\n"
        "    same = accelerator.gather(weights).unique().numel() == 1\n"
        "    return accelerator.gather(mine).tolist(), accelerator.num_processes, accelerator.mixed_precision, same"
    )
    result = kernel.run(
        "import torch\ntorch.cuda.is_available()\n"
        "notebook_launcher(train, (5,), num_processes=2, mixed_precision='bf16', use_port=0)"
    )
    assert result.value == "[0: ([5, 6], 2, 'bf16', True), 1: ([5, 6], 2, 'bf16', True)]", result.text
    assert "[rank 0] only once\n" in result.out
    assert "[rank 1] only once\n" not in result.out


def test_function_that_returns_what_cannot_be_pickled_is_no_failure(kernel: Kernel) -> None:
    """Accelerate's own launcher brings nothing home; hours of training must not end in an error over a return."""
    cell = "import threading\nfrom ipyelastic import notebook_launcher\nlock_of_mine = threading.Lock()\n"
    assert kernel.run(cell).ok
    result = kernel.run("notebook_launcher(lambda: threading.Lock(), num_processes=2)")
    assert result.ok, result.text
    assert "note: the value of rank 0 (lock) cannot be pickled and stayed there" in result.out
    refused = kernel.run("def uses():\n    with lock_of_mine: pass\nnotebook_launcher(uses, num_processes=2)")
    assert refused.error_value.startswith("lock_of_mine (_thread.lock), used in uses(), cannot be pickled")
