"""Joins and tables of a loop's state with hardly any memory: the same bits, and all given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.relations import JoinKind
from scalops.engine import blocks
from scalops.engine.memory import MemoryBudget
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.relations import join_index, meeting, positions
from tests.cluster.test_rank_joins import ALWAYS, assert_same, changed, joins_by, random_joins
from tests.engine.joins import KEYS, KINDS, engine, join, source, witness
from tests.engine.plans import bits, run, table_bits
from tests.engine.test_indexed import edges, propagate
from tests.engine.test_kept_joins import shrinking
from tests.quick import crossed, quick, repeated

BUDGETS = [1_000, 64_000, 1_000_000]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 16 records, one in each partition; pieces of 100 positions."""
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", 16)
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 16)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(positions, "PIECE_ROWS", 100)
    monkeypatch.setattr(positions, "SORTED_BYTES", 0)


def in_parts(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """What has no room in the budget is searched in so many parts."""
    monkeypatch.setattr(join_index, "wanted_parts", lambda size, ranks: parts)


class Held:
    """Notes what is held after each iteration."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.found: list[int] = []

    def iteration(self, loop: str | None, number: int, scalars: Any, seconds: float) -> None:
        """A listener's verb."""
        self.found.append(self._budget.held)


def exactly(results: Any) -> Any:
    """Every bit, of the tables in a loop's state too."""
    made: list[Any] = []
    for result in results:
        state = result.state if isinstance(result, LoopOutcome) else {"": result}
        for name, value in state.items():
            found = table_bits(value.blocks) if isinstance(value, StateRows) else bits(value)
            made.append((name, found))
    return made


def assert_same_with(things: Any, memory: int, threads: int = 1) -> MemoryBudget:
    """The bits of a run with all memory; the limit holds, and nothing is held at the end."""
    budget = MemoryBudget(memory)
    assert exactly(run(things, threads, budget)) == exactly(run(things))
    assert budget.held == 0
    assert not budget.owners()
    return budget


@pytest.mark.parametrize(
    ("kind", "way"), crossed(KINDS, [(1_000, 3), (1_000, 1), (64_000, 3), (1_000_000, 1)])
)
def test_every_kind_of_join(
    kind: JoinKind, way: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, parts = way
    in_parts(monkeypatch, parts)
    left, right = changed(source(20, 1)), changed(source(40, 2))
    made = join(left, right, kind, ["int"], columns=["row", "text", "items", "thin", "payload"])
    assert engine(made, memory=memory) == witness(made)
    budget = assert_same_with([made], memory)
    assert (budget.spilled > 0) or memory > 1_000 or kind == "cross"


@pytest.mark.parametrize("parts", quick([3, 1], 1))
def test_every_kind_of_key(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch, parts)
    assert_same_with(joins_by("left", KEYS, 3), 1_000, threads=2)


@pytest.mark.parametrize(("kind", "parts"), crossed(KINDS[:-1], [2, 5, 1]))
def test_on_ranks(kind: JoinKind, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch, parts)
    seed = KINDS.index(kind)
    assert_same(
        joins_by(kind, KEYS[seed : seed + 1], seed), 3, ALWAYS if seed % 2 else 1 << 26, 500
    )


@repeated(60)
def test_random_joins(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch, 1 + run % 4)
    assert_same_with(random_joins(run), BUDGETS[run % 3], 1 + run % 2)


@pytest.mark.parametrize("parts", quick([3, 1, 5], 1))
def test_tables_over_joins_in_parts(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds, prefixes, caches and other joins over a side that is searched in parts."""
    in_parts(monkeypatch, parts)
    left, right = source(24, 10), source(18, 11)
    first = so.Table(join(changed(left), changed(right), "left", ["int"]).plan).cache()
    second = join(first, changed(source(12, 3)), "inner", ["string"], columns=["row"])
    made = so.Table(second.plan)
    things = [
        made.limit(3), made.slice(5, 6), made.union(made), made.sum("row"), first.sum("row_right"),
        made.with_row_index("n"), made.sort("row_right"), first.count(),
    ]  # fmt: skip
    assert_same_with(things, 1_000)


@pytest.mark.parametrize(
    ("kind", "cost", "memory"), crossed(["inner", "semi"], [0, 10**6], BUDGETS)
)
def test_joins_with_a_side_that_stays(
    kind: JoinKind, cost: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SORT_COST", cost)
    assert_same_with([shrinking(source(60, 1), source(40, 2), kind, ["int"])], memory)


@pytest.mark.parametrize("weighted", quick([True, False], 1))
@pytest.mark.parametrize("memory", BUDGETS)
def test_memory_is_as_before_after_each_iteration(memory: int, weighted: bool) -> None:
    """The state's tables, positions that stay and what is gathered by them."""
    loop = propagate(edges(), np.arange(50), np.random.default_rng(2).normal(size=50), 8, weighted)
    assert_same_with([loop], memory)
    budget = MemoryBudget(memory)
    held = Held(budget)
    run([loop], memory=budget, listener=held)
    assert len(set(held.found[3:])) == 1
    assert max(held.found) <= memory
    assert budget.held == 0


def test_a_held_side_that_fits_is_not_written() -> None:
    left, right = changed(source(50, 1)), changed(source(70, 2))
    made = join(left, right, "inner", ["int"], columns=["row", "text"])
    assert assert_same_with([made], 1 << 24).spilled == 0
