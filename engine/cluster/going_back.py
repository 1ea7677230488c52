"""Runs a plan on workers; where the tables of a loop's state are lost, the loop goes back.

To the last checkpoint, where there is one, else to its start: with the same bits, since all that
is done again gives what it gave. The user's callback hears of an iteration once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from scalops.algebra.errors import ExecutionError
from scalops.engine.cluster.coordinator import StateLost
from scalops.engine.events import SILENT, EventLog
from scalops.engine.loop_runner import LoopControl, further_back, heard_once

log = logging.getLogger("scalops")

MOST_TIMES = 5


def run_again(
    run: Callable[[LoopControl | None], list[Any]],
    control: LoopControl | None,
    events: EventLog = SILENT,
) -> list[Any]:
    """What `run` gives, which is called again from further back if the state is lost.

    Each time `events` hear of it, and a warning is logged. Raises: ExecutionError where the state
    is lost again and again.
    """
    own = heard_once(control)
    for left in reversed(range(MOST_TIMES)):
        try:
            return run(own)
        except StateLost:
            if left:
                own = further_back(own)
                _tell(own, events)
    raise ExecutionError(
        f"all workers that held the state of a loop were lost {MOST_TIMES} times",
        hint="loop.run(checkpoint=folder) keeps it on disk; so.session(workers=...) of more workers"
        " holds more copies of it",
    )


def _tell(own: LoopControl | None, events: EventLog) -> None:
    """Say where the loop goes on, and what would have spared its iterations."""
    iteration = 0 if own is None or own.resumed is None else own.resumed.iterations
    events.emit("went_back", iteration=iteration)
    place = f"its last checkpoint, of {iteration} iterations" if iteration else "its start"
    saves = own is not None and own.folder is not None
    log.warning(
        "all workers that held the loop's tables were lost: it goes back to %s%s",
        place,
        "" if saves else "; loop.run(checkpoint=folder) saves it from time to time",
    )
