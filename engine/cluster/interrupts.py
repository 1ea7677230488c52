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
    handles the signal. Blocks may be nested.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` ends what the main thread waits for; it is called by the signal's handler."""
        self._wake = wake
        self._depth = 0
        self._before: Any = None  # the handler in whose place this one is
        self._is_due = False

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1 or threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth or self._before is None:
            return
        before, self._before = self._before, None
        signal.signal(signal.SIGINT, before)
        if self._is_due:
            self._is_due = False
            before(signal.SIGINT, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_due = True
        self._wake()

    def check(self) -> None:
        """Handle an interrupt that waits: most handlers raise KeyboardInterrupt."""
        if self._is_due and self._before is not None:
            self._is_due = False
            self._before(signal.SIGINT, None)
