"""A worker's machine for tests: sends back what it is sent, and what else a test asks it for."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from scalops.engine.cluster.actions import (
    Action,
    Arrived,
    Compute,
    Computed,
    Emit,
    Event,
    Exit,
    Meet,
    Tick,
)
from scalops.engine.cluster.messages import Data, Heartbeat, Members, Replied


def asking(verb: str, argument: Any = None, op: int = 0) -> Data:
    """What asks an EchoMachine."""
    return Data(job=0, epoch=0, op=op, rank=0, to=0, piece=[verb, argument])


class EchoMachine:
    """Answers each Data of the driver with a Replied of the same op.

    Its piece is [verb, argument]. The verb says how: "echo" at once, buffers and all; "compute"
    evaluates the argument on the compute thread; "pass" has the worker named by the argument
    answer in its place; "exit" and "kill" end the process.
    """

    def __init__(self, own: str, settings: dict[str, Any]) -> None:
        self._own, self._settings = own, settings
        self._waiting: list[Data] = []
        self.urgent: deque[Action] = deque()
        self.wake: Callable[[], None] = lambda: None

    def handle(self, event: Event, now: float) -> list[Action]:
        """Answer."""
        match event:
            case Tick():
                return [Emit("driver", Heartbeat(self._own, 0, 0, -1, 0))]
            case Computed(ticket, outcome):
                found = outcome.value if outcome.error is None else repr(outcome.error)
                return [Emit("driver", _reply(self._waiting[ticket], found))]
            case Arrived(_, message) if isinstance(message.body, Members):
                return [Meet(message.body)]
            case Arrived("driver", message):
                return self._asked(message.body, message.buffers)
            case Arrived(_, message):
                return [Emit("driver", _reply(message.body, None), message.buffers)]
        return []

    def _asked(self, asked: Data, buffers: list[Any]) -> list[Action]:
        verb, argument = asked.piece
        match verb:
            case "echo":
                return [Emit("driver", _reply(asked, argument), buffers)]
            case "pass":
                return [Emit(argument, asked, buffers)]
            case "exit":
                return [Exit(argument, "as told")]
            case "compute":
                self._waiting.append(asked)
                return [Compute(len(self._waiting) - 1, lambda: eval(argument))]
            case "settings":
                return [Emit("driver", _reply(asked, self._settings))]
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def _reply(asked: Data, piece: Any) -> Replied:
    return Replied(job=0, epoch=0, op=asked.op, rank=0, piece=piece)
