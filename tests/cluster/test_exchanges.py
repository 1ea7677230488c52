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
from scalops.engine.kernels.keys import first_of_equals, sort_order
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import rank_exchanges, routing
from scalops.engine.relations.gathering import spread
from scalops.engine.relations.rank_exchanges import _Answers
from scalops.engine.relations.routing import PIECE_BYTES, Arrivals, Run, cut_to, routed
from scalops.engine.spill import SpilledBlocks, SpilledTable
from scalops.engine.spilled_memory import Room
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend, sent, together
from tests.engine.grouped import source as every_type
from tests.engine.plans import Backend, bits, job_of, physical, run, scan

RANGE, HASH = "range", "hash"


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
    return [(i.partitions, i.rows, i.cached) for i in infos], parts


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
    source = odd_source(50, 4)
    for sink in sinks(np.random.default_rng(9), source.schema.names):
        backend = LockstepBackend(3)
        same_as_embedded(plan_of(source, 11, sink), backend)
        backend.stop()


def test_what_finds_no_room_is_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "PIECE_BYTES", 3_000)
    source = odd_source(70, 5)
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


# How records are shared out.


def test_sort_of_equal_keys_is_even_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Arrivals.add

    def added(self: Arrivals, run: Run) -> None:
        shares.setdefault(self, []).append(run.block.rows)
        add(self, run)

    shares: dict[Arrivals, list[int]] = {}
    monkeypatch.setattr(Arrivals, "add", added)
    source = source_of(so.table({"k": np.zeros(4_000, int), "at": np.arange(4_000)}))
    same_as_embedded(
        plan_of(source, 8, pp.SortRows(2, ("k",), (True,), ("at",))), LockstepBackend(4)
    )
    assert max(map(sum, shares.values())) < 1_200


SCHEMA = Schema((("k", ArrayType("float64")), ("s", ArrayType("string"))))
SINK = pp.SortRows(1, ("k", "s"), (True, False), ("s",))


def two_columns(rows: int, seed: int = 0) -> Block:
    """Numbers with ties, NaN and nulls; short strings."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=rows), 1)
    values[rng.random(rows) < 0.1] = np.nan
    texts = pa.array(rng.choice(["a", "b", ""], rows), pa.string())
    return Block(rows, {"k": values, "s": texts}, {"k": rng.random(rows) < 0.8})


@pytest.mark.parametrize("buckets", [1, 2, 7, 40, 600])
def test_buckets_of_a_sort_follow_one_another(buckets: int) -> None:
    block, keys = two_columns(500), sort_schema(SINK, SCHEMA)
    places = sample_places(500, buckets)
    assert len(places) == min(500, 32 * buckets)
    assert np.all(np.diff(places) > 0)
    samples = block.take(places)
    samples.columns[keys.names[-1]] = places
    bounds = splitters(samples, SINK, buckets)
    found = [sort_targets(block.slice(a, a + 50), a, bounds, SINK, keys) for a in range(0, 500, 50)]
    targets = np.concatenate(found)
    order = sort_order([((block.columns[n], block.valid.get(n)), n == "k") for n in "ks"], 500)
    assert np.all(np.diff(targets[order]) >= 0)
    assert np.bincount(targets).max() <= 2 * -(-500 // buckets)


def test_sort_of_a_table_with_a_period_has_even_buckets() -> None:
    keys = np.arange(64_000) % 1_000
    chosen = np.bincount(keys[sample_places(64_000, 2)] // 500)
    assert abs(int(chosen[0]) - 32) <= 12


def test_a_range_is_cut_where_targets_and_homes_end() -> None:
    block = Block(10, {"k": np.arange(10.0)})
    ends = [stop for _, stop in near_equal(30, 7)]
    assert ends == [4, 8, 12, 17, 21, 25, 30]
    shares = list(by_range(block, 6, ends, [0, 0, 1, 1, 2, 2, 2]))
    assert [(home, splits) for home, splits, _ in shares] == [(0, [(1, 2)]), (1, [(2, 4), (3, 4)])]
    assert [list(b.columns["k"]) for *_, b in shares] == [[0, 1], list(range(2, 10))]
    (share,) = by_range(block, 0, [0, 0, 10, 10], [0, 0, 0, 1])
    assert share[:2] == (0, [(2, 10)])


def test_records_of_a_target_keep_their_order() -> None:
    block = Block(6, {"k": np.arange(6.0)})
    shares = list(by_target(block, np.array([3, 0, 3, 1, 0, 3]), [0, 0, 1, 1]))
    assert [(home, splits) for home, splits, _ in shares] == [(0, [(0, 2), (1, 1)]), (1, [(3, 3)])]
    assert [list(b.columns["k"]) for *_, b in shares] == [[1, 4, 3], [0, 2, 5]]


@pytest.mark.parametrize("seed", range(3))
def test_equal_records_have_one_bucket(seed: int) -> None:
    source = odd_source(300, seed)
    (block,) = (b for p in source.partitions() for b in source.read(p, source.schema.names))
    for name, kind in source.schema:
        own = block.chosen({name: name})
        targets = distinct_targets(own, 1 << 15)
        new = first_of_equals(own, [(name, kind)])
        assert len(set(targets.tolist())) <= np.count_nonzero(new)
        assert len(set(targets.tolist())) > np.count_nonzero(new) // 2


def test_nulls_have_one_bucket_whatever_stands_there() -> None:
    mask = np.array([False, False, True, False])
    block = Block(4, {"k": np.array([1.0, 2.0, 0.0, np.nan])}, {"k": mask})
    a, b, _, c = distinct_targets(block, 1 << 15).tolist()
    assert a == b == c


def test_stored_blocks_do_not_show_how_they_came() -> None:
    schema = Schema((("m", ArrayType("float64", (2,))), ("k", ArrayType("int64"))))
    m, k = np.asfortranarray(np.arange(12.0).reshape(6, 2)), np.arange(12)[::2]
    blocks = [
        Block(3, {"m": m[:3], "k": k[:3]}, {"k": np.ones(3, bool)}),
        Block(3, {"m": m[3:], "k": k[3:]}),
    ]
    (made_one,) = settled(blocks, schema)
    (other,) = settled([concatenate(blocks, schema)], schema)
    (third,) = settled([replace(blocks[0]), blocks[1].slice(0, 1), blocks[1].slice(1, 3)], schema)
    assert bits(made_one) == bits(other) == bits(third)
    assert all(b.columns["m"].flags.c_contiguous and not b.valid for b in (made_one, other, third))


# Pieces.


def streamed(ranks: Ranks, runs: list[tuple[int, Run]], arrivals: Arrivals) -> list[Any]:
    """The pieces that a rank sends."""
    ask = next(routed(ranks, runs, arrivals))
    assert isinstance(ask, Shuffle)
    return list(ask.pieces)


def arrivals_of(targets: Sequence[int], homes: Sequence[int]) -> Arrivals:
    """Where records of two columns arrive."""
    return Arrivals(SpilledBlocks(MemoryBudget(), "x", SCHEMA), SCHEMA, targets, homes)


def test_pieces_are_small_and_what_stays_is_not_sent() -> None:
    block = two_columns(200_000)
    parts = list(enumerate(cut_to(block)))
    assert len(parts) >= 3
    runs = [(to, Run(0, i, [(to, b.rows)], b)) for i, b in parts for to in (0, 2)]
    runs += [(1, Run(0, 100 + i, [(1, 1)], block.slice(i, i + 1))) for i in range(300)]
    own = arrivals_of([0], [0])
    pieces = streamed(Ranks(0, 3), runs, own)
    assert max(sum(b.nbytes for b in p.buffers) for _, p in pieces) <= PIECE_BYTES * 1.1
    assert len(pieces) == len(parts) + 1
    assert {to for to, _ in pieces} == {1, 2}
    assert own.rows(0) == sum(r.block.rows for to, r in runs if to == 0)


def test_runs_are_put_in_order() -> None:
    block = two_columns(12)
    arrivals = arrivals_of([4, 5], [1, 1, 1])
    runs = [Run(s, n, [(4, 2), (5, 1)], block.slice(3 * i, 3 * i + 3))
            for i, (s, n) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0)])]  # fmt: skip
    for run_ in (runs[3], runs[1], runs[0], runs[2]):
        for to, piece in streamed(Ranks(1, 2), [(0, run_)], arrivals_of([], [])):
            assert to == 0
            arrivals.take(1, sent(piece))
    assert arrivals.runs(5) == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (2, 0, 1)]
    found = concatenate(list(arrivals.blocks(4)), SCHEMA)
    assert bits(found) == bits(block.take(np.array([0, 1, 3, 4, 6, 7, 9, 10])))


def test_pieces_that_make_no_sense_are_refused() -> None:
    block = two_columns(3)
    ((_, good),) = streamed(Ranks(1, 2), [(0, Run(1, 0, [(2, 3)], block))], arrivals_of([], []))
    ((source, number, splits, item),) = good.header

    def refused(header: Any, rank: int = 1) -> None:
        with pytest.raises(ValueError, match=r"record|column|run"):
            arrivals_of([2], [0, 1]).take(rank, sent(Piece(header, good.buffers)))

    arrivals = arrivals_of([2], [0, 1])
    arrivals.take(1, sent(good))
    with pytest.raises(ValueError, match="twice"):
        arrivals.take(1, sent(good))
    refused(good.header, rank=0)
    refused([[9, number, splits, item]])
    refused([[-1, number, splits, item]])
    refused([[source, number, [[3, 3]], item]])
    refused([[source, number, [[2, 2]], item]])
    refused([[source, number, [[2, 4]], item]])
    refused([[source, number, [[2, 3], [2, 0]], item]])
    refused([[source, number, [[2, -1], [2, 4]], item]])
    refused([[source, number, [2], item]])
    refused([[source, number, splits, [3, item[1][:1]]]])
    refused([[source, number, splits, [4, item[1]]]])
    refused([[source, number, splits]])
    refused({"runs": []})
    refused(None)


def test_answers_that_nobody_asked_for_are_refused() -> None:
    def fresh() -> tuple[_Answers, dict[tuple[int, int], Any]]:
        flags = {(0, 0): np.zeros(3, bool)}
        return _Answers({(0, 0): np.array([0, 1, 0], np.uint16)}, flags, [0, 1]), flags

    good = Piece([0, [[0, 0, 2]]], [np.array([0b01000000], np.uint8)])
    answers, flags = fresh()
    with pytest.raises(ExecutionError, match="of 3 records"):
        answers.complete("exchange 1")
    answers.take(0, good)
    assert flags[0, 0].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="nobody asked for"):
        answers.take(0, good)
    answers.take(1, Piece([1, [[0, 0, 1]]], [np.array([0], np.uint8)]))
    answers.complete("exchange 1")
    for rank, header, buffers in [
        (1, good.header, good.buffers), (0, good.header, []), (0, [0, [[0, 0, 1]]], good.buffers),
        (0, [0, [[0, 1, 2]]], good.buffers), (0, [0, [[0, 0]]], good.buffers),
        (0, [5, [[0, 0, 2]]], good.buffers), (0, None, good.buffers),
        (0, good.header, [np.zeros(2, np.uint8)]),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="answer"):
            fresh()[0].take(rank, Piece(header, buffers))


def test_what_does_not_arrive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Arrivals.add
    monkeypatch.setattr(
        Arrivals, "add", lambda self, run: None if run.source == 2 else add(self, run)
    )
    backend = LockstepBackend(2)
    with pytest.raises(ExecutionError, match="records that were sent"):
        made(backend, plan_of(odd_source(60, 1), 5, exchange(2, 4)))
    assert not any("exchange 2" in b.owners() for b in backend.budgets)
    backend.stop()


def test_large_blocks_are_spread_in_small_pieces_and_come_as_they_were() -> None:
    blocks = [two_columns(n, n) for n in (3, 90_000, 5, 70_000, 1)]
    pieces: list[Any] = []
    budgets = [MemoryBudget() for _ in range(3)]

    def program(rank: int) -> Any:
        own: dict[int, list[Block]] = {1: [], 3: blocks} if rank == 1 else {0: blocks[:1]}
        room = Room(budgets[rank], "received")
        asked = spread(Ranks(rank, 3), own if rank < 2 else {}, [0, 1, 3], SCHEMA, room)
        ask = next(asked)
        assert isinstance(ask, Shuffle)
        sending = list(ask.pieces)
        pieces.extend(sending)
        yield Shuffle(sending, ask.take)
        try:
            next(asked)
        except StopIteration as end:
            return end.value

    for found in together([program(rank) for rank in range(3)]):
        assert bits(found) == bits([blocks[:1], [], blocks])
    assert max(sum(b.nbytes for b in p.buffers) for _, p in pieces) <= PIECE_BYTES * 1.1
    assert len({id(p) for _, p in pieces}) == len(pieces) // 2  # one for both who receive it
    assert sum(b.held for b in budgets) == 2 * sum(b.bytes for b in blocks) + 2 * blocks[0].bytes


@pytest.mark.parametrize(
    "header", [None, [7, [False], []], [3, [False, False], []], [3, [True], 0]]
)
def test_blocks_of_other_partitions_are_not_taken(header: Any) -> None:
    ask = next(spread(Ranks(0, 2), {1: []}, [1, 3], SCHEMA))
    assert isinstance(ask, Shuffle)
    with pytest.raises(ValueError, match="block"):
        ask.take(1, Piece(header, []))
