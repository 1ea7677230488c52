"""One BLAS thread while a plan runs: the engine's threads are over partitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> Any:
    # Finding the libraries takes milliseconds; they are all loaded with NumPy and SciPy.
    return ThreadpoolController()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread, and restore what was there, also after an exception."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
