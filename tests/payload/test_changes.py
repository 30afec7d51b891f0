"""What a spare was told ahead and what has changed since make the circumstances of its call, whatever they are."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest

from ipyelastic.payload.changes import changed, changes


def _circumstances(dice: random.Random) -> Any:
    def names(most: int) -> dict[str, str]:
        return {f"V{dice.randrange(12)}": str(dice.randrange(3)) for _ in range(dice.randrange(most))}

    return {
        "base_env": names(6),
        "envs": {rank: names(9) for rank in range(dice.choice([2, 2, 2, 3]))},
        "cwd": dice.choice(["/", "/tmp", None]),
        "sys_path": [dice.choice(["a", "b"])],
        "stdouts": {0: dice.choice(["x", "y"])},
        "seed": dice.choice([None, 0, 1]),
        "run_mark": dice.choice(["m", "n"]),
    }


@pytest.mark.parametrize("seed", range(200))
def test_both_together_are_those_of_the_call(seed: int) -> None:
    dice = random.Random(seed)
    before, now = _circumstances(dice), _circumstances(dice)
    kept = pickle.dumps(before)
    found = changes(before, now)
    assert changed(before, pickle.loads(pickle.dumps(found))) == now
    assert pickle.dumps(before) == kept


def test_nothing_travels_of_what_stayed_the_same() -> None:
    before = _circumstances(random.Random(1))
    assert changes(before, dict(before)) == {}  # type: ignore[arg-type]
    now = {**before, "envs": {**before["envs"], 0: {**before["envs"][0], "PORT": "1"}}}
    assert changes(before, now) == {"envs": {rank: {"PORT": "1"} if rank == 0 else {} for rank in before["envs"]}}
