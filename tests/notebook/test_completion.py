"""Tab, in a real kernel (complete_request) and in a shell without one, with jedi and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.kernels import Kernel
from support.waiting import wait_until

Complete = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def notebook(module_kernel: Kernel, notebook_folder: Path) -> Kernel:
    """A kernel with some names and files."""
    for folder in ("logs_here", "other"):
        (notebook_folder / folder).mkdir()
    (notebook_folder / "train_script.py").touch()
    assert module_kernel.run("import os, ipyelastic as ie\ntrain_model = train_data = len\ntable = {'key_1': 1}").ok
    assert module_kernel.run("def train_cell(): ...").ok
    return module_kernel


@pytest.fixture(params=[True, False], ids=["jedi", "no jedi"])
def kernel(notebook: Kernel, request: pytest.FixtureRequest) -> Kernel:
    notebook.run(f"%config IPCompleter.use_jedi = {request.param}")
    return notebook


def asked(kernel: Kernel, cell: str) -> tuple[list[str], str]:
    """The matches at `|` in a cell, and the text they would replace."""
    at = cell.index("|")
    cell = cell.replace("|", "")
    sent = kernel.client.complete(cell, at)
    while True:
        reply = kernel.client.get_shell_msg(timeout=30)
        if reply["parent_header"].get("msg_id") == sent:
            break
    content = reply["content"]
    assert content["status"] == "ok"
    return content["matches"], cell[content["cursor_start"] : content["cursor_end"]]


@pytest.mark.parametrize(
    ("cell", "matches", "replaced"),
    [
        ("%%elastic_run --st|", ["--start-method", "--stop-signal"], "--st"),
        ("%elastic_run --st|", ["--start-method", "--stop-signal"], "--st"),
        ("%%elastic_run -n 2 --st|\nprint(1)", ["--start-method", "--stop-signal"], "--st"),
        ("x = 1\nvalues = %elastic_run -n 2 --no|", ["--no-virtual-local-rank"], "--no"),
        ("%%elastic_run --num|", ["--numa", "--num-processes", "--numa-binding"], "--num"),
        ("%%elastic_run --b|g -n 2\n1", ["--bg"], "--b"),
        ("%elastic_run --start-method s|", ["spawn"], "s"),
        ("%elastic_run --start-method=|", ["forkserver", "spawn", "fork"], ""),
        ("%%elastic_run --nproc a|", ["auto"], "a"),
        ("%%elastic_run -n |", ["auto", "gpu", "cpu"], ""),
        ("%%elastic_run --ui |", ["auto", "panel", "text", "none"], ""),
        ("%%elastic_run --engine |", ["local", "here"], ""),
        ("%%elastic_run --stop-signal SIGU|", ["SIGURG", "SIGUSR1", "SIGUSR2"], "SIGU"),
        ("%%elastic_run --stop-signal sigusr|", ["SIGUSR1", "SIGUSR2"], "sigusr"),
        ("%%elastic_run --numa c|", ["core-complex"], "c"),
        ("%%elastic_run --gpus f|", ["free"], "f"),
        ("%%elastic_run --log-dir lo|", ["logs_here/"], "lo"),
        ("%elastic_run -n 2 train_m|", ["train_model"], "train_m"),
        ("%elastic_run train_m|", ["train_model"], "train_m"),
        ("y = %elastic_run -n 2 f(train_m|", ["train_model"], "train_m"),
        ("%elastic_config np|", ["nproc="], "np"),
        ("%elastic_config nproc=2 start|", ["start-method="], "start"),
        ("%elastic_config start_|", ["start_method="], "start_"),
        ("%elastic_config start_method=s|", ["spawn"], "s"),
        ("%elastic_config virtual-local-rank=|", ["true", "false"], ""),
        ("%elastic_config en|", ["env.", "engine="], "en"),
        ("%elastic_config --|", ["--reset"], "--"),
        ("%elastic_stop a|", ["all"], "a"),
        ("%elastic_status |", ["--help"], ""),
        ("%elastic_panel |", ["train_cell"], ""),
        ("%elastic_panel train_|", ["train_cell"], "train_"),
    ],
)
def test_options_values_and_names_are_offered(kernel: Kernel, cell: str, matches: list[str], replaced: str) -> None:
    found, where = asked(kernel, cell)
    assert (sorted(found), where) == (sorted(matches), replaced)


def test_all_options_are_offered_after_the_magics_name(kernel: Kernel) -> None:
    for cell in ("%%elastic_run |", "%elastic_run |"):
        found, _ = asked(kernel, cell)
        assert found[:5] == ["-n", "--nproc", "--gpus", "-o", "--out"]
        assert {"--bg", "--timeout", "--help", "--virtual-local-rank"} < set(found)
        assert ("train_model" in found) == (not cell.startswith("%%"))
        assert "abs" not in found


def test_names_and_files_both_are_offered_where_code_begins(kernel: Kernel) -> None:
    found, _ = asked(kernel, "%elastic_run -n 2 train_|")
    assert {"train_model", "train_data"} <= set(found)


def test_attributes_are_offered_after_a_dot(kernel: Kernel) -> None:
    found, where = asked(kernel, "%elastic_run -n 2 os.getpi|")
    assert [(where.rpartition(".")[0] + "." + name).lstrip(".").rpartition(".")[2] for name in found] == ["getpid"]


def test_live_runs_ranks_and_saved_names_are_offered(kernel: Kernel) -> None:
    kernel.run("import signal\nbg = ie.launch(signal.pause, nproc=3)")
    try:
        run_id = kernel.value("bg.run_id")
        assert asked(kernel, "%elastic_stop |")[0] == [run_id, "all"]
        assert asked(kernel, "%elastic_logs |")[0] == ["0", "1", "2"]
        assert asked(kernel, "%elastic_panel |")[0] == ["train_cell", run_id]
        kernel.run("%elastic_config nproc=2 env.HOME_1=x")
        assert asked(kernel, "%elastic_config --reset |")[0] == ["env.HOME_1", "nproc"]
    finally:
        kernel.run("%elastic_config --reset\n%elastic_stop")
    wait_until(lambda: asked(kernel, "%elastic_stop a|")[0] == ["all"], 20, "the run is gone")


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        ("%elastic_r|", "%elastic_run"),
        ("%%elastic_r|", "%%elastic_run"),
        ("os.getpi|", "getpid"),
        ("train_m|", "train_model"),
        ("%%elastic_run -n 2\ntrain_m|", "train_model"),
        ("%%elastic_run -n 2\nx = os.getpi|", "getpid"),
        ("table['ke|", "key_1"),
        ("open('train_s|", "train_script.py"),
        ("%%timeit train_m|", "train_model"),
        ("# %elastic_run --st|", None),
        ("'%elastic_run --st|", None),
        ("%%time\n%elastic_run --tim|", "--timeout"),
        ("%%elastic_run -n 2\n%elastic_run --tim|", None),
    ],
)
def test_completion_of_everything_else_is_as_before(kernel: Kernel, cell: str, match: str | None) -> None:
    with_ours = asked(kernel, cell)
    if match is None:
        assert not [word for word in with_ours[0] if word.startswith("--")]
    elif "timeit" not in cell or not kernel.value("get_ipython().Completer.use_jedi"):  # jedi knows no %%timeit
        assert [
            word for word in with_ours[0] if word.strip("'\"").rpartition(".")[2] in (match, match.rpartition(".")[2])
        ]
    if match in ("--timeout", "%elastic_run", "%%elastic_run"):
        return
    matchers = "get_ipython().Completer.custom_matchers"
    kernel.run(f"_ours = {matchers}.pop()")
    try:
        without, where = asked(kernel, cell)
        assert (_listed(without), where) == (_listed(with_ours[0]), with_ours[1])
    finally:
        kernel.run(f"{matchers}.append(_ours)")


def _listed(words: list[str]) -> list[str]:
    """Without what this test's own cells leave in the notebook."""
    return sorted(word for word in words if not word.startswith("_"))


def test_completion_is_offered_once_and_goes_with_the_extension(new_kernel: Callable[..., Kernel]) -> None:
    fresh = new_kernel()
    fresh.run("%load_ext ipyelastic\n%reload_ext ipyelastic")
    assert asked(fresh, "%%elastic_run --se|")[0] == ["--seed"]
    count = "len(get_ipython().Completer.custom_matchers)"
    assert fresh.value(count) == 1
    fresh.run("%unload_ext ipyelastic")
    assert fresh.value(count) == 0
    assert "--seed" not in asked(fresh, "%%elastic_run --se|")[0]


_TERMINAL = """
import json, sys, warnings; warnings.simplefilter('ignore')
from IPython.core.completer import provisionalcompleter
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance(simple_prompt=True)
shell.run_cell('%load_ext ipyelastic'); shell.run_cell('train_model = 1')
found = {}
for jedi in (True, False):
    shell.Completer.use_jedi = jedi
    for text in json.loads(sys.argv[1]):
        with provisionalcompleter():
            found[text + str(jedi)] = sorted({c.text for c in shell.Completer.completions(text, len(text))})
shell.run_cell('%unload_ext ipyelastic')
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_terminal_offers_the_same(tmp_path: Path, run_root: Path) -> None:
    import os

    expected = {
        "%%elastic_run --st": ["--start-method", "--stop-signal"],
        "%elastic_run --nproc a": ["auto"],
        "%elastic_run -n 2 train_m": ["train_model"],
        "%elastic_config np": ["nproc="],
    }
    env = {**os.environ, "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _TERMINAL, json.dumps(list(expected))],
        capture_output=True, text=True, env=env, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {text + jedi: words for text, words in expected.items() for jedi in ("True", "False")}
