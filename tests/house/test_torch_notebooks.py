"""The notebooks that need torch: training that survives a lost rank, and the way over from torchrun."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture(scope="module")
def text_of(execution, printed):
    """What the one cell of that notebook with these words printed."""

    def text(name, words):
        executed = nbformat.read(execution(name).folder / f"{name}.ipynb", as_version=4)
        (cell,) = [cell for cell in executed.cells if cell.cell_type == "code" and words in cell.source]
        return printed(cell)

    return text


def losses(text):
    """`{epoch: loss}` of the lines that rank 0 printed."""
    return {int(epoch): float(loss) for epoch, loss in re.findall(r"\[rank 0\] epoch (\d+): loss (\d\.\d+)", text)}


def test_two_ranks_learn_to_read_digits(text_of):
    calm = losses(text_of("ddp", '-n {ranks} train(6, folder / "calm.pt")'))
    assert list(calm) == [1, 2, 3, 4, 5, 6]
    assert calm[6] < calm[1] / 5
    (accuracy,) = re.findall(r"accuracy (0\.\d+)", text_of("ddp", "accuracy(calm)"))
    assert float(accuracy) > 0.9


def test_a_lost_rank_fails_the_run_and_is_named(text_of):
    text = text_of("ddp", "lost.pt")
    assert "rank 1 of 2 failed (local_rank 1)" in text
    assert "killed by SIGKILL" in text
    assert list(losses(text)) == [1, 2, 3]


def test_a_restart_goes_on_from_the_checkpoint_and_ends_with_the_same_weights(text_of):
    text = text_of("ddp", "--max-restarts 1")
    before, after = text.split("[rank 0] goes on after epoch 3")
    assert list(losses(before)) == [1, 2, 3]
    assert list(losses(after)) == [4, 5, 6]
    assert "rank 1 failed: SIGKILL" in before
    assert text_of("ddp", "run.status").strip() == "succeeded at attempt 2 of 2"
    assert text_of("ddp", "torch.allclose").strip() == "True"


def test_a_script_gives_the_same_as_under_torchrun(text_of):
    theirs = text_of("from_torchrun", "torch.distributed.run").splitlines()
    ours = text_of(
        "from_torchrun", "%elastic_run --standalone --nproc_per_node=2 darts.py --darts 2000000"
    ).splitlines()
    assert sorted(re.sub(r"^\[rank \d\] ", "", line) for line in ours) == sorted(theirs)
    assert any(line.startswith("pi is about 3.14") for line in theirs)


def test_a_program_moves_over_by_one_import(text_of):
    assert text_of("from_torchrun", "!diff").splitlines() == [
        "3c3",
        "< from torch.distributed.launcher.api import LaunchConfig, elastic_launch",
        "---",
        "> from ipyelastic.compat.launcher.api import LaunchConfig, elastic_launch",
    ]
    programs = [text_of("from_torchrun", f"!{{sys.executable}} {name}.py") for name in ("program", "moved")]
    assert [ast.literal_eval(text.strip()) for text in programs] == [{0: 10, 1: 11}] * 2
    assert text_of("from_torchrun", "offset = 100").strip() == "{0: 110, 1: 111}"
