"""The driver's end of a worker process: starting it, asking it, and what it has been told.

Workers are started as `python -m scalops.engine.processes.worker`. They read requests from their
standard input and end when it closes, so that none outlives the driver.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections import OrderedDict
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from scalops.engine.columns import Array
from scalops.engine.processes import launching
from scalops.engine.processes import messages as process_messages
from scalops.engine.processes.messages import Message, receive, send

if TYPE_CHECKING:
    from scalops.engine.processes.calls import Task

FUNCTIONS = 64  # that a worker keeps
_MODULE = "scalops.engine.processes.worker"
_PIPE_BYTES = 1 << 20
_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", None)


class WorkerHandle:
    """A worker process; one thread at a time may ask it."""

    def __init__(self, cache_bytes: int) -> None:
        self._process = subprocess.Popen(
            launching.command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=launching.environment(),
            process_group=0,  # Ctrl-C is the driver's to answer
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)  # a worker that has been stopped reads nothing
        _widen(self._requests)
        _widen(self._replies)
        self._functions: OrderedDict[str, str] = OrderedDict()  # function -> its slots' key
        self.kept: set[str] = set()  # contents that it holds
        self._cache_bytes = cache_bytes
        self._greeted = self._ready = False
        self.told: dict[str, Any] = {}  # of plans whose stages fold there

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for it to have imported what it needs. Raises EOFError where it fails to."""
        self.is_ready(None)

    def is_ready(self, seconds: float | None) -> bool:
        """Whether it has imported what it needs, after waiting so long; None: until it has.

        Raises EOFError where it fails to.
        """
        if self._ready:
            return True
        if not self._greeted:
            settings = {
                "path": sys.path,
                "cache": self._cache_bytes,
                "most": process_messages.MAX_BYTES,
            }
            send(self._requests, Message(settings, []))
            self._greeted = True
        try:
            receive(self._replies, None if seconds is None else monotonic() + seconds)
        except TimeoutError:
            return False
        self._ready = True
        return True

    def send(self, message: Message) -> None:
        """Ask something that is no call; `receive` gives the reply. Raises OSError."""
        send(self._requests, message)

    def receive(self, seconds: float | None) -> Message:
        """Raises: OSError, EOFError where it is gone; TimeoutError; ValueError for nonsense."""
        return receive(self._replies, None if seconds is None else monotonic() + seconds)

    def ask(self, task: Task, deadline: float | None) -> Message:
        """Its reply to a task.

        Raises: OSError, EOFError where it is gone; TimeoutError after the deadline.
        """
        known = task.data is not None and task.data in self.kept
        send(self._requests, self._request(task, known), deadline)
        reply = receive(self._replies, deadline)
        if "missing" in reply.header:  # it holds them in another form
            send(self._requests, self._request(task, known=False), deadline)
            reply = receive(self._replies, deadline)
        self.kept.difference_update(map(str, reply.header.get("dropped", ())))
        if reply.header.get("kept") and task.data is not None:
            self.kept.add(task.data)
        return reply

    def _request(self, task: Task, known: bool) -> Message:
        buffers: list[Array] = []
        header = task.call.request(task, buffers, known=known)
        key, function = task.call.key, task.call.function
        before = self._functions.pop(key, None)
        slots = None
        if before != function.slots.key:
            slots = len(buffers)
            buffers.append(function.slots.data)
        header["function"] = [key, function.description() if before is None else None, slots]
        self._functions[key] = function.slots.key
        if len(self._functions) > FUNCTIONS:
            header["forget"] = self._functions.popitem(last=False)[0]
        return Message(header, buffers)

    def kill(self) -> None:
        """End the process; whoever waits for a reply is told that it is gone."""
        self._process.kill()

    def end(self) -> int:
        """End the process if it has not ended; its exit code."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return self._process.wait()


def _widen(pipe: int) -> None:
    if _PIPE_SIZE is not None:
        with suppress(OSError):  # the user's share of pipe memory is used up
            fcntl.fcntl(pipe, _PIPE_SIZE, _PIPE_BYTES)
