"""GPUs of runs that start at the same time, from several processes; and virtual local ranks beside torchrun's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ipyelastic as ie
from ipyelastic.devices.gpus import compute_processes
from support.gpus import GpuMachine

_LAUNCHER = """
import os, sys, threading, time
import ipyelastic as ie
from ipyelastic.devices import gpus

gpus.DEVICE_FOLDER, marks, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
refused, done = [], []

def work():
    # A mark that exists already is a GPU that somebody else has.
    path = os.path.join(marks, os.environ["CUDA_VISIBLE_DEVICES"])
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    began = time.monotonic()
    while time.monotonic() - began < 0.02:
        pass
    os.unlink(path)

def launch_some(how):
    for _ in range(count):
        while True:
            try:
                run = ie.launch(work, **how)
                break
            except ie.OptionError as error:
                refused.append(str(error))
        run.result(60)
        done.append(run.run_id)

ie.launch(int, nproc=1, env={"CUDA_VISIBLE_DEVICES": ""}).result(60)  # the fork server is up
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=launch_some, args=(dict(gpus="free", nproc=1, ui="none"),)) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert all(words.startswith(("--gpus free: 0 of 3 GPUs are free (", "another run took")) for words in refused), refused
print(len(done))
"""


@pytest.mark.slow
def test_runs_that_start_at_once_never_share_a_free_gpu(tmp_path: Path) -> None:
    machine = GpuMachine(tmp_path / "machine", 3)
    marks = tmp_path / "marks"
    marks.mkdir()
    environment = {**os.environ, **machine.environment()}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-c", _LAUNCHER, str(machine.devices), str(marks), "8"]
    processes = [
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=100) for process in processes]
    assert ended == [("24\n", "")] * 2
    assert list(marks.iterdir()) == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a driver")
def test_the_real_nvml_without_a_driver_says_so() -> None:
    pytest.importorskip("pynvml")
    with pytest.raises(RuntimeError, match=r"^NVML cannot be asked \(NVMLError_LibraryNotFound: "):
        compute_processes([])


# One write a line: torchrun's ranks share a pipe.
_PRINT = """
import os, sys
words = [os.environ["RANK"], os.environ["LOCAL_RANK"], str(os.environ.get("CUDA_VISIBLE_DEVICES"))]
os.write(1, (" ".join(words) + "\\n").encode())
"""


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU: ranks get its UUID instead of a number")
@pytest.mark.parametrize("visible", ["3,1", None])
def test_virtual_local_ranks_are_torchruns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    script = tmp_path / "script.py"
    script.write_text(_PRINT)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--virtual-local-rank", str(script)]
    theirs = subprocess.run([sys.executable, *torchrun], capture_output=True, text=True, timeout=100, check=True)

    def seen() -> str:
        return " ".join([os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ.get("CUDA_VISIBLE_DEVICES", "None")])

    ours = ie.launch(seen, nproc=2, virtual_local_rank=True).result(timeout=60)
    assert sorted(theirs.stdout.splitlines()) == sorted(ours)
