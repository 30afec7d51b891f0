"""`ipyelastic doctor`: what it says here and of faults, which are made where it looks, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.cli import gpus, machine, packages, trials
from ipyelastic.cli.findings import Finding, as_text
from ipyelastic.cli.gpus import Seen
from support.commands import COMMAND

pytestmark = pytest.mark.slow

PACKAGES = ("anywidget", "cloudpickle", "ipywidgets", "nvidia-ml-py", "psutil", "threadpoolctl")


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [one for one in findings if one.name == name]
    return found


def test_as_json_it_tries_every_start_method_and_names_every_package(command: Callable[..., Any]) -> None:
    ended = command("doctor", "--json")
    told = json.loads(ended.out)
    findings = {one["name"]: one for one in told["findings"]}
    assert ended.err == ""
    assert ended.code == (0 if told["is_well"] else 1)
    for method in ("forkserver", "spawn", "fork"):
        assert findings[method]["state"] == "ok", findings[method]
        assert " ms the first time, then " in findings[method]["text"]
    assert {"python", "platform", "pidfd", "memfd", "shm", "open files", "log folder", "ipykernel"} <= findings.keys()
    assert findings["ipykernel"]["text"].startswith("ipykernel ")
    assert all(one["do"] for one in told["findings"] if one["state"] == "do")


def test_as_text_it_names_this_python_and_its_last_line_is_the_verdict(command: Callable[..., Any]) -> None:
    ended = command("doctor")
    assert f"({sys.executable})" in ended.out
    last = ended.out.splitlines()[-1]
    assert (last == "nothing needs doing") == (ended.code == 0)


def test_too_few_open_files_are_found_and_told_with_what_to_do(tmp_path: Path) -> None:
    line = 'ulimit -n 200; exec "$@"'
    ended = subprocess.run(
        ["sh", "-c", line, "-", *COMMAND, "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    told = json.loads(ended.stdout)
    (found,) = [one for one in told["findings"] if one["name"] == "open files"]
    assert (found["state"], found["text"]) == ("do", "open files: 200 (at most 200)")
    assert found["do"].startswith("ulimit -n ")
    assert (ended.returncode, told["is_well"]) == (1, False)


def test_a_log_folder_that_cannot_be_made_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IPYELASTIC_RUN_ROOT", str(tmp_path / "file" / "below"))
    found = named(machine.look(), "log folder")
    assert (found.state, found.do) == ("do", "set TMPDIR, or give --log-dir")


@pytest.mark.parametrize(
    ("have", "state"),
    [("6.28.0", "do"), ("6.29.5", "ok"), ("6.31.0", "ok"), ("7.0.1", "do"), ("7.1.0", "note"), ("7.3.0", "note"),
     ("7.4.0", "ok"), ("8.0.0", "note")],
)  # fmt: skip
def test_kernels_that_are_known_to_fail_are_named(monkeypatch: pytest.MonkeyPatch, have: str, state: str) -> None:
    monkeypatch.setattr(packages, "version", lambda name: have)
    found = packages._kernel()
    assert (found.state, found.text.split(":")[0]) == (state, f"ipykernel {have}")


def test_an_old_package_and_a_missing_one_are_told_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "cloudpickle":
            raise packages.PackageNotFoundError(name)
        return "1.0" if name == "psutil" else "999"

    monkeypatch.setattr(packages, "requires", lambda name: ["cloudpickle>=3.0", "psutil>=5.9", "x>=1; extra == 'y'"])
    monkeypatch.setattr(packages, "version", version)
    assert packages._needed() == [
        Finding("packages", "cloudpickle", "do", "cloudpickle is not installed", 'pip install "cloudpickle>=3.0"'),
        Finding("packages", "psutil", "do", "psutil 1.0: expected >=5.9", 'pip install "psutil>=5.9"'),
    ]


def test_gpus_are_named_with_who_uses_them(gpu_machine: Callable[..., Any]) -> None:
    made = gpu_machine(2)
    made.computes_on(gpu1=[os.getpid()])
    found, seen = gpus.look()
    assert seen == Seen(2, None)
    assert [one.text.split("; ")[-1] for one in found] == [
        "free",
        f"used by process {os.getpid()} ({__import__('psutil').Process().name()})",
    ]
    made.break_nvml()
    found, seen = gpus.look()
    assert (found[0].state, found[0].do) == ("do", "look at nvidia-smi: the driver")
    assert found[0].text.startswith("2 GPUs by the device files, but NVML cannot be asked")


@pytest.mark.parametrize(
    ("cuda", "count", "seen", "state", "do"),
    [
        (None, 0, Seen(0, None), "ok", ""),
        (None, 0, Seen(2, (12, 4)), "do", "install torch's build for CUDA: https://pytorch.org/get-started/locally"),
        ("13.0", 0, Seen(2, (12, 4)), "do", "a newer driver, or torch built for CUDA 12"),
        ("12.6", 1, Seen(2, (12, 4)), "do", "look at nvidia-smi, and CUDA_VISIBLE_DEVICES"),
        ("12.6", 2, Seen(2, (12, 4)), "ok", ""),
    ],
)
def test_torchs_build_is_compared_with_the_driver(cuda: Any, count: int, seen: Seen, state: str, do: str) -> None:
    told = {"version": "2.9", "cuda": cuda, "other": "", "count": count, "backends": ["gloo"], "warning": ""}
    found = trials._judged(told, seen, "torch 2.9")
    assert (found.state, found.do) == (state, do)


def test_what_needs_doing_is_said_once_more_at_the_end() -> None:
    found = [Finding("a", "one", "ok", "fine"), Finding("b", "two", "do", "gone", "put it back")]
    assert as_text(found, "head") == (
        "head\n\na\n  ok    fine\n\nb\n  DO    gone\n        -> put it back\n\n"
        "one thing needs doing:\n  - gone: put it back"
    )


def test_unknown_words_are_refused(command: Callable[..., Any]) -> None:
    ended = command("doctor", "--jsn")
    assert (ended.code, ended.err) == (2, "ipyelastic doctor: --jsn: expected --json, did you mean --json?\n")
    ended = command("ruin")
    assert (ended.code, ended.err) == (2, "ipyelastic ruin: expected run or doctor, did you mean run?\n")
    assert command("--version").out.startswith("ipyelastic 0.")
    assert "ipyelastic run [OPTION ...] SCRIPT" in command("-h").out
    assert "--nproc" in command("run", "--help").out
