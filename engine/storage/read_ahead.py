"""Ranges of a file read into arrays, while the system reads what comes next.

Copying from the page cache (`preadv`) instead of mapping it: a file that is cut while it is read
is an error instead of the end of the process, memory is used again instead of being mapped page by
page, and reading waits without the interpreter lock, so that other threads compute.

Reading ahead is left to the system, which does it best where its window is wide. Measured on a
virtual disk (window 8 MiB, quartiles of twelve regions of 400 MB in mixed order, cold, 1.6 MB
blocks, each multiplied by a vector and reduced), MB/s:

                                         1 thread            2 threads
    preadv                           1667 2220 2412      1816 2157 2470
    and POSIX_FADV_SEQUENTIAL        1817 2094 2455      1455 1823 2146
    a thread of its own, 1 block     1343 2121 2285      1190 1884 2221
    a thread of its own, 3 blocks    1903 2229 2264      1535 1944 1971
    POSIX_FADV_WILLNEED, 4 MB         938 1041 1237       913 1033 1291
    O_DIRECT and a thread, 2 blocks   960 1026 1538       989 1204 1652
    memory map                       1573 1986 2202
    preadv of 1 MiB, nothing else    1642 2095 2340

Asking for pages (WILLNEED) makes the caller wait until memory for all of them is found. It is done
where the window is narrower than a block, as it is on many machines (128 KiB).
"""

from __future__ import annotations

import os
from functools import cache

from scalops.engine.columns import Array

NARROW_BYTES = 1 << 20  # a window in which the disk waits for the reader
AHEAD_BYTES = 4 << 20


class RangeReader:
    """Reads ranges of an open file, mostly forward; for one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor stays the caller's; readers with one each do not disturb each other."""
        self.descriptor = descriptor
        self._asked = 0  # up to here the system was asked for pages
        self._asks = hasattr(os, "posix_fadvise") and _window(os.fstat(descriptor).st_dev)

    def fill(self, into: Array, at: int, following: int = 0) -> None:
        """Read `into`, uint8[n], from byte `at` on; `following` bytes more will be wanted.

        Raises: EOFError where the file ends before, OSError where it cannot be read.
        """
        if following and self._asks:
            self._ask(at + len(into), following)
        left = into.data
        while left:
            count = os.preadv(self.descriptor, [left], at)
            if count == 0:
                raise EOFError(f"it ends at byte {at}, {len(left)} bytes before what it should")
            left, at = left[count:], at + count

    def _ask(self, end: int, following: int) -> None:
        """Have the system read up to AHEAD_BYTES of what follows `end`, half of it at a time."""
        wanted = end + min(following, AHEAD_BYTES)
        if not end <= self._asked <= wanted:
            self._asked = end
        if wanted - self._asked >= min(following, AHEAD_BYTES // 2):
            os.posix_fadvise(
                self.descriptor, self._asked, wanted - self._asked, os.POSIX_FADV_WILLNEED
            )
            self._asked = wanted


@cache
def _window(device: int) -> bool:
    """Whether the system reads too little ahead of a reader of this device."""
    place = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(place, encoding="ascii") as stream:
            return int(stream.read()) << 10 < NARROW_BYTES
    except (OSError, ValueError):
        return False  # no disk, or not a system that tells
