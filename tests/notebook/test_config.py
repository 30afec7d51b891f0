"""`%elastic_config` and an administrator's config files: what is saved, shown, refused, taken back, and obeyed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

NONE = "no defaults are saved; for example: %elastic_config nproc=4 env.A=1\n"


@pytest.fixture
def kernel(module_kernel: Kernel) -> Iterator[Kernel]:
    yield module_kernel
    module_kernel.run("%elastic_config --reset")


def shown(kernel: Kernel) -> list[list[str]]:
    """The table, by words."""
    result = kernel.run("%elastic_config")
    assert result.ok
    return [line.rsplit(maxsplit=1) for line in result.out.splitlines()]


def test_saved_defaults_apply_to_cells_lines_and_launch(kernel: Kernel) -> None:
    assert kernel.run("%elastic_config").out == NONE
    assert kernel.run("%elastic_config nproc=2 env.A=1 env.B='x y' start_method=spawn").out == ""
    assert shown(kernel) == [
        ["env.A=1", "notebook"], ["'env.B=x y'", "notebook"], ["nproc=2", "notebook"],
        ["start-method=spawn", "notebook"],
    ]  # fmt: skip
    expected = "[0: ('1', 'x y'), 1: ('1', 'x y')]"
    assert kernel.run("%%elastic_run\nimport os\nos.environ['A'], os.environ['B']").value == expected
    assert kernel.run("import os\n%elastic_run os.environ['A'], os.environ['B']").value == expected
    assert (
        kernel.run("import ipyelastic as ie\nie.launch(lambda: os.environ['A']).result()").value == "[0: '1', 1: '1']"
    )
    assert kernel.run("ie.last_run().options.start_method").value == "'spawn'"


def test_what_a_run_gives_itself_wins(kernel: Kernel) -> None:
    kernel.run("%elastic_config nproc=2 env.A=1 env.B=2")
    body = "import os\nos.environ['A'] + os.environ['B']"
    assert kernel.run(f"%%elastic_run -n 1 --env A=9\n{body}").value == "[0: '92']"
    code = "import ipyelastic as ie, os\nlist(ie.launch(lambda: os.environ['A'], nproc=1, env={'A': '7'}).result())"
    assert kernel.value(code) == ["7"]
    assert len(kernel.value("list(ie.launch(os.getpid, nproc=None).result())")) == 2


@pytest.mark.parametrize(
    ("line", "table"),
    [
        ("nproc=", ["env.A=1", "env.B=2", "grace=2"]),
        ("nproc= env.A=", ["env.B=2", "grace=2"]),
        ("env=", ["grace=2", "nproc=3"]),
        ("--reset nproc env.B", ["env.A=1", "grace=2"]),
        ("--reset", []),
        ("nproc=5 grace=", ["env.A=1", "env.B=2", "nproc=5"]),
        ("--nproc=5", ["env.A=1", "env.B=2", "grace=2", "nproc=5"]),
        ("num-processes=5", ["env.A=1", "env.B=2", "grace=2", "nproc=5"]),
        ("env=A=7", ["env.A=7", "env.B=2", "grace=2", "nproc=3"]),
        ("seed=", ["env.A=1", "env.B=2", "grace=2", "nproc=3"]),
    ],
)
def test_defaults_are_changed_and_taken_back(kernel: Kernel, line: str, table: list[str]) -> None:
    kernel.run("%elastic_config nproc=3 grace=2 env.A=1 env.B=2")
    assert kernel.run(f"%elastic_config {line}").out == ""
    expected = [[row, "notebook"] for row in table]
    assert (shown(kernel) if table else kernel.run("%elastic_config").out) == (expected or NONE)


def test_each_option_is_shown_as_it_would_be_typed(kernel: Kernel) -> None:
    typed = (
        "engine=local gpus=2,0-1 grace=0.5 log-dir=/a/b nproc=auto numa=core-complex ranks=0,2-4 seed=7 "
        "start-method=fork stop-signal=SIGUSR1 timeout=1e3 ui=none virtual-local-rank=true"
    )
    assert kernel.run(f"%elastic_config {typed}").out == ""
    assert [row[0] for row in shown(kernel)] == typed.replace("1e3", "1000").split()
    kernel.run("%elastic_config stop-signal=int virtual_local_rank=no gpus=FREE")
    rows = [row[0] for row in shown(kernel)]
    assert {"stop-signal=SIGINT", "virtual-local-rank=false", "gpus=free"} < set(rows)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nprco=4", "nprco: no such option, did you mean nproc?"),
        ("strat_method=fork", "strat_method: no such option, did you mean start-method?"),
        ("nproc=gpus", 'nproc=\'gpus\': expected a number, "cpu", "gpu" or "auto", did you mean gpu?'),
        ("nproc=0", "nproc=0: expected 1 to 1024 ranks"),
        ("seed=1.5", "seed='1.5': expected a whole number"),
        ("start-method=frok", "start_method='frok': expected forkserver, spawn or fork, did you mean fork?"),
        ("timeout=0", "timeout='0': expected seconds, more than 0"),
        ("ranks=a", "--ranks 'a': expected ranks such as 0,2-3"),
        ("gpus=a", "gpus='a': expected GPU numbers such as 0,2-3, or free"),
        ("virtual-local-rank=ja", "virtual_local_rank='ja': expected true or false"),
        ("env=A", "--env 'A': expected NAME=VALUE"),
        ("env.=1", "env.: expected a variable's name, for example env.A=1"),
        ("nproc.x=1", "nproc.x: only env has parts, for example env.A=1"),
        ("nproc", "nproc: expected NAME=VALUE, for example nproc=4"),
        ("4", "4: no such option"),
        ("bg=1", "bg: given with each run; no default can be saved for it"),
        ("--reset nprco", "nprco: no such option, did you mean nproc?"),
        ("env.A='x", '"env.A=\'x": no closing quotation'),
        ("gpus=0 env.CUDA_VISIBLE_DEVICES=1",
         "gpus and env CUDA_VISIBLE_DEVICES both say which GPUs ranks see: give one of them"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_obeyed_changes_nothing(kernel: Kernel, line: str, words: str) -> None:
    kernel.run("%elastic_config grace=9")
    for whole in (line, f"nproc=2 {line}") if not line.startswith("--reset") and "'x" not in line else (line,):
        result = kernel.run(f"%elastic_config {whole}")
        assert (result.out, result.traceback) == (f"UsageError: {words}\n", "")
    assert shown(kernel) == [["grace=9", "notebook"]]


def test_values_may_be_notebook_variables(kernel: Kernel) -> None:
    kernel.run("n = 2\n%elastic_config nproc={n} env.A={n}")
    assert shown(kernel) == [["'env.A={n}'", "notebook"], ["nproc=2", "notebook"]]


def test_help_lists_every_name(kernel: Kernel) -> None:
    text = kernel.run("%elastic_config -h").out
    for name in ("nproc", "gpus", "ranks", "log-dir", "env", "start-method", "virtual-local-rank", "stop-signal"):
        assert f"\n  {name} " in text
    assert "%elastic_config nproc=4 gpus=0-3 env.A=1" in text


def test_unloading_takes_the_defaults_back(new_kernel: Callable[..., Kernel]) -> None:
    fresh = new_kernel()
    fresh.run("%load_ext ipyelastic\n%elastic_config nproc=2 env.A=1")
    assert fresh.run("import ipyelastic as ie, os\nlen(ie.launch(os.getpid).result())").value == "2"
    assert fresh.run("%unload_ext ipyelastic").ok
    assert fresh.run("len(ie.launch(os.getpid).result())").value == "1"
    fresh.run("%load_ext ipyelastic")
    assert fresh.run("%elastic_config").out == NONE


# ----------------------------------------------------------------------------------------------------- administrator's


def kernel_with(
    new_kernel: Callable[..., Kernel], folder: Path, config: str, name: str = "ipython_config.py"
) -> Kernel:
    """A kernel whose profile has this config file."""
    profile = folder / ".ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / name).write_text("c = get_config()\n" + config)
    return new_kernel()


@pytest.mark.parametrize("name", ["ipython_config.py", "ipython_kernel_config.py"])
def test_config_files_give_defaults_below_the_notebooks(
    new_kernel: Callable[..., Kernel], tmp_path: Path, name: str
) -> None:
    config = """
c.ElasticMagics.nproc = 2
c.ElasticMagics.timeout = "60"
c.ElasticMagics.env = {"A": "admin", "B": "admin"}
c.ElasticMagics.stop_signal = "INT"
c.ElasticMagics.ranks = [0, 1]
"""
    kernel = kernel_with(new_kernel, tmp_path, config, name)
    assert kernel.run("%load_ext ipyelastic").out == ""
    kernel.run("%elastic_config grace=1 env.B=book")
    assert shown(kernel) == [
        ["env.A=admin", "administrator"], ["env.B=book", "notebook"], ["grace=1", "notebook"],
        ["nproc=2", "administrator"], ["ranks=0-1", "administrator"], ["stop-signal=SIGINT", "administrator"],
        ["timeout=60", "administrator"],
    ]  # fmt: skip
    body = "import os\nos.environ['A'] + ' ' + os.environ['B']"
    assert kernel.run(f"%%elastic_run\n{body}").value == "[0: 'admin book', 1: 'admin book']"
    kernel.run("%elastic_config --reset")
    assert kernel.run(f"%%elastic_run\n{body}").value == "[0: 'admin admin', 1: 'admin admin']"
    assert kernel.run("%elastic_config nproc=").out == ""
    assert ["nproc=2", "administrator"] in shown(kernel)


def test_a_bad_setting_is_named_and_the_others_are_taken(new_kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    config = """
c.ElasticMagics.nproc = "gpus"
c.ElasticMagics.grace = -1
c.ElasticMagics.env.update({"A": "1", "B": 2})
c.ElasticMagics.seed = 5
c.ElasticMagics.virtual_local_rank = "perhaps"
"""
    kernel = kernel_with(new_kernel, tmp_path, config)
    result = kernel.run("%load_ext ipyelastic")
    assert result.ok
    assert result.out.splitlines() == [
        "ipyelastic: c.ElasticMagics.nproc = 'gpus' is left out: nproc='gpus': expected a number, \"cpu\", \"gpu\" or "
        '"auto", did you mean gpu?',
        "ipyelastic: c.ElasticMagics.env = {'A': '1', 'B': 2} is left out: env: the value of B is 2: expected text",
        "ipyelastic: c.ElasticMagics.virtual_local_rank = 'perhaps' is left out: virtual_local_rank='perhaps': "
        "expected true or false",
        "ipyelastic: c.ElasticMagics.grace = -1 is left out: grace=-1: expected seconds, 0 or more",
    ]
    assert shown(kernel) == [["seed=5", "administrator"]]
    assert kernel.run("%elastic_run -n 2 rank").value == "[0: 0, 1: 1]"


def test_every_option_may_be_set_in_a_config_file() -> None:
    from ipyelastic.launcher.grammar import OPTIONS
    from ipyelastic.notebook.config import AdministratorDefaults

    names = {option.name.replace("-", "_") for option in OPTIONS if option.is_saved}
    own = {name for name, trait in AdministratorDefaults.class_traits(config=True).items() if trait.help}
    assert names <= own
    assert own == names


@pytest.mark.slow
def test_terminal_ipython_reads_its_config_file(tmp_path: Path, run_root: Path) -> None:
    import os

    profile = tmp_path / "profile_default"
    profile.mkdir()
    (profile / "ipython_config.py").write_text("c = get_config()\nc.ElasticMagics.nproc = 2\n")
    env: dict[str, Any] = {**os.environ, "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1"}
    code = "%load_ext ipyelastic\n%elastic_config\nprint(list(get_ipython().run_line_magic('elastic_run', 'rank')))"
    script = tmp_path / "script.ipy"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(script)],
        capture_output=True, text=True, env=env, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["nproc=2", "administrator", "[0,", "1]"], done.stdout + done.stderr
