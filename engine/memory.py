"""The memory budget: caches, buffers and partials ask before they take."""

from __future__ import annotations

import threading
from collections.abc import Callable

from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.explain import bytes_text

FREE_SHARE = 0.6  # of what is free: the budget where none is given
LEAST_FREE = 1 / 16  # of the machine's memory: with less left the system may end the process
LOOK_BYTES = 64 << 20  # as often the machine is asked what is left


def usable_memory() -> int:
    """Bytes that all plans of this machine together may hold, if nothing else is said."""
    import psutil

    return int(FREE_SHARE * psutil.virtual_memory().available)


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
        import psutil

        memory = psutil.virtual_memory()
        if memory.available < LEAST_FREE * memory.total:
            raise OutOfMemoryError(
                f"the table that is collected has {bytes_text(self._taken)} so far; the machine"
                f" has {bytes_text(memory.available)} left",
                hint="fold it, choose fewer records by filter() or limit(), or fewer columns by"
                " select(); a join may give more than was meant: look at its keys",
            )


class MemoryBudget:
    """Bytes that may be held together; unlimited where `limit` is None.

    `reserve` answers whether there is room and takes it; `require` raises where there is none.
    Before it does, `spare` is asked to free as many bytes; it tells the owner and how many. So is
    `evict` where `reserve` finds no room: for what is worth less than anything new. `beside` tells
    what others hold under the same limit; `place` and `hint` are for the error's text.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self.refused = 0
        self.peak = self.spilled = 0  # bytes held at most, and those that found no room
        self._peaks: dict[str, int] = {}
        self.spare: Callable[[int], tuple[str, int]] | None = None
        self.evict: Callable[[int], tuple[str, int]] | None = None
        self.beside: Callable[[], int] = lambda: 0
        self.place = "the budget"
        self.hint = "raise it: so.session(memory=...)"

    @property
    def held(self) -> int:
        """Bytes held now."""
        return sum(self._held.values())

    def owners(self) -> dict[str, int]:
        """Bytes held by owner."""
        return {owner: size for owner, size in self._held.items() if size}

    def peaks(self) -> dict[str, int]:
        """Bytes that each owner has held at most."""
        with self._lock:
            return {owner: size for owner, size in self._peaks.items() if size}

    def count_spilled(self, size: int) -> None:
        """Bytes have gone to disk for want of room."""
        with self._lock:
            self.spilled += size

    def reserve(self, size: int, owner: str) -> bool:
        """Take `size` bytes for `owner` if they fit."""
        if self._taken(size, owner):
            return True
        if self.evict is not None:
            self.release(*self.evict(size))
            if self._taken(size, owner):
                return True
        self.refused += 1
        return False

    def _taken(self, size: int, owner: str) -> bool:
        with self._lock:
            if self.limit is not None and self.held + self.beside() + size > self.limit:
                return False
            own = self._held[owner] = self._held.get(owner, 0) + size
            self._peaks[owner] = max(own, self._peaks.get(owner, 0))
            self.peak = max(self.peak, self.held)
            return True

    def require(self, size: int, owner: str) -> None:
        """Take `size` bytes or raise OutOfMemoryError, which says who holds what."""
        if self.reserve(size, owner):
            return
        if self.spare is not None:
            self.release(*self.spare(size))
        if not self.reserve(size, owner):
            held = ", ".join(f"{o} {bytes_text(s)}" for o, s in self.owners().items())
            raise OutOfMemoryError(
                f"{owner} needs {bytes_text(size)}; {self.place} is {bytes_text(self.limit or 0)},"
                f" of which are held: {held or 'nothing'}",
                hint=self.hint,
            )

    def transfer(self, owner: str, other: str) -> None:
        """Let `other` hold what `owner` holds, too."""
        with self._lock:
            size = self._held.pop(owner, 0)
            if size and owner != other:
                self._held[other] = self._held.get(other, 0) + size

    def release(self, owner: str, size: int | None = None) -> None:
        """Give back all that an owner holds, or `size` bytes of it."""
        with self._lock:
            left = 0 if size is None else self._held.get(owner, 0) - size
            if left > 0:
                self._held[owner] = left
            else:
                self._held.pop(owner, None)
