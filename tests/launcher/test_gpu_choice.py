"""Which GPUs ranks get: by number, free ones, what other runs have; on a pretended machine, with real locks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import ipyelastic as ie
from ipyelastic.devices import gpu_claims
from ipyelastic.launcher.checks import Gpus, Nproc
from ipyelastic.launcher.gpu_choice import GpuChoice, choose_gpus, lock_folder
from ipyelastic.terms.errors import OptionError
from support.gpus import GpuMachine

NewMachine = Callable[..., GpuMachine]


@pytest.fixture
def other_run() -> Iterator[Callable[..., None]]:
    """`other_run(machine, 0, 1)`: a run of this process has these GPUs until the test's end."""
    held: list[str] = []

    def put(machine: GpuMachine, *numbers: int, run_id: str = "0123abcd") -> None:
        held.extend(gpu_claims.hold([machine.uuids[number] for number in numbers], lock_folder(), run_id))

    yield put
    gpu_claims.release(held, lock_folder())


def choose(nproc: Nproc = None, gpus: Gpus = None, **environment: str) -> GpuChoice:
    return choose_gpus(nproc, gpus, environment)


def refusal(nproc: Nproc = None, gpus: Gpus = None, **environment: str) -> str:
    with pytest.raises(OptionError) as caught:
        choose(nproc, gpus, **environment)
    return str(caught.value)


def test_named_gpus_are_passed_on_as_uuids_in_their_order_with_a_rank_each(gpu_machine: NewMachine) -> None:
    machine = gpu_machine(4)
    for gpus in [(2, 0), (3,), (0, 1, 2, 3)]:
        names = tuple(machine.uuids[number] for number in gpus)
        assert choose(gpus=gpus) == GpuChoice(len(gpus), "", names, names)


@pytest.mark.parametrize("nproc", ["gpu", "auto", None])
def test_words_for_the_number_mean_the_named_gpus(gpu_machine: NewMachine, nproc: Nproc) -> None:
    gpu_machine(4)
    assert choose(nproc, (1, 3)).nproc == 2


def test_fewer_ranks_than_gpus_see_them_all(gpu_machine: NewMachine) -> None:
    machine = gpu_machine(4)
    names = tuple(machine.uuids)
    assert choose(1, (0, 1, 2, 3)) == GpuChoice(1, "", names, names)


@pytest.mark.parametrize("visible", ["3,1", "GPU-dddd,GPU-bbbb0000"])
def test_numbers_count_within_cuda_visible_devices(
    gpu_machine: NewMachine, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    machine = gpu_machine(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose(gpus=(0,)).names == (machine.uuids[3],)
    assert choose(gpus=(1, 0)).names == (machine.uuids[1], machine.uuids[3])
    assert refusal(gpus=(0, 2)) == (
        f"--gpus 0,2: there is no GPU 2; visible here within CUDA_VISIBLE_DEVICES={visible}: GPU 0-1"
    )


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(
    gpu_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_machine(2)
    assert refusal(gpus=(0, 1, 2, 7)) == "--gpus 0-2,7: there is no GPU 2; visible here: GPU 0-1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    for gpus in ((0,), "free"):
        words = "--gpus 0: there is no GPU 0; " if gpus != "free" else "--gpus free: "
        assert refusal(gpus=gpus) == words + "no GPU is visible here within CUDA_VISIBLE_DEVICES=-1"


def test_without_any_gpu_the_refusal_says_so(gpu_machine: NewMachine) -> None:
    gpu_machine(0)
    assert refusal(gpus=(0,)) == "--gpus 0: there is no GPU 0; no GPU is visible here"
    assert refusal(gpus="free") == "--gpus free: no GPU is visible here"
    assert choose() == GpuChoice(1, "one rank: no GPU is visible and no number was given")
    assert choose(5) == GpuChoice(5)
    assert refusal("gpu") == "nproc='gpu': no GPU is visible here; give a number, or 'cpu'"


def test_more_ranks_than_named_gpus_are_refused_with_the_way_out(gpu_machine: NewMachine) -> None:
    gpu_machine(2)
    assert refusal(3, (0, 1)) == (
        "--gpus 0-1 with 3 ranks: NCCL refuses two ranks on one GPU; give -n 2 or more GPUs, or, to share them all "
        "the same, --env CUDA_VISIBLE_DEVICES=0,1 instead of --gpus"
    )
    # The way out is one.
    assert choose(3, CUDA_VISIBLE_DEVICES="0,1") == GpuChoice(3)


def test_without_nvml_numbers_are_passed_on_as_they_are(
    gpu_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_machine(4).break_nvml()
    monkeypatch.setenv("PATH", "/nowhere")  # nor nvidia-smi
    assert choose(gpus=(2, 0)).names == ("2", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,MIG-x,1")
    assert choose(gpus=(1, 0)).names == ("MIG-x", "3")
    assert refusal(gpus="free") == (
        "--gpus free: NVML cannot be asked (NVMLError: NVML Shared Library Not Found); name the GPUs, for example "
        "--gpus 0"
    )


def test_free_leaves_out_where_somebody_computes_and_what_other_runs_have(
    gpu_machine: NewMachine, other_run: Callable[..., None]
) -> None:
    machine = gpu_machine(5)
    machine.computes_on(gpu0=[4242, 77], gpu3=[os.getpid()])
    other_run(machine, 2)
    names = (machine.uuids[1], machine.uuids[4])
    assert choose(gpus="free") == GpuChoice(2, "nproc=2: one rank per free GPU (1,4)", names, names)
    assert choose(1, "free") == GpuChoice(1, "free GPUs: 1", names[:1], names[:1])
    assert refusal(3, "free") == (
        "--gpus free with 3 ranks: 2 of 5 GPUs are free (GPU 0: processes 77, 4242; GPU 2: run 0123abcd; "
        f"GPU 3: process {os.getpid()}, this one)"
    )
    machine.computes_on(gpu1=[1], gpu4=[1], gpu0=[1], gpu3=[1])
    assert refusal(gpus="free").startswith("--gpus free: 0 of 5 GPUs are free (GPU 0: process 1; ")


def test_automatic_choice_leaves_out_what_other_runs_have(
    gpu_machine: NewMachine, other_run: Callable[..., None]
) -> None:
    machine = gpu_machine(3)
    everything = tuple(machine.uuids)
    assert choose() == GpuChoice(3, "nproc=3: one rank per visible GPU", used=everything)
    other_run(machine, 1)
    names = (everything[0], everything[2])
    why = "nproc=2: one rank per visible GPU that no other run has (run 0123abcd has GPU 1)"
    for nproc in (None, "gpu", "auto"):
        assert choose(nproc) == GpuChoice(2, why, names, names)
    other_run(machine, 0, 2, run_id="ffff0000")
    assert refusal() == (
        "no GPU is left for this run: run ffff0000 has GPU 0,2, run 0123abcd has GPU 1; wait, stop it, or share with "
        "--gpus 0-2"
    )
    assert choose("cpu").names is None


def test_a_number_of_ranks_leaves_cuda_visible_devices_alone_unless_another_run_has_some(
    gpu_machine: NewMachine, other_run: Callable[..., None]
) -> None:
    machine = gpu_machine(3)
    a, b, c = machine.uuids
    assert choose(2) == GpuChoice(2, used=(a, b))
    assert choose(4) == GpuChoice(4)
    other_run(machine, 0)
    assert choose(2) == GpuChoice(2, names=(b, c), used=(b, c), note="ranks see GPU 1-2 only: run 0123abcd has GPU 0")
    assert choose(1) == GpuChoice(1, names=(b, c), used=(b,), note="ranks see GPU 1-2 only: run 0123abcd has GPU 0")
    assert choose(3) == GpuChoice(3, used=(b, c), note="shared GPUs: run 0123abcd has GPU 0")
    assert choose(4) == GpuChoice(4)


def test_gpus_by_number_are_obeyed_with_a_note_when_another_run_has_them(
    gpu_machine: NewMachine, other_run: Callable[..., None]
) -> None:
    machine = gpu_machine(3)
    other_run(machine, 1, 2)
    assert choose(gpus=(0,)).note == ""
    choice = choose(gpus=(0, 1))
    assert (choice.names, choice.note) == (tuple(machine.uuids[:2]), "shared GPUs: run 0123abcd has GPU 1")
    assert choose(1, CUDA_VISIBLE_DEVICES="2").note == "shared GPUs: run 0123abcd has GPU 0"


def test_a_run_inside_a_rank_may_use_the_ranks_own_gpus(
    gpu_machine: NewMachine, other_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = gpu_machine(2)
    other_run(machine, 0, 1, run_id="outer")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "outer")
    # They stay the outer run's: there is nothing to hold.
    assert choose() == GpuChoice(2, "nproc=2: one rank per visible GPU")
    assert choose(gpus=(0,)) == GpuChoice(1, names=(machine.uuids[0],))
    assert ie.launch(int, nproc="gpu").result(timeout=60) == [0, 0]


def test_gpus_of_another_process_are_left_out_until_it_is_killed(gpu_machine: NewMachine) -> None:
    machine = gpu_machine(2)
    code = (
        "import sys; from ipyelastic.devices import gpu_claims\n"
        "from ipyelastic.launcher.gpu_choice import lock_folder\n"
        "print(gpu_claims.hold([sys.argv[1]], lock_folder(), 'theirs'), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, machine.uuids[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        assert choose().why == (
            f"nproc=1: one rank per visible GPU that no other run has (run theirs of process {other.pid} has GPU 0)"
        )
        assert choose(gpus="free").names == (machine.uuids[1],)
    finally:
        other.kill()
        other.communicate()
    assert choose(gpus="free").nproc == 2


def test_gpus_of_a_run_that_never_was_are_free_again(gpu_machine: NewMachine) -> None:
    machine = gpu_machine(2)
    threading.stack_size(1 << 50)  # more than there are addresses: the run's thread cannot be made
    try:
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            ie.launch(int, gpus=[0], ui="none")
    finally:
        threading.stack_size(0)
    assert gpu_claims.holders(machine.uuids, lock_folder()) == {}
