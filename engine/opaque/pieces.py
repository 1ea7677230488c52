"""How a block's records are cut for functions that see several of them at once.

A numeric decision: a state's partial sums, or a batch's matrix product, depend on the cut, so it
follows from the block's number of records alone. Which worker has which pieces does not matter.
"""

from __future__ import annotations

PIECES = 4  # of a block, at most; a power of two
TIMED_ROWS = 1024  # records of a task that may take so and so long, at most


def piece_count(rows: int) -> int:
    """The largest power of two of pieces that leaves none empty; one for no records."""
    return min(PIECES, 1 << (max(1, rows).bit_length() - 1))


def piece_bounds(rows: int) -> list[tuple[int, int]]:
    """The pieces of a block."""
    count = piece_count(rows)
    return [(i * rows // count, (i + 1) * rows // count) for i in range(count)]


def task_bounds(rows: int, workers: int) -> list[tuple[int, int]]:
    """Runs of pieces for this many workers: complete subtrees of the tree over the pieces."""
    pieces = piece_bounds(rows)
    tasks = min(len(pieces), 1 << max(0, workers - 1).bit_length())
    size = len(pieces) // tasks
    return [(pieces[i][0], pieces[i + size - 1][1]) for i in range(0, len(pieces), size)]


def timed_bounds(rows: int) -> list[tuple[int, int]]:
    """Runs of records that may take so and so long each, for functions that see one at a time."""
    return [(a, min(rows, a + TIMED_ROWS)) for a in range(0, rows, TIMED_ROWS)]


def task_pieces(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """The pieces of a block of `rows` records that lie in a task's, counted from its start."""
    return [(a - start, b - start) for a, b in piece_bounds(rows) if start <= a and b <= stop]
