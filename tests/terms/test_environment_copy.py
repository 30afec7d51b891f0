"""The copy of the environment that launches are made of is that of now, whoever has changed it how."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ipyelastic.terms import env


def test_it_is_what_os_says_after_every_kind_of_change(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("A_NAME", "1"), ("A_NAME", "2"), ("ÄÖ", "ü\udcff"), ("EMPTY", "")):
        monkeypatch.setenv(name, value)
        assert env.of_this_process() == dict(os.environ)
    monkeypatch.delenv("A_NAME")
    assert env.of_this_process() == dict(os.environ)
    os.environ.update(A_NAME="3")
    assert env.of_this_process()["A_NAME"] == "3"
    os.environ |= {"A_NAME": "4"}
    assert env.of_this_process()["A_NAME"] == os.environ.pop("A_NAME") == "4"
    assert "A_NAME" not in env.of_this_process()


def test_changing_the_copy_changes_nothing() -> None:
    env.of_this_process()["ONLY_HERE"] = "1"
    assert "ONLY_HERE" not in env.of_this_process()
    assert "ONLY_HERE" not in os.environ


def test_a_plain_dict_in_its_place_is_taken_too() -> None:
    code = "import os; from ipyelastic.terms import env; os.environ = {'A': 'b'}; print(env.of_this_process())"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "{'A': 'b'}"
