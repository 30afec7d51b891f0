"""A warm process that forks ranks, and its owner's hold on it: `client` here, `server` at the far end.

Why: a fork of a small, single-threaded process with everything imported is fresh, isolated, CUDA-safe and takes
milliseconds. The server is parent and subreaper of all ranks, so nothing they start can outlive the run, and it acts
on its own (first failure, time limit, owner gone) while the owner's interpreter is busy.

Rules (DESIGN section 1): one thread, never imports after its first fork, no socket has a name.

Files: `client` chooses among servers, `handle` holds one server's process, `launched` one run on it, `preload` says
what a server should import, `cost` how many spares it keeps and what it all costs; `server` is the far end's loop,
`group` one run's ranks in it, `spares` the ranks it has forked ahead, `fork` how it forks, `pages` makes that cheap.
`handover` is a call's way from the owner to spares, `ahead` what they are told before there is one, `edits` whether
something that was preloaded may have been edited.
contexts/owner_fork.py runs the same loop in a keeper process for start method fork.

Every descriptor, who opens it, who inherits it, who closes it:

    descriptor            opened by          inherited by         closed by
    control socket, own   client             nobody (cloexec;     client.stop, or in a forked child by at-fork
                                             forks: see at-fork)
    control socket, far   client             server (pass_fds)    client right after Popen; server at its exit
    run channel, own      client, per run    as control, own      Launched.close, or at-fork
    run channel, far      client, per run    server (SCM_RIGHTS)  client after sending; server at the run's end
    call file             client, per run    server, its ranks    client after sending; server after the run's forks;
                                                                  rank once mapped
    value channel, far    client, per run    server, its ranks    client after sending; server after the run's forks;
                                                                  rank at its exit
    console (1 and 2)     owner              server, its ranks    server after the run's forks; sent only when a
                                             (SCM_RIGHTS)         stream has no log file
    value channel, own    context            as control, own      context's close
    status page           client, per run    server, its ranks    client after sending; server at the run's end; rank at
                                             (SCM_RIGHTS)         its exit
    the same five of a    client, after a    spares that were     client once the call is delivered, when another number
    run to come (ahead)   run                told (SCM_RIGHTS)    of ranks is launched or another server takes over; a
                                                                  spare when it gets another call or ends
    watch of edits        client, per        nobody (cloexec;     client.stop, or in a forked child by at-fork
                          server             forks: see at-fork)
    owner's pidfd         server             nobody (cloexec)     server at its exit
    spare's end           server, per spare  that spare           server after the fork; rank once it has its call
    spare's end, own      server, per spare  nobody (cloexec,     server once the call is handed over, at the spare's
                                             closed by forks)     death, or when it is dismissed
    server's pidfd        client             as control, own      client.stop
    server's stderr       client (memfd)     server (as 1 and 2)  client.stop
    wake-up pair          server             nobody               server at its exit

A rank closes everything but 0-2, call file, value channel and status page as its first act (`worker.isolate`), a spare
everything but 0-2 and its end; it is sent those three, and the console's two, with its call (SCM_RIGHTS).
While a run's descriptors are held, no other run's ranks are forked, and no spare: the server has one thread.
"""
