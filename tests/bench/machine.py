"""How busy the machine is with other people's work, read while the benchmark itself is idle."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass, field

__all__ = ["OtherWork"]


def _busy_and_all() -> tuple[int, int]:
    with open("/proc/stat", encoding="ascii") as file:
        numbers = [int(text) for text in file.readline().split()[1:9]]
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, sum(numbers)


@dataclass
class OtherWork:
    """Shares of the CPUs' time that others used, sampled between our own measurements."""

    shares: list[float] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def sample(self, for_s: float = 0.2) -> None:
        """Watch for a moment; our own processes must be idle meanwhile."""
        busy, every = _busy_and_all()
        time.sleep(for_s)
        busy_now, every_now = _busy_and_all()
        self.shares.append((busy_now - busy) / max(1, every_now - every))

    def facts(self) -> dict[str, object]:
        """What to say about the machine."""
        shares = f"{statistics.median(self.shares):.0%}, at most {max(self.shares):.0%}"
        return {
            "machine": f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}",
            "load before": f"{self.load_before:.2f}",
            "others' share of the CPUs while we were idle (median, most)": shares,
        }
