"""Exchanges between ranks give the partitions, blocks and bits of the only rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine.backends import Backend as AnyBackend
from scalops.engine.blocks import Block, concatenate
from scalops.engine.collective import Piece, Ranks, Shuffle
from scalops.engine.driver import Driver
from scalops.engine.exchanges import (
    by_range,
    by_target,
    distinct_targets,
    near_equal,
    sample_places,
    settled,
    sort_schema,
    sort_targets,
    splitters,
)
from scalops.engine.kernels.keys import first_of_equals
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import rank_exchanges, routing
from scalops.engine.relations.gathering import spread
from scalops.engine.relations.rank_exchanges import _Answers, _Exchange
from scalops.engine.relations.routing import PIECE_BYTES, Arrivals, Run, cut, routed
from scalops.engine.spill import SpilledBlocks, SpilledTable
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend, sent, together
from tests.engine.grouped import source as every_type
from tests.engine.plans import Backend, bits, job_of, physical, run, scan

RANGE, HASH = "range", "hash"
INT64 = ArrayType("int64")


def source_of(table: so.Table) -> Any:
    """What a table scans."""
    return table.plan.source  # type: ignore[attr-defined]


def odd_source(rows: int, seed: int) -> Any:
    """Keys of all types with ties, nulls, NaN, -0.0, and payloads of any form."""
    return source_of(every_type(rows, "few", seed))


def plan_of(source: Any, partitions: int, sink: pp.StoreSink) -> pp.PhysicalPlan:
    """The source in so many partitions as table 1, `sink` makes table 2, which is handed out."""
    first = pp.Properties(partitions, "range")
    below = pp.StoredTable(1, source.schema, first)
    names = sink.kept if isinstance(sink, pp.SortRows) else source.schema.names
    schema = Schema(tuple((n, source.schema[n]) for n in names))
    above = pp.StoredTable(2, schema, pp.Properties())
    return physical((scan(source), pp.Exchange(1, first)), (below, sink), (above, pp.Gather()))


def exchange(number: int, count: int, layout: Any = RANGE, *keys: str) -> pp.Exchange:
    """An exchange to so many partitions."""
    return pp.Exchange(number, pp.Properties(count, layout, keys))


def made(backend: AnyBackend, plan: pp.PhysicalPlan) -> tuple[Any, list[list[Block]]]:
    """What is said of both tables, and the blocks of the second, partition by partition."""
    backend.start(plan)
    infos = [backend.exchange(0), backend.exchange(1)]
    parts = [backend.fetch(2, p) for p in range(backend.partitions(2))]
    return [(i.partitions, i.rows, i.bytes, i.cached) for i in infos], parts


def same_as_embedded(plan: pp.PhysicalPlan, backend: LockstepBackend) -> list[list[Block]]:
    """The blocks by partition, compared with those of the embedded backend."""
    embedded = Backend(1, None, False)
    expected = made(embedded, plan)
    embedded.stop()
    found = made(backend, plan)
    assert bits(found) == bits(expected)
    return found[1]


def sinks(rng: Any, names: Sequence[str]) -> list[pp.StoreSink]:
    """One of each sort, by columns taken at random."""
    keys = rng.permutation(["k", "i", "p", "f", "g", "b", "s", "d"])[: rng.integers(1, 4)].tolist()
    down = tuple(bool(d) for d in rng.integers(0, 2, len(keys)))
    kept = tuple(n for n in names if rng.random() < 0.7) or (names[0],)
    some = tuple(n for n in names if rng.random() < 0.3)
    counts = [int(c) for c in rng.choice([1, 2, 5, 16, 64, 257], 2)]
    return [
        exchange(2, counts[0]), exchange(2, counts[1], HASH, *keys),
        pp.SortRows(2, tuple(keys), down, kept), pp.DistinctRows(2, some),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "fan_in", "rows", "partitions"),
    [
        (2, 2, 60, 7), (3, 3, 200, 16), (5, 4, 33, 33), (8, 16, 90, 257), (2, 4, 0, 3),
        (3, 2, 1, 1), (1, 4, 40, 5), (8, 2, 150, 5),
    ],
)  # fmt: skip
def test_ranks_give_the_blocks_of_the_only_one(
    size: int, fan_in: int, rows: int, partitions: int
) -> None:
    rng = np.random.default_rng([size, rows, partitions])
    source = odd_source(rows, size)
    for sink in sinks(rng, source.schema.names):
        backend = LockstepBackend(size, fan_in)
        same_as_embedded(plan_of(source, partitions, sink), backend)
        backend.stop()
        assert [b.held for b in backend.budgets] == [0] * size


def test_small_pieces_and_buckets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PIECE_BYTES", 400)
    monkeypatch.setattr(routing, "LEAST_BYTES", 500)
    monkeypatch.setattr(rank_exchanges, "BUCKET_BYTES", 700)
    source = odd_source(120, 4)
    for sink in sinks(np.random.default_rng(9), source.schema.names):
        backend = LockstepBackend(3)
        same_as_embedded(plan_of(source, 11, sink), backend)
        backend.stop()


def test_what_finds_no_room_is_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PIECE_BYTES", 2_000)
    source = odd_source(150, 5)
    for sink in sinks(np.random.default_rng(3), source.schema.names):
        for memory in (0, 4_000):
            backend = LockstepBackend(3, memory=memory)
            same_as_embedded(plan_of(source, 9, sink), backend)
            tables = [t for s in backend.shares for t in s.runtime.tables.values()]
            assert any(isinstance(t, SpilledTable) for t in tables)
            assert all(b.held <= memory for b in backend.budgets)
            backend.stop()
            assert [b.held for b in backend.budgets] == [0] * 3


def test_a_spilled_table_is_read_again_and_again() -> None:
    source = odd_source(80, 6)
    backend = LockstepBackend(2, memory=3_000)
    parts = same_as_embedded(plan_of(source, 6, exchange(2, 4)), backend)
    for share in backend.shares:
        table = share.runtime.tables[2]
        assert not table.stays()
        for p in range(*share.ranks.range_of(share.ranks.own, 4)):
            assert bits(list(table.blocks(p, 0))) == bits(parts[p])
            assert table.rows(p) == sum(b.rows for b in parts[p])
            held = table.held(p)
            assert held is None or bits(held) == bits(parts[p])
    backend.stop()


TABLE = every_type(90, "few", 8)
PROGRAMS: dict[str, Callable[[so.Table], so.Table]] = {
    "sorted in each of several steps": lambda t: t.repartition(7).sort("s").sort("f", "i"),
    "sorted by a function": lambda t: t.repartition(5).sort(lambda r: -r.i).select("i", "s", "x"),
    "a union made distinct": lambda t: t.repartition(5).union(t.repartition(2)).distinct(),
    "distinct by one column": lambda t: t.repartition(9).distinct("s"),
    "a prefix of what is sorted": lambda t: t.repartition(6).sort("k", descending=True).limit(17),
    "filtered, then spread out": lambda t: t.filter(lambda r: r.k > 3).repartition(31),
    "nothing at all": lambda t: t.filter(lambda r: r.k > 99).repartition(4).sort("k").distinct(),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_the_same(name: str) -> None:
    table = PROGRAMS[name](TABLE)
    expected = bits(run([table]))
    for size in (2, 5):
        assert bits(Driver(planned(job_of(table)), LockstepBackend(size)).run()) == expected


def test_records_that_are_equal_in_many_places_are_found() -> None:
    columns = {
        "f": np.array([0.0, -0.0, np.nan, -np.nan, 1.0, np.nan] * 8),
        "g": np.array([[0.0, np.nan], [-0.0, -np.nan], [1, 2], [1, 2], [3, 4], [1, 2]] * 8),
        "l": pa.array([[0.0], [-0.0], [], [], None, []] * 8, pa.list_(pa.float64())),
        "s": pa.array(["", "", None, None, "é", None] * 8),
        "x": sparse.csr_matrix(([0.0, 1.0, 1.0], [1, 0, 0], [0, 2, 3, 3, 3, 3, 3]), (6, 3))[
            np.arange(48) % 6
        ],
    }
    source = source_of(so.table(columns))
    for names in [(), *((n,) for n in columns)]:
        parts = same_as_embedded(plan_of(source, 16, pp.DistinctRows(2, names)), LockstepBackend(4))
        assert sum(b.rows for part in parts for b in part) <= 6


# Sorting.


def test_sort_of_equal_keys_is_even_among_ranks() -> None:
    source = source_of(so.table({"k": np.zeros(4_000, int), "at": np.arange(4_000)}))
    received: list[int] = []
    sink = pp.SortRows(2, ("k",), (True,), ("at",))
    plan = plan_of(source, 8, sink)

    class Watched(LockstepBackend):
        def start(self, plan: pp.PhysicalPlan) -> None:
            super().start(plan)

    with pytest.MonkeyPatch.context() as patch:
        known = _Exchange._complete

        def complete(self: _Exchange, arrivals: Arrivals, expected: int) -> Any:
            received.append(sum(map(arrivals.rows, arrivals.targets)))
            return known(self, arrivals, expected)

        patch.setattr(_Exchange, "_complete", complete)
        same_as_embedded(plan, Watched(4))
    assert len(received) == 12  # two exchanges by range, and one to the buckets of the sort
    assert max(received) < 1_400


@pytest.mark.parametrize("buckets", [1, 2, 7, 40])
def test_buckets_follow_one_another(buckets: int) -> None:
    rng = np.random.default_rng(buckets)
    schema = Schema((("k", ArrayType("float64")), ("s", ArrayType("string"))))
    values = np.round(rng.normal(size=500), 1)
    values[rng.random(500) < 0.1] = np.nan
    block = Block(
        500,
        {"k": values, "s": pa.array(rng.choice(["a", "b", ""], 500))},
        {"k": rng.random(500) < 0.8},
    )
    sink = pp.SortRows(1, ("k", "s"), (True, False), ("s",))
    keys = sort_schema(sink, schema)
    places = sample_places(500, buckets)
    samples = block.take(places)
    samples.columns[keys.names[-1]] = places
    bounds = splitters(samples, sink, buckets)
    whole = sort_targets(block, 0, bounds, sink, keys)
    cut_up = [sort_targets(block.slice(a, a + 50), a, bounds, sink, keys) for a in range(0, 500, 50)]
    assert np.concatenate(cut_up).tolist() == whole.tolist()
    assert np.bincount(whole, minlength=buckets).max() <= 2 * -(-500 // buckets)
    order = [int(n) for b in range(buckets) for n in np.flatnonzero(whole == b)]
    alone, _ = sorted_rows(block, sink), order
    assert np.all(np.diff(whole[alone]) >= 0)


def sorted_rows(block: Block, sink: pp.SortRows) -> tuple[Any, Any]:
    """The records' numbers in order."""
    from scalops.engine.kernels.keys import sort_order

    keys = [((block.columns[n], block.valid.get(n)), d) for n, d in zip(sink.keys, sink.descending)]
    return sort_order(keys, block.rows), None
