"""What happens while plans run, for whoever wants to hear it: a log, a line of progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class EventLog(Protocol):
    """Hears of events, on the thread that runs the plan.

    `kind` and its fields:

    - `run`: `options`, those in force; `end`: `seconds`, `failed`;
    - `plan`: `fingerprint`, `stages`, how many;
    - `cache`: `stage`, `table`, and of it `rows`, `bytes`, `partitions`, `cached` of these;
      `seconds`;
    - `stage`: `stages` that ran in one pass, `sink`, `seconds`;
    - `iteration` of an outermost loop: `loop`, its name or None; `number` from 0; `scalars`, the
      environment's scalar fields after it; `seconds`; `rows` read, None where nobody knows;
    - `worker_joined`: `worker`, `host`; `worker_lost`: `worker`, its `ranks`, `reason`;
    - `recovered`: the `ranks` that were lost; `seconds` from the loss until the work went on;
    - `went_back`: all workers that held the tables of a loop's state were lost; `iteration`, the
      number of the one that it goes on with: 0 for its start, else that after its last checkpoint;
    - `changed`: `why`, a neutral decision that was made again, between two iterations;
    - `error`: `type`, `message`.
    """

    def emit(self, kind: str, **fields: Any) -> None:
        """Hear of one event. Must not raise."""


class _Silent:
    def emit(self, kind: str, **fields: Any) -> None:
        pass


# Whoever emits many events asks first whether the log is this one.
SILENT: EventLog = _Silent()


class Several:
    """Passes events on to several logs, in their order."""

    def __init__(self, logs: Sequence[EventLog]) -> None:
        self.logs = tuple(logs)

    def emit(self, kind: str, **fields: Any) -> None:
        for log in self.logs:
            log.emit(kind, **fields)
