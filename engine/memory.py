"""The memory budget: caches, buffers and partials ask before they take."""

from __future__ import annotations

import threading
from collections.abc import Callable

from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.explain import bytes_text
from scalops.engine.free_memory import give_back

WORKING_SHARE = 1 / 8  # of the limit: what a step may take beyond it where it cannot go on without
TRIM_BYTES = 64 << 20  # spilled: as often the allocators are asked to keep nothing for later
LEAST_WORKING = 16 << 20  # bytes: and so much in any case


class MemoryBudget:
    """Bytes that may be held together; unlimited where `limit` is None.

    The pressure ladder: `reserve` answers whether there is room and takes it, for what serves
    speed alone (caches, buffers). `room` first asks `spare` to free as many bytes, which tells the
    owner and how many: where it says no, what lasts goes to a file (`spilled_memory.Room`).
    `require` is for what a step cannot do without: it may take WORKING_SHARE beyond the limit, then
    raises. `evict` is asked where `reserve` finds no room: for what is worth less than anything
    new. `beside` tells what others hold under the same limit; `place` and `hint` are for the
    error's text. `folder` is where files go, if not where they usually do.
    """

    def __init__(self, limit: int | None = None, folder: str | None = None) -> None:
        self.limit, self.folder = limit, folder
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self.refused = 0
        self._kept = 0  # bytes spilled since the allocators gave back what they keep
        self.peak = self.spilled = 0  # bytes held at most, and those that found no room
        self._peaks: dict[str, int] = {}
        self._spilled: dict[str, int] = {}
        self.spare: Callable[[int], tuple[str, int]] | None = None
        self.evict: Callable[[int], tuple[str, int]] | None = None
        self.beside: Callable[[], int] = lambda: 0
        self.place = "the budget"
        self.hint = "raise it: so.session(memory=...)"

    @property
    def held(self) -> int:
        """Bytes held now."""
        return sum(self._held.values())

    @property
    def left(self) -> int | None:
        """Bytes that may still be held; None where there is no limit."""
        limit = self.limit
        return None if limit is None else max(0, limit - self.held - self.beside())

    def owners(self) -> dict[str, int]:
        """Bytes held by owner."""
        return {owner: size for owner, size in self._held.items() if size}

    def peaks(self) -> dict[str, int]:
        """Bytes that each owner has held at most."""
        with self._lock:
            return {owner: size for owner, size in self._peaks.items() if size}

    def count_spilled(self, size: int, owner: str) -> None:
        """Bytes of an owner have gone to disk for want of room."""
        with self._lock:
            self.spilled += size
            self._spilled[owner] = self._spilled.get(owner, 0) + size
            self._kept += size
            trims = self._kept >= TRIM_BYTES
            if trims:
                self._kept = 0
        if trims:
            give_back()

    def spilled_by(self) -> dict[str, int]:
        """Bytes that have gone to disk, by owner."""
        with self._lock:
            return dict(self._spilled)

    def reserve(self, size: int, owner: str, leave: int = 0) -> bool:
        """Take `size` bytes for `owner` if they fit, and `leave` bytes are free afterwards."""
        if self._taken(size, owner, -leave):
            return True
        if self.evict is not None:
            self.release(*self.evict(size))
            if self._taken(size, owner, -leave):
                return True
        self.refused += 1
        return False

    def room(self, size: int, owner: str) -> bool:
        """Take `size` bytes if they fit, once what can be spared is given back."""
        if self.reserve(size, owner):
            return True
        if self.spare is None:
            return False
        self.release(*self.spare(size))
        return self.reserve(size, owner)

    def _taken(self, size: int, owner: str, beyond: int = 0) -> bool:
        with self._lock:
            limit = self.limit
            if limit is not None and self.held + self.beside() + size > limit + beyond:
                return False
            own = self._held[owner] = self._held.get(owner, 0) + size
            self._peaks[owner] = max(own, self._peaks.get(owner, 0))
            self.peak = max(self.peak, self.held)
            return True

    def require(self, size: int, owner: str) -> None:
        """Take `size` bytes or raise OutOfMemoryError, which says who holds what."""
        if self.room(size, owner):
            return
        limit = self.limit or 0
        beyond = max(int(WORKING_SHARE * limit), LEAST_WORKING)
        if not self._taken(size, owner, beyond):
            held = ", ".join(f"{o} {bytes_text(s)}" for o, s in self.owners().items())
            raise OutOfMemoryError(
                f"{owner} needs {bytes_text(size)}; {self.place} is {bytes_text(limit)}, of which"
                f" are held: {held or 'nothing'}, and a step may take {bytes_text(beyond)} beyond",
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
