"""A worker's machine for tests: sends back what it is sent, and what else a test asks it for."""

from __future__ import annotations

import os
import signal
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
from scalops.engine.cluster.messages import Command, Data, Heartbeat, Members, Replied


class EchoMachine:
    """Answers each Command with a Replied of the same op, buffers and all.

    The verb says how: "echo" at once, "compute" by way of the compute thread, "exit" and "kill"
    end the process, "pass" has the worker named first in the arguments answer in its place.
    """

    def __init__(self, own: str, settings: dict[str, Any]) -> None:
        self._own, self._calls = own, 0
        self._waiting: dict[int, Any] = {}

    def handle(self, event: Event, now: float) -> list[Action]:
        """Answer."""
        match event:
            case Tick():
                return [Emit("driver", Heartbeat(self._own, 0, 0, -1, 0))]
            case Computed(ticket, outcome):
                command = self._waiting.pop(ticket)
                found = outcome.value if outcome.error is None else repr(outcome.error)
                return [Emit("driver", _reply(command, found), ())]
            case Arrived(_, message) if isinstance(message.body, Members):
                return [Meet(message.body)]
            case Arrived(_, message) if isinstance(message.body, Data):
                return [Emit("driver", Replied(0, 0, message.body.op, 0, None), message.buffers)]
            case Arrived(_, message) if isinstance(message.body, Command):
                return self._command(message.body, message.buffers)
        return []

    def _command(self, command: Command, buffers: list[Any]) -> list[Action]:
        match command.verb:
            case "echo":
                return [Emit("driver", _reply(command, command.arguments), buffers)]
            case "pass":
                data = Data(0, 0, command.op, 0, None)
                return [Emit(command.arguments, data, buffers)]
            case "exit":
                return [Exit(command.arguments, "as told")]
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "compute":
                self._calls += 1
                self._waiting[self._calls] = command
                return [Compute(self._calls, lambda: eval(command.arguments))]
        return []


def _reply(command: Command, piece: Any) -> Replied:
    return Replied(command.job, command.epoch, command.op, 0, piece)
