"""Locks on GPUs: one holder each, in any process, for as long as it lives and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipyelastic.devices.gpu_claims import Holder, hold, holders, release

_HOLD = """
import sys
from ipyelastic.devices import gpu_claims
print(gpu_claims.hold(sys.argv[2:], sys.argv[1], "theirs"), flush=True)
sys.stdin.read()
"""


def other_process(folder: Path, *names: str) -> subprocess.Popen[str]:
    """A process that holds these and lives until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{list(names)}\n"
    return process


def end(process: subprocess.Popen[str], *, by_kill: bool = False) -> None:
    if by_kill:
        process.kill()
    process.communicate()


def test_what_one_run_holds_no_other_gets_until_it_is_released(tmp_path: Path) -> None:
    folder = str(tmp_path / "gpus")
    assert holders(["a", "b"], folder) == {}
    assert hold(["a", "b"], folder, "one") == ["a", "b"]
    assert hold(["b", "c"], folder, "two") == ["c"]
    mine = os.getpid()
    assert holders(["a", "b", "c", "d"], folder) == {
        "a": Holder(mine, "one"), "b": Holder(mine, "one"), "c": Holder(mine, "two"),
    }  # fmt: skip
    assert str(Holder(mine, "one")) == "run one"
    release(["a", "b"], folder)
    release(["a"], folder)
    assert hold(["a"], folder, "three") == ["a"]
    release(["a", "c"], folder)
    assert holders(["a", "b", "c"], folder) == {}


@pytest.mark.parametrize("by_kill", [False, True])
def test_a_lock_of_another_process_is_seen_and_goes_with_it(tmp_path: Path, by_kill: bool) -> None:
    process = other_process(tmp_path, "GPU-a/b", "c")
    try:
        theirs = Holder(process.pid, "theirs")
        assert holders(["GPU-a/b", "c", "d"], str(tmp_path)) == {"GPU-a/b": theirs, "c": theirs}
        assert str(theirs) == f"run theirs of process {process.pid}"
        assert hold(["c", "d"], str(tmp_path), "mine") == ["d"]
        # Having looked at it took nothing from them.
        assert holders(["c"], str(tmp_path)) == {"c": theirs}
    finally:
        end(process, by_kill=by_kill)
    assert hold(["c"], str(tmp_path), "mine") == ["c"]
    release(["c", "d"], str(tmp_path))


def test_looking_does_not_give_up_our_own_lock(tmp_path: Path) -> None:
    hold(["a"], str(tmp_path), "mine")
    assert holders(["a"], str(tmp_path))["a"].run_id == "mine"
    assert hold(["a"], str(tmp_path), "mine too") == []
    code = "import sys; from ipyelastic.devices import gpu_claims as g; print(g.hold(['a'], sys.argv[1], 'x'))"
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
    release(["a"], str(tmp_path))


def test_a_child_that_outlives_its_owner_keeps_no_lock(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from ipyelastic.devices import gpu_claims
gpu_claims.hold(["a"], sys.argv[1], "parent")
if os.fork() == 0:  # as a DataLoader's worker, with all of the parent's descriptors
    print(gpu_claims.holders(["a"], sys.argv[1])["a"].pid == os.getppid(), flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"  # the child sees its parent's lock: it has none of its own
        assert holders(["a"], str(tmp_path)) == {"a": Holder(process.pid, "parent")}
        process.kill()
        process.wait()
        assert holders(["a"], str(tmp_path)) == {}
    finally:
        process.kill()
        process.communicate()  # the end of its input ends the child
