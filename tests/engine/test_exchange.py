"""Where an exchange sends a record: the same on every machine, whatever stands at a null."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.engine.exchanges import hash_rows


def hashed(*columns: Any, masks: Any = None) -> list[int]:
    """The hashes of some records."""
    given = masks or [None] * len(columns)
    found: list[int] = hash_rows(list(zip(columns, given, strict=True)), len(columns[0])).tolist()
    return found


def splitmix(number: int) -> int:
    """The generator's step, in Python's integers."""
    z = (number + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_hashes_are_those_of_splitmix() -> None:
    assert hashed(np.arange(2)) == [0xE220A8397B1DCDAF, splitmix(1)]  # the first is well known
    assert hashed(np.array([-5])) == [splitmix(2**64 - 5)]
    assert hashed(np.array([0.5])) == [splitmix(int.from_bytes(struct.pack("<d", 0.5), "little"))]
    assert hashed(pa.array(["é"])) == [splitmix(zlib.crc32("é".encode()))]
    both = hashed(np.array([3]), np.array([4]))
    assert both == [splitmix((splitmix(3) * 31 + 4) % 2**64)]


@pytest.mark.parametrize(
    "column",
    [
        np.arange(-3, 3), np.arange(6, dtype=np.uint8), np.arange(6) / 3,
        np.arange(6, dtype=np.float32), np.arange(6).astype("M8[us]"),
        np.arange(12.0).reshape(6, 2),
        pa.array(["a", "b", "ab", "", "c", "é"]), np.arange(12).reshape(6, 2)[:, ::-1],
    ],
)  # fmt: skip
def test_different_keys_have_different_hashes(column: Any) -> None:
    assert len(set(hashed(column))) == 6
    assert hashed(column) == [hashed(column[i : i + 1])[0] for i in range(6)]


def test_both_keys_count_and_so_does_their_order() -> None:
    a, b = np.array([1, 1, 2]), np.array([1, 2, 1])
    assert len(set(hashed(a, b))) == 3
    assert hashed(a, b)[1] != hashed(b, a)[1]


def test_nulls_are_one_key() -> None:
    mask = np.array([False, True, False, True])
    found = hashed(np.array([7, 7, 9, 0]), masks=[mask])
    assert found[0] == found[2]
    assert len(set(found)) == 3
    reals = hashed(np.array([np.nan, -0.0, 1.0, 0.0]), masks=[mask])
    assert reals[0] == reals[2]
    assert reals[1] == reals[3]
    texts = hashed(pa.array(["x", "", None, "y"]), masks=[mask])
    assert texts[0] == texts[2]
    assert texts[1] != texts[0]


def test_no_records_have_no_hash() -> None:
    assert hashed(np.zeros((0, 3))) == []
    assert hashed(pa.array([], pa.string())) == []
