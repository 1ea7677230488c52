"""Joins by several ranks are those of one, to the last bit: the held side everywhere or by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import ExecutionError
from scalops.algebra.relations import Join, JoinKind
from scalops.engine import blocks
from scalops.engine import physical_relations as pr
from scalops.engine.blas import single_threaded
from scalops.engine.blocks import Block
from scalops.engine.collective import BROADCAST_BYTES
from scalops.engine.driver import Driver
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.relations import meeting, shared_lookup
from scalops.engine.relations.partitioned_index import PartitionedIndex, may_be_partitioned
from scalops.engine.spill import SpillFile
from scalops.engine.storage import Partition
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.engine.joins import KEYS, KINDS, Plan, column, join, source
from tests.engine.plans import bits, job_of, run, sinks, table_bits
from tests.engine.sources import WatchedSource
from tests.engine.test_indexed import edges, propagate
from tests.engine.test_kept_joins import shrinking
from tests.language.queries import Generator, sources

ALWAYS = -1  # bytes: any held side is partitioned
WAYS = pytest.mark.parametrize("most", [ALWAYS, BROADCAST_BYTES], ids=["partitioned", "broadcast"])
SIZES = (2, 3, 5, 8)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 4 records, one in each partition."""
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", 4)
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 4)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)


class Ranks(LockstepBackend):
    """Notes the records that each rank holds of partitioned tables, by the table's number."""

    def __init__(self, size: int, most: int, memory: int | None = None) -> None:
        super().__init__(size, memory=memory, broadcast_bytes=most)
        self.held: dict[int, list[int]] = {}
        self.iterations = 0

    def exchange(self, stage: int) -> Any:
        info = super().exchange(stage)
        number = self.shares[0].stages[stage].sink.number  # type: ignore[attr-defined]
        tables = [s.runtime.tables[number] for s in self.shares]
        if isinstance(tables[0], PartitionedIndex):
            made = [t for t in tables if isinstance(t, PartitionedIndex)]
            self.held[number] = [sum(r.count for r in t.records) for t in made]
        return info


def of_ranks(things: Sequence[Any], backend: LockstepBackend) -> list[Any]:
    """What several ranks give."""
    with single_threaded():
        return list(Driver(planned(job_of(*things)), backend).run())


def exactly(results: Sequence[Any]) -> Any:
    """Every bit of results, of the tables in a loop's state too."""
    made = []
    for result in results:
        state = result.state if isinstance(result, LoopOutcome) else {}
        tables = {n: table_bits(v.blocks) for n, v in state.items() if isinstance(v, StateRows)}
        others = {n: v for n, v in state.items() if n not in tables}
        made.append((tables, bits(others if state else result)))
    return made


def assert_same(things: Sequence[Any], size: int, most: int, memory: int | None = None) -> Ranks:
    """Several ranks give the bits of the embedded backend, and hold nothing when they have."""
    expected = exactly(run(things))
    backend = Ranks(size, most, memory)
    assert exactly(of_ranks(things, backend)) == expected
    assert all(b.held == 0 for b in backend.budgets)
    return backend


def changed(table: so.Table) -> so.Table:
    """The same records, which do not lie in memory in one piece."""
    return table.filter(lambda r: r.row >= 0)


def joins_by(kind: JoinKind, keys: Sequence[str], seed: int) -> list[Plan]:
    """The joins by each of these keys, and by several, with some columns of both sides."""
    rng = np.random.default_rng(seed)
    left, right = source(23, 1), source(14, 2)
    columns = ["row", "text", "items", "thin", "payload"]
    made = []
    for key in keys:
        read = list(dict.fromkeys([*columns[: rng.integers(1, 6)], key]))
        sides = (left, right) if rng.random() < 0.3 else (changed(left), changed(right))
        made.append(join(*sides, kind, [key], bool(rng.integers(2)), read))
    several = ["int", "string"] if seed % 2 else ["float", "bool", "time"]
    return [*made, join(changed(left), changed(right), kind, several, columns=columns)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_join(kind: JoinKind) -> None:
    seed = KINDS.index(kind)
    joins = joins_by(kind, [KEYS[seed]], seed)
    backend = assert_same(joins, 2 + seed % 2, ALWAYS)
    # Of a full join both sides are held.
    tables = 0 if kind == "cross" else len(joins) * (1 + (kind == "full"))
    assert len(backend.held) == tables


def test_every_kind_of_key() -> None:
    assert_same(joins_by("left", KEYS, 3), 2, ALWAYS)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_join_by_every_kind_of_key(kind: JoinKind) -> None:
    for size in SIZES:
        for most in (ALWAYS, BROADCAST_BYTES):
            assert_same(joins_by(kind, KEYS, size), size, most)


def random_tables(seed: int) -> tuple[so.Table, so.Table]:
    """Keys that are skewed, unique, null or absent; up to 257 partitions."""
    rng = np.random.default_rng(seed)
    made = []
    for most in (1_028, 60):
        rows = int(rng.choice([0, 1, 5, 40, most]))
        keys = rng.permutation(rows) if rng.random() < 0.4 else rng.zipf(1.5, rows) % 50
        nulls = rng.random(rows) < rng.choice([0, 0.3])
        far = int(rng.choice([1, 10**12]))
        table = pa.table(
            {
                "row": np.arange(rows),
                "k": pa.array(keys * far, mask=nulls),
                "s": pa.array([f"{k % 7}" for k in keys], pa.string(), mask=nulls),
                "v": pa.array(rng.normal(size=rows), mask=rng.random(rows) < rng.choice([0, 0.2])),
            }
        )
        made.append(so.from_arrow(table))
    return made[0], made[1]


def random_joins(seed: int) -> list[Plan]:
    """Two joins of random tables."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(2):
        left, right = random_tables(int(rng.integers(1 << 30)))
        if rng.random() < 0.3:
            left, right = right, left
        kind = KINDS[rng.integers(len(KINDS) - 1)]
        on = [["k"], ["k"], ["k", "s"]][rng.integers(3)]
        made.append(join(changed(left), changed(right), kind, on, bool(rng.integers(2))))
    return made


@pytest.mark.parametrize(
    ("size", "most"),
    [(1, ALWAYS), (2, ALWAYS), (3, BROADCAST_BYTES), (5, ALWAYS), (8, ALWAYS), (8, 1 << 10)],
)
def test_random_tables_with_skew_and_empty_sides(size: int, most: int) -> None:
    assert_same(random_joins(size), size, most)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100))
def test_more_random_tables(seed: int) -> None:
    assert_same(random_joins(1_000 + seed), 1 + seed % 8, ALWAYS if seed % 3 else BROADCAST_BYTES)


def test_a_side_that_is_too_long_to_be_sent_to_all_is_held_once() -> None:
    rows = 300
    held = so.table({"row": np.arange(rows), "k": np.arange(rows), "v": np.ones((rows, 4))})
    probing = so.table({"k": np.arange(0, rows, 3)})
    made = join(probing, changed(held), "inner", ["k"], columns=["k"])
    size = rows * 8
    assert assert_same([made], 4, size).held == {}
    (counts,) = assert_same([made], 4, size - 1).held.values()
    assert sum(counts) == rows
    assert max(counts) < rows / 2


def test_records_of_one_key_are_in_table_order_wherever_they_come_from() -> None:
    right = so.table({"row": np.arange(200), "k": np.zeros(200, np.int64)})
    left = so.table({"k": np.array([0, 1, 0])})
    made = join(left, changed(right), "left", ["k"], columns=["k"])
    ordered = so.Table(made.plan)
    counts = assert_same([ordered, ordered.limit(7)], 5, ALWAYS).held
    assert all(sorted(c)[:4] == [0, 0, 0, 0] for c in counts.values())


@pytest.mark.parametrize("memory", [None, 40_000], ids=["all", "little memory"])
def test_joins_over_joins_caches_slices_and_unions(memory: int | None) -> None:
    left, right = source(40, 10), source(30, 11)
    first = so.Table(join(changed(left), changed(right), "left", ["int"]).plan).cache()
    second = join(first, changed(source(25, 3)), "inner", ["string"], columns=["row"])
    made = so.Table(second.plan)
    things = [
        made.limit(3), made.slice(5, 6), made.union(made), made.sum("row"), first.sum("row_right"),
        made.with_row_index("n"), made.sort("row_right"), first.count(),
    ]  # fmt: skip
    assert_same(things, 3, ALWAYS, memory)


def test_few_records_of_a_join_read_few_partitions() -> None:
    watched = WatchedSource(partitions=64, blocks=1)
    table = so.Table(op.Scan(watched))
    ids = so.table({"row": np.arange(1_000), "k": np.arange(1_000.0)})
    made = so.Table(join(table, changed(ids), "inner", ["k"], columns=["k"]).plan)
    assert_same([made.limit(10)], 3, ALWAYS)
    assert sum(watched.reads.values()) < 30


def test_matches_that_find_no_room_are_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    original = SpillFile.write_all

    def write_all(file: SpillFile, blocks: Sequence[Block]) -> Any:
        written.extend(block.rows for block in blocks)
        return original(file, blocks)

    monkeypatch.setattr(SpillFile, "write_all", write_all)
    left = so.table({"row": np.arange(200), "k": np.arange(200) % 40})
    right = so.table({"row": np.arange(40), "k": np.arange(40), "v": np.ones((40, 60))})
    made = join(left, changed(right), "inner", ["k"], columns=["k"])
    assert isinstance(made.plan, Join)
    wide = Plan(replace(made.plan, outputs=(*made.plan.outputs, ("v", 1, "v"))))
    assert_same([wide], 2, ALWAYS, 40_000)
    assert len(written) > 10
    assert_same([wide], 2, ALWAYS, 100)


def test_a_function_of_probing_records_is_not_called_twice() -> None:
    """To ask for the matches of records takes reading them before."""
    called = source(30, 15).with_columns(own=so.udf(lambda r: int(r.row) // 2, returns=so.int64))
    right = changed(source(20, 16))
    made = join(called, right, "left", [(column(called, "own"), column(right, "row"))])
    physical = planned(job_of(made))
    (sink,) = sinks(physical, pr.BuildIndex)
    assert isinstance(sink, pr.BuildIndex)
    assert not may_be_partitioned(physical.stages, sink.number)
    assert assert_same([made], 3, ALWAYS).held == {}


class Unsteady(WatchedSource):
    """Gives fewer records when a partition is read again."""

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        again = partition.index in self.reads
        for block in super().read(partition, columns):
            yield block.slice(0, 1) if again else block


def test_a_source_that_changes_while_it_is_joined_is_an_error() -> None:
    ids = so.table({"row": np.arange(9), "k": np.arange(9.0)})
    table = so.Table(op.Scan(Unsteady(partitions=2, blocks=1)))
    made = join(table, changed(ids), "inner", ["k"], columns=["k"])
    expected = r"block 0 of a join's probing side has 1 records; when it was read before it had 4"
    with pytest.raises(ExecutionError, match=expected):
        of_ranks([made], Ranks(2, ALWAYS))


# Tables that stay in loops.


class Forgetful(Ranks):
    """After each iteration all ranks forget what they have kept of it."""

    def commit(self, iteration: int) -> None:
        self.iterations += 1
        for share in self.shares:
            share.forget()


@pytest.mark.parametrize(
    ("cost", "kind", "on", "size"),
    [(0, "semi", ["int", "string"], 2), (1_000_000, "inner", ["int"], 3)],
    ids=["looked up", "probed"],
)
def test_a_table_that_stays_meets_one_that_changes(
    cost: int, kind: JoinKind, on: list[str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SORT_COST", cost)
    monkeypatch.setattr(shared_lookup, "SHARED_ROWS", 1)
    monkeypatch.setattr(shared_lookup, "_PIECE_ROWS", 7)
    loop = shrinking(source(50, 1), source(60, 2), kind, on)
    assert len(sinks(planned(job_of(loop)), pr.MeetIndexed)) == 1
    backend = assert_same([loop], size, ALWAYS)
    assert backend.held == {}  # positions point into the side that stays


@pytest.mark.parametrize(("size", "shared"), [(3, 1), (2, 1 << 16)], ids=["shared", "alone"])
def test_positions_that_are_kept_are_the_same_at_all_ranks(
    size: int, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_lookup, "SHARED_ROWS", shared)
    monkeypatch.setattr(shared_lookup, "_PIECE_ROWS", 7)
    ids = np.arange(20)
    v = np.random.default_rng(2).normal(size=20)
    loop = propagate(edges(nodes=20, count=90), ids, v, 4)
    assert sinks(planned(job_of(loop)), pr.IndexJoin)
    expected = exactly(run([loop]))
    for backend in (Ranks(size, BROADCAST_BYTES), Forgetful(size, BROADCAST_BYTES)):
        assert exactly(of_ranks([loop], backend)) == expected
    assert backend.iterations == 4


@pytest.mark.parametrize("most", [ALWAYS, BROADCAST_BYTES], ids=["partitioned", "broadcast"])
def test_what_is_forgotten_is_found_again(most: int) -> None:
    """As after the loss of a rank, the next of which has no memory of earlier iterations."""
    links, nodes = so.table(edges(nodes=9, count=40)), so.table({"id": np.arange(9)})

    @so.loop({"t": nodes.with_columns(v=lambda r: r.id * 0.5), "n": 0}, range(4))
    def loop(env: Any, i: Any) -> Any:
        near = links.filter(lambda r: r.w > i * 0.1 - 1)
        sent = near.join(env["t"], left_on="src", right_on="id", how="left")
        sums = sent.group_by("dst").map(lambda key, rows: {"dst": key, "s": rows.sum("v")})
        env["t"] = nodes.join(sums, left_on="id", right_on="dst", how="left").select(
            "id", v=lambda r: 0.5 * so.coalesce(r.s, 1.0)
        )
        env["n"] += env["t"].join(near, left_on="id", right_on="dst", how="full").count()
        return env

    backend = Forgetful(3, most)
    assert exactly(of_ranks([loop], backend)) == exactly(run([loop]))
    assert backend.iterations == 4


# The language.


@WAYS
def test_cogroups_and_joins_of_several_tables(most: int) -> None:
    a = so.table({"k": [2, 1, None, 2, 5] * 4, "v": np.arange(20.0)})
    b = so.table({"j": [3, 2, None, None] * 3, "w": np.arange(12)}).filter(lambda r: r.w != 7)
    c = so.table({"i": [1, 3, 7] * 3, "z": np.ones((9, 2))}).filter(lambda r: r.i != 4)
    things = [
        so.cogroup(a.by("k"), b.by("j"), c.by("i")).map(
            lambda key, x, y, z: {"key": key, "n": x.count(), "w": y.sum("w"), "m": z.count()}
        ),
        so.join(a.by("k"), b.by("j"), c.by("i")),
    ]
    assert_same(things, 3, most)


class Joins(Generator):
    """Queries of joins over what each partition gives for itself, and over other joins."""

    def _over(self, q: Any) -> Any:
        ways = [self._filter, self._compute, self._choose, self._join, self._join, self._join]
        while True:
            made = self._random.choice(ways)(q)
            if made is not None and 1 <= len(made.columns) <= 14:
                return made


@pytest.mark.parametrize(("size", "most"), [(5, ALWAYS), (4, BROADCAST_BYTES)])
def test_random_queries_of_joins(size: int, most: int) -> None:
    check_queries(range(4 * size, 4 * size + 4), size, most)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 800, 20))
def test_more_random_queries_of_joins(first: int) -> None:
    most = ALWAYS if first % 40 else BROADCAST_BYTES
    check_queries(range(first, first + 20), 1 + first // 20 % 8, most)


def check_queries(seeds: Sequence[int], size: int, most: int) -> None:
    """The queries of these seeds, in one job, by so many ranks."""
    tables = sources(seeds[0])
    scope = {"so": so, "np": np, **{f"t{i}": so.from_arrow(t) for i, t in enumerate(tables)}}
    programs = [Joins(seed, tables).query(3).program for seed in seeds]
    assert sum("join" in p for p in programs) > len(programs) // 2
    assert_same([eval(p, scope) for p in programs], size, most)
