"""A user's function as it was when its operator was written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from scalops.algebra.errors import Location


@dataclass(frozen=True)
class Captured:
    """A user's function as it was when its operator was written.

    `payload` is its pickle, in which every Value, environment field and large array is a
    numbered slot. `reason` says why it is opaque; None for a traced one, whose capture serves
    the comparison of its expression with the plain call. With `batch` it is called with the
    arrays of several records at once.
    """

    payload: bytes
    name: str
    location: Location | None = field(default=None, compare=False)
    reason: str | None = field(default=None, compare=False)
    batch: bool = False

    def __repr__(self) -> str:
        return hashlib.blake2b(self.payload, digest_size=16).hexdigest()
