"""What the device files say of GPUs and other accelerators."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipyelastic.devices import gpus
from ipyelastic.devices.gpus import has_accelerator, visible_gpu_count


@pytest.mark.parametrize(
    ("files", "visible", "count", "has"),
    [
        (["null", "tty0", "shm"], None, 0, False),
        (["nvidia0", "nvidia1", "nvidiactl"], None, 2, True),
        (["nvidia0", "nvidia1", "nvidiactl"], "1", 1, True),
        (["nvidia0", "nvidiactl"], "", 0, False),
        (["nvidia0", "nvidiactl"], "-1", 0, False),
        (["kfd", "dri"], None, 0, True),
        (["dxg"], None, 0, True),
        (["accel0"], None, 0, True),
        (["davinci3"], None, 0, True),
        (["hl-names-are-no-device", "hlx"], None, 0, False),
    ],
)
def test_devices_are_counted_by_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], visible: str | None, count: int, has: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "DEVICE_FOLDER", str(tmp_path))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in files:
        (tmp_path / name).touch()
    assert (visible_gpu_count(), has_accelerator()) == (count, has)


def test_a_folder_that_cannot_be_read_may_hide_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEVICE_FOLDER", str(tmp_path / "none"))
    assert has_accelerator() is True
