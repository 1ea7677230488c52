"""How many records partitions have, and which of them hold some records."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np


class Counts:
    """Records of each partition: partition i holds those from `ends[i]` to `ends[i + 1] - 1`."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.ends: list[int] = np.cumsum([0, *rows]).tolist()

    def partitions(self, start: int, stop: int) -> range:
        """Those that hold some of the records start..stop-1."""
        if start >= min(stop, self.ends[-1]):
            return range(0)
        return range(bisect_right(self.ends, start) - 1, bisect_left(self.ends, stop))
