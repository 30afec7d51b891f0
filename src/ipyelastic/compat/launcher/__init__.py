"""`torch.distributed.launcher`: launch a job from a program."""

from __future__ import annotations

from . import api as api
from .api import LaunchConfig, elastic_launch, launch_agent

__all__ = ["LaunchConfig", "elastic_launch", "launch_agent"]
