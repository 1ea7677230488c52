"""Groups found by several ranks are those of one, to the last bit: folds, and functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.relations import dealt, groups
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.engine.grouped import bits_of, found, grouped, source
from tests.engine.plans import job_of
from tests.engine.test_grouped_folds import PARTS

SIZES = [(2, 2), (3, 2), (5, 3), (8, 4), (3, 16)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, one in each partition; tables of more than 1 KiB are dealt."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(groups, "HEAD_ROWS", 300)
    monkeypatch.setattr(dealt, "SMALL_BYTES", 1 << 10)


def of_ranks(node: Any, size: int, fan_in: int = 4) -> list[Any]:
    """The blocks that several ranks give."""
    with single_threaded():
        backend = LockstepBackend(size, fan_in)
        (made,) = Driver(planned(job_of(SimpleNamespace(plan=node))), backend).run()
    return list(made)


def same(node: Any, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    one = bits_of(found(node), node)
    for size, fan_in in sizes:
        assert bits_of(of_ranks(node, size, fan_in), node) == one, (size, fan_in)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("rows", "keys"),
    [(700, "few"), (700, "many"), (700, "all distinct"), (700, "one"), (0, "few"), (1, "few")],
)
def test_every_fold(part: str, rows: int, keys: str) -> None:
    table = source(rows, keys, seed=2)
    same(grouped(table, ["k"], PARTS[part](table)), [(3, 2)])
