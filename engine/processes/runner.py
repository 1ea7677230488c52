"""Worker processes of one machine: opaque functions are called in them, in tasks.

A thread for each worker hands it one task after the other. A task whose records a worker still
holds from an earlier pass is kept for that worker.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, UserFunctionError
from scalops.engine.blocks import Block
from scalops.engine.opaque.arguments import Argument, Column, digest
from scalops.engine.opaque.group_functions import GroupFunction, Groups, batches
from scalops.engine.opaque.pieces import PIECES, TIMED_ROWS, task_bounds
from scalops.engine.processes.calls import (
    ApplyCall,
    Call,
    FoldCall,
    Function,
    OverRecords,
    RowsCall,
    Task,
)
from scalops.engine.processes.errors import decode_error, ended_its_worker, took_too_long
from scalops.engine.processes.group_calls import GroupsCall
from scalops.engine.processes.handle import WorkerHandle
from scalops.engine.processes.messages import Slots, slots_of
from scalops.engine.threads import check_stopped, may_be_stopped

ATTEMPTS = 3  # a task that takes so many workers down is not tried again
KEPT_SHARE = 8  # of the memory, that workers may keep tables in: one part in so many
GROUP_TASKS = 4  # tasks that each worker gets of a table's groups, which may take unequally long
_LOOK_SECONDS = 0.05  # between two looks at whether the run has failed elsewhere
_LET_GO_SECONDS = 10.0
_STOPPED = "the worker processes have been stopped"
_SOURCES = 1 << 16  # blocks whose digests are remembered


def kept_bytes(memory: int | None) -> int:
    """Bytes that all workers together may keep: a share of the session's, or of what is free."""
    if memory is None:
        import psutil

        memory = psutil.virtual_memory().available
    return memory // KEPT_SHARE


class _Seat:
    """The place of one worker, which may be empty."""

    def __init__(self) -> None:
        self.worker: WorkerHandle | None = None
        self.thread: threading.Thread | None = None
        self.own: deque[Task] = deque()  # tasks for this worker, whose data it may hold
        self.lent = False  # to a thread that asks the worker itself
        self.task: Task | None = None  # what it works on

    def load(self) -> int:
        """How many tasks it has."""
        return len(self.own) + (self.task is not None)

    def keeps(self, data: str | None) -> bool:
        return data is not None and self.worker is not None and data in self.worker.kept


class _Desk:
    """What a runner and its threads share; holds no runner, so that it can be dropped."""

    def __init__(self, count: int, timeout: float | None, cache_bytes: int) -> None:
        self.timeout, self.cache_bytes = timeout, cache_bytes
        self.seats = [_Seat() for _ in range(max(1, count))]
        self.waiting: deque[Task] = deque()  # tasks of workers that died
        self.changed = threading.Condition()
        self.stopped = False
        self.lost: list[str] = []
        self.process = os.getpid()

    def submit(self, call: Call) -> None:
        """Queue a call's tasks, and start as many threads as can work on them."""
        with self.changed:
            if self.stopped:
                raise ExecutionError(_STOPPED)
            for task in call.tasks:
                holders = [s for s in self.seats if s.keeps(task.data)]
                seat = min(holders or self.seats, key=_Seat.load)
                # What is quick goes first: a call waits for it that has more to ask.
                (seat.own.appendleft if isinstance(call, ApplyCall) else seat.own.append)(task)
            for seat in self.seats:
                if seat.thread is None and seat.own:
                    seat.thread = threading.Thread(
                        target=_serve, args=(self, seat), daemon=True, name="scalops-seat"
                    )
                    seat.thread.start()
            self.changed.notify_all()

    def next(self, seat: _Seat) -> Task | None:
        """The next task for a seat, waiting for one; None at the end."""
        with self.changed:
            while True:
                if self.stopped:
                    return None
                task = self._pick(seat)
                if task is None:
                    self.changed.wait()
                elif task.call.wants(task):
                    seat.task = task
                    return task
                else:
                    task.call.settle(task)

    def _pick(self, seat: _Seat) -> Task | None:
        for queue in (self.waiting, seat.own):
            if queue:
                return queue.popleft()
        # Help out a seat that has more than its next one to do.
        busiest = max(self.seats, key=lambda s: len(s.own))
        return busiest.own.pop() if len(busiest.own) > 1 else None

    def again(self, task: Task) -> None:
        """Queue a task again, before others."""
        with self.changed:
            self.waiting.appendleft(task)
            self.changed.notify_all()

    def withdraw(self, calls: Sequence[Call] | None, why: str | None = None) -> None:
        """Give up calls, all where None: workers that are at them are ended."""
        with self.changed:
            queues = [self.waiting, *(s.own for s in self.seats)]
            tasks = [t for q in queues for t in q] + [s.task for s in self.seats if s.task]
            everything = calls is None
            if calls is None:
                calls = list({id(t.call): t.call for t in tasks}.values())
            for call in calls:
                call.give_up(ExecutionError(why or f"{call.captured.name} was given up"))
            for queue in queues:
                kept = [t for t in queue if not t.call.given_up]
                queue.clear()
                queue.extend(kept)
            for seat in self.seats:
                given_up = seat.task is not None and seat.task.call.given_up
                if seat.worker is not None and (given_up or (everything and seat.lent)):
                    seat.worker.kill()
            self.changed.notify_all()

    def let_go(self, call: Call) -> None:
        """Wait until no worker is at a call that was given up."""
        with self.changed:
            self.changed.wait_for(
                lambda: not any(s.task is not None and s.task.call is call for s in self.seats),
                _LET_GO_SECONDS,
            )

    def stop(self) -> None:
        """End the workers and the threads."""
        if os.getpid() != self.process:
            return  # a forked child leaves the workers to its parent
        with self.changed:
            self.stopped = True
            self.withdraw(None, _STOPPED)
            threads = [s.thread for s in self.seats if s.thread is not None]
            for worker in [s.worker for s in self.seats if s.worker is not None]:
                worker.kill()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()
        for seat in self.seats:  # that was lent has no thread that would
            _vacate(self, seat)


class ProcessRunner:
    """`count` workers, started when first needed; may be called from several threads.

    `timeout`: seconds that a task may take. `cache_bytes`: what the workers together may keep
    of blocks that they have seen.
    """

    def __init__(
        self, count: int, timeout: float | None = None, cache_bytes: int = 1 << 28
    ) -> None:
        self._count = max(1, count)
        self._desk = _Desk(self._count, timeout, cache_bytes // self._count)
        self._digests: dict[object, str] = {}
        self._end = weakref.finalize(self, self._desk.stop)  # runs at exit too

    @property
    def count(self) -> int:
        """How many workers there may be."""
        return self._count

    # What can be asked.

    def call_rows(
        self,
        captured: Captured,
        slots: Slots,
        arguments: Sequence[Argument],
        rows: int,
        names: tuple[str, ...] | None,
        kinds: Sequence[ArrayType],
        source: object = None,
    ) -> list[Column]:
        """As `batches.call_over`, but in the workers.

        `source` tells blocks of a run apart whose content stays the same, if it is known to.
        Raises: UserFunctionError as it does, for the first record that fails, or where a task
        takes too long; WorkerLost where the function ends its process, again and again.
        """
        call = RowsCall(Function(captured, slots, names, tuple(kinds)), arguments=arguments)
        if captured.batch:
            # If it matters how long a task takes, one piece each.
            bounds = task_bounds(rows, self._count if self._desk.timeout is None else PIECES)
        else:
            size = max(1, -(-rows // self._count))
            if self._desk.timeout is not None:
                size = min(size, TIMED_ROWS)
            bounds = [(a, min(rows, a + size)) for a in range(0, rows, size)] or [(0, 0)]
        self._over(call, bounds, source)
        return call.columns()

    def fold(
        self,
        transition: Captured,
        slots: Slots,
        state: bytes,
        argument: Argument,
        rows: int,
        source: object = None,
    ) -> bytes:
        """As `opaque_fold.fold_packed`, over a block's records in one worker."""
        call = FoldCall(Function(transition, slots), arguments=[argument], state=state)
        self._over(call, [(0, rows)], source)
        return call.state

    def apply(self, captured: Captured, slots: Slots, values: Sequence[bytes]) -> bytes:
        """A function's packed result for packed arguments."""
        call = ApplyCall(Function(captured, slots), values=values)
        self._run(call, [Task(call, 0, 0, None)])
        return call.result

    def call_groups(
        self, function: GroupFunction, slots: Slots, groups: Groups, name: str | None = None
    ) -> list[Block]:
        """As `group_functions.call_groups`, but in the workers, in several tasks.

        `slots` are those of the captured function, then the values that are arguments. `name`
        tells the groups' records apart where they may come again.
        """
        declared = function.declared
        names = None if declared.bare else declared.names
        own = Function(function.captured, slots, names, tuple(k for _, k in declared))
        call = GroupsCall(own, groups=groups, applied=function)
        if self._desk.timeout is not None:  # it is told which one takes too long
            bounds = [(i, i + 1) for i in range(groups.count)]
        else:
            bounds = batches(groups, self._count * GROUP_TASKS)
        tasks = [Task(call, a, b, None if name is None else f"{name}:{a}:{b}") for a, b in bounds]
        if tasks:
            self._run(call, tasks)
        return call.blocks()

    def slots(self, values: Sequence[Any]) -> Slots:
        """Values of an iteration, made ready for a call."""
        return slots_of(values)

    def lanes(self, count: int) -> list[Lane]:
        """Ways to ask up to `count` workers, for one thread that calls nothing meanwhile."""
        self._renew()
        return [Lane(self._desk, seat) for seat in self._desk.seats[:count]]

    # Life.

    def lost(self) -> tuple[str, ...]:
        """Workers that died since the last call."""
        lost, self._desk.lost = self._desk.lost, []
        return tuple(lost)

    def workers(self) -> tuple[int, ...]:
        """Process ids of the workers that have been started."""
        return tuple(s.worker.pid for s in self._desk.seats if s.worker is not None)

    def abandon(self) -> None:
        """Give up the calls that run: their workers are ended, and they raise."""
        self._desk.withdraw(None)

    def stop(self) -> None:
        """End the workers; nothing can be called afterwards."""
        self._end.detach()
        self._desk.stop()

    # Calls.

    def _over(self, call: OverRecords, bounds: Sequence[tuple[int, int]], source: object) -> None:
        content = None if source is None else self._content(source, call.arguments)
        flavour = "arrays" if call.captured.batch else "records"
        self._run(
            call,
            [
                Task(call, a, b, None if content is None else f"{content}:{a}:{b}:{flavour}")
                for a, b in bounds
            ],
        )

    def _content(self, source: object, arguments: Sequence[Argument]) -> str:
        """What tells the arguments' content apart; computed once for a source."""
        known = self._digests.get(source)
        if known is None:
            if len(self._digests) >= _SOURCES:
                self._digests.clear()
            known = self._digests[source] = digest(arguments)
        return known

    def _run(self, call: Call, tasks: list[Task]) -> None:
        self._renew()
        call.tasks = tasks
        call.open = {t.start for t in tasks}
        self._desk.submit(call)
        try:
            if may_be_stopped():
                while not call.done.wait(_LOOK_SECONDS):
                    check_stopped()
            else:
                call.done.wait()
        except BaseException:
            self._desk.withdraw([call])
            self._desk.let_go(call)
            raise
        if call.error is not None:
            if not call.given_up:  # workers that are at later records are of no use
                error = call.error
                self._desk.withdraw([call])
                raise error
            raise call.error

    def _renew(self) -> None:
        if os.getpid() != self._desk.process:  # a fork has this process's tables, not its threads
            old = self._desk
            self._desk = _Desk(self._count, old.timeout, old.cache_bytes)
            self._end = weakref.finalize(self, self._desk.stop)


class Lane:
    """A worker that is asked by the calling thread, without a queue between them."""

    def __init__(self, desk: _Desk, seat: _Seat) -> None:
        self._desk, self._seat = desk, seat

    def start(self) -> WorkerHandle:
        """The worker; a new process, which is not ready yet, where there is none."""
        desk, seat = self._desk, self._seat
        with desk.changed:
            if desk.stopped:
                raise ExecutionError(_STOPPED)
            # One that was given up is about to be ended.
            desk.changed.wait_for(lambda: seat.task is None, _LET_GO_SECONDS)
            if seat.worker is None:
                seat.worker = WorkerHandle(desk.cache_bytes)
            return seat.worker

    @property
    def worker(self) -> WorkerHandle | None:
        """The worker, if there is one."""
        return self._seat.worker

    def lend(self, lent: bool) -> None:
        """Whether it is being asked: `abandon` ends it then."""
        with self._desk.changed:
            self._seat.lent = lent

    def lose(self, *, died: bool = True) -> None:
        """End the worker: it has died, or nothing more is wanted of it."""
        worker = self._seat.worker
        _vacate(self._desk, self._seat)
        if worker is not None and died:
            self._desk.lost.append(f"process {worker.pid}")


def _serve(desk: _Desk, seat: _Seat) -> None:
    """A seat's thread: tasks, until the end."""
    try:
        while (task := desk.next(seat)) is not None:
            try:
                _work(desk, seat, task)
            except BaseException as error:  # the caller must hear of anything
                _vacate(desk, seat)
                task.call.settle(task, error)
            finally:
                with desk.changed:
                    seat.task = None
                    desk.changed.notify_all()
            del task  # it holds what its call holds
    finally:
        _vacate(desk, seat)


def _work(desk: _Desk, seat: _Seat, task: Task) -> None:
    call = task.call
    with desk.changed:
        if desk.stopped or call.given_up:  # since it was taken: nobody would end it
            return
        if seat.worker is None:
            seat.worker = WorkerHandle(desk.cache_bytes)
        worker = seat.worker
    try:
        worker.wait_until_ready()
        deadline = None if desk.timeout is None else monotonic() + desk.timeout
        header, buffers = worker.ask(task, deadline)
    except TimeoutError:
        _vacate(desk, seat)
        call.settle(task, _too_long(task, desk.timeout or 0.0))
        return
    except (OSError, EOFError):
        code = _vacate(desk, seat)
        if not call.given_up:
            _died(desk, worker, task, code)
        return
    except ValueError as error:  # not written by the worker: its function has the file's number
        _vacate(desk, seat)
        raise _nonsense(task, error) from error
    if "error" in header:
        call.settle(task, decode_error(header["error"], call.captured))
        return
    try:
        call.take(task, header, buffers)
    except Exception as error:  # whatever nonsense leads to
        _vacate(desk, seat)
        raise _nonsense(task, error) from error
    call.settle(task)


def _vacate(desk: _Desk, seat: _Seat) -> int:
    """End a seat's worker; its exit code. Its tasks are anyone's."""
    with desk.changed:
        worker, seat.worker = seat.worker, None
        desk.waiting.extend(seat.own)
        seat.own.clear()
        desk.changed.notify_all()
    return 0 if worker is None else worker.end()


def _died(desk: _Desk, worker: WorkerHandle, task: Task, code: int) -> None:
    desk.lost.append(f"process {worker.pid}")
    task.lost += 1
    if task.lost < ATTEMPTS:
        desk.again(task)
        return
    captured = task.call.captured
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    error = ended_its_worker(
        captured.name,
        captured.location,
        task.lost,
        f"by {how}{task.call.place(task)}",
        "so.session(processes=0)",
    )
    task.call.settle(task, error)


def _nonsense(task: Task, error: Exception) -> ExecutionError:
    captured = task.call.captured
    return ExecutionError(
        f"a worker's reply about {captured.name} makes no sense: {error}",
        location=captured.location,
    )


def _too_long(task: Task, seconds: float) -> UserFunctionError:
    captured = task.call.captured
    return took_too_long(captured.name, captured.location, seconds, task.call.place(task))
