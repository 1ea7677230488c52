"""Ctrl-C while the driver talks to its workers: heard where nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Inside, an interrupt waits for `check`, or for the end of the block, whichever is first.

    A KeyboardInterrupt anywhere in the midst of a channel's work would lose what it was at. Only
    the main thread is interrupted, so elsewhere this does nothing; nor where no Python function
    handles the signal. Blocks may be nested. From the first one until the end of `last` the
    signal's handler stays in place, for there may be thousands of blocks a second; outside of
    them it does what the one before did.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` ends what the main thread waits for; it is called by the signal's handler."""
        self._wake = wake
        self._depth = 0
        self._before: Any = None  # the handler in whose place this one is
        self._is_due = self._is_last = False

    def last(self) -> Interrupts:
        """The last block for now."""
        self._is_last = True
        return self

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1 or threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if before != self._note and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        if self._is_last:
            self._is_last = False
            if self._before is not None and signal.getsignal(signal.SIGINT) == self._note:
                signal.signal(signal.SIGINT, self._before)
        if self._is_due:
            self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._is_due = True
            self._wake()
        else:
            self._before(number, frame)

    def check(self) -> None:
        """Handle an interrupt that waits: most handlers raise KeyboardInterrupt."""
        if self._is_due and self._before is not None:
            self._is_due = False
            self._before(signal.SIGINT, None)
