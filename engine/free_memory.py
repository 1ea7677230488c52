"""What memory this process may use: of the machine, of its control group, of its address space."""

from __future__ import annotations

import ctypes
import resource
import threading
from pathlib import Path

from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.explain import bytes_text

FREE_SHARE = 0.6  # of what is free: the budget where none is given
WORKING_BYTES = 256 << 20
LEAST_FREE = 1 / 16  # of what was free: with less left the system may end the process
LOOK_BYTES = 64 << 20  # as often the machine is asked what is left

_GROUPS = "/sys/fs/cgroup"
_NO_LIMIT = 1 << 60
# The files of a group's limit and use, and what of its use can be dropped; by version.
_FILES = {
    False: ("memory.max", "memory.current", ("inactive_file", "active_file")),
    True: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def usable_memory() -> int:
    """Bytes that all plans of this machine together may hold, if nothing else is said.

    WORKING_BYTES are left to what no budget counts: what is read and decoded, and what allocators
    keep of it.
    """
    free = free_memory()
    return int(min(FREE_SHARE * free, max(free - WORKING_BYTES, free / 8)))


def give_back() -> None:
    """Give the system what the allocators keep for later: memory is short."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)


def free_memory() -> int:
    """Bytes that are free for this process: the least of what the machine, the control group and
    the limit of the address space (`ulimit -v`) have left."""
    import psutil

    found = [int(psutil.virtual_memory().available)]
    group = _left_in_group()
    if group is not None:
        found.append(group)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(max(0, limit - psutil.Process().memory_info().vms))
    return min(found)


def _left_in_group() -> int | None:
    """What the process's control group, and those around it, have left: None without a limit.

    Pages of files do not count as taken: the system drops them where memory is short.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in ("", "memory"):
            left += _along(Path(_GROUPS) / controllers, path, controllers == "memory")
    return max(0, min(left)) if left else None


def _along(root: Path, path: str, first: bool) -> list[int]:
    """What each group from `path` up has left; `first` is of the first version of groups.

    In a container the path may be that of the host, which is not there: then its root counts.
    """
    limit, used, cached = _FILES[first]
    own = root / path.lstrip("/")
    found = []
    for folder in (own, *own.parents):
        try:
            most = int((folder / limit).read_text())
            taken = int((folder / used).read_text())
            stat = (folder / "memory.stat").read_text().split()
        except (OSError, ValueError):  # not there, or "max"
            most = taken = -1
            stat = []
        if 0 <= most < _NO_LIMIT:
            pages = dict(zip(stat[::2], stat[1::2], strict=False))
            found.append(most - taken + sum(int(pages.get(name, 0)) for name in cached))
        if folder == root:
            break
    return found


def require_free(size: int, what: str, hint: str) -> None:
    """For `size` bytes that no budget gives. Raises: OutOfMemoryError where less is left."""
    if size < LOOK_BYTES:
        return
    left = free_memory()
    if size > left:
        raise OutOfMemoryError(
            f"{what} needs about {bytes_text(size)} of memory at once; {bytes_text(left)} are left",
            hint=hint,
        )


class FreeMemory:
    """The machine's memory, for what no budget counts: the table that a job returns."""

    def __init__(self) -> None:
        self._taken = self._unseen = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count `size` bytes; OutOfMemoryError before the machine has nothing left."""
        with self._lock:
            self._taken += size
            self._unseen += size
            if self._unseen < LOOK_BYTES:
                return
            self._unseen = 0
        left = free_memory()
        if left < LEAST_FREE * (left + self._taken):
            raise OutOfMemoryError(
                f"the table that is collected has {bytes_text(self._taken)} so far;"
                f" {bytes_text(left)} of memory are left",
                hint="fold it, choose fewer records by filter() or limit(), or fewer columns by"
                " select(); a join may give more than was meant: look at its keys",
            )
