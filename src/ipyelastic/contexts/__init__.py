"""Torch's process contexts: a set of workers that is started, waited for and closed as one."""
