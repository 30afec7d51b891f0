"""`%elastic_run -n 2 train.py --lr 1e-3` and `-m pkg.train`: what `python` would do with the script, in every rank."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from support.gates import Gate
from support.kernels import CellResult, Kernel
from support.left import is_running
from support.waiting import wait_until

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.fixture
def write(notebook_folder: Path) -> Write:
    """`write("train.py", text)`: a file in the notebook's folder."""

    def put(name: str, text: str) -> Path:
        path = notebook_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return put


def lines(result: CellResult) -> list[str]:
    assert result.ok, result.text
    assert result.value is None
    return sorted(result.out.splitlines())


def refusal(result: CellResult) -> str:
    """The one line with which a use is refused."""
    assert result.traceback == ""
    found = re.fullmatch(r"UsageError: ([^\n]+)\n", result.out)
    assert found, result.text
    return found[1]


# -------------------------------------------------------------------------------------------- what the script sees


SHOW = "import json, sys\nprint(json.dumps(sys.argv))\n"


def test_every_rank_runs_it_and_there_is_no_value(kernel: Kernel, write: Write) -> None:
    write("train.py", "import os, sys\nprint(os.environ['RANK'], os.environ['WORLD_SIZE'], sys.argv)\n5\n")
    result = kernel.run("%elastic_run -n 2 train.py --lr 1e-3")
    words = "['train.py', '--lr', '1e-3']"
    assert lines(result) == [f"[rank 0] 0 2 {words}", f"[rank 1] 1 2 {words}"]
    assert kernel.value("__import__('ipyelastic').last_run().status") == "succeeded"


@pytest.mark.parametrize(
    ("line", "args"),
    [
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("--name={word} {number+1} $word", ["--name=a b", "8", "a b"]),
        ("{{word}} $HOME_OF_NOBODY {unknown}", ["{word}", "$HOME_OF_NOBODY", "{unknown}"]),
        ("$FROM_ENV/x", ["/there/x"]),
        ("""'{"lr":1}' '[{"a": 1}]' {}""", ['{"lr":1}', '[{"a": 1}]', "{}"]),
        ("*.py ?", ["*.py", "?"]),
        (r"a\ b '#no' x#y # a comment", ["a b", "#no", "x#y"]),
        ("'>' \"|\" a>b \\;", [">", "|", "a>b", ";"]),
        ("-n 3 --nproc 4 -- -h", ["-n", "3", "--nproc", "4", "--", "-h"]),
        ("'' é", ["", "é"]),
    ],
)
def test_arguments_are_split_and_expanded(kernel: Kernel, write: Write, line: str, args: list[str]) -> None:
    write("show.py", SHOW)
    kernel.run("word, number = 'a b', 7\nimport os; os.environ['FROM_ENV'] = '/there'")
    (shown,) = lines(kernel.run(f"%elastic_run -n 1 show.py {line}"))
    assert kernel.value(f"__import__('json').loads({shown.removeprefix('[rank 0] ')!r})") == ["show.py", *args]


def test_a_leading_tilde_is_the_home_folder(kernel: Kernel, write: Write, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SHOW)
    kernel.run(f"import os; home = os.environ['HOME']; os.environ['HOME'] = {str(tmp_path)!r}")
    (shown,) = lines(kernel.run("%elastic_run -n 1 ~/mine.py ~/data a~"))
    kernel.run("os.environ['HOME'] = home")
    assert shown == f'[rank 0] ["{tmp_path}/mine.py", "{tmp_path}/data", "a~"]'


def test_paths_with_spaces_and_paths_from_a_variable(kernel: Kernel, write: Write) -> None:
    write("my folder/my train.py", SHOW)
    assert lines(kernel.run("%elastic_run -n 1 'my folder/my train.py' 1")) == [
        '[rank 0] ["my folder/my train.py", "1"]'
    ]
    kernel.run("folder = 'my folder'")
    assert lines(kernel.run('%elastic_run -n 1 "{folder}/my train.py"')) == ['[rank 0] ["my folder/my train.py"]']


def test_main_is_the_scripts_own_module(kernel: Kernel, write: Write) -> None:
    text = """
        import os, pickle, sys, inspect, dataclasses
        @dataclasses.dataclass
        class Box:
            x: int
        def function(): pass
        if __name__ == "__main__":
            main = sys.modules["__main__"]
            assert main.Box is Box and pickle.loads(pickle.dumps(Box(1))) == Box(1)
            assert vars(main) is globals() and function.__globals__ is globals()
            assert inspect.getsource(function) == "def function(): pass\\n"
            assert "x: int" in inspect.getsource(Box)
            print(__file__, __spec__, __package__, __doc__)
            print(sys.path[0], "" in sys.path, "captured" in globals())
        """
    path = write("deep/main.py", text)
    kernel.run("captured = 1")
    result = kernel.run("%elastic_run -n 1 deep/main.py")
    assert result.out == f"[rank 0] {path} None None None\n[rank 0] {path.parent} False False\n", result.text


def test_it_sees_what_python_itself_would_show(kernel: Kernel, write: Write, notebook_folder: Path) -> None:
    text = """
        import json, sys
        names = ["__name__", "__file__", "__package__", "__cached__", "__doc__"]
        told = {name: str(globals().get(name)) for name in names}
        told |= {"spec": str(__spec__ and __spec__.name), "loader": type(__loader__).__name__}
        told |= {"argv": sys.argv, "first": sys.path[0], "orig": sys.orig_argv[1:]}
        print(json.dumps(told))
        """
    write("told/__init__.py", "")
    write("told/inner.py", text)
    write("told/__main__.py", text)
    with ZipFile(notebook_folder / "told.zip", "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(text))
    for line in ("told/inner.py a b", "-m told.inner a b", "-m told a", "told a", "told.zip a"):
        (shown,) = lines(kernel.run(f"%elastic_run -n 1 {line}"))
        plain = kernel.run(f"import subprocess, sys\nprint(subprocess.run([sys.executable, *{line.split()!r}], "
                           "capture_output=True, text=True).stdout)").out  # fmt: skip
        assert shown.removeprefix("[rank 0] ") == plain.strip(), line


def test_modules_beside_it_are_found_and_never_stale(kernel: Kernel, write: Write) -> None:
    is_on = "import sys; sys.dont_write_bytecode = False"  # whatever the environment of the tests says
    write("proj/run.py", f"{is_on}\nimport near\nfrom parts import inner\nprint(near.x, inner.x)\n")
    write("proj/parts/__init__.py", "")
    for n in range(4):  # same length, same second: what Python's bytecode cannot tell apart
        write("proj/near.py", f"x = {n}\n")
        write("proj/parts/inner.py", f"x = {n}\n")
        assert lines(kernel.run("%elastic_run -n 2 proj/run.py")) == [f"[rank {r}] {n} {n}" for r in (0, 1)]


def test_a_module_beside_it_goes_before_a_library_of_that_name(kernel: Kernel, write: Write) -> None:
    kernel.run("import threadpoolctl")
    kernel.run("%elastic_run -n 1 threadpoolctl.__name__")  # warm ranks have the library from now on
    write("shadow/threadpoolctl.py", "x = 'beside'\n")
    write("shadow/run.py", "import threadpoolctl\nprint(threadpoolctl.x)\n")
    assert lines(kernel.run("%elastic_run -n 1 shadow/run.py")) == ["[rank 0] beside"]


def test_pythonpath_as_set_in_the_notebook_is_seen(kernel: Kernel, write: Write, tmp_path: Path) -> None:
    (tmp_path / "far_away.py").write_text("x = 1\n")
    write("uses_far.py", "import far_away\nprint(far_away.x)\n")
    kernel.run(
        "import os; had = os.environ.get('PYTHONPATH')\n"
        f"os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [{str(tmp_path)!r}, had]))"
    )
    shown = lines(kernel.run("%elastic_run -n 1 uses_far.py"))
    kernel.run("if had is None: del os.environ['PYTHONPATH']\nelse: os.environ['PYTHONPATH'] = had")
    assert shown == ["[rank 0] 1"]


@pytest.mark.slow
def test_processes_it_makes_know_its_classes(kernel: Kernel, write: Write) -> None:
    text = """
        import dataclasses, multiprocessing as mp
        @dataclasses.dataclass
        class Box:
            x: int
        def double(box):
            return Box(box.x * 2)
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with mp.get_context(method).Pool(2) as pool:
                    print(method, pool.map(double, [Box(1), Box(2)]))
        """
    write("pools/__init__.py", "")
    write("pools/pool.py", text)
    expected = [f"[rank 0] {method} [Box(x=2), Box(x=4)]" for method in ("fork", "forkserver", "spawn")]
    assert lines(kernel.run("%elastic_run -n 1 pools/pool.py")) == expected
    assert lines(kernel.run("%elastic_run -n 1 -m pools.pool")) == expected


def test_options_of_a_run_hold_for_a_script(kernel: Kernel, write: Write, tmp_path: Path) -> None:
    write("opts.py", "import os, random\nprint(os.environ['GIVEN'], random.random())\n")
    first = lines(kernel.run(f"%elastic_run -n 1 --seed 3 --env GIVEN=x --log-dir {tmp_path} opts.py"))
    assert first == lines(kernel.run("%elastic_run -n 1 --seed 3 --env GIVEN=x --start-method spawn opts.py"))
    assert [path.read_text() for path in tmp_path.glob("*/attempt_0/0/stdout.log")] == [
        first[0].removeprefix("[rank 0] ") + "\n"
    ]
    assert lines(kernel.run("%elastic_run -n 2 --ranks 1 --env GIVEN=y opts.py"))[0].startswith("[rank 1] y")


# ----------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("end", ["sys.exit()", "sys.exit(0)", "sys.exit(None)", "raise SystemExit", "exit()", "pass"])
def test_a_good_end_is_a_good_end(kernel: Kernel, write: Write, end: str) -> None:
    write("ends.py", f"import sys, atexit\natexit.register(print, 'at exit')\n{end}\n")
    assert lines(kernel.run("%elastic_run -n 2 ends.py")) == ["[rank 0] at exit", "[rank 1] at exit"]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_os_exit_with_0_is_a_good_end_and_stops_nobody(
    kernel: Kernel, write: Write, tmp_path: Path, method: str
) -> None:
    tests = Path(__file__).parent.parent
    text = """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        from support.gates import wait_at
        if os.environ["RANK"] == "0":
            print(os.getpid(), file=open(sys.argv[3], "w"), flush=True)
            os._exit(0)
        wait_at(sys.argv[1])
        print("went on")
        os._exit(0 if sys.stdout.flush() is None else 1)
        """
    write("leaves.py", text)
    said = tmp_path / "pid"
    with Gate(tmp_path / "gate") as gate:
        sent = kernel.send(f"%elastic_run -n 2 --start-method {method} --grace 0 leaves.py {gate.path} {tests} {said}")
        wait_until(lambda: said.exists() and said.read_text(), 30, "rank 0 came by")
        wait_until(lambda: not Path(f"/proc/{said.read_text().strip()}").exists(), 30, "rank 0 was reaped")
        gate.open()
        assert lines(kernel.collect(sent, 30)) == ["[rank 1] went on"]
    assert kernel.value("[r.state for r in __import__('ipyelastic').last_run().ranks]") == ["succeeded"] * 2
    write("leaves.py", "import os; os._exit(4)")
    assert "exited with code 4" in kernel.run("%elastic_run -n 2 leaves.py").traceback


def test_threads_of_a_script_are_waited_for_beyond_the_grace(kernel: Kernel, write: Write, tmp_path: Path) -> None:
    text = """
        import concurrent.futures, sys, threading
        sys.path.insert(0, sys.argv[2])
        from support.gates import wait_at
        def late():
            wait_at(sys.argv[1])
            print("late")
        concurrent.futures.ThreadPoolExecutor(1).submit(print, "pool")
        threading.Thread(target=late).start()
        print("main is done", flush=True)
        """
    write("threads.py", text)
    tests = Path(__file__).parent.parent
    with Gate(tmp_path / "gate") as gate:
        sent = kernel.send(f"%elastic_run -n 1 --grace 0 threads.py {gate.path} {tests}")
        kernel.collect(sent, 30, until="main is done")
        gate.open()
        result = kernel.collect(sent, 30)
    assert result.ok
    assert "[rank 0] late" in result.out


def test_exit_code_of_a_failure_is_told(kernel: Kernel, write: Write) -> None:
    write("ends.py", "import sys\nsys.exit(3)\n")
    result = kernel.run("%elastic_run -n 1 ends.py")
    assert result.traceback == textwrap.dedent("""\
        rank 0 of 1 failed (local_rank 0)
          what    it exited with code 3 and left no traceback
          likely  sys.exit(3), or a program that said why on stderr
          do      read its last lines (%elastic_logs 0)""")
    assert kernel.value("__import__('ipyelastic').last_run().ranks[0].exitcode") == 3


def test_words_of_sys_exit_are_told_with_their_line(kernel: Kernel, write: Write) -> None:
    path = write("ends.py", "import sys\ndef main():\n    sys.exit('no data in /x')\nmain()\n")
    result = kernel.run("%elastic_run -n 1 ends.py")
    assert result.out == "[rank 0 stderr] no data in /x\n"
    assert result.traceback == textwrap.dedent(f"""\
        rank 0 of 1 failed (local_rank 0)
          what    SystemExit: no data in /x ({path}, line 3)

        {"-" * 75}
        SystemExit                                Traceback (most recent call last)
        File {path}:4
              2 def main():
              3     sys.exit('no data in /x')
        ----> 4 main()

        File {path}:3, in main()
              2 def main():
        ----> 3     sys.exit('no data in /x')

        SystemExit: no data in /x""")
    assert kernel.value("__import__('ipyelastic').last_run().ranks[0].exitcode") == 1


def test_usage_of_a_script_is_shown_with_exit_code_2(kernel: Kernel, write: Write) -> None:
    text = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float)
        parser.parse_args()
        """
    write("usage.py", text)
    result = kernel.run("%elastic_run -n 1 usage.py --lrr 1")
    assert result.out == (
        "[rank 0 stderr] usage: usage.py [-h] [--lr LR]\n"
        "[rank 0 stderr] usage.py: error: unrecognized arguments: --lrr 1\n"
    )
    assert "  what    it exited with code 2 and left no traceback\n" in result.traceback
    assert lines(kernel.run("%elastic_run -n 1 usage.py --help"))[-1] == "[rank 0] usage: usage.py [-h] [--lr LR]"


@pytest.mark.parametrize("way", ["faulty/run.py", "-m faulty.run"])
def test_traceback_has_the_scripts_lines_and_no_others(kernel: Kernel, write: Write, way: str) -> None:
    inner = write("faulty/part.py", "def divide(a):\n    return 1 / a\n")
    write("faulty/__init__.py", "")
    first = "from faulty import part" if way.startswith("-m") else "import part"
    path = write(
        "faulty/run.py", f"{first}\n\ndef main():\n    part.divide(0)\n\nif __name__ == '__main__':\n    main()\n"
    )
    result = kernel.run(f"%elastic_run -n 1 {way}")
    assert re.sub(r" +$", "", result.traceback, flags=re.MULTILINE) == textwrap.dedent(f"""\
        rank 0 of 1 failed (local_rank 0)
          what    ZeroDivisionError: division by zero ({inner}, line 2)

        {"-" * 75}
        ZeroDivisionError                         Traceback (most recent call last)
        File {path}:7
              4     part.divide(0)
              6 if __name__ == '__main__':
        ----> 7     main()

        File {path}:4, in main()
              3 def main():
        ----> 4     part.divide(0)

        File {inner}:2, in divide()
              1 def divide(a):
        ----> 2     return 1 / a

        ZeroDivisionError: division by zero""")


def test_syntax_error_points_at_the_scripts_line(kernel: Kernel, write: Write) -> None:
    path = write("typo.py", "x = 1\nx = = 2\n")
    result = kernel.run("%elastic_run -n 1 typo.py")
    assert f"File {path}:2\n    x = = 2\n        ^\nSyntaxError: invalid syntax" in result.traceback


@pytest.mark.parametrize("text", ["raise ValueError('in the package')", "import not_there_at_all"])
def test_failure_above_the_module_is_told(kernel: Kernel, write: Write, text: str) -> None:
    write("above/__init__.py", text + "\n")
    write("above/train.py", "print('never')\n")
    result = kernel.run("%elastic_run -n 1 -m above.train")
    assert result.error_name == "ChildFailedError"
    assert "above/__init__.py, line 1)" in result.traceback
    assert "importlib" not in result.traceback
    assert "payload" not in result.traceback


def test_interrupt_stops_every_rank(kernel: Kernel, write: Write, tmp_path: Path) -> None:
    text = """
        import os, signal, sys
        with open(f"{sys.argv[1]}/{os.environ['RANK']}", "w") as file:
            file.write(str(os.getpid()))
        signal.pause()
        """
    write("waits.py", text)
    sent = kernel.send(f"%elastic_run -n 2 waits.py {tmp_path}")
    wait_until(lambda: sum(bool(p.read_text()) for p in tmp_path.glob("[01]")) == 2, 30, "both ranks")
    pids = [int(path.read_text()) for path in tmp_path.glob("[01]")]
    kernel.interrupt()
    result = kernel.collect(sent, 30)
    assert (result.error_name, result.error_value) == ("KeyboardInterrupt", "all 2 ranks were stopped")
    assert not [pid for pid in pids if is_running(pid)]


def test_a_name_with_bg_gets_the_run(kernel: Kernel, write: Write) -> None:
    write("train.py", "import sys\nprint(sys.argv[1:])\n")
    result = kernel.run("%elastic_run --bg -n 1 -o run train.py --lr 1")
    assert result.ok, result.text
    assert kernel.run("run.result(60)").value == "[0: None]"
    assert kernel.value("run.name, run.ranks[0].tail()") == ("train.py", ["['--lr', '1']"])


def test_time_limit_shows_where_the_script_was(kernel: Kernel, write: Write) -> None:
    path = write("stuck.py", "import threading\ndef stuck():\n    threading.Event().wait()\nstuck()\n")
    result = kernel.run("%elastic_run -n 1 --timeout 1 stuck.py")
    assert result.error_name == "RunTimedOut"
    assert f'File "{path}", line 3 in stuck' in result.traceback
    assert "ipyelastic" not in result.traceback


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.fixture(scope="module")
def some_files(notebook_folder: Path) -> None:
    for name in ("train.py", "src/deep/eval_all.py", "good/__init__.py", "good/train.py", "empty/x.txt"):
        path = notebook_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("print('ran')\n" if name == "train.py" else "")
    with ZipFile(notebook_folder / "data.zip", "w") as archive:
        archive.writestr("x.txt", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-n 2 trian.py", "trian.py: no such file, did you mean train.py?"),
        ("-n 2 eval_all.py --x", "eval_all.py: no such file, did you mean src/deep/eval_all.py?"),
        ("-n 2 good/trian.py", "good/trian.py: no such file, did you mean good/train.py?"),
        ("-n 2 qqqqqqqq.py", "qqqqqqqq.py: no such file"),
        ("-n 2 data.zip", "data.zip: this zip file has no __main__.py"),
        ("-n 2 -m god.train", "-m god.train: no module god, did you mean good?"),
        ("-n 2 -m good.trian", "-m good.trian: no module trian in good, did you mean train?"),
        ("-n 2 -m good.train.x", "-m good.train.x: good.train is a module, not a package"),
        ("-n 2 -m good", "-m good: this package has no __main__.py; name a module in it, such as good.train"),
        ("-m good/train.py", "-m good/train.py: expected a module's name such as good.train; for a file leave out -m"),
        ("-n 2 -m", "-m: expected a module's name, such as pkg.train"),
        ("-n 2 -m 'a b'", "-m a b: expected a module's name, such as pkg.train"),
        ("-o got train.py", "-o got: a script has no values; have it write a file, or run a function"),
        (
            "--engine here train.py",
            "engine='here' runs cells and functions; for a script in the notebook itself there is %run",
        ),
        (
            "--start-method fork train.py",
            "start_method='fork': a script would find this process's modules as they are now;"
            " expected forkserver or spawn",
        ),
        ("train.py > out.txt", "'>': there is no shell here; in quotes it goes to the script"),
        ("train.py 2>&1 | tee x", "'2>&1': there is no shell here; in quotes it goes to the script"),
        ("train.py & ", "'&': there is no shell here; in quotes it goes to the script"),
        ("train.py 'x", "\"train.py 'x\": no closing quotation"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("some_files")
def test_script_that_cannot_be_run_is_refused_in_one_line(kernel: Kernel, line: str, words: str) -> None:
    assert refusal(kernel.run(f"%elastic_run {line}")) == words


@pytest.mark.usefixtures("some_files")
def test_a_file_that_cannot_be_read_is_refused(kernel: Kernel, notebook_folder: Path) -> None:
    (notebook_folder / "folder.py").mkdir(exist_ok=True)
    words = "folder.py: this folder has no __main__.py; name a .py file in it"
    assert refusal(kernel.run("%elastic_run folder.py")) == words


@pytest.mark.usefixtures("some_files")
def test_the_cell_form_says_what_to_do(kernel: Kernel) -> None:
    words = "train.py --lr 1: a script is run by %elastic_run, one %, with no code below it"
    assert refusal(kernel.run("%%elastic_run -n 2 train.py --lr 1\nprint(1)")) == words


@pytest.mark.usefixtures("some_files")
def test_an_expression_stays_an_expression(kernel: Kernel) -> None:
    kernel.run("good = 5\ndef f(name): return name")
    assert kernel.run("%elastic_run -n 1 good").value == "[0: 5]"
    assert kernel.run("%elastic_run -n 1 f('train.py')").value == "[0: 'train.py']"


# ---------------------------------------------------------------------------------------------------------- torch


DDP = """
import argparse, os
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

class Numbers(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        x = torch.tensor([float(index) / 64])
        return x, 2 * x + 1

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    data = Numbers()
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=8, sampler=sampler, num_workers=args.workers)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
    weights = [torch.zeros(1, 1) for _ in range(dist.get_world_size())]
    dist.all_gather(weights, model.module.weight.data)
    print("same" if all(torch.equal(weights[0], one) for one in weights) else "differ", dist.get_world_size())
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


@pytest.mark.torch
@pytest.mark.slow
def test_a_torch_distributed_script_runs_unchanged(kernel: Kernel, write: Write) -> None:
    write("ddp.py", DDP)
    result = kernel.run("%elastic_run -n 2 ddp.py --lr 0.2 --workers 1", 110)
    assert lines(result) == ["[rank 0] same 2", "[rank 1] same 2"]
