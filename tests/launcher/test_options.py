"""One parser for every face: what a line means, and what is refused at the door."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.launcher.grammar import OPTIONS
from ipyelastic.launcher.options import HelpWanted, RunOptions, field_of_keyword, new_parser, parse_line
from ipyelastic.terms.errors import IpyelasticError, OptionError

DEFAULTS = RunOptions()


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("", {}),
        ("   ", {}),
        ("-n 4", {"nproc": 4}),
        ("-n4", {"nproc": 4}),
        ("-n=4", {"nproc": 4}),
        ("--nproc +4", {"nproc": 4}),
        ("--nproc-per-node gpu", {"nproc": "gpu"}),
        ("--num-processes=auto", {"nproc": "auto"}),
        ("--nproc_per_node=2", {"nproc": 2}),
        ("--nproc_per_node gpu --start_method spawn", {"nproc": "gpu", "start_method": "spawn"}),
        ("--log_dir=/a_b --stop_signal INT", {"log_dir": "/a_b", "stop_signal": 2}),
        ("--env A_B=c_d", {"env": {"A_B": "c_d"}}),
        ("--virtual_local_rank", {"virtual_local_rank": True}),
        ("--standalone --nnodes=1 --nproc_per_node 2", {"nproc": 2}),
        ("--max_restarts 3", {"max_restarts": 3}),
        (
            "--shutdown-timeout 30 --local_ranks_filter 0,2 --numa-binding socket",
            {"grace_s": 30.0, "shown": frozenset({0, 2}), "numa": "socket"},
        ),
        ("--nnodes 1:1 --standalone", {}),
        ("-n 2 -n 3", {"nproc": 3}),
        ("--timeout 1.5", {"timeout_s": 1.5}),
        ("--timeout 1e3", {"timeout_s": 1000.0}),
        ("--start-method spawn", {"start_method": "spawn"}),
        ("--env A=1 --env B='x y'", {"env": {"A": "1", "B": "x y"}}),
        ("--seed 0", {"seed": 0}),
        ("--grace 0", {"grace_s": 0.0}),
        ("--stop-signal int", {"stop_signal": int(signal.SIGINT)}),
        ("--stop-signal SIGUSR1", {"stop_signal": int(signal.SIGUSR1)}),
        ("--stop-signal 9", {"stop_signal": 9}),
        ("--ranks 0,2-3", {"shown": frozenset({0, 2, 3})}),
        ("--ranks '0, 2'", {"shown": frozenset({0, 2})}),
        ("--log-dir /a/../b", {"log_dir": "/b"}),
        ("--ui text", {"ui": "text"}),
        ("--engine here", {"engine": "here"}),
        ("--gpus 3,0-1", {"gpus": (3, 0, 1)}),
        ("--gpus=FREE", {"gpus": "free"}),
        ("--numa core-complex", {"numa": "core-complex"}),
        ("--virtual-local-rank", {"virtual_local_rank": True}),
        ("--virtual-local-rank --no-virtual-local-rank", {}),
        ("--log-dir ~/x", {"log_dir": os.path.expanduser("~/x")}),
        ("--log-dir here", {"log_dir": os.path.abspath("here")}),
        ("--log-dir 'a b'", {"log_dir": os.path.abspath("a b")}),
    ],
)
def test_line_sets_what_it_names_and_nothing_else(line: str, changed: dict[str, Any]) -> None:
    parsed = parse_line(line, "%%elastic_run")
    assert parsed.options == dataclasses.replace(DEFAULTS, **changed)
    assert (parsed.out, parsed.code) == (None, "")


@pytest.mark.parametrize(
    ("line", "out", "code"),
    [
        ("train(cfg)", None, "train(cfg)"),
        ("-n 2 train(cfg, lr=-1)", None, "train(cfg, lr=-1)"),
        ("-n 2 f('a b', \"c\")  ", None, "f('a b', \"c\")"),
        ("-n 2 'text' + x", None, "'text' + x"),
        ("-n 2 x -n 3", None, "x -n 3"),
        ("-n 2 {'a': 1}", None, "{'a': 1}"),
        ("-n 2 [1, 2]", None, "[1, 2]"),
        ('-n 2 f("it\'s")', None, 'f("it\'s")'),
        ("-n 2 it's", None, "it's"),
        ("-n 2 print('#')  # comment", None, "print('#')  # comment"),
        ("-n 2 a\\b", None, "a\\b"),
        ("-n 2 - 1", None, "- 1"),
        ("-o values -n 2 f()", "values", "f()"),
        ("--out=values f()", "values", "f()"),
        ("-n 2 -m pkg.train", None, "-m pkg.train"),
        ("-n 2 train.py --lr 1e-3", None, "train.py --lr 1e-3"),
        ("--env A='x y' f()", None, "f()"),
        ("--seed 1\tf()", None, "f()"),
        ("--standalone --nnodes 1 --nproc_per_node=2 train.py --log_dir x_y", None, "train.py --log_dir x_y"),
    ],
)
def test_code_after_the_options_is_taken_as_it_stands(line: str, out: str | None, code: str) -> None:
    parsed = parse_line(line, "%elastic_run")
    assert (parsed.out, parsed.code) == (out, code)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-n 0", "nproc=0: expected 1 to 1024 ranks"),
        ("-n 1025", "nproc=1025: expected 1 to 1024 ranks"),
        ("--nproc ''", 'nproc=\'\': expected a number, "cpu", "gpu" or "auto"'),
        ("--nrpoc 2 f()", "--nrpoc: no such option, did you mean --nproc?"),
        ("--seed", "--seed: expected a value, for example --seed 1"),
        ("-n --bg", "-n: expected a value, for example -n 4"),
        ("--out=--", "-o: expected a value, for example -o losses"),
        ("--env=-- --env A=1", "--env: expected a value, for example --env A=1"),
        (
            "--stop-signal \u00b2",
            "signal '\u00b2': expected a name such as SIGTERM, SIGINT or SIGUSR1, did you mean SIGIO?",
        ),
        ("'--se\ned' 1", "'--se\\ned': no such option, did you mean --seed?"),
        ("--bg=1", "--bg: takes no value, not '1'"),
        ("--virtual-local-rank=1", "--virtual-local-rank: takes no value, not '1'"),
        ("--gpus 0,x", "gpus='0,x': expected GPU numbers such as 0,2-3, or free"),
        ("--gpus fre", "gpus='fre': expected GPU numbers such as 0,2-3, or free, did you mean free?"),
        ("--gpus 1,0-2", "gpus='1,0-2': GPU 1 is named twice"),
        ("--gpus -1", "gpus='-1': expected GPU numbers such as 0,2-3, or free"),
        ("--gpus 0-99999999999", "gpus='0-99999999999': expected GPU numbers such as 0,2-3, or free"),
        ("--numa nodes", "numa='nodes': expected node, socket, exclusive or core-complex, did you mean node?"),
        (
            "--gpus 0 --env CUDA_VISIBLE_DEVICES=0",
            "gpus and env CUDA_VISIBLE_DEVICES both say which GPUs ranks see: give one of them",
        ),
        ("--grace inf", "grace='inf': expected seconds, 0 or more"),
        ("--timeout -0", "timeout='-0': expected seconds, more than 0"),
        ("--env '1'", "--env '1': expected NAME=VALUE"),
        ("--ranks ''", "--ranks '': expected ranks such as 0,2-3"),
        ("--ranks 0,", "--ranks '0,': expected ranks such as 0,2-3"),
        ("--ranks -1", "--ranks '-1': expected ranks such as 0,2-3"),
        (
            "--stop-signal TREM",
            "signal 'TREM': expected a name such as SIGTERM, SIGINT or SIGUSR1, did you mean SIGTERM?",
        ),
        ("-o a.b", "-o 'a.b': expected a variable's name"),
        ("-o 'open", '"-o \'open": no closing quotation'),
        ("--nnodes=2", "--nnodes 2: not yet (many machines); 1 is taken"),
        ("--nnodes 1:4 f()", "--nnodes 1:4: not yet (many machines); 1 is taken"),
        ("--nnodes", "--nnodes: expected a value, for example --nnodes 1"),
        ("--standalone=1", "--standalone: takes no value, not '1'"),
        ("--max-restarts -1 f()", "max_restarts='-1': expected a whole number, 0 or more"),
        ("--max-restarts some f()", "max_restarts='some': expected a whole number, 0 or more"),
        ("--max-restarts", "--max-restarts: expected a value, for example --max-restarts 3"),
        ("--ui txt f()", "ui='txt': expected auto, panel, text or none, did you mean text?"),
        ("--engine ray f()", "engine='ray': not yet (many machines are not there yet)"),
    ],
)
def test_bad_line_is_refused_with_its_value(line: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_line(line, "%elastic_run")
    assert str(caught.value) == words
    assert isinstance(caught.value, (ValueError, IpyelasticError))


def test_help_shows_the_three_most_used_first_with_an_example_each() -> None:
    text = new_parser("%%elastic_run").format_help()
    begins = [
        text.index(words)
        for words in ("the three most used:", "\n  -n, --nproc N", "\n  --gpus G", "\n  -o, --out NAME")
    ]
    assert begins == sorted(begins)
    assert begins[-1] < text.index("output:")
    for example in ("for example -n 4", "for example --gpus 0,2-3", "for example -o losses"):
        assert example in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    assert text.endswith("\ntorchrun's spellings are taken too: --nproc_per_node and so on, --standalone, --nnodes 1\n")


def test_every_option_is_a_keyword_of_launch_too() -> None:
    keywords = {option.name.replace("-", "_"): option.field for option in OPTIONS if option.is_saved}
    assert {name: field_of_keyword(name) for name in keywords} == keywords
    assert set(keywords.values()) == {field.name for field in dataclasses.fields(RunOptions)}


def test_help_is_wanted_even_beside_a_bad_option() -> None:
    with pytest.raises(HelpWanted) as caught:
        parse_line("-h -n 0", "%%elastic_run")
    assert str(caught.value).startswith("usage: %%elastic_run [-h] [-n N]")
    assert str(caught.value) == new_parser("%%elastic_run").format_help()


def test_defaults_stand_where_the_line_says_nothing() -> None:
    defaults = {"nproc": 3, "grace_s": 1.0, "env": {"A": "1", "B": "1"}}
    options = parse_line("--grace 2 --env B=2", "x", defaults).options
    assert (options.nproc, options.grace_s, options.env) == (3, 2.0, {"A": "1", "B": "2"})
    assert defaults["env"] == {"A": "1", "B": "1"}


@pytest.mark.parametrize(
    ("keywords", "field", "value"),
    [
        ({"nproc": 2}, "nproc", 2),
        ({"nproc": "2"}, "nproc", 2),
        ({"timeout": 3}, "timeout_s", 3.0),
        ({"timeout_s": 3}, "timeout_s", 3.0),
        ({"grace": 0}, "grace_s", 0.0),
        ({"ranks": "0-1"}, "shown", frozenset({0, 1})),
        ({"ranks": [1]}, "shown", frozenset({1})),
        ({"stop_signal": signal.SIGINT}, "stop_signal", 2),
        ({"stop_signal": "INT"}, "stop_signal", 2),
        ({"log_dir": Path("/x")}, "log_dir", "/x"),
        ({"env": {"A": "1"}}, "env", {"A": "1"}),
        ({"ui": "text"}, "ui", "text"),
        ({"engine": "here"}, "engine", "here"),
        ({"gpus": [2, 0]}, "gpus", (2, 0)),
        ({"gpus": "0,2-3"}, "gpus", (0, 2, 3)),
        ({"gpus": "free"}, "gpus", "free"),
        ({"gpus": range(2)}, "gpus", (0, 1)),
        ({"numa": "node"}, "numa", "node"),
        ({"virtual_local_rank": True}, "virtual_local_rank", True),
    ],
)
def test_keywords_of_launch_are_the_same_options(keywords: dict[str, Any], field: str, value: object) -> None:
    assert getattr(RunOptions.from_keywords(**keywords), field) == value


def test_numpy_number_of_ranks_is_a_number() -> None:
    numpy = pytest.importorskip("numpy")
    options = RunOptions(nproc=numpy.int64(3))
    assert (options.nproc, type(options.nproc)) == (3, int)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"nprco": 2}, "nprco=: no such option, did you mean nproc?"),
        ({"timeuot": 2}, "timeuot=: no such option, did you mean timeout?"),
        ({"nproc": True}, 'nproc=True: expected a number, "cpu", "gpu" or "auto"'),
        ({"nproc": 2.0}, 'nproc=2.0: expected a number, "cpu", "gpu" or "auto"'),
        ({"nproc": "gpus"}, 'nproc=\'gpus\': expected a number, "cpu", "gpu" or "auto", did you mean gpu?'),
        ({"start_method": None}, "start_method=None: expected forkserver, spawn or fork"),
        ({"env": ["A=1"]}, "env=['A=1']: expected a mapping of names to text"),
        ({"env": {"A": 1}}, "env: the value of A is 1: expected text"),
        ({"env": {"A=B": "1"}}, "env: 'A=B' is no name of an environment variable"),
        ({"env": {"A": "x\0"}}, "env: the value of A is 'x\\x00': expected text"),
        ({"seed": "1"}, "seed='1': expected a whole number, 0 or more"),
        ({"seed": True}, "seed=True: expected a whole number, 0 or more"),
        ({"timeout": 0}, "timeout=0: expected seconds, more than 0"),
        ({"grace": None}, "grace=None: expected seconds, 0 or more"),
        ({"ranks": "x"}, "--ranks 'x': expected ranks such as 0,2-3"),
        ({"ranks": 3}, "ranks=3: expected ranks such as 0,2-3"),
        ({"ranks": ["a"]}, "ranks=['a']: expected ranks such as 0,2-3"),
        ({"log_dir": 3}, "log_dir=3: expected a folder's path"),
        ({"gpus": 2}, "gpus=2: expected GPU numbers such as '0,2-3' or [0, 2], or 'free'; nproc says how many ranks"),
        ({"gpus": [0, "x"]}, "gpus=[0, 'x']: expected GPU numbers such as '0,2-3' or [0, 2], or 'free'"),
        ({"gpus": []}, "gpus=[]: expected GPU numbers such as '0,2-3' or [0, 2], or 'free'"),
        ({"gpus": [0, 0]}, "gpus=[0, 0]: GPU 0 is named twice"),
        ({"numa": "nod"}, "numa='nod': expected node, socket, exclusive or core-complex, did you mean node?"),
        ({"virtual_local_rank": 1}, "virtual_local_rank=1: expected True or False"),
        ({"ui": "txt"}, "ui='txt': expected auto, panel, text or none, did you mean text?"),
        ({"engine": None}, "engine=None: expected local or here"),
    ],
)
def test_bad_keyword_is_refused_with_its_value(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        RunOptions.from_keywords(**keywords)
    assert str(caught.value) == words


def test_options_do_not_change_behind_their_holder() -> None:
    given = {"A": "1"}
    options = RunOptions(env=given)
    given["A"] = "2"
    assert options.env == {"A": "1"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.nproc = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("nproc", "expected"),
    [
        (3, lambda cpus: (3, "")),
        ("cpu", lambda cpus: (cpus, f"nproc={cpus}: one rank per CPU")),
    ],
)
def test_number_is_chosen_and_told(nproc: int | str, expected: Callable[[int], tuple[int, str]]) -> None:
    assert RunOptions(nproc=nproc).choose_nproc() == expected(len(os.sched_getaffinity(0)))
