"""What worker processes are asked to do: calls cut into tasks, their requests and replies.

A call is cut into tasks of consecutive records. It fails with the error of the earliest records,
which is the one that plain Python meets.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location
from scalops.engine.column_codec import add
from scalops.engine.columns import Array
from scalops.engine.opaque.arguments import Argument, Column, concatenated
from scalops.engine.opaque.pieces import task_pieces
from scalops.engine.processes.messages import Slots, decode_results, encode_arguments


@dataclass
class Task:
    """Consecutive records of a call, and how often a worker died over them."""

    call: Call
    start: int
    stop: int
    data: str | None  # tells the records' contents apart, where they may be asked for again
    lost: int = 0


@dataclass(frozen=True)
class Function:
    """A captured function with what it has closed over."""

    captured: Captured
    slots: Slots
    names: tuple[str, ...] | None = None
    kinds: tuple[ArrayType, ...] = ()

    @property
    def key(self) -> str:
        """Tells functions apart, whatever they have closed over."""
        return _key(self.captured, self.captured.location, self.names, self.kinds)

    def description(self) -> list[Any]:
        """What a worker is told of it, once."""
        captured, location = self.captured, self.captured.location
        return [
            captured.payload,
            captured.name,
            None if location is None else [location.file, location.line],
            captured.batch,
            self.names,
        ]


@lru_cache(256)  # a payload may be large
def _key(
    captured: Captured,
    location: Location | None,
    names: tuple[str, ...] | None,
    kinds: tuple[ArrayType, ...],
) -> str:
    digest = hashlib.blake2b(captured.payload, digest_size=16)
    digest.update(repr((captured.name, location, captured.batch, names, kinds)).encode())
    return digest.hexdigest()


@dataclass
class Call:
    """A function to be called, and how far that is."""

    function: Function
    tasks: list[Task] = field(default_factory=list)
    open: set[int] = field(default_factory=set)  # starts of tasks that are not settled
    done: threading.Event = field(default_factory=threading.Event)
    failed_at: int | None = None
    error: BaseException | None = None
    given_up: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.key = self.function.key

    @property
    def captured(self) -> Captured:
        return self.function.captured

    def wants(self, task: Task) -> bool:
        return not self.given_up and (self.failed_at is None or task.start < self.failed_at)

    def settle(self, task: Task, error: BaseException | None = None) -> None:
        """A task is done, or has failed; the last one that matters ends the call."""
        with self.lock:
            self.open.discard(task.start)
            if error is not None and self.wants(task):
                self.failed_at, self.error = task.start, error
            if not any(self.failed_at is None or s < self.failed_at for s in self.open):
                self.done.set()

    def give_up(self, error: BaseException) -> None:
        """Nobody waits for it any more."""
        with self.lock:
            self.given_up = True
            self.error = error
            self.done.set()

    def request(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        """The header of a task; with `known` the worker has the records' data already."""
        raise NotImplementedError

    def take(self, task: Task, header: dict[str, Any], buffers: Sequence[Array]) -> None:
        """Keep a task's results. Raises ValueError where they make no sense."""
        raise NotImplementedError

    def place(self, task: Task) -> str:
        """What a task is over, for an error."""
        return f", over records {task.start} to {task.stop - 1} of a block" if task.stop else ""


@dataclass
class OverRecords(Call):
    """A call over the records of a block."""

    arguments: Sequence[Argument] = ()

    def data(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        header: dict[str, Any] = {"rows": task.stop - task.start, "data": task.data}
        if not known:
            own = [a.slice(task.start, task.stop) for a in self.arguments]
            header["arguments"] = encode_arguments(own, buffers)
        return header


@dataclass
class RowsCall(OverRecords):
    """A function's result for each record."""

    results: dict[int, list[Column]] = field(default_factory=dict)

    def request(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        kinds = [described(k) for k in self.function.kinds]
        header = {"task": "rows", "kinds": kinds, **self.data(task, buffers, known=known)}
        if self.captured.batch:
            header["pieces"] = task_pieces(task.start, task.stop, self.tasks[-1].stop)
        return header

    def take(self, task: Task, header: dict[str, Any], buffers: Sequence[Array]) -> None:
        kinds = self.function.kinds
        found = decode_results(header["columns"], buffers, task.stop - task.start, kinds)
        self.results[task.start] = found

    def columns(self) -> list[Column]:
        """All results."""
        parts = [self.results[t.start] for t in self.tasks]
        kinds = self.function.kinds
        return [concatenated(p, k) for p, k in zip(zip(*parts, strict=True), kinds, strict=True)]


@dataclass
class FoldCall(OverRecords):
    """A packed state carried over the records, in one task."""

    state: bytes = b""

    def request(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        data = self.data(task, buffers, known=known)
        number = add(np.frombuffer(self.state, np.uint8), buffers)
        return {"task": "fold", "state": number, **data}

    def take(self, task: Task, header: dict[str, Any], buffers: Sequence[Array]) -> None:
        self.state = buffers[header["state"]].tobytes()


@dataclass
class ApplyCall(Call):
    """A function of a few packed values."""

    values: Sequence[bytes] = ()
    result: bytes = b""

    def request(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        numbers = [add(np.frombuffer(v, np.uint8), buffers) for v in self.values]
        return {"task": "apply", "values": numbers}

    def take(self, task: Task, header: dict[str, Any], buffers: Sequence[Array]) -> None:
        self.result = buffers[header["state"]].tobytes()


def described(kind: ArrayType) -> list[Any]:
    """A type, as a worker reads it."""
    if kind.is_list:
        return ["list", described(kind.item)]  # type: ignore[attr-defined]
    return ["sparse" if kind.is_sparse else kind.name, list(kind.shape)]
