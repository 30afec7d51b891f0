"""Users' files that use the public names pass `mypy --strict`, and wrong uses of them do not."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys

import pytest

import ipyelastic
from ipyelastic.launcher.keywords import LaunchKeywords
from ipyelastic.launcher.options import RunOptions, field_of_keyword

pytestmark = pytest.mark.slow

PROGRAM = """
from __future__ import annotations

import asyncio
import concurrent.futures
from pathlib import Path
from typing import Any

import ipyelastic as ie
from ipyelastic import ChildFailedError, OptionError, ProcessFailure, Results, Run, notebook_launcher


def work(base: int, power: int = 1) -> int:
    return base * power


def report(failures: dict[int, ProcessFailure]) -> list[str]:
    return [f"{rank}: {failure.exitcode} {failure.signal_name()}" for rank, failure in failures.items()]


def told(ended: Run[int]) -> None:
    print(ended.status, ended.result())


def main(folder: Path) -> int:
    run: Run[int] = ie.launch(work, args=(10,), kwargs={"power": 2}, nproc=2, timeout=60, env={"A": "1"})
    script: Run[None] = ie.launch(folder / "train.py", args=("--lr", 1e-3), nproc="auto", ui="none")
    try:
        values: Results[int] = run.result(timeout=60)
        first_value: int = values[0]
        total: int = sum(values) + first_value
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        print(rank, first.exception.message if first.exception else "", report(dict(error.failures)))
        print(error.name, error.tries.attempt, error.tries.max_restarts, first.host, first.duration_s, first.is_stopped)
        if first.exception is not None:
            print(first.exception.type_name, [frame.lineno for frame in first.exception.frames], first.exception.text)
        if first.memory is not None:
            print(first.memory.used_bytes / first.memory.total_bytes)
        return 1
    except ie.RunTimedOut as error:
        print(error.timeout_s, error.stacks)
        return 2
    except (ie.RunStopped, ie.RunCancelled) as stopped:
        print(stopped.results.get(0))
    except ie.UnpicklableError as refused:
        print(refused.name, refused.type_name, refused.use, refused.reason, refused.remedy)
    except (OptionError, ie.ServerError, ie.IpyelasticError) as error:
        print(error)
    every = ie.launch(
        report,
        args=({},),
        nproc="gpu",
        timeout=None,
        start_method="spawn",
        env={"A": "1"},
        seed=1,
        log_dir=folder,
        grace=1.5,
        stop_signal="SIGINT",
        ranks=[0, 2],
        ui="text",
        engine="local",
        gpus="free",
        numa="node",
        virtual_local_rank=True,
        max_restarts=2,
    )
    words: list[str] = every.result()[0]
    so_far: dict[int, int] = run.results
    lines: list[str] = run.ranks[1].tail(50)
    done, waiting = concurrent.futures.wait([run, ie.launch(work, args=(3,))], timeout=1)
    run.add_done_callback(lambda ended: print(ended))
    run.add_done_callback(told)
    (as_completed,) = concurrent.futures.as_completed([run])
    summed: int = sum(as_completed.result())
    for view in run.ranks:
        print(view.rank, view.pid, view.exitcode, view.state, view.stdout_path, view.stderr_path)
    for attempt in run.attempts:
        print(attempt.attempt, attempt.failures, attempt.started, attempt.why_not_restarted)
    error_or_none: BaseException | None = run.exception(timeout=1)
    is_over: bool = run.wait(0) or run.done() or run.cancelled()
    print(words, summed, error_or_none, is_over, run.elapsed_s + 1, run.run_id, run.name, run.nproc, run.options.seed)
    script.stop(grace_s=1.0)
    script.kill(rank=0)
    again: Run[Any] = script.restart()
    newest = ie.last_run()
    trained = notebook_launcher(work, (3,), num_processes=2, mixed_precision="bf16")
    loss: int = trained[0]
    print(so_far, lines, done, waiting, again.status, newest.log_dir if newest else "", loss, ie.__version__)
    return 0


async def both() -> list[int]:
    one, two = ie.launch(work, args=(1,)), ie.launch(work, args=(2,))
    values = await asyncio.gather(asyncio.wrap_future(one), asyncio.wrap_future(two))
    return [*values[0], *(await two)]
"""


MOVED_OVER = """
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipyelastic.compat.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from ipyelastic.compat.agent.server.local_elastic_agent import LocalElasticAgent
from ipyelastic.compat.launcher.api import LaunchConfig, elastic_launch, launch_agent
from ipyelastic.compat.metrics import MetricData, MetricHandler, configure, prof, put_metric
from ipyelastic.compat.multiprocessing import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
    PContext,
    RunProcsResult,
    Std,
    start_processes,
    to_map,
)
from ipyelastic.compat.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure, record
from ipyelastic.compat.numa.binding import AffinityMode, NumaOptions
from ipyelastic.compat.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from ipyelastic.compat.rendezvous.registry import get_rendezvous_handler
from ipyelastic.compat.spawn import ProcessContext, ProcessRaisedException, spawn
from ipyelastic.compat.timer import TimerClient, expires
from ipyelastic.compat.events import Event, EventSource
from ipyelastic.compat.events import record as record_event


class Logs(LogsSpecs):
    def reify(self, envs: Mapping[int, dict[str, str]]) -> LogsDest:
        return LogsDest(stdouts={rank: "" for rank in envs}, stderrs={rank: "" for rank in envs})

    @property
    def root_log_dir(self) -> str:
        return "logs"


class Agent(LocalElasticAgent):
    def _initialize_workers(self, worker_group: WorkerGroup) -> None:
        super()._initialize_workers(worker_group)

    def run(self, role: str = "default") -> RunResult:
        result = super().run(role)
        return RunResult(WorkerState.FAILED) if result.is_failed() else result


class Told(MetricHandler):
    def emit(self, metric_data: MetricData) -> None:
        print(metric_data.name, metric_data.value)


class Clock(TimerClient):
    def acquire(self, scope_id: str, expiration_time: float) -> None: ...

    def release(self, scope_id: str) -> None: ...


class Handler(ErrorHandler):
    def record_exception(self, e: BaseException) -> None:
        super().record_exception(e)


@prof
def step(rank: int, scale: float = 1.0) -> float:
    with expires(after=60, client=Clock()):
        return rank * scale


@record
def train(rank: int) -> str:
    put_metric("loss", 0.5, "train")
    return str(rank)


def main() -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="static",
        rdzv_configs={"rank": 0},
        logs_specs=DefaultLogsSpecs(log_dir="logs", redirects=Std.ALL, tee={0: Std.OUT}),
        numa_options=NumaOptions(AffinityMode.NODE),
    )
    try:
        values: dict[int, Any] = elastic_launch(config, train)(1)
        values = elastic_launch(config=config, entrypoint="python")("-c", "pass")
        values = launch_agent(config, step, [1])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        described: tuple[int, str, ProcessFailure] = (rank, failure.signal_name(), failure)
        print(described)
    context: PContext = start_processes(
        "trainer", step, {0: (0,), 1: (1, 0.5)}, {0: {}, 1: {"A": "1"}}, Logs(), start_method="forkserver"
    )
    result: RunProcsResult | None = context.wait(timeout=1.0)
    if result is not None and result.is_failed():
        context.close()
    joined: ProcessContext | None = spawn(step, args=(2.0,), nprocs=2, join=False)
    try:
        while joined is not None and not joined.join(timeout=1):
            pass
    except ProcessRaisedException as raised:
        print(raised.error_index, raised.error_pid)
    parameters = RendezvousParameters("static", "localhost:0", "run-1", min_nodes=1, max_nodes=1, rank=0)
    handler: RendezvousHandler = get_rendezvous_handler(parameters)
    info: RendezvousInfo = handler.next_rendezvous()
    spec = WorkerSpec(role="trainer", local_world_size=2, rdzv_handler=handler, entrypoint=train, args=(info.rank,))
    ended = Agent(spec, DefaultLogsSpecs(), start_method="spawn", exit_barrier_timeout=1).run()
    configure(Told(), group="train")
    record_event(Event("done", EventSource.AGENT, metadata={"ranks": 2}), "console")
    flags: dict[int, Std] = to_map(Std.ALL, 2)
    loud: float = step(1, scale=2.0)
    said: str | None = record(train, error_handler=Handler())(1)
    print(values, ended.return_values, flags, loud, said)
"""


def mypy(folder, root, **programs):
    """mypy's verdict on users' files: its exit code and what it printed."""
    names = [f"{name}.py" for name in programs]
    for name, code in zip(names, programs.values(), strict=True):
        (folder / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *names]
    ended = subprocess.run(
        [*command, "--cache-dir", str(folder.parent / "mypy"), "--show-error-codes"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(root / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    return ended.returncode, ended.stdout


def test_programs_with_every_public_name_are_typed(tmp_path, root):
    code, said = mypy(tmp_path, root, program=PROGRAM, moved_over=MOVED_OVER)
    assert said == "Success: no issues found in 2 source files\n"
    assert code == 0
    ours = {"load_ipython_extension", "unload_ipython_extension"}  # %load_ext calls them
    assert [name for name in ipyelastic.__all__ if name not in ours and not re.search(rf"\b{name}\b", PROGRAM)] == []
    given = {name for name in LaunchKeywords.__annotations__ if re.search(rf"\b{name}=", PROGRAM)}
    assert given == set(LaunchKeywords.__annotations__)


WRONG = """
import ipyelastic as ie
from ipyelastic.compat.launcher.api import LaunchConfig
from ipyelastic.compat.multiprocessing import LogsSpecs
from ipyelastic.compat.multiprocessing.errors import record

run = ie.launch(len, nproc=2)
ie.launch(5)
word: str = run.results[0]
run.stoop()
ie.launch(len, timout=3)
ie.launch(len, timeout="soon")
ie.launch("train.py", kwargs={"lr": 1})
value: str = run.result()[0]
loss: str = ie.notebook_launcher(len, ("ab",))[0]
LaunchConfig(min_nodes=1, max_nodes=1)
LogsSpecs()
record(len)(1)
"""


def test_wrong_uses_are_found(tmp_path, root):
    code, said = mypy(tmp_path, root, program=WRONG)
    assert code == 1
    assert 'did you mean "timeout"?' in said
    found = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", said)
    assert list(dict.fromkeys(found)) == [
        ("8", "call-overload"),
        ("9", "assignment"),
        ("10", "attr-defined"),
        ("11", "call-overload"),
        ("12", "call-overload"),
        ("13", "call-overload"),
        ("14", "assignment"),
        ("15", "assignment"),
        ("16", "call-arg"),
        ("17", "abstract"),
        ("18", "arg-type"),
    ]


def test_every_option_of_a_run_is_a_keyword_of_launch():
    """The keywords are RunOptions' fields, each once, and each default is the one that `launch?` shows."""
    fields = {entry.name: entry for entry in dataclasses.fields(RunOptions)}
    assert [field_of_keyword(name) for name in LaunchKeywords.__annotations__] == [n for n in fields if n != "nproc"]
    options = RunOptions()
    shown = inspect.signature(ipyelastic.launch).parameters
    assert list(shown) == ["function", "args", "kwargs", "nproc", *LaunchKeywords.__annotations__]
    for name in LaunchKeywords.__annotations__:
        assert shown[name].default == getattr(options, field_of_keyword(name)), name
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
