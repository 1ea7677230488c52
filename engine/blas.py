"""One BLAS thread while a plan runs: the engine's threads are over partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> Any:
    # Finding the libraries takes milliseconds; they are all loaded with NumPy and SciPy.
    return ThreadpoolController()


_lock = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread, and restore what was there, also after an exception.

    The limit is the whole process's: of several at a time, the first sets it and the last
    restores it.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _limit = _controller().limit(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limit.restore_original_limits()
                _limit = None
