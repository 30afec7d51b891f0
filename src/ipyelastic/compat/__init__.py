"""Torch's module tree on our rooms: replace `torch.distributed.elastic.X` by `ipyelastic.compat.X`, nothing else.

`compat.spawn` stands for `torch.multiprocessing.spawn`, `compat.numa` for `torch.numa`. Each module is a write-through
face (`_face.py`): a name that is replaced in it (`unittest.mock.patch`, monkeypatch) is replaced where it is used.

What differs on purpose, and from what torch 2.13 does:

    where                         torch                              here
    Std.from_str                  ranks of one digit; a trailing     ranks of any length; it does not
                                  newline passes
    wait                          polls every `period` seconds of    ends with the event; monotonic clock
                                  wall clock
    function ends with exit 0     the parent waits for ever          failure, exit code 0, a note that says so
      and no value, or by SIGINT
    failures (functions)          the first only                     all that failed by themselves
    same-second failures          a tie                              ordered by nanoseconds
    signal handlers               stay after the run; SIG_IGN is     given back at the end; an ignored SIGHUP (nohup)
                                  overridden; SIGKILL in the list    stays ignored; unblockable names warn
                                  raises OSError
    damaged error file            raises in the agent                a failure that says so; files appear whole
    ProcessFailure data           one shared dict                    a dict of its own
    failure's host in the text    FQDN look-up                       host name, no look-up
    start half-way failed         earlier programs go on             ended
    SubprocessHandler.close       raises on a finished process       silent
    descriptors                   stay until collected               closed at the end
    programs without `record`     no traceback, no stack             what stderr.log ends with: the last traceback, or
                                                                     faulthandler's stacks (PYTHONFAULTHANDLER=1)
    ProcessFailure after a stop   -15 for programs; functions:       as torch; `all_failures` has the rest
                                  not listed
    grandchildren                 survive                            ended with the context
    parent killed with SIGKILL    programs survive                   ended by the fork server
    tee prefix                    twice on a line written in two     once; `\\r` updates are lines of their own
                                  parts; `\\r` never ends a line
    last lines                    can be lost at `stop`              read after the end
    duplicate filters with        NotADirectoryError                 nothing is filtered
      log_dir=/dev/null
    redirect                      follows `sys.stdout.fileno()`      descriptors 1 and 2, and `sys.stdout` with them
    start method spawn            imports torch in every worker      starts a bare Python, a child of the fork server
    pickling                      pickle                             cloudpickle: functions of `__main__` and lambdas
    tail_logfile, filter None     writes nothing                     writes everything
    timer server over a pipe, a   kills the worker, then its own     kills the worker; the agent finds it failed
      worker's time is up           process (the agent) likewise
      the pipe                    of everybody to read; made once    of this user alone; made again at `start`
      a damaged line              costs the others read with it      is logged and left out
      pid 0, -1, one that came    are signalled                      are not
        to another process
    timer servers                 look every `max_interval` seconds  look when a timer runs out; `stop` does not wait
    timers of ended workers       (queue) stay until they run out    dropped
    `expires` without a scope     all share one name, of contextlib  file#line of the caller
      and its block raises        a server that is gone hides it     the block's exception
    event console                 `sys.stderr` of the import         `sys.stderr` of the moment
    rendezvous event's host       FQDN look-up                       host name, no look-up
    events: bad data, unknown     UnboundLocalError, bare KeyError   TypeError, KeyError that says what is taken
      destination
    `prof`                        wall clock                         monotonic clock
    CyclingIterator, no epochs    one epoch                          nothing
    `worker_main`                 records nothing                    records the exception, as `record`
    store_timeout, barrier        after an error the short timeout   the former timeout is back
                                  stays
    LaunchConfig                  writes into the caller's           copies it; counts GPUs by NVML
                                  rdzv_configs; initialises CUDA
      TORCH_ELASTIC_SHUTDOWN_     may be negative                    refused
      TIMEOUT
      exit_barrier_timeout        (after 2.13)                       there; the last field
      logs_specs None             a folder in /tmp that stays        one that goes with this process; a failed
                                                                     launch's stays a week
    elastic_launch                writes run_id into the config and  changes neither
                                  signals into `os.environ`
      one node, backend "etcd",   EtcdStubError, or a server of      "standalone": no server; so is backend ""
        no endpoint               localhost
      functools.partial, objects  AttributeError                     the function's name, the class's
      a rendezvous that cannot    hides the workers' failure         is logged
        be shut down
      signals                     taken while workers run            taken for the whole launch
    agent: shutdown_timeout       at the end only; 30 s elsewhere    on every path, programs and functions
      graceful exit               None: the launcher fails           a result without values
      workers that hang in the    end as success without values      a failure with the pid; not restarted
        kernel
      a worker's end              seen at the next interval          seen at once
      an early import, syntax or  burns all restarts                 not restarted; `attempts[-1]` says why
        pickling error
      event's hostname            FQDN look-up                       host name, no look-up
      health check server         stopped at each restart            stopped at the run's end
"""
