"""Threads over tasks: a small pool whose caller works too."""

from __future__ import annotations

import itertools
import math
import queue
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import numpy as np

Task = Callable[[int, int], None]  # (worker, index)


RUNS_PER_WORKER = 8
_NAME = "scalops"


_ours: WeakSet[threading.Thread] = WeakSet()


class _Failures:
    """What went wrong in a run: the error of the first task in order, or an interrupt.

    Tasks before one that failed are still wanted: one of them may fail as well, and then its
    error is the run's, as if there were one thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.index: float = math.inf  # of the first task that is not wanted any more
        self.error: BaseException | None = None

    def add(self, index: float, error: BaseException) -> None:
        """`index` is that of the task; -1 for an interrupt, which ends all."""
        with self._lock:
            if index < self.index:
                self.index, self.error = index, error


class _Work(threading.local):
    """What the calling thread is at: a task of a run."""

    failures: _Failures | None = None
    index: int = 0


_work = _Work()


class Stopped(BaseException):
    """Another worker of the run has failed: this one's results are not wanted."""


def in_engine_thread() -> bool:
    """Whether the calling thread is one that the engine started."""
    return threading.current_thread() in _ours


def check_stopped() -> None:
    """Raise Stopped if the run has failed elsewhere; for tasks that take long."""
    if _work.failures is not None and _work.failures.index < _work.index:
        raise Stopped


def may_be_stopped() -> bool:
    """Whether the calling thread is at a task of a run with others."""
    return _work.failures is not None


class ThreadPool:
    """`size` workers, the calling thread being one of them.

    Each worker takes runs of neighbouring tasks (a file's partitions are read on where the
    last one ended), several per worker, so that a slow run does not hold the others up.
    """

    def __init__(self, size: int) -> None:
        self.size = max(1, size)
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(
        self,
        task: Task,
        count: int,
        inline: bool = False,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        """Call task(worker, index) for every index; the first one's exception is raised.

        After an interrupt, `abandon` is called, which may cut the other workers' tasks short;
        they are waited for, until a second interrupt.
        """
        if inline or self.size == 1 or count <= 1:
            for index in range(count):
                task(0, index)
            return
        helpers = min(self.size, count) - 1
        length = max(1, count // (self.size * RUNS_PER_WORKER))
        self._start(helpers)
        following = itertools.count()  # its next() is atomic under the interpreter lock
        failures = _Failures()
        begun: list[int] = []
        ended: list[int] = []
        closed: list[bool] = []
        beginning = threading.Lock()
        finished = threading.Semaphore(0)

        def work(worker: int) -> None:
            outer = _work.failures, _work.index
            _work.failures = failures
            try:
                with np.errstate(all="ignore"):
                    while (first := next(following) * length) < count:
                        for index in range(first, min(count, first + length)):
                            if index > failures.index:
                                return
                            _work.index = index
                            task(worker, index)
            except Stopped:
                pass
            except Exception as error:
                failures.add(_work.index, error)
            except BaseException as error:
                failures.add(-1, error)
            finally:
                _work.failures, _work.index = outer

        def helper(worker: int) -> Callable[[], None]:
            def call() -> None:
                with beginning:
                    if closed:
                        return
                    begun.append(worker)
                try:
                    work(worker)
                finally:
                    ended.append(worker)
                    finished.release()

            return call

        for worker in range(1, helpers + 1):
            self._queue.put(helper(worker))
        try:
            work(0)
        except BaseException as error:  # an interrupt between two tasks
            failures.add(-1, error)
        with beginning:
            closed.append(True)  # who has not begun by now is not needed
        interrupted = failures.index < 0
        if interrupted:
            abandon()
        while len(ended) < len(begun):  # an interrupt must not leave them at work
            try:
                finished.acquire()
            except BaseException as error:
                failures.add(-1, error)
                if interrupted:
                    raise
                interrupted = True
                abandon()
        if failures.error is not None:
            raise failures.error

    def _start(self, count: int) -> None:
        while len(self._threads) < count:
            thread = threading.Thread(
                target=self._serve, daemon=True, name=f"{_NAME}-{len(self._threads) + 1}"
            )
            _ours.add(thread)
            thread.start()
            self._threads.append(thread)

    def _serve(self) -> None:
        while True:
            call: Any = self._queue.get()
            if call is None:
                return
            call()
            del call  # it holds what the run held

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
