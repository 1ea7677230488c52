"""Memory of large messages is used again once nothing shows it any more."""

from __future__ import annotations

import numpy as np
import pytest

from scalops.engine.cluster import rooms
from scalops.engine.cluster.rooms import LEAST_BYTES, Rooms


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_a_room_is_used_again_when_nothing_shows_it() -> None:
    own = Rooms()
    first = own.take(LEAST_BYTES)
    at = address(first)
    shown = np.frombuffer(first.data, np.float64)[3:7]
    del first
    second = own.take(LEAST_BYTES)
    assert address(second) != at
    shown[:] = 5.0
    second[:] = 0
    assert shown.tolist() == [5.0] * 4
    del shown
    assert address(own.take(LEAST_BYTES)) == at
    assert address(own.take(2 * LEAST_BYTES)) != at


def test_arrays_that_live_never_share_memory() -> None:
    own, rng = Rooms(), np.random.default_rng(0)
    alive: list[tuple[np.ndarray, int]] = []
    for i in range(200):
        made = own.take(int(rng.integers(LEAST_BYTES // 2, 2 * LEAST_BYTES)))
        made[::4096] = i % 251
        alive.append((made[10:-10], i % 251))
        if len(alive) > 4:
            alive.pop(int(rng.integers(len(alive))))
        for array, number in alive:
            assert (array[4096 - 10 :: 4096] == number).all()


def test_what_waits_is_bounded_and_goes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MOST_BYTES", 4 * LEAST_BYTES)
    own = Rooms()
    kept = [own.take(LEAST_BYTES) for _ in range(9)]
    assert sum(map(len, own._rooms)) <= 5 * LEAST_BYTES
    del kept
    for _ in range(40):
        own.take(3 * LEAST_BYTES)
    assert {len(r) for r in own._rooms} == {3 * LEAST_BYTES}
    assert len(own._used) == len(own._rooms)
