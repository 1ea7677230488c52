"""A worker process: calls captured functions for the driver, until its standard input closes.

Started by `handle.WorkerHandle` as `python -m scalops.engine.processes.worker`.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType, list_of, sparse
from scalops.algebra.errors import ExecutionError, Location, ScalopsError
from scalops.engine.column_codec import add
from scalops.engine.columns import Array
from scalops.engine.opaque.arguments import Column
from scalops.engine.opaque.batches import call_pieces
from scalops.engine.opaque.calls import WantsText, bind, call_rows, reads_text
from scalops.engine.opaque.folds import apply_packed, fold_packed
from scalops.engine.processes import group_calls
from scalops.engine.processes import messages as process_messages
from scalops.engine.processes.errors import encode_error
from scalops.engine.processes.group_calls import KeptGroups
from scalops.engine.processes.kept_records import KeptRecords, Missing, Records
from scalops.engine.processes.messages import (
    Message,
    decode_arguments,
    encode_results,
    receive,
    send,
    slot_values,
)

if TYPE_CHECKING:
    from scalops.engine.processes.fold_worker import FoldWorker


@dataclass
class _Function:
    """A captured function, bound to the slots' values that came last."""

    captured: Captured
    names: tuple[str, ...] | None
    slots: list[Any]
    bound: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        return self.load()(*arguments)

    def load(self) -> Callable[..., Any]:
        if self.bound is None:
            self.bound = bind(self.captured, self.slots)
        return self.bound


class Worker:
    """Answers requests."""

    def __init__(self, cache_bytes: int) -> None:
        self._functions: dict[str, _Function] = {}
        self._kept = KeptRecords(cache_bytes)
        self._folder: FoldWorker | None = None

    def answer(self, request: Message) -> Message:
        """The results of a task, or what went wrong."""
        header, buffers = request
        if header["task"] == "partials":
            return self._folds(header, buffers)
        function = self._told(header, buffers)
        try:
            return self._done(header, buffers, function)
        except Missing:
            return Message({"missing": True}, [])
        except BaseException as error:
            captured = function.captured
            if isinstance(error, Exception) and not isinstance(error, ScalopsError):
                error = _own_failure(captured, error)
            return Message({"error": encode_error(error, captured)}, [])

    def _done(self, header: dict[str, Any], buffers: list[Array], function: _Function) -> Message:
        made: list[Array] = []
        reply: dict[str, Any] = {}
        match header["task"]:
            case "apply":
                values = [buffers[i].tobytes() for i in header["values"]]
                state = apply_packed(function.captured, function.load(), values)
                reply["state"] = add(np.frombuffer(state, np.uint8), made)
            case "fold":
                records = self._records(header, buffers)
                state = _fold(records, function, buffers[header["state"]].tobytes())
                reply["state"] = add(np.frombuffer(state, np.uint8), made)
                reply.update(self._kept.keep(header["data"], records))
            case "rows":
                records = self._records(header, buffers)
                kinds = [_kind(k) for k in header["kinds"]]
                columns = _rows(records, function, kinds, header.get("pieces"))
                reply["columns"] = encode_results(columns, made)
                reply.update(self._kept.keep(header["data"], records))
            case "groups":
                groups = self._groups(header, buffers)
                bound, values = function.load(), function.slots
                reply["rows"], reply["columns"], made = group_calls.called(
                    header, buffers, groups.groups, function.captured, bound, values, _kind
                )
                reply.update(self._kept.keep(header["data"], groups))
        return Message(reply, made)

    def _folds(self, header: dict[str, Any], buffers: list[Array]) -> Message:
        if self._folder is None:
            from scalops.engine.processes.fold_worker import FoldWorker

            self._folder = FoldWorker()
        return self._folder.answer(header, buffers)

    def _groups(self, header: dict[str, Any], buffers: list[Array]) -> KeptGroups:
        if "groups" in header:
            return KeptGroups(group_calls.decode_groups(header, buffers, _kind))
        found = self._kept.find(header["data"])
        assert isinstance(found, KeptGroups)
        return found

    def _records(self, header: dict[str, Any], buffers: list[Array]) -> Records:
        if "arguments" in header:
            return Records(decode_arguments(header["arguments"], buffers), header["rows"])
        found = self._kept.find(header["data"])
        assert isinstance(found, Records)
        return found

    def _told(self, header: dict[str, Any], buffers: list[Array]) -> _Function:
        self._functions.pop(header.get("forget", ""), None)
        key, description, slots = header["function"]
        if description is not None:
            payload, name, where, batch, names = description
            location = None if where is None else Location(*where)
            self._functions[key] = _Function(
                Captured(payload, name, location, batch=batch),
                None if names is None else tuple(names),
                [],
            )
        function = self._functions[key]
        if slots is not None:
            function.slots = slot_values(buffers[slots])
            function.bound = None
        return function


def _own_failure(captured: Captured, error: Exception) -> ExecutionError:
    """An error that is not the function's: no memory for its records, say."""
    made = ExecutionError(
        f"a worker process cannot call {captured.name}: {type(error).__name__}: {error}",
        location=captured.location,
    )
    made.__cause__ = error
    return made


def _fold(records: Records, function: _Function, state: bytes) -> bytes:
    captured = function.captured
    try:
        own = records.made(reads_text(captured))[0]
        return fold_packed(captured, function.load(), state, own)
    except WantsText:
        return fold_packed(captured, function.load(), state, records.made(text=True)[0])


def _rows(
    records: Records, function: _Function, kinds: list[ArrayType], pieces: Any
) -> list[Column]:
    captured, names = function.captured, function.names
    if pieces is not None:
        return call_pieces(captured, function.load(), records.arguments(), pieces, names, kinds)
    try:
        own = records.made(reads_text(captured))
        made = call_rows(captured, function.load(), own, names, kinds)
    except WantsText:
        made = call_rows(captured, function.load(), records.made(text=True), names, kinds)
    return [Column(*c) for c in made]


def _kind(item: Any) -> ArrayType:
    match item:
        case ["list", inner]:
            return list_of(_kind(inner))
        case ["sparse", [dimension]]:
            return sparse(dimension)
        case [name, shape]:
            return ArrayType(name, tuple(shape))
    raise ValueError("a type that makes no sense")


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
    settings = requests.get().header
    sys.path[:] = settings["path"]
    process_messages.MAX_BYTES = settings["most"]
    worker = Worker(settings["cache"])
    process = os.getpid()
    gc.freeze()  # what has been imported stays
    send(replies_file, Message({}, []))
    with np.errstate(all="ignore"):
        while True:
            reply = worker.answer(requests.get())
            _flush()
            if os.getpid() != process:  # a fork that a function made: the reply is not its own
                os._exit(0)
            try:
                send(replies_file, reply)
            except ExecutionError as error:  # too large: nothing has been sent
                send(replies_file, Message({"error": encode_error(error, None)}, []))
            del reply


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A function may have closed or replaced it.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


if __name__ == "__main__":
    main()
