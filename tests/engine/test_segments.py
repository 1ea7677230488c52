"""Segment sums are those of adding record by record, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from scalops.engine.kernels.matching import in_turn
from scalops.engine.kernels.segments import SegmentProduct, Segments

CASES = [(0, 0), (0, 3), (1, 1), (7, 3), (500, 1), (500, 40), (500, 500), (4000, 13)]


@pytest.mark.parametrize(("rows", "groups"), CASES)
def test_records_lie_by_group_in_table_order(rows: int, groups: int) -> None:
    ids = np.random.default_rng(rows).integers(0, max(groups, 1), rows)
    made = Segments(ids, groups)
    assert made.order.tolist() == np.argsort(ids, kind="stable").tolist()
    assert np.diff(made.starts).tolist() == np.bincount(ids, minlength=groups).tolist()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize(("rows", "groups"), CASES)
def test_sums_are_those_of_adding_record_by_record(
    rows: int, groups: int, gathered: bool, weighted: bool
) -> None:
    rng = np.random.default_rng(rows + groups)
    ids = rng.integers(0, max(groups, 1), rows)
    sources = 50 if gathered else rows
    positions = rng.integers(-1, sources, rows) if gathered else None
    weights = rng.normal(size=rows) if weighted else None
    product = SegmentProduct(
        ids, groups, positions, weights, sources, np.dtype(np.float64), in_turn
    )
    for shape in ((), (3,), (2, 2)):
        x = rng.normal(size=(sources, *shape)) * 10.0 ** rng.integers(-8, 8, (sources, *shape))
        expected, counts = np.zeros((groups, *shape)), np.zeros(groups, np.int64)
        for row, group in enumerate(ids.tolist()):
            at = row if positions is None else int(positions[row])
            if at >= 0:
                expected[group] += x[at] * (1.0 if weights is None else weights[row])
                counts[group] += 1
        assert np.array_equal(product.sums(x, in_turn), expected)
        assert np.array_equal(product.counts, counts)


def test_one_large_group_and_many_small_ones_are_all_there() -> None:
    ids = np.concatenate([np.zeros(1000, np.int64), np.arange(1, 200)])
    product = SegmentProduct(ids, 200, None, None, len(ids), np.dtype(np.int64), in_turn)
    assert product.sums(np.ones(len(ids), np.int64), in_turn).tolist() == [1000, *[1] * 199]
