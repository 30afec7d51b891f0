"""README.md tells the truth: its scripts run, its cells run in a real kernel, and both print what it says they print.

```python   a whole script, run from an empty folder
```ipython  a cell; all cells of the page run in order in one kernel
```text     right after one of these: what it prints, `...` stands for anything
```console  its `$ ipyelastic run` lines are run, beside the files that cells above write; below each is what it prints
`%magic x`  in a sentence: run as it stands, as SPOKEN says, in a notebook that has the names it uses
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from ipyelastic.launcher.grammar import OPTIONS

README = Path(__file__).resolve().parents[2] / "README.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    code: str
    prints: str | None


def blocks():
    """Every fenced block; `prints` is the ```text that follows with at most one paragraph of prose between."""
    page = README.read_text(encoding="utf-8")
    found = list(FENCED.finditer(page))
    for here, following in zip(found, [*found[1:], None], strict=True):
        between = page[here.end() : following.start()].strip() if following else ""
        is_answer = following and following[1] == "text" and "\n\n" not in between and "#" not in between
        line = page.count("\n", 0, here.start()) + 1
        yield Block(line, here[1], here[2], following[2] if is_answer else None)


def by_rank(text):
    """Ranks print in any order: sort neighbours that begin with `[rank N`, and keep each rank's own order."""
    lines, bundle = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("[rank "):
            bundle.append(line)
            continue
        lines += sorted(bundle, key=lambda each: each.split()[1])
        lines.append(line)
        bundle = []
    return "\n".join(lines).strip() + "\n"


def assert_prints(got, block):
    want, got = by_rank(block.prints), by_rank(got)
    if not doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
        assert got == want, f"README.md:{block.line}"


SCRIPTS = [block for block in blocks() if block.language == "python"]
CELLS = [block for block in blocks() if block.language == "ipython"]


def test_the_page_has_scripts_and_cells():
    assert len(SCRIPTS) >= 2
    assert len(CELLS) >= 2
    assert {block.language for block in blocks()} <= {"python", "ipython", "text", "console"}


@pytest.mark.slow
@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: f"line {block.line}")
def test_script_runs_as_it_stands(block, tmp_path):
    (tmp_path / "script.py").write_text(block.code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    if block.prints is not None:
        assert_prints(ended.stdout, block)


@pytest.mark.slow
def test_cells_run_in_order_in_one_kernel(execute, printed, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block.code.strip()) for block in CELLS])
    nbformat.write(notebook, tmp_path / "readme.ipynb")
    ended = execute(tmp_path / "readme.ipynb")
    assert ended.returncode == 0, ended.text
    executed = nbformat.read(ended.folder / "readme.ipynb", as_version=4)
    for block, cell in zip(CELLS, executed.cells, strict=True):
        if block.prints is not None:
            assert_prints(printed(cell), block)


COMMANDS = [
    (shlex.split(command), prints)
    for block in blocks()
    if block.language == "console"
    for command, prints in re.findall(r"^\$ ipyelastic (run .*)\n((?:[^$].*\n)*)", block.code, re.MULTILINE)
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "prints"), COMMANDS, ids=lambda value: " ".join(value)[:30])
def test_command_prints_what_stands_below_it(words, prints, tmp_path):
    for block in CELLS:
        if block.code.startswith("%%writefile "):
            head, _, text = block.code.partition("\n")
            (tmp_path / head.split()[1]).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ipyelastic", *words]
    ended = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert by_rank(ended.stdout) == by_rank(prints)


# What sentences tell a reader to type, each with what it prints; `...` stands for anything.
SPOKEN = {
    "%load_ext ipyelastic": "",
    "%elastic_config nproc=4 env.A=1": "",
    "%elastic_config": "env.A=1   notebook\nnproc=4   notebook\n",
    "values = %elastic_run -n {n} f(x)": "",
    "%elastic_run -n 2 train(cfg)": "[0: 1, 1: 2]\n",
    "%elastic_run -n 2 -m package.train": "[rank 0] trains\n[rank 1] trains\n",
    'launch("train.py", args=("--lr", "1e-3"))': "...",
    "%elastic_run -h": "...usage: %elastic_run...",
    "%elastic_status": "<Run ...fork server ...",
    "%elastic_stop": "...",
    "%elastic_logs 1": "...stdout: ...",
    "%elastic_panel": "form: ...",
    "concurrent.futures.wait([one, other])": "DoneAndNotDoneFutures(...)\n",
    "run.add_done_callback(f)": "",
    "run.result()": "[0: None, 1: None]\n",
    "display(run)": "...",
    "run.attempts": "...",
    "run.log_dir": "'...'\n",
    "ipyelastic.last_run().log_dir": "'...'\n",
    "%%elastic_run --ui panel": "...",
}
NOT_TO_BE_TYPED = {"%elastic_panel RUN", "%%elastic_run", "%elastic_run", "%elastic_logs", "%debug", "%%px", "%"}
STAGE = """
import concurrent.futures, os, pathlib
import ipyelastic
from ipyelastic import launch
n, x, cfg = 2, 3, 1
f = lambda value: None
train = lambda cfg: cfg + rank
pathlib.Path("train.py").write_text("pass")
pathlib.Path("package").mkdir()
pathlib.Path("package/train.py").write_text("print('trains')")
"""
RUNS = "run = launch(f, args=(1,), nproc=2)\none, other = launch(f, args=(1,), nproc=1), launch(f, args=(1,), nproc=1)"


def test_every_magic_in_a_sentence_is_tried():
    prose = FENCED.sub("", README.read_text(encoding="utf-8"))
    spoken = set(re.findall(r"(?<!`)`((?:\w+ = )?%[^`]*)`(?!`)", prose))
    assert spoken - NOT_TO_BE_TYPED - set(SPOKEN) == set()
    assert {words for words in SPOKEN if f"`{words}`" not in prose} == set()


@pytest.mark.slow
def test_what_sentences_tell_to_type_does_what_they_say(execute, printed, tmp_path):
    cells = [STAGE, *SPOKEN]
    cells.insert(cells.index("concurrent.futures.wait([one, other])"), RUNS)
    bodies = [f"{cell}\nrank" if cell.startswith("%%") else cell for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(body) for body in bodies])
    nbformat.write(notebook, tmp_path / "spoken.ipynb")
    ended = execute(tmp_path / "spoken.ipynb")
    assert ended.returncode == 0, ended.text
    executed = nbformat.read(ended.folder / "spoken.ipynb", as_version=4)
    for words, cell in zip(cells, executed.cells, strict=True):
        want, got = by_rank(SPOKEN.get(words, "...")), by_rank(printed(cell))
        assert doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS), f"{words} printed {got!r}"


def test_the_page_has_commands():
    assert len(COMMANDS) >= 2


@pytest.mark.slow
def test_the_failure_is_what_the_quickstart_shows(quickstart, printed):
    executed = nbformat.read(quickstart.folder / "quickstart.ipynb", as_version=4)
    (cell,) = [cell for cell in executed.cells if "raises-exception" in cell.metadata.get("tags", [])]
    shown = printed(cell).splitlines()
    (failure,) = [block for block in blocks() if block.code.startswith("rank 1 of 2 failed")]
    for line in filter(None, map(str.rstrip, failure.code.splitlines())):
        pattern = ".*".join(map(re.escape, line.split("...")))
        assert any(re.fullmatch(pattern, each.rstrip()) for each in shown), line


def test_the_first_screen_has_what_a_stranger_looks_for():
    page = README.read_text(encoding="utf-8")
    title, sentence, picture, rest = page.split("\n\n", 3)
    assert title == "# ipyelastic"
    assert sentence.count(". ") == 0
    assert re.fullmatch(r"!\[[^\]]+\]\(notebooks/pictures/failure\.png\)", picture)
    first = rest[: rest.index("\n## ")]
    wanted = [
        "pip install",
        "%load_ext ipyelastic",
        "%%elastic_run --nproc 2",
        "**Where it works.**",
        "torchrun",
        "Binder",
    ]
    assert [words for words in wanted if words not in first] == []
    code = [block.code for block in CELLS[:2]]
    assert sum(len(each.strip().splitlines()) for each in code) == 8


def test_links_to_our_files_and_headings_are_good(root):
    page = README.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", page, re.M)
    }
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page):
        path, _, anchor = link.partition("#")
        assert (root / path).exists(), link
        assert not anchor or path or anchor in headings, link


def test_every_notebook_and_option_is_named(root):
    page = README.read_text(encoding="utf-8")
    notebooks = [path.name for path in (root / "notebooks").glob("*.ipynb")]
    assert [name for name in notebooks if f"(notebooks/{name})" not in page] == []
    options = {spelling for option in OPTIONS for spelling in option.spellings[:1]}
    assert sorted(spelling for spelling in options if spelling not in page) == []
