"""Threads over tasks: a small pool whose caller works too."""

from __future__ import annotations

import itertools
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


class _Work(threading.local):
    """What the calling thread is at: the failures of its run."""

    failures: list[BaseException] | None = None


_work = _Work()


class Stopped(BaseException):
    """Another worker of the run has failed: this one's results are not wanted."""


def in_engine_thread() -> bool:
    """Whether the calling thread is one that the engine started."""
    return threading.current_thread() in _ours


def check_stopped() -> None:
    """Raise Stopped if the run has failed elsewhere; for tasks that take long."""
    if _work.failures:
        raise Stopped


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
        """Call task(worker, index) for every index; the first exception is raised.

        After an exception of the caller's own, an interrupt say, `abandon` is called, which may
        cut the other workers' tasks short; they are waited for, until a second interrupt.
        """
        if inline or self.size == 1 or count <= 1:
            for index in range(count):
                task(0, index)
            return
        helpers = min(self.size, count) - 1
        length = max(1, count // (self.size * RUNS_PER_WORKER))
        self._start(helpers)
        following = itertools.count()  # its next() is atomic under the interpreter lock
        failures: list[BaseException] = []
        begun: list[int] = []
        ended: list[int] = []
        closed: list[bool] = []
        beginning = threading.Lock()
        finished = threading.Semaphore(0)

        def work(worker: int) -> None:
            outer, _work.failures = _work.failures, failures
            try:
                with np.errstate(all="ignore"):
                    while not failures:
                        first = next(following) * length
                        if first >= count:
                            return
                        for index in range(first, min(count, first + length)):
                            task(worker, index)
            except Stopped:
                pass
            except BaseException as error:
                failures.append(error)
            finally:
                _work.failures = outer

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
            failures.append(error)
        with beginning:
            closed.append(True)  # who has not begun by now is not needed
        if failures:
            abandon()
        interrupted = False
        while len(ended) < len(begun):  # an interrupt must not leave them at work
            try:
                finished.acquire()
            except BaseException as error:
                failures.append(error)
                if interrupted:
                    raise
                interrupted = True
                abandon()
        if failures:
            raise failures[0]

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
