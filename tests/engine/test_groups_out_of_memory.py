"""Groups, functions of groups and running aggregates beyond the memory: same bits, none left."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.embedded import EmbeddedBackend
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import dealt, group_parts, group_records, groups
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.cluster.test_rank_groups import bits_of
from tests.engine.group_plans import applied, columns
from tests.engine.grouped import KEYS, fold, grouped, source
from tests.engine.plans import job_of, pool
from tests.engine.test_grouped_folds import PARTS
from tests.quick import crossed, repeated

BUDGETS = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}
WAYS = {"block by block": 1e9, "as a whole": 0.0}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, and parts of at most 2,000 bytes, which are cut again."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(groups, "SMALL_BYTES", 0)
    monkeypatch.setattr(dealt, "SMALL_BYTES", 1 << 10)
    monkeypatch.setattr(group_parts, "LEAST_PART", 2_000)
    monkeypatch.setattr(group_records, "PART_BITS", 2)


def made(node: Any, memory: int | None, ranks: int = 1) -> Any:
    """The bits of what the engine gives; what it held it has given back."""
    if ranks == 1:
        budget = MemoryBudget(memory)
        backend: Any = EmbeddedBackend(pool(2), budget)
        budgets = [budget]
    else:
        backend = LockstepBackend(ranks, 2, memory)
        budgets = backend.budgets
    with single_threaded():
        (found,) = Driver(planned(job_of(SimpleNamespace(plan=node))), backend).run()
    backend.stop()
    assert [budget.owners() for budget in budgets] == [{}] * ranks
    return bits_of(list(found))


def same(node: Any, memory: int, sizes: tuple[int, ...] = (1, 3)) -> None:
    expected = made(node, None)
    for ranks in sizes:
        assert made(node, memory, ranks) == expected, ranks


@pytest.mark.parametrize(("part", "keys", "way", "budget"), crossed(PARTS, KEYS, WAYS, BUDGETS))
def test_every_fold(
    part: str, keys: str, way: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", WAYS[way])
    table = source(400, keys, seed=4)
    same(grouped(table, ["k"], PARTS[part](table)), BUDGETS[budget])
