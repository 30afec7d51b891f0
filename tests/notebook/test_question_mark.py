"""What `?` and Tab show in a real kernel for each public name and each magic."""

from __future__ import annotations

import re
from typing import Any

import pytest

import ipyelastic
from support.kernels import Kernel

MAGICS = ["run", "config", "panel", "status", "stop", "logs"]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    assert module_kernel.run("import ipyelastic\nimport ipyelastic as ie").ok
    return module_kernel


def _reply(kernel: Kernel, sent: str) -> dict[str, Any]:
    while True:
        reply = kernel.client.get_shell_msg(timeout=30)
        if reply["parent_header"].get("msg_id") == sent:
            content: dict[str, Any] = reply["content"]
            assert content["status"] == "ok"
            return content


def shown(kernel: Kernel, name: str) -> str:
    """What `name?` shows, without colours."""
    content = _reply(kernel, kernel.client.inspect(name, len(name), 0))
    assert content["found"], name
    return re.sub(r"\x1b\[[0-9;]*m", "", content["data"]["text/plain"])


def offered(kernel: Kernel, text: str) -> list[str]:
    """What Tab offers at the end of a text, the last part of dotted names."""
    content = _reply(kernel, kernel.client.complete(text, len(text)))
    return [match.rpartition(".")[2] for match in content["matches"]]


def test_names_can_be_asked_for_before_their_first_use(kernel: Kernel) -> None:
    loaded = kernel.value("[name for name in ipyelastic.__all__ if name in vars(ipyelastic)]")
    fresh = [name for name in ipyelastic.__all__ if name not in loaded]
    assert len(fresh) > 5, "nothing is left to be loaded by a question"
    for name in fresh:
        assert "Docstring" in shown(kernel, f"ie.{name}") or "Init docstring" in shown(kernel, f"ie.{name}"), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("launch", ["timeout:", "start_method:", "max_restarts:", "Raises:", "OptionError", "list of length nproc"]),
        ("last_run", ["None before the first"]),
        ("notebook_launcher", ["num_processes:", "mixed_precision:", "Source: accelerate", "by rank"]),
        ("Run", ["run.result()", "Attributes:", "log_dir"]),
        ("Results", ["list of length nproc, by rank"]),
        ("ChildFailedError", ["get_first_failure", "failures:", "Source: torch 2.13"]),
        ("IpyelasticError", ["everything that ipyelastic raises"]),
        ("OptionError", ["names the value"]),
        ("ProcessFailure", ["exitcode", "exception:", "seconds", "Source: torch 2.13"]),
        ("RunCancelled", ["run.cancel()", "results:"]),
        ("RunStopped", ["%elastic_stop", "results:"]),
        ("RunTimedOut", ["timeout_s:", "stacks:"]),
        ("ServerError", ["fork server"]),
        ("UnpicklableError", ["type_name:", "remedy:"]),
        ("load_ipython_extension", ["%%elastic_run", "shell:"]),
        ("unload_ipython_extension", ["runs are stopped"]),
    ],
)
def test_question_mark_tells_each_public_name(kernel: Kernel, name: str, words: list[str]) -> None:
    text = shown(kernel, f"ipyelastic.{name}")
    assert [word for word in words if word not in text] == []
    assert re.search(r"^File: +\S*ipyelastic/", text, re.MULTILINE)


def test_each_public_name_is_asked_for() -> None:
    (marks,) = [mark for mark in test_question_mark_tells_each_public_name.pytestmark if mark.name == "parametrize"]
    assert sorted(name for name, _ in marks.args[1]) == sorted(ipyelastic.__all__)


def test_the_package_and_an_open_call_are_told(kernel: Kernel) -> None:
    assert "%load_ext ipyelastic" in shown(kernel, "ipyelastic")
    assert shown(kernel, "ie.launch(max, ") == shown(kernel, "ie.launch")


def test_the_signature_of_launch_has_every_option_with_its_default(kernel: Kernel) -> None:
    signature, _, _ = shown(kernel, "ie.launch").partition("Docstring:")
    for words in ("nproc:", "timeout: 'float | None' = None", "start_method: 'str' = 'forkserver'", "SIGTERM", "grace"):
        assert words in signature
    assert "**options" not in signature


@pytest.mark.parametrize(("sign", "name"), [("%%", "run"), *(("%", name) for name in MAGICS)])
def test_question_mark_tells_each_magic(kernel: Kernel, sign: str, name: str) -> None:
    text = shown(kernel, f"{sign}elastic_{name}")
    words = {
        "run": ["Run this cell in N fresh processes", "--nproc N", "--timeout S", "%elastic_run -n 2 train(cfg)"],
        "config": ["%elastic_config nproc=4", "--reset", "start-method"],
        "panel": ["[RUN|FUNCTION]", "a form"],
        "status": ["line per run", "last_run()"],
        "stop": ["[RUN|all]", "--grace"],
        "logs": ["[RANK]", "50 lines"],
    }[name]
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("name", MAGICS[1:])
def test_help_shows_what_the_question_mark_shows(kernel: Kernel, name: str) -> None:
    result = kernel.run(f"%elastic_{name} --help")
    assert result.ok, result.text
    lines = [line.strip() for line in result.out.strip().splitlines()]
    assert len(lines) >= 3
    text = shown(kernel, f"%elastic_{name}")
    assert [line for line in lines if line not in text] == []


def test_methods_of_a_run_are_told(kernel: Kernel) -> None:
    assert kernel.run("run = ie.launch(max, args=(1, 2), nproc=1)\n_ = run.result()\nview = run.ranks[0]").ok
    for name, words in {
        "run": ["<Run ", "run.results"],
        "run.result": ["timeout: Seconds", "list of length nproc", "ChildFailedError", "RunStopped"],
        "run.wait": ["seconds", "whether it has come"],
        "run.exception": ["TimeoutError"],
        "run.results": ["`{rank: value}`"],
        "run.stop": ["grace_s: Seconds", "signum:"],
        "run.kill": ["rank", "ValueError"],
        "run.restart": ["returns the new run", "RuntimeError"],
        "run.cancel": ["Stop the run"],
        "run.add_done_callback": ["fn(run)"],
        "view": ["RankView", "exitcode"],
        "view.tail": ["lines", "oldest first"],
        "ie.Run.status": ["`starting`"],
        "ie.Run.log_dir": ["run.json"],
    }.items():
        text = shown(kernel, name)
        assert [word for word in words if word not in text] == [], (name, text)


@pytest.mark.parametrize("uses_jedi", [True, False], ids=["jedi", "no jedi"])
def test_tab_offers_public_names_methods_and_options(kernel: Kernel, uses_jedi: bool) -> None:
    kernel.run(f"%config IPCompleter.use_jedi = {uses_jedi}")
    kernel.run("run = ie.launch(max, args=(1, 2), nproc=1)\n_ = run.result()")
    kernel.run("view, board, snapshot, options = run.ranks[0], run.board, run.board.snapshot(), run.options")
    kernel.run("attempt, error = run.attempts[0], ie.launch(int, args=('x',), nproc=1, ui='none').exception()")
    kernel.run("rank, failure = error.get_first_failure()\nraised = failure.exception")
    assert {"launch", "last_run"} <= set(offered(kernel, "ipyelastic.la"))
    assert {"result", "results"} <= set(offered(kernel, "run.res"))
    for text, name in {
        "run.sta": "status",
        "run.add_d": "add_done_callback",
        "view.stdo": "stdout_path",
        "board.snap": "snapshot",
        "snapshot.ran": "ranks",
        "options.max_re": "max_restarts",
        "attempt.why": "why_not_restarted",
        "error.get_f": "get_first_failure",
        "failure.signal_n": "signal_name",
        "raised.type_n": "type_name",
    }.items():
        assert offered(kernel, text) == [name]
    assert set(ipyelastic.__all__) <= set(offered(kernel, "from ipyelastic import "))
    assert offered(kernel, "from ipyelastic import notebook_la") == ["notebook_launcher"]
    assert offered(kernel, "%%elastic_r") == ["%%elastic_run"]
    assert offered(kernel, "%elastic_s") == ["%elastic_status", "%elastic_stop"]
    assert "max_restarts=" in offered(kernel, "ie.launch(max, max_re")
    assert not [name for name in offered(kernel, "ipyelastic.") if name.startswith("_") and not name.startswith("__")]
