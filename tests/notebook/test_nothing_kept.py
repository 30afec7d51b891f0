"""What a cell's run used is the notebook's alone afterwards: `del` frees it; a run itself is not sent along."""

from __future__ import annotations

import pytest

from support.kernels import Kernel


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    module_kernel.run("import gc, weakref, ipyelastic\nfrom ipyelastic import launch, notebook_launcher")
    module_kernel.run("class Big:\n    pass\ndef size(big): return 4")
    return module_kernel


@pytest.mark.parametrize(
    "run",
    [
        "%elastic_run -n 2 size(big) and None",
        "%elastic_run -n 2 1 / (size(big) - 4)",
        "%elastic_run -n 1 (n for n in [big])",
        "notebook_launcher(size, (big,), num_processes=1, use_port=0) and None",
    ],
)
def test_what_a_cells_run_used_goes_when_the_notebook_deletes_it(kernel: Kernel, run: str) -> None:
    kernel.run("big = Big()\ngone = weakref.ref(big)")
    kernel.run(run)
    kernel.run("del big")
    kernel.run("1 / 0")  # IPython keeps the frames of the last failure, whosever they are
    kernel.run("gc.collect() and None")
    assert kernel.value("gone() is None") is True


def test_what_a_cell_could_not_send_goes_too(kernel: Kernel) -> None:
    kernel.run("big = Big()\nbig.lock = __import__('threading').Lock()\ngone = weakref.ref(big)")
    assert kernel.run("%elastic_run -n 1 size(big)").error_name == "UnpicklableError"
    kernel.run("del big")
    kernel.run("1 / 0")
    kernel.run("gc.collect() and None")
    assert kernel.value("gone() is None") is True


def test_a_cells_run_is_not_restarted_and_still_tells_how_it_was(kernel: Kernel) -> None:
    kernel.run("%elastic_run -n 1 print('said') or 5")
    run = kernel.value("ipyelastic.last_run().run_id")
    told = "run = ipyelastic.last_run()\nrun.status, run.ranks[0].tail(), run.results, run.ranks[0].stdout_path[-10:]"
    assert kernel.value(told) == ("succeeded", ["said"], {0: 5}, "stdout.log")
    kernel.run("run.stop(); run.kill()")
    refused = kernel.run("run.restart()")
    words = f"run {run} of {kernel.value('run.name')} keeps nothing of what was run: run its cell again"
    assert (refused.error_name, refused.error_value) == ("RuntimeError", words)


def test_runs_of_launch_and_in_the_background_keep_what_they_need_to_be_restarted(kernel: Kernel) -> None:
    kernel.run("big = Big()\nrun = launch(size, args=(big,), nproc=1)\nrun.wait()")
    assert kernel.run("run.restart().result(60)").value == "[0: 4]"
    kernel.run("run = %elastic_run --bg -n 1 size(big)")
    assert kernel.run("run.restart().result(60)").value == "[0: 4]"


@pytest.mark.parametrize("use", ["run", "[run]", "run.results and kept"])
def test_a_run_that_a_cell_names_is_refused_with_what_to_send_instead(kernel: Kernel, use: str) -> None:
    kernel.run("run = launch(size, args=(1,), nproc=1)\nrun.wait()\nkept = [run]")
    refused = kernel.run(f"%elastic_run -n 1 {use}")
    assert refused.error_name == "UnpicklableError"
    assert refused.error_value.startswith("run (ipyelastic.engines.run.Run), used in Cell In[")
    assert refused.error_value.endswith(
        "cannot be pickled: TypeError: cannot pickle 'ipyelastic.engines.run.Run' object;"
        " a run stays in its process: send run.results or its values, not the run"
    )
    assert kernel.run("values = run.results\n%elastic_run -n 1 values").value == "[0: {0: 4}]"


def test_a_run_inside_of_something_is_refused_likewise(kernel: Kernel) -> None:
    kernel.run("run = launch(size, args=(1,), nproc=1)\nrun.wait()\nkept = [run]")
    refused = kernel.run("%elastic_run -n 1 kept")
    assert refused.error_value.startswith("kept (list), used in Cell In[")
    assert refused.error_value.endswith("a run stays in its process: send run.results or its values, not the run")
