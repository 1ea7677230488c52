"""Runs a plan on workers; where the tables of a loop's state are lost, the loop goes back.

To the last checkpoint, where there is one, else to its start: with the same bits, since all that
is done again gives what it gave. The user's callback hears of an iteration once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scalops.algebra.errors import ExecutionError
from scalops.engine.cluster.coordinator import StateLost
from scalops.engine.loop_runner import LoopControl, further_back, heard_once

MOST_TIMES = 5


def run_again(
    run: Callable[[LoopControl | None], list[Any]], control: LoopControl | None
) -> list[Any]:
    """What `run` gives, which is called again from further back if the state is lost.

    Raises: ExecutionError where it is lost again and again.
    """
    own = heard_once(control)
    for _ in range(MOST_TIMES):
        try:
            return run(own)
        except StateLost:
            own = further_back(own)
    raise ExecutionError(
        f"all workers that held the state of a loop were lost {MOST_TIMES} times",
        hint="loop.run(checkpoint=folder) keeps it on disk; so.session(workers=...) of more workers"
        " holds more copies of it",
    )
