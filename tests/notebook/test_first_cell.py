"""The first thing anybody does, in a real kernel."""

from __future__ import annotations

from support.kernels import Kernel


def test_a_cell_runs_on_two_ranks_and_its_values_and_output_come_back(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run --nproc 2\nprint('hello from', rank)\nrank * 10")
    assert result.ok, result.text
    assert sorted(result.out.splitlines()) == ["[rank 0] hello from 0", "[rank 1] hello from 1"]
    assert result.value == "[0: 0, 1: 10]"
