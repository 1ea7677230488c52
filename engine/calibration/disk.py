"""The disk that holds temporary files, where tables that do not fit into memory go."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from scalops.engine.calibration.measurement import Effort, Outcome, Probe, Unmeasured, rate

_BYTES = 32 << 20  # of a file
_CHUNK = 1 << 20
_PAGE = 4096
_MOST_SAMPLES = 5  # a disk that is slow takes a second for each


def _both(effort: Effort) -> Iterator[Outcome]:
    data = np.random.default_rng(0).bytes(_CHUNK)  # that no disk can compress
    chunks = effort.size(_BYTES, _CHUNK) // _CHUNK
    written, read = [], []
    # Without a name: nothing is left behind, however this ends.
    with tempfile.TemporaryFile(prefix="scalops-calibration-") as file:
        for _ in range(min(_MOST_SAMPLES, effort.repetitions)):
            written.append(_written(file.fileno(), data, chunks))
            if not _out_of_memory(file.fileno(), chunks * _CHUNK):
                yield from _in_memory()
                return
            read.append(_read(file.fileno(), chunks))
    size = chunks * _CHUNK
    yield rate("disk_write", "bytes/s", size, written)
    yield rate("disk_read", "bytes/s", size, read)


def _in_memory() -> Iterator[Outcome]:
    folder = tempfile.gettempdir()
    reason = f"the system keeps files of {folder} in memory; TMPDIR may name a folder on a disk"
    yield from (Unmeasured(name, reason) for name in ("disk_write", "disk_read"))


def _written(file: int, data: bytes, chunks: int) -> float:
    """Seconds to write the file from its start, until the disk has it."""
    begin = perf_counter()
    for i in range(chunks):
        os.pwrite(file, data, i * _CHUNK)
    os.fsync(file)
    return perf_counter() - begin


def _read(file: int, chunks: int) -> float:
    begin = perf_counter()
    for i in range(chunks):
        os.pread(file, _CHUNK, i * _CHUNK)
    return perf_counter() - begin


def _out_of_memory(file: int, size: int) -> bool:
    """Have the system forget the file's pages; whether it has, as far as it tells."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    page = bytearray(_PAGE)
    for at in range(0, size, max(_PAGE, size // 8)):
        try:
            # Only what is in memory is read so.
            if os.preadv(file, [page], at, os.RWF_NOWAIT) > 0:
                return False
        except BlockingIOError:
            continue
        except OSError:  # a file system that cannot tell
            return True
    return True


PROBES = (Probe("disk", ("disk_write", "disk_read"), _both),)
