"""One agent in a process of its own: `python agent_process.py OPTIONS.json BODY ARGUMENT...`, values to `OPTIONS.out`.

OPTIONS.json holds LaunchConfig's fields; BODY is a function of launch_bodies.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ipyelastic.compat.launcher import LaunchConfig, elastic_launch
from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, Std
from support import launch_bodies


def main(options: str, body: str, *arguments: str) -> None:
    """Launch, and leave what came back."""
    given = Path(options)
    with tempfile.TemporaryDirectory() as folder:
        logs = DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL)
        config = LaunchConfig(**json.loads(given.read_text()), logs_specs=logs)
        values = elastic_launch(config, getattr(launch_bodies, body))(*arguments)
    given.with_suffix(".out").write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
