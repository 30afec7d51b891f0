"""`ipyelastic run --nnodes 2 ...`: this machine's part of a job that several machines make up.

    run > [here] LaunchConfig > launcher/launch.launch_agent > agent; torch's own rendezvous when it is installed

Runs in: owner (a shell's process), main thread. Scripts run as torchrun runs them: a new Python for every rank.
Other end: launcher/torchrun.py read the options; docs of torchrun say what they mean.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from importlib.metadata import entry_points
from typing import Any

from ..devices.numa import AffinityMode, NumaOptions
from ..engines.scripts import find_module, find_script
from ..launcher.config import LaunchConfig
from ..launcher.launch import launch_agent
from ..launcher.options import RunOptions
from ..launcher.torchrun import Command, JobOptions
from ..output import retention
from ..output.logs import DefaultLogsSpecs, LogsSpecs
from ..process.signals import DEFAULT_SIGNALS, SignalException
from ..rendezvous.torchs import torchs_module
from ..terms import env
from ..terms.errors import ChildFailedError, OptionError
from ..terms.std import Std, to_map
from .endings import exit_code, say, tell_failure
from .kept_logs import keeps_logs, kept_words
from .meeting import Meeting

__all__ = ["run_on_machines"]

logger = logging.getLogger("ipyelastic")

_PREFIX = "[rank ${rank}] "
_TORCHS = ("static", "c10d", "etcd", "etcd-v2")
_DEFAULT_PORT = 29500  # torchrun's, for a static rendezvous
_NOT_HERE = {"timeout_s": "--timeout", "seed": "--seed", "stop_signal": "--stop-signal"}


def run_on_machines(command: Command) -> int:
    """Run this machine's ranks to the job's end; returns the exit code. Raises OptionError for a wrong usage."""
    options, job = command.options, command.job
    defaults = RunOptions()
    for name, spelling in _NOT_HERE.items():
        if getattr(options, name) != getattr(defaults, name):
            raise OptionError(f"{spelling}: for one machine only")
    program, args = _program(command)
    choice = options.choose_gpus()
    if choice.why:
        say(choice.why)
    os.environ.update(options.env)  # this process is the command's own
    if choice.names is not None:
        os.environ[env.CUDA_VISIBLE_DEVICES] = ",".join(choice.names)
    if choice.nproc > 1:
        os.environ.setdefault(env.OMP_NUM_THREADS, "1")
    try:
        logs, folder = _logs(options, job, choice.nproc)
    except OSError as error:
        where, why = error.filename or options.log_dir or "the temp folder", error.strerror or error
        raise OptionError(f"no log files in {where}: {why}; name another folder with --log-dir") from error
    if keeps_logs(command):
        say(kept_words(folder))
    config = _config(options, job, choice.nproc, logs)
    meeting = Meeting(config)
    is_kept = True
    try:
        if job.rdzv_backend in _TORCHS:  # now: its import is no wait for others
            _load_torch(f"--rdzv-backend {job.rdzv_backend}")
        launch_agent(config, program, list(args), telling=meeting)
        is_kept = keeps_logs(command)
    except ChildFailedError as error:
        folder = getattr(logs, "run_log_dir", "") or folder
        tell_failure(error, max(choice.nproc * job.nnodes[0], 1 + max(error.failures)), folder)
        return exit_code(error)
    except SignalException as caught:
        say(f"ended by {caught.sigval.name}")
        return 128 + int(caught.sigval)
    except KeyboardInterrupt:
        return 130
    except (ValueError, ImportError) as error:  # a backend that is not there, an endpoint that is missing
        raise OptionError(str(error)) from error
    except Exception as error:  # the agents could not meet, workers could not be started
        logger.debug("what ended the job:", exc_info=True)
        say(meeting.words_of(error))
        return 1
    finally:
        run_folder = getattr(logs, "run_log_dir", "")
        if is_kept and run_folder and options.log_dir is None:
            retention.keep(run_folder)
    return 0


def _load_torch(what: str) -> None:
    """Import what the agents meet by, without its warnings: for a store that is gone, pages of C++ frames, which the
    error that follows says in a sentence. LOGLEVEL=DEBUG leaves them.

    Of this process only: ranks get the environment as it was. Raises ImportError when torch is not installed.
    """
    is_ours = env.TORCH_CPP_LOG_LEVEL not in os.environ and not logger.isEnabledFor(logging.DEBUG)
    if is_ours:
        os.environ[env.TORCH_CPP_LOG_LEVEL] = "FATAL"
    try:
        torchs_module("torch.distributed.elastic.rendezvous.registry", what)
    finally:
        if is_ours:
            del os.environ[env.TORCH_CPP_LOG_LEVEL]
    if not logger.isEnabledFor(logging.DEBUG):
        logging.getLogger("torch.distributed.elastic.rendezvous.dynamic_rendezvous").setLevel(logging.ERROR)


def _program(command: Command) -> tuple[str, tuple[str, ...]]:
    """What to execute. Raises OptionError when it is not there."""
    target, args = command.target, command.args
    if command.job.is_program:
        path = shutil.which(target)
        if path is None:
            raise OptionError(f"--no-python {target}: no such program that can be executed")
        return path, args
    if command.job.is_module:
        find_module(target, args)
        return sys.executable, ("-u", "-m", target, *args)
    find_script(target, args)
    return sys.executable, ("-u", target, *args)


def _logs(options: RunOptions, job: JobOptions, nproc: int) -> tuple[LogsSpecs, str]:
    """Where output goes, and the folder to name when a rank fails."""
    shown = {rank for rank in options.shown or () if rank < nproc} or None
    if options.ui == "none":
        tee: dict[int, Std] = dict.fromkeys(range(nproc), Std.NONE)
    else:
        redirects, kept = to_map(job.redirects, nproc), to_map(job.tee, nproc)
        tee = {rank: Std.ALL & ~(redirects[rank] & ~kept[rank]) for rank in range(nproc)}
    folder = options.log_dir or retention.owner_folder()
    made: Any = DefaultLogsSpecs
    if job.logs_specs:
        found = [point for point in entry_points(group="torchrun.logs_specs") if point.name == job.logs_specs]
        if not found:
            raise OptionError(f"--logs-specs {job.logs_specs}: no such plug-in of the group torchrun.logs_specs")
        made = found[0].load()
    logs: LogsSpecs = made(
        log_dir=folder, redirects=dict.fromkeys(range(nproc), Std.ALL), tee=tee, local_ranks_filter=shown
    )
    return logs, folder


def _config(options: RunOptions, job: JobOptions, nproc: int, logs: LogsSpecs) -> LaunchConfig:
    conf: dict[str, Any] = dict(job.rdzv_conf)
    endpoint = job.rdzv_endpoint
    if job.rdzv_backend == "static":
        conf["rank"] = job.node_rank
        endpoint = endpoint or f"{job.master_addr or '127.0.0.1'}:{job.master_port or _DEFAULT_PORT}"
    return LaunchConfig(
        min_nodes=job.nnodes[0],
        max_nodes=job.nnodes[1],
        nproc_per_node=nproc,
        logs_specs=logs,
        run_id=job.rdzv_id or "none",
        role=job.role,
        rdzv_endpoint=endpoint,
        rdzv_backend=job.rdzv_backend,
        rdzv_configs=conf,
        max_restarts=options.max_restarts,
        monitor_interval=job.monitor_interval,
        log_line_prefix_template=os.environ.get(env.LOG_LINE_PREFIX_TEMPLATE, _PREFIX),
        local_addr=job.local_addr or None,
        event_log_handler=job.event_log_handler,
        numa_options=None if options.numa is None else NumaOptions(AffinityMode(options.numa)),
        signals_to_handle=",".join(filter(None, [DEFAULT_SIGNALS, job.signals])),
        duplicate_stdout_filters=list(job.stdout_needles) or None,
        duplicate_stderr_filters=list(job.stderr_needles) or None,
        virtual_local_rank=options.virtual_local_rank,
        shutdown_timeout=int(options.grace_s),
    )
