"""Memory for columns that are made block by block: pieces, and when they are used again."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest

import scalops as so
from scalops.engine.output_memory import LEAST_BYTES, PIECE_BYTES, OutputMemory, is_own

FLOAT = np.dtype(np.float64)
ROWS = LEAST_BYTES // 8


def taken(memory: OutputMemory, rows: int = ROWS) -> np.ndarray:
    made = memory.take(rows, (), FLOAT)
    assert made is not None
    return made


def test_arrays_that_are_left_never_overlap() -> None:
    memory = OutputMemory()
    made = [taken(memory, ROWS + i) for i in range(3 * PIECE_BYTES // LEAST_BYTES)]
    places = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in made)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(places))
    assert all(is_own(a) for a in made)


def test_a_piece_of_which_nothing_is_left_is_used_again() -> None:
    memory = OutputMemory()
    seen = set()
    for _ in range(10 * PIECE_BYTES // LEAST_BYTES):
        seen.add(id(taken(memory).base))
    assert len(seen) == 2


def test_a_block_that_is_kept_keeps_its_content() -> None:
    memory = OutputMemory()
    kept = taken(memory)
    kept[:] = 7
    for _ in range(5 * PIECE_BYTES // LEAST_BYTES):
        taken(memory)[:] = 0
    assert (kept == 7).all()


def test_pieces_go_with_their_last_block() -> None:
    memory = OutputMemory()
    made = taken(memory)
    piece = weakref.ref(made.base)
    del memory
    gc.collect()
    assert piece() is not None
    del made
    gc.collect()
    assert piece() is None


@pytest.mark.parametrize("rows", [ROWS - 1, PIECE_BYTES // 8 + 1])
def test_what_is_too_small_or_too_large_is_left_to_the_allocator(rows: int) -> None:
    assert OutputMemory().take(rows, (), FLOAT) is None


def test_results_stay_when_the_next_are_made() -> None:
    values = np.random.default_rng(1).normal(size=400_000)
    plan = so.table({"v": values}).select(c=so.cumsum("v"))
    first = plan.collect().column("c")
    before = first.to_numpy().copy()
    so.table({"v": -values}).select(c=so.cumsum("v")).collect()
    np.testing.assert_array_equal(first.to_numpy(), before)
