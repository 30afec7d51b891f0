"""A cell that is run again is not read again, and does what it would do had it been."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipyelastic.launcher.options import RunOptions, parse_line
from ipyelastic.terms.errors import OptionError
from support.kernels import Kernel

_CELL = "%%elastic_run -n 2\nfactor = factor * 2\nprint(word)\nrank + factor\n"


def _values(kernel: Kernel, code: str) -> object:
    result = kernel.run(code, timeout_s=60)
    assert result.ok, result.text
    return result.value


def test_it_has_the_notebooks_values_of_now(kernel: Kernel) -> None:
    kernel.run("factor, word = 1, 'one'")
    assert _values(kernel, _CELL) == "[0: 2, 1: 3]"
    kernel.run("factor = 10")
    assert _values(kernel, _CELL) == "[0: 20, 1: 21]"
    kernel.run("del word")
    result = kernel.run(_CELL, timeout_s=60)
    assert not result.ok
    assert "name 'word' is not defined" in result.text
    assert "print(word)" in result.text
    kernel.run("word = 'again'")
    assert _values(kernel, _CELL) == "[0: 20, 1: 21]"


def test_a_semicolon_and_a_variable_for_the_values_are_heeded_each_time(kernel: Kernel) -> None:
    body = "a = rank\na + 5;\n"
    for _ in range(2):
        assert _values(kernel, f"%%elastic_run -n 2\n{body}") is None
        assert _values(kernel, f"%%elastic_run -n 2 -o kept\n{body}") is None
        assert _values(kernel, "list(kept)") == "[5, 6]"


def test_a_transformer_that_somebody_adds_or_takes_away_is_asked(kernel: Kernel) -> None:
    cell = "%%elastic_run -n 1\nanswer = 1\nanswer\n"
    add = (
        "def twice(lines):\n    return [line.replace('answer = 1', 'answer = 2') for line in lines]\n"
        "get_ipython().input_transformers_post.append(twice)\n"
    )
    assert _values(kernel, cell) == "[0: 1]"
    kernel.run(add)
    assert _values(kernel, cell) == "[0: 2]"
    kernel.run("get_ipython().input_transformers_post.remove(twice)")
    assert _values(kernel, cell) == "[0: 1]"


def test_a_magic_in_it_is_refused_each_time(kernel: Kernel) -> None:
    for _ in range(2):
        result = kernel.run("%%elastic_run -n 1\nx = 1\n%timeit x\n", timeout_s=60)
        assert "%timeit works in the notebook only" in result.text


def test_a_future_import_changes_what_the_same_text_says(kernel: Kernel) -> None:
    cell = "%%elastic_run -n 1\ndef f(x: undefined_name): pass\nlist(f.__annotations__.values())\n"
    assert not kernel.run(cell, timeout_s=60).ok
    kernel.run("from __future__ import annotations")
    assert _values(kernel, cell) == "[0: ['undefined_name']]"


def test_options_are_checked_in_the_folder_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        wanted = str(tmp_path / name / "logs")
        assert RunOptions.from_keywords(nproc=1, log_dir="logs").log_dir == wanted
        assert parse_line("-n 1 --log-dir logs", "%%elastic_run").options.log_dir == wanted


def test_options_that_are_equal_and_not_the_same_are_told_apart() -> None:
    assert RunOptions.from_keywords(nproc=1).nproc == 1
    with pytest.raises(OptionError, match="nproc=True"):
        RunOptions.from_keywords(nproc=True)
    assert type(RunOptions.from_keywords(nproc=1, grace=5).grace_s) is float
    assert RunOptions.from_keywords(nproc=1, seed=0).seed == 0
    with pytest.raises(OptionError, match="seed=False"):
        RunOptions.from_keywords(nproc=1, seed=False)
