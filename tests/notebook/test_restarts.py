"""`--max-restarts` in a real kernel: a cell that succeeds at its third attempt, and what a person reads meanwhile."""

from __future__ import annotations

import pytest

from support.kernels import Kernel

pytestmark = pytest.mark.slow

LUCKY = """
import os
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if attempt < {until} and rank == 1:
    print("try", attempt)
    raise ValueError(f"no luck {{attempt}}")
if attempt < {until}:
    os.read(os.pipe()[0], 1)
(rank, attempt)
"""


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def test_cell_that_fails_twice_has_the_values_of_its_third_attempt(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2 --max-restarts 2" + LUCKY.format(until=2))
    assert result.ok, result.text
    assert result.value == "[0: (0, 2), 1: (1, 2)]"
    assert result.out.splitlines() == [
        "[rank 1] try 0",
        "note: rank 1 failed: ValueError: no luck 0; all ranks start again",
        "--- attempt 2 ---",
        "[rank 1] try 1",
        "note: rank 1 failed: ValueError: no luck 1; all ranks start again",
        "--- attempt 3 ---",
    ]
    assert kernel.value("[len(one.failures) for one in __import__('ipyelastic').last_run().attempts]") == [2, 2, 0]


def test_failure_of_the_last_attempt_says_which_it_was_and_how_the_others_ended(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2 --max-restarts 1" + LUCKY.format(until=9))
    assert result.error_name == "ChildFailedError"
    lines = result.traceback.splitlines()
    assert lines[0] == "rank 1 of 2 failed (local_rank 1, attempt 2 of 2)"
    assert lines[2:4] == [
        "rank 0 was stopped because of it",
        "attempt 1 of 2: rank 1 failed: ValueError: no luck 0",
    ]
    assert "Cell In[" in result.traceback


def test_import_error_is_not_tried_again(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1 --max-restarts 3\nimport no_such_module_at_all")
    assert "not restarted: rank 0 failed " in result.traceback
    assert "attempt 1 of 4" in result.traceback.splitlines()[0]
    assert "attempt 2" not in result.out


def test_saved_default_of_restarts_is_the_magics_launchs_and_notebook_launchers(kernel: Kernel) -> None:
    kernel.run("%elastic_config max-restarts=1")
    try:
        result = kernel.run("%%elastic_run -n 2" + LUCKY.format(until=1))
        assert result.value == "[0: (0, 1), 1: (1, 1)]", result.text
        kernel.run(
            "import os, ipyelastic\n"
            "def lucky():\n"
            "    if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': raise ValueError('no luck')\n"
            "    return os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        )
        assert kernel.run("ipyelastic.launch(lucky, nproc=1, ui='none').result()").value == "[0: '1']"
        assert kernel.run("ipyelastic.notebook_launcher(lucky, num_processes=1)").value == "[0: '1']"
        given = kernel.run("ipyelastic.notebook_launcher(lucky, num_processes=1, max_restarts=0)")
        assert given.error_name == "ChildFailedError"
    finally:
        kernel.run("%elastic_config --reset")


def test_interrupt_ends_all_attempts(kernel: Kernel) -> None:
    sent = kernel.send(
        "%%elastic_run -n 2 --max-restarts 1000 --grace 1\n"
        "import os\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': raise ValueError('again')\n"
        "print('up', flush=True)\n"
        "os.read(os.pipe()[0], 1)\n"
    )
    kernel.collect(sent, until="[rank 0] up")
    kernel.interrupt()
    result = kernel.collect(sent)
    assert result.error_name == "KeyboardInterrupt", result.text
    assert kernel.value("len(__import__('ipyelastic').last_run().attempts)") == 2
