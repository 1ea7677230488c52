"""Worker processes of one machine: opaque functions are called in them, in batches.

Workers are started as `python -m scalops.engine.process_worker`, when first needed. They read
requests from their standard input and end when it closes, so that none outlives the driver.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, WorkerLost
from scalops.algebra.expressions import Captured
from scalops.engine.arguments import Argument, Column, concatenated
from scalops.engine.blocks import Array
from scalops.engine.process_errors import decode_error
from scalops.engine.process_messages import (
    Message,
    Slots,
    decode_results,
    encode_arguments,
    receive,
    send,
    slots_of,
)

ATTEMPTS = 3  # a batch that takes so many workers down is not tried again
FUNCTIONS = 64  # that a worker keeps
_MODULE = "scalops.engine.process_worker"


class _Worker:
    """A process, and what it has been told so far."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            # -P: the folder it happens to start in is no place to import from.
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            process_group=0,  # Ctrl-C is the driver's to answer
        )
        self.known: OrderedDict[str, str] = OrderedDict()  # function -> its slots' key
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests = self.process.stdin.fileno()
        self.replies = self.process.stdout.fileno()
        self.greeted = False

    def send(self, message: Message) -> None:
        if not self.greeted:
            send(self.requests, Message({"path": sys.path}, []))
            self.greeted = True
        send(self.requests, message)

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait()


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    # The worker finds this package where the driver did, and then takes over the driver's path.
    root = str(Path(__file__).parents[2])
    given = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = root if not given else f"{given}{os.pathsep}{root}"
    # Workers must agree on the order of sets.
    environment.setdefault("PYTHONHASHSEED", "0")
    environment.pop("SCALOPS_PROCESSES", None)
    return environment


class _Seat:
    """The place of one worker, which may be empty; `owner` is the call that uses it."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.owner: object | None = None
        self.waiting = False  # for a reply

    def vacate(self) -> None:
        worker, self.worker = self.worker, None
        self.waiting = False
        if worker is not None:
            worker.end()


@dataclass
class _Batch:
    """Consecutive records, and how often a worker died over them."""

    start: int
    stop: int
    lost: int = 0


@dataclass
class _Call:
    """One call of `call_rows`."""

    captured: Captured
    key: str
    slots: Slots
    arguments: Sequence[Argument]
    names: tuple[str, ...] | None
    kinds: Sequence[ArrayType]
    generation: int
    results: dict[int, list[Column]] = field(default_factory=dict)
    failed_at: int | None = None
    error: BaseException | None = None

    def fail(self, batch: _Batch, error: BaseException) -> None:
        """Keep the error of the earliest records, which is the one that plain Python meets."""
        if self.failed_at is None or batch.start < self.failed_at:
            self.failed_at, self.error = batch.start, error

    def wants(self, batch: _Batch) -> bool:
        return self.failed_at is None or batch.start < self.failed_at

    def request(self, batch: _Batch, worker: _Worker) -> Message:
        buffers: list[Array] = []
        header: dict[str, Any] = {"function": self.key, "rows": batch.stop - batch.start}
        arguments = [a.slice(batch.start, batch.stop) for a in self.arguments]
        header["arguments"] = encode_arguments(arguments, buffers)
        known = worker.known.pop(self.key, None)
        if known is None:
            location = self.captured.location
            header["captured"] = [
                self.captured.payload,
                self.captured.name,
                None if location is None else [location.file, location.line],
                self.names,
                [[k.name, k.shape] for k in self.kinds],
            ]
        if known != self.slots.key:
            header["slots"] = _moved(self.slots.items, len(buffers))
            buffers.extend(self.slots.buffers)
        worker.known[self.key] = self.slots.key
        if len(worker.known) > FUNCTIONS:
            header["forget"] = worker.known.popitem(last=False)[0]
        return Message(header, buffers)


def _moved(items: Sequence[Any], by: int) -> list[Any]:
    """Slots whose buffers come after others."""
    return [[*i[:3], i[3] + by] if isinstance(i, list) and i[0] == "array" else i for i in items]


class ProcessRunner:
    """`count` workers, started when first needed; may be called from several threads."""

    def __init__(self, count: int) -> None:
        self._seats = [_Seat() for _ in range(max(1, count))]
        self._free = threading.Condition()
        self._lost: list[str] = []
        self._stopped = False
        self._generation = 0  # of calls: all before the last `abandon` are given up
        # Runs at exit too. A forked child must leave the workers to its parent.
        self._end = weakref.finalize(self, _vacate_all, self._seats, os.getpid())

    def call_rows(
        self,
        captured: Captured,
        slots: Slots,
        arguments: Sequence[Argument],
        rows: int,
        names: tuple[str, ...] | None,
        kinds: Sequence[ArrayType],
    ) -> list[Column]:
        """As `opaque.call_rows`, but in the workers.

        Raises: UserFunctionError as it does, for the first record that fails; WorkerLost where
        the function ends its process, again and again.
        """
        key = _key(captured, names, kinds)
        call = _Call(captured, key, slots, arguments, names, kinds, self._generation)
        size = max(1, -(-rows // len(self._seats)))
        batches = [_Batch(a, min(rows, a + size)) for a in range(0, rows, size)] or [_Batch(0, 0)]
        self._run(call, batches)
        if call.error is not None:
            raise call.error
        parts = [call.results[b.start] for b in batches]
        return [concatenated(p) for p in zip(*parts, strict=True)]

    def slots(self, values: Sequence[Any]) -> Slots:
        """Values of an iteration, made ready for `call_rows`."""
        return slots_of(values)

    def lost(self) -> tuple[str, ...]:
        """Workers that died since the last call."""
        lost, self._lost = self._lost, []
        return tuple(lost)

    def workers(self) -> tuple[int, ...]:
        """Process ids of the workers that have been started."""
        return tuple(s.worker.process.pid for s in self._seats if s.worker is not None)

    def abandon(self) -> None:
        """Give up the calls that run: their workers are ended, and they raise."""
        with self._free:
            self._generation += 1
            for seat in self._seats:
                if seat.owner is not None and seat.worker is not None:
                    seat.worker.process.kill()
            self._free.notify_all()

    def stop(self) -> None:
        """End the workers; nothing can be called afterwards."""
        with self._free:
            self._stopped = True
            for seat in self._seats:
                if seat.owner is None:
                    seat.vacate()
                elif seat.worker is not None:
                    seat.worker.process.kill()  # the call that it works for notices
            self._free.notify_all()
        self._end.detach()

    def _run(self, call: _Call, batches: Sequence[_Batch]) -> None:
        waiting = deque(batches)
        busy: dict[_Seat, _Batch] = {}
        token = object()
        replies = selectors.DefaultSelector()
        try:
            self._start(call, len(batches))
            while True:
                waiting = deque(b for b in waiting if call.wants(b))
                while waiting and (seat := self._take(call, token, wait=not busy)) is not None:
                    batch = waiting.popleft()
                    if self._ask(seat, call, batch):
                        busy[seat] = batch
                        replies.register(seat.worker.replies, selectors.EVENT_READ, seat)  # type: ignore[union-attr]
                    else:
                        self._died(seat, call, batch, waiting)
                if not any(call.wants(b) for b in busy.values()):
                    return
                for event, _ in replies.select():
                    seat = event.data
                    replies.unregister(event.fd)
                    batch = busy.pop(seat)
                    if self._answer(seat, call, batch):
                        self._give([seat])
                    else:
                        self._died(seat, call, batch, waiting)
        finally:
            # After an error or an interrupt, workers that still compute are of no use.
            own = [s for s in self._seats if s.owner is token]
            for seat in own:
                if seat.waiting:
                    seat.vacate()
            self._give(own)
            replies.close()

    def _start(self, call: _Call, wanted: int) -> None:
        """Start empty seats' workers together: each needs its time to import."""
        with self._free:
            self._refuse(call)
            for seat in self._seats[:wanted]:
                if seat.owner is None and seat.worker is None:
                    seat.worker = _Worker()

    def _take(self, call: _Call, token: object, wait: bool) -> _Seat | None:
        with self._free:
            while True:
                self._refuse(call)
                for seat in self._seats:
                    if seat.owner is None:
                        seat.owner = token
                        return seat
                if not wait:
                    return None
                self._free.wait()

    def _refuse(self, call: _Call) -> None:
        if self._stopped:
            raise ExecutionError("the worker processes have been stopped")
        if call.generation != self._generation:
            raise ExecutionError(f"{call.captured.name} was given up")

    def _give(self, seats: Sequence[_Seat]) -> None:
        with self._free:
            for seat in seats:
                seat.owner = None
            self._free.notify_all()

    def _ask(self, seat: _Seat, call: _Call, batch: _Batch) -> bool:
        """Send a batch; False where the worker is gone."""
        with self._free:
            self._refuse(call)
            if seat.worker is None:
                seat.worker = _Worker()
        seat.waiting = True
        try:
            seat.worker.send(call.request(batch, seat.worker))
        except OSError:
            return False
        return True

    def _answer(self, seat: _Seat, call: _Call, batch: _Batch) -> bool:
        """Take a batch's results; False where the worker is gone."""
        assert seat.worker is not None
        try:
            header, buffers = receive(seat.worker.replies)
            if "error" in header:
                call.fail(batch, decode_error(header["error"], call.captured))
            else:
                found = decode_results(
                    header["columns"], buffers, batch.stop - batch.start, call.kinds
                )
                call.results[batch.start] = found
        except (OSError, EOFError):
            return False
        except Exception as error:  # whatever nonsense leads to
            seat.vacate()
            call.fail(batch, _nonsense(call.captured, error))
        seat.waiting = False
        return True

    def _died(self, seat: _Seat, call: _Call, batch: _Batch, waiting: deque[_Batch]) -> None:
        worker = seat.worker
        assert worker is not None
        seat.vacate()
        with self._free:
            self._refuse(call)
        self._lost.append(f"process {worker.process.pid}")
        self._give([seat])
        batch.lost += 1
        if batch.lost < ATTEMPTS:
            waiting.appendleft(batch)
            return
        code = worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        error = WorkerLost(
            f"{call.captured.name} ended its worker process {batch.lost} times, the last time by"
            f" {how}, over records {batch.start} to {batch.stop - 1} of a block",
            location=call.captured.location,
            hint="so.session(processes=0) runs it in this process",
        )
        call.fail(batch, error)


def _key(captured: Captured, names: object, kinds: Sequence[ArrayType]) -> str:
    digest = hashlib.blake2b(captured.payload, digest_size=16)
    digest.update(repr((captured.name, captured.location, names, kinds)).encode())
    return digest.hexdigest()


def _nonsense(captured: Captured, error: Exception) -> ExecutionError:
    return ExecutionError(
        f"a worker's reply about {captured.name} makes no sense: {error}",
        location=captured.location,
    )


def _vacate_all(seats: Sequence[_Seat], process: int) -> None:
    if os.getpid() == process:
        for seat in seats:
            seat.vacate()
