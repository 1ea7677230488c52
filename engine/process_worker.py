"""A worker process: calls captured functions for the driver, until its standard input closes.

Started by `processes.ProcessRunner` as `python -m scalops.engine.process_worker`.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location
from scalops.algebra.expressions import Captured
from scalops.engine.arguments import Column
from scalops.engine.blas import single_threaded
from scalops.engine.blocks import Array
from scalops.engine.opaque import bind, call_rows
from scalops.engine.process_errors import encode_error
from scalops.engine.process_messages import (
    Message,
    decode,
    decode_arguments,
    encode_results,
    receive,
    send,
)


@dataclass
class _Function:
    """A captured function, bound to the slots' values that came last."""

    captured: Captured
    names: tuple[str, ...] | None
    kinds: list[ArrayType]
    slots: list[Any]
    bound: Callable[..., Any] | None = None


class Worker:
    """Answers requests."""

    def __init__(self) -> None:
        self._functions: dict[str, _Function] = {}

    def answer(self, request: Message) -> Message:
        """The results of a batch of records, or what went wrong."""
        header, buffers = request
        function = self._function(header, buffers)
        try:
            if function.bound is None:
                function.bound = bind(function.captured, function.slots)
            arguments = decode_arguments(header["arguments"], buffers)
            columns = call_rows(
                function.captured,
                function.bound,
                [a.records(header["rows"]) for a in arguments],
                function.names,
                function.kinds,
            )
            results: list[Array] = []
            return Message(
                {"columns": encode_results([Column(*c) for c in columns], results)}, results
            )
        except BaseException as error:
            return Message({"error": encode_error(error, function.captured)}, [])

    def _function(self, header: dict[str, Any], buffers: list[Array]) -> _Function:
        self._functions.pop(header.get("forget", ""), None)
        key = header["function"]
        if "captured" in header:
            payload, name, where, names, kinds = header["captured"]
            self._functions[key] = _Function(
                Captured(payload, name, None if where is None else Location(*where)),
                None if names is None else tuple(names),
                [ArrayType(n, tuple(shape)) for n, shape in kinds],
                [],
            )
        function = self._functions[key]
        if "slots" in header:
            function.slots = [decode(s, buffers) for s in header["slots"]]
            function.bound = None
        return function


def _read_requests(file: int, requests: queue.SimpleQueue[Message]) -> None:
    """Hand requests over; a thread, so that a busy worker too notices that the driver is gone."""
    try:
        while True:
            requests.put(receive(file))
    except (EOFError, OSError, ValueError):
        os._exit(0)


def main() -> None:
    """Serve until the driver goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The user's functions may print, and read input that is not there.
    requests_file, replies_file = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests_file, requests), daemon=True).start()
    sys.path[:] = requests.get().header["path"]
    worker = Worker()
    with np.errstate(all="ignore"), single_threaded():
        while True:
            reply = worker.answer(requests.get())
            sys.stdout.flush()
            send(replies_file, reply)


if __name__ == "__main__":
    main()
