"""What people who did not read the README first stumbled over."""

from __future__ import annotations

import pytest

from support.kernels import Kernel


def test_a_function_around_the_magic_lends_its_locals(module_kernel: Kernel) -> None:
    code = "def f(q):\n    values = %elastic_run -n 2 rank * q\n    return values\nq = 100"
    assert module_kernel.run(code).ok
    assert module_kernel.run("f(3)").value == "[0: 0, 1: 3]"


@pytest.mark.parametrize("word", ["{n}", "$n", "{n+0}"])
def test_the_number_of_ranks_may_come_from_a_variable(module_kernel: Kernel, word: str) -> None:
    assert module_kernel.run("n = 3").ok
    assert module_kernel.run(f"%elastic_run -n {word} rank").value == "[0: 0, 1: 1, 2: 2]"


def test_the_value_of_an_environment_option_is_taken_as_it_stands(module_kernel: Kernel) -> None:
    result = module_kernel.run(
        "%%elastic_run -n 1 --env A={n} --env 'B=$n'\nimport os\nos.environ['A'], os.environ['B']"
    )
    assert result.value == "[0: ('{n}', '$n')]"


def test_values_that_are_all_none_are_a_list_that_is_not_shown(module_kernel: Kernel) -> None:
    result = module_kernel.run("x = %elastic_run -n 2 print('a')\nx[0], len(x)")
    assert result.value == "(None, 2)"
    assert module_kernel.run("%elastic_run -n 2 print('a')").value is None


def test_a_comment_may_follow_the_options(module_kernel: Kernel) -> None:
    assert module_kernel.run("%%elastic_run --nproc 2  # two ranks\nrank").value == "[0: 0, 1: 1]"


def test_a_recursion_shows_a_few_of_its_frames(module_kernel: Kernel) -> None:
    result = module_kernel.run("%%elastic_run -n 1\ndef down(n):\n    return down(n + 1)\ndown(0)")
    assert "RecursionError" in result.traceback
    assert result.traceback.count("return down(n + 1)") < 20


@pytest.mark.parametrize("magic", ["elastic_status", "elastic_stop", "elastic_logs"])
def test_small_magics_tell_what_they_do(module_kernel: Kernel, magic: str) -> None:
    result = module_kernel.run(f"%{magic} -h")
    assert result.ok
    assert result.out.strip().endswith(".") or "`" in result.out


def test_arguments_that_are_no_sequence_are_refused(module_kernel: Kernel) -> None:
    result = module_kernel.run("import ipyelastic\nipyelastic.launch(abs, args=5, nproc=1)")
    assert (result.error_name, result.error_value) == (
        "OptionError",
        "args=5: expected a list or tuple of arguments, such as (5,)",
    )


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_time_limit_shows_the_cells_frames_only(module_kernel: Kernel, method: str) -> None:
    code = f"%%elastic_run -n 1 --timeout 0.5 --start-method {method}\nimport time\nwhile True: time.sleep(0.01)"
    result = module_kernel.run(code)
    assert result.error_name == "RunTimedOut"
    assert "ipyelastic" not in result.traceback
    assert "line 3 in <module>" in result.traceback


@pytest.mark.parametrize("above", ["# two ranks", "x = 1", "%elastic_status"])
def test_a_cell_magic_below_the_first_line_says_where_it_belongs(module_kernel: Kernel, above: str) -> None:
    result = module_kernel.run(f"{above}\n%%elastic_run -n 2\nrank")
    said = (
        "UsageError: %%elastic_run belongs on the first line of its cell: not even a comment may stand above it "
        "(%elastic_run, with one %, takes an expression on any line)\n"
    )
    assert (result.out[-len(said) :], result.value, result.traceback) == (said, None, "")


def test_a_cell_magic_in_a_cell_magics_body_is_refused_with_its_line(module_kernel: Kernel) -> None:
    result = module_kernel.run("%%elastic_run -n 1\nx = 1\n%%elastic_run -n 2\nrank")
    assert result.out == (
        "UsageError: line 3: %%elastic_run works in the notebook only, not inside a rank;"
        " move it to a cell of its own\n"
    )


def test_what_an_earlier_cells_ranks_assigned_is_told_to_be_theirs(module_kernel: Kernel) -> None:
    assert module_kernel.run("%%elastic_run -n 1\nmodel = [1, 2]").ok
    result = module_kernel.run("%%elastic_run -n 1\nlen(model)")
    assert (
        "likely  model is not defined in the notebook: its cell was not run, or only ranks ran it\n" in result.traceback
    )
    assert "values of a %%elastic_run cell come home by -o NAME\n" in result.traceback
