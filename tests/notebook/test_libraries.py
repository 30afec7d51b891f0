"""Libraries in ranks, used as their pages say: progress bars, rich, Accelerate."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from ipyelastic.devices.gpus import has_accelerator
from support.kernels import Kernel

Ranks = Callable[..., list[Any]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"])
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("is_imported_in", ["body", "notebook"])
def test_progress_bar_is_text(kernel: Kernel, module: str, method: str, is_imported_in: str) -> None:
    pytest.importorskip("tqdm")
    load = f"import warnings\nwarnings.simplefilter('ignore')\nfrom {module} import tqdm, trange\n"
    if is_imported_in == "notebook":
        loaded = kernel.run(load)
        assert loaded.ok, loaded.text
    body = (load if is_imported_in == "body" else "") + "for n in tqdm(range(3), desc='steps'): pass\n"
    body += "bar = tqdm(total=5)\nbar.update(5)\nbar.close()\nsum(trange(4))"
    result = kernel.run(f"%%elastic_run -n 1 --start-method {method}\n{body}")
    assert result.value == "[0: 6]", result.text
    assert [re.sub(r" \[.*", "", line) for line in result.out.splitlines()] == [
        "[rank 0 stderr] steps: 100%|██████████| 3/3",
        "[rank 0 stderr] 100%|██████████| 5/5",
        "[rank 0 stderr] 100%|██████████| 4/4",
    ]


def test_notebook_bar_takes_the_keywords_of_its_own(kernel: Kernel) -> None:
    pytest.importorskip("tqdm")
    body = "from tqdm.notebook import tqdm\nlist(tqdm(range(2), display=False, leave=True))"
    assert kernel.run(f"%%elastic_run -n 1\n{body}").value == "[0: [0, 1]]"


def test_rich_prints_and_shows_progress(kernel: Kernel) -> None:
    if importlib.util.find_spec("rich") is None:
        pytest.skip("needs rich")
    body = "from rich import print\nfrom rich.progress import track\n"
    body += "for n in track(range(3), 'steps'): pass\nprint('[bold]done[/bold]')"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", result.out).splitlines()
    assert lines[-1] == "[rank 0] done"
    assert any(line.startswith("[rank 0] steps ") and "100%" in line for line in lines), result.text


_TRAIN = """
def train(**options):
    import torch
    from accelerate import Accelerator
    accelerator = Accelerator(**options)
    torch.manual_seed(accelerator.process_index)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.arange(16.).reshape(8, 2), torch.ones(8, 1))
    model, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=2))
    seen = 0
    for inputs, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(((model(inputs) - targets) ** 2).mean())
        optimizer.step()
        seen += len(inputs)
    weights = accelerator.gather(accelerator.unwrap_model(model).weight.detach())
    ranks = accelerator.gather(torch.tensor([accelerator.process_index])).tolist()
    return accelerator.num_processes, seen, ranks, bool((weights[0] == weights[1]).all())
"""


@pytest.mark.torch
@pytest.mark.parametrize("options", ["", "cpu=True"])
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_accelerate_trains_on_two_ranks_unchanged(kernel: Kernel, ranks: Ranks, method: str, options: str) -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        if os.environ.get("IPYELASTIC_REQUIRE_TORCH") and error.name == "accelerate":
            pytest.fail("accelerate is not installed, and this is CI")
        pytest.skip(f"needs accelerate: {error}")
    if not options and has_accelerator():
        pytest.skip("there may be a GPU: Accelerator() would want one for each rank")
    assert kernel.run(_TRAIN).ok
    assert ranks(f"train({options})", f"-n 2 --start-method {method}") == [(2, 4, [0, 1], True)] * 2
