"""What ranks keep between jobs: found under its key, dropped when it is worth least per byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.dtypes import FLOAT64
from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.schema import Schema
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.cached_table import CachedTable
from scalops.engine.cluster.rank_caches import RankCaches, content_key, with_keys
from scalops.engine.kept_tables import OWNER, KeptTable
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import Runtime
from scalops.engine.pipelines.compiled import build
from scalops.engine.storage import MemorySource
from scalops.explain import _node
from scalops.planning import plan as planned
from scalops.results import take_leaves

SCHEMA = Schema((("x", FLOAT64),))
SOURCE = MemorySource.of_arrays({"x": np.arange(100.0)})


def blocks(size: int) -> list[Block]:
    """One block of so many bytes."""
    return [Block(size // 8, {"x": np.zeros(size // 8)})]


def plan_with(*keys: str) -> pp.PhysicalPlan:
    """A plan that caches a table under each key."""
    scan = pp.TableScan(SOURCE, ("x",))
    stages = tuple(pp.Stage(i, scan, pp.CacheTable(i, key)) for i, key in enumerate(keys))
    return pp.PhysicalPlan(stages, (), (), (), (), "")


EMPTY = plan_with()


def begun(limit: int | None = None, plan: pp.PhysicalPlan = EMPTY) -> RankCaches:
    """The caches in a first job."""
    caches = RankCaches()
    caches.begin(plan, MemoryBudget(limit))
    return caches


def kept(caches: RankCaches, key: str) -> list[int]:
    """Which of ten partitions are kept."""
    return [p for p in range(10) if caches.find(key, p) is not None]


def test_what_is_kept_is_found_again() -> None:
    caches, own = begun(), blocks(80)
    assert caches.find("a", 0) is None
    assert caches.keep("a", SCHEMA, 0, own, 0.5)
    assert caches.find("a", 0) is own
    assert caches.find("a", 1) is None
    assert caches.find("b", 0) is None
    assert caches.bytes == 80
    assert caches.keep("a", SCHEMA, 0, blocks(800), 0.5)  # another thread was first
    assert caches.find("a", 0) is own
    assert caches.has("a", [0])
    assert not caches.has("a", [0, 1])
    assert not caches.has("b", [])
    caches.forget(["a", "unknown"])
    assert caches.find("a", 0) is None
    assert caches.bytes == 0


def test_bytes_count_against_each_job() -> None:
    caches = begun()
    caches.keep("a", SCHEMA, 0, blocks(80), 0.5)
    budget = MemoryBudget(1000)
    caches.begin(EMPTY, budget)
    assert budget.owners() == {OWNER: 80}
    caches.keep("a", SCHEMA, 1, blocks(160), 0.5)
    assert budget.owners() == {OWNER: 240}
    caches.forget(["a"])
    assert budget.owners() == {}


def test_what_is_worth_least_per_byte_goes_first() -> None:
    caches = begun()
    caches.keep("cheap", SCHEMA, 0, blocks(80), 0.001)
    caches.keep("large", SCHEMA, 0, blocks(8000), 1.0)
    caches.keep("dear", SCHEMA, 0, blocks(80), 1.0)
    caches.keep("used", SCHEMA, 0, blocks(80), 0.001)
    for _ in range(20):
        caches.begin(EMPTY, MemoryBudget(), reads=["used"])
    caches.begin(EMPTY, MemoryBudget(10_000))
    order = []
    while caches.bytes:
        before = {k for k in ("cheap", "large", "dear", "used") if kept(caches, k)}
        assert caches.spare(1) > 0
        order += sorted(before - {k for k in before if kept(caches, k)})
    assert order == ["cheap", "large", "used", "dear"]
    assert caches.spare(1) == 0


def test_no_more_is_dropped_than_is_needed() -> None:
    caches = begun()
    for partition in range(4):
        caches.keep("a", SCHEMA, partition, blocks(80), 1.0 + partition)
    caches.begin(EMPTY, MemoryBudget())
    assert caches.spare(100) == 160
    assert kept(caches, "a") == [2, 3]


def test_what_the_job_reads_stays_and_what_the_user_keeps_goes_for_no_cache() -> None:
    caches = begun(plan=plan_with("user's"))
    for key in ("invariant a", "invariant b", "user's"):
        caches.keep(key, SCHEMA, 0, blocks(80), 1.0)
    budget = MemoryBudget(240)
    caches.begin(plan_with("invariant b"), budget)
    assert budget.reserve(80, "cache 3")  # in the place of a
    assert [kept(caches, k) for k in ("invariant a", "invariant b", "user's")] == [[], [0], [0]]
    assert not budget.reserve(80, "cache 4")
    assert budget.owners() == {OWNER: 160, "cache 3": 80}
    budget.require(80, "partials")  # in the place of the user's
    assert [kept(caches, k) for k in ("invariant b", "user's")] == [[0], []]
    with pytest.raises(OutOfMemoryError, match="more needs"):
        budget.require(1 << 25, "more")
    assert kept(caches, "invariant b") == [0]


def test_a_job_with_less_memory_begins_with_what_fits() -> None:
    caches = begun()
    caches.keep("a", SCHEMA, 0, blocks(800), 1.0)
    caches.keep("b", SCHEMA, 0, blocks(80), 1.0)
    budget = MemoryBudget(100)
    caches.begin(EMPTY, budget, reads=["a"])
    assert (kept(caches, "a"), kept(caches, "b")) == ([], [])
    assert budget.held == 0


def test_nothing_is_kept_where_there_is_no_room() -> None:
    caches = begun(limit=100)
    assert not caches.keep("a", SCHEMA, 0, blocks(800), 1.0)
    assert caches.keep("a", SCHEMA, 1, blocks(80), 1.0)
    assert kept(caches, "a") == [1]


# Tables of CacheTable stages.


def held(plan: pp.PhysicalPlan, caches: RankCaches, budget: MemoryBudget) -> list[int]:
    """Run the plan's first stage; which partitions had to be made."""
    tables = caches.begin(plan, budget)
    stage = plan.stages[0]
    sink = stage.sink
    assert isinstance(sink, pp.CacheTable)
    pipeline = build(stage.source, Runtime(plan, budget))
    table = CachedTable(pipeline, budget, "cache 0", tables[sink.key])
    missing = table.missing()
    for partition in missing:
        table.fill(0, partition)
    table.hand_over(tables[sink.key])
    return missing


def test_the_next_job_finds_the_partitions_of_a_cached_table() -> None:
    plan, caches = plan_with("key"), RankCaches()
    assert held(plan, caches, MemoryBudget()) == [0]
    (first,) = caches.find("key", 0) or []
    np.testing.assert_array_equal(first.columns["x"], np.arange(100.0))
    assert held(plan, caches, MemoryBudget()) == []
    caches.begin(EMPTY, MemoryBudget())
    caches.keep("other", SCHEMA, 0, blocks(80), 1.0)
    caches.begin(EMPTY, MemoryBudget())
    caches.spare(1 << 20)
    assert held(plan, caches, MemoryBudget()) == [0]


def test_seconds_of_a_partition_are_measured() -> None:
    plan, caches = plan_with("key"), RankCaches()
    tables = caches.begin(plan, MemoryBudget())
    held(plan, caches, MemoryBudget())
    assert tables["key"].seconds[0] > 0
    assert isinstance(tables["key"], KeptTable)


# Keys.


def invariant_stages() -> Iterator[pp.Stage]:
    """Stages over memory, each with a content of its own."""
    scan = pp.TableScan(SOURCE, ("x",))
    same_sample = MemorySource.of_arrays({"x": np.arange(100.0)})
    for source in (scan, pp.TableScan(same_sample, ("x",)), pp.Concatenate((scan, scan))):
        yield pp.Stage(0, source, pp.CacheTable(1))


def plan_of(wanted: Any) -> pp.PhysicalPlan:
    """The plan of what a program returns."""
    return planned(op.Job(tuple(_node(leaf) for leaf in take_leaves(wanted, "explain"))))


def test_a_key_tells_contents_apart_and_nothing_else() -> None:
    stages = list(invariant_stages())
    keys = [content_key(s) for s in stages]
    assert len(set(keys)) == len(keys)
    assert None not in keys
    again = replace(stages[0], number=7, sink=pp.CacheTable(9))
    assert content_key(again) == keys[0]


def test_tables_that_need_driver_values_or_other_stages_have_no_key() -> None:
    t = so.table({"x": np.arange(100.0)})
    mean = t.sum("x")
    dependent = t.map(lambda r: {"y": r.x - mean}).cache()
    opaque = t.map(so.udf(lambda r: float(r.x), returns=so.float64)).cache()
    for wanted in (dependent.sum("y"), opaque.sum()):
        caches = [s for s in plan_of(wanted).stages if isinstance(s.sink, pp.CacheTable)]
        assert caches
        assert [content_key(s) for s in caches] == [None] * len(caches)
    stored = pp.Stage(1, pp.StoredTable(0, SCHEMA), pp.CacheTable(2))
    assert content_key(stored) is None


def test_only_caches_without_a_key_get_one() -> None:
    plan = plan_with("user's", "")
    found = with_keys(plan)
    sinks = find(found.stages, pp.CacheTable)
    assert {s.number: s.key for s in sinks} == {0: "user's", 1: content_key(plan.stages[1])}
    assert [s.number for s in found.stages] == [0, 1]
    assert with_keys(found).stages == found.stages
