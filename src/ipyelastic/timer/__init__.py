"""Watchdog timers: a worker says how long a block may take, a server beside it kills the worker that takes longer."""
