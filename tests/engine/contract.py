"""What every backend must do, whatever it runs on.

A backend joins by a factory among those of `test_contract.py`. Plans read only sources that
another process can read, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64, INT64
from scalops.algebra.errors import DataError, ExecutionError, ScalopsError
from scalops.algebra.folds import Fold
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.backends import Backend, StageFailure
from scalops.engine.blocks import Block, block_rows
from scalops.engine.neutral import Change
from scalops.engine.reduction import leaf_count, leaf_ranges
from scalops.engine.storage import MemorySource
from tests.engine.plans import bits, calc, column, column_of, folded, physical, scan, wide_source

ROWS = 2_000
SOURCE = wide_source(
    ROWS,
    key=np.tile([3, -1, 7, 7, 0], ROWS // 5),
    name=np.array(["a", "bb", None, "é", ""] * (ROWS // 5), object),
    real=np.tile([0.0, -0.0, np.nan, 2.5, -np.nan], ROWS // 5),
)
# How many different keys these columns have: 0.0 is -0.0, and NaN is NaN.
KEYS = {("key",): 4, ("name",): 5, ("real",): 3, ("key", "name"): 5}
K = column(SOURCE, "k")
LIMIT = ex.Slot("limit", INT64, 0)


@dataclass
class Host:
    """A backend, and how many bytes it holds."""

    backend: Backend
    held: Callable[[], int]


Factory = Callable[[int | None], Host]


def total(name: str = "k") -> pp.TreeAggregate:
    """The sum of a column."""
    return folded(Fold("total", "sum", (column(SOURCE, name),)))


def below_limit() -> pp.Select:
    """The records whose `k` is less than slot 0."""
    return pp.Select(scan(SOURCE), calc("less", K, LIMIT))


def exchanged(source: MemorySource, required: pp.Properties) -> pp.PhysicalPlan:
    """Stage 0 exchanges the source as table 1, stage 1 hands table 1 out."""
    stored = pp.StoredTable(1, source.schema, required)
    return physical((scan(source), pp.Exchange(1, required)), (stored, pp.Gather()))


def fetched(backend: Backend, stage: int) -> list[list[Block]]:
    """All partitions of a Gather stage."""
    return [backend.fetch(stage, p) for p in range(backend.partitions(stage))]


class BackendContract:
    """One backend's tests; `host` is a fixture that gives an unlimited backend, not started."""

    # Stages.

    def test_fold_gives_the_sum(self, host: Host) -> None:
        host.backend.start(physical((scan(SOURCE, "k"), total())))
        host.backend.run_stage(0)
        assert host.backend.combine(0) == (ROWS * (ROWS - 1) // 2,)

    def test_plan_without_stages_starts_and_stops(self, host: Host) -> None:
        host.backend.start(physical())
        host.backend.commit(0)
        assert host.held() == 0

    def test_bound_values_are_read_until_they_are_bound_again(self, host: Host) -> None:
        host.backend.start(
            physical((below_limit(), folded(Fold("n", "count", ()))), slots=[INT64, INT64])
        )
        found = []
        for limit in (10, 1_500, 0, 1_500):
            host.backend.bind({0: limit})
            host.backend.run_stage(0)
            found.append(host.backend.combine(0)[0])
            host.backend.bind({1: np.int64(1)})  # another slot changes nothing
            host.backend.run_stage(0)
            assert host.backend.combine(0)[0] == found[-1]
            host.backend.commit(len(found) - 1)
        assert found == [10, 1_500, 0, 1_500]

    def test_partials_are_combined_in_the_canonical_tree(self, host: Host) -> None:
        # x -> a x + b, composed in order: it does not commute, and rounding tells trees apart.
        source = wide_source(ROWS, a=1 + np.sin(np.arange(ROWS)) / 3)
        a0, b0, a1, b1 = (column(source, n, r) for r in (0, 1) for n in ("a", "w"))
        combine = (calc("multiply", a0, a1), calc("add", calc("multiply", b0, a1), b1))
        arguments = (column(source, "a"), column(source, "w"))
        folds = [Fold(f"f{i}", "reduce", arguments, combine, ("a", "w"), i) for i in (0, 1)]
        host.backend.start(physical((scan(source), folded(*folds))))
        host.backend.run_stage(0)
        assert host.backend.combine(0) == _composed(source)

    def test_stages_over_one_base_share_a_pass_and_keep_their_bits(self, host: Host) -> None:
        x = column(SOURCE, "x")
        wide = pp.Compute(scan(SOURCE), (("h", calc("exp", x)), ("k", K)))
        sinks: list[tuple[pp.PhysicalTable, pp.Sink]] = [
            (scan(SOURCE), folded(Fold("s", "sum", (calc("sin", x),)), Fold("n", "count", ()))),
            (wide, folded(Fold("m", "mean", (ex.Column("h", wide.schema["h"]),)))),
            (below_limit(), folded(Fold("o", "sum_outer", (x, x)))),  # one leaf, for its size
            (below_limit(), total("w")),
        ]
        host.backend.start(physical(*sinks, slots=[INT64]))
        host.backend.bind({0: 1_234})
        alone = []
        for stage in range(4):
            host.backend.run_stage(stage)
            alone.append([np.asarray(v).tobytes() for v in host.backend.combine(stage)])
        for stages in ((0, 1, 2, 3), (3, 1), (2,), (1, 2)):
            host.backend.run_stages(stages)
            for stage in stages:
                found = [np.asarray(v).tobytes() for v in host.backend.combine(stage)]
                assert found == alone[stage]

    def test_stages_over_a_kept_table_share_a_pass(self, host: Host) -> None:
        stored = pp.StoredTable(1, SOURCE.schema)
        few = pp.Select(stored, calc("less", K, 10))
        plan = physical((scan(SOURCE), pp.CacheTable(1)), (stored, total()), (few, total()))
        host.backend.start(plan)
        host.backend.load(0)
        host.backend.run_stages((1, 2))
        assert host.backend.combine(1) == (ROWS * (ROWS - 1) // 2,)
        assert host.backend.combine(2) == (45,)

    def test_failure_in_a_shared_pass_says_whose_it_is(self, host: Host) -> None:
        # The last record's index is outside, in the last partition.
        index = calc("take", ex.constant(np.arange(ROWS - 1.0)), K)
        bad = pp.Compute(scan(SOURCE), (("v", index),))
        nothing = pp.Select(scan(SOURCE), calc("less", K, 0))
        least = folded(Fold("m", "minimum", (K,)))
        for stages, at_fault, place in (
            ((0, 1), 1, f"partition {len(SOURCE.partitions()) - 1}"),
            ((2, 0), 2, "min over no records"),
        ):
            host.backend.start(
                physical((scan(SOURCE), total()), (bad, total_of("v")), (nothing, least))
            )
            with pytest.raises(StageFailure) as caught:
                host.backend.run_stages(stages)
            assert caught.value.stage == at_fault
            assert isinstance(caught.value.error, ExecutionError)
            assert place in str(caught.value.error)
            host.backend.stop()

    def test_fold_over_no_records(self, host: Host) -> None:
        folds = (Fold("n", "count", ()), Fold("s", "sum", (K,)), Fold("e", "is_empty", ()))
        nothing = pp.Select(scan(SOURCE, "k"), calc("less", K, 0))
        host.backend.start(
            physical((nothing, folded(*folds)), (nothing, folded(Fold("m", "minimum", (K,)))))
        )
        host.backend.run_stage(0)
        assert host.backend.combine(0) == (0, 0, True)
        with pytest.raises(DataError, match="min over no records"):
            host.backend.run_stage(1)

    def test_prefix_takes_the_first_records_in_order(self, host: Host) -> None:
        for count in (0, 1, 700, 5_000):
            kept = pp.Select(scan(SOURCE, "k"), calc("not_equal", calc("remainder", K, 2), 0))
            taken = pp.TakePrefix(kept, 1)
            plan = physical((kept, pp.CountPrefix(1, count)), (taken, pp.Gather()))
            host.backend.start(plan)
            host.backend.run_stage(0)
            blocks = [b for p in fetched(host.backend, 1) for b in p]
            assert column_of(blocks, "k") == list(range(1, ROWS, 2))[:count]
            host.backend.stop()

    def test_gathered_partitions_are_the_table_in_order(self, host: Host) -> None:
        made = pp.Compute(scan(SOURCE, "k"), (("twice", calc("multiply", K, 2)),))
        host.backend.start(physical((made, pp.Gather())))
        assert host.backend.partitions(0) == len(SOURCE.partitions()) > 4
        blocks = [b for p in fetched(host.backend, 0) for b in p]
        assert column_of(blocks, "twice") == list(range(0, 2 * ROWS, 2))

    # Tables that are kept.

    def test_loaded_table_is_kept_until_it_is_released(self, host: Host) -> None:
        made = pp.Compute(below_limit(), (("h", calc("multiply", column(SOURCE, "x"), 2)),))
        stored = pp.StoredTable(1, made.schema)
        counted = folded(Fold("n", "count", ()))
        plan = physical((made, pp.CacheTable(1)), (stored, counted), slots=[INT64])
        host.backend.start(plan)
        host.backend.bind({0: 500})
        info = host.backend.load(0)
        assert (info.rows, info.cached) == (500, info.partitions)
        assert info.bytes == 500 * 512 * 8
        assert host.held() >= info.bytes
        host.backend.bind({0: 1})  # what is kept was made before
        host.backend.run_stage(1)
        assert host.backend.combine(1) == (500,)
        assert host.backend.load(0).rows == 1  # until it is loaded again
        host.backend.run_stage(1)
        assert host.backend.combine(1) == (1,)
        host.backend.release(1)
        host.backend.release(1)
        assert host.held() < info.bytes

    def test_table_that_does_not_fit_is_streamed(self, factory: Factory) -> None:
        host = factory(1_500_000)
        made = pp.Compute(scan(SOURCE), (("h", calc("multiply", column(SOURCE, "x"), 2)),))
        stored = pp.StoredTable(1, made.schema)
        held = ex.Column("h", made.schema["h"])
        plan = physical(
            (made, pp.CacheTable(1)),
            (stored, folded(Fold("s", "sum", (held,)))),
            (stored, pp.Gather()),
        )
        host.backend.start(plan)
        info = host.backend.load(0)
        assert 0 < info.cached < info.partitions
        host.backend.run_stage(1)
        streamed = host.backend.combine(1)[0]
        rows = sum(b.rows for p in fetched(host.backend, 2) for b in p)
        host.backend.stop()
        assert rows == ROWS
        unlimited = factory(None)
        unlimited.backend.start(plan)
        unlimited.backend.load(0)
        unlimited.backend.run_stage(1)
        assert unlimited.backend.combine(1)[0].tobytes() == streamed.tobytes()
        unlimited.backend.stop()

    # Exchanges.

    @pytest.mark.parametrize("count", [1, 2, 3, 8, 100, 257])
    def test_range_exchange_keeps_order_in_even_partitions(self, host: Host, count: int) -> None:
        host.backend.start(exchanged(SOURCE, pp.Properties(count, "range")))
        info = host.backend.exchange(0)
        assert (info.partitions, info.rows) == (count, ROWS)
        parts = fetched(host.backend, 1)
        sizes = [sum(b.rows for b in p) for p in parts]
        assert len(parts) == count
        assert max(sizes) - min(sizes) <= 1
        assert column_of([b for p in parts for b in p], "k") == list(range(ROWS))

    @pytest.mark.parametrize("rows", [0, 1, 5])
    def test_range_exchange_leaves_partitions_empty(self, host: Host, rows: int) -> None:
        source = wide_source(rows, width=2)
        plan = exchanged(source, pp.Properties(4, "range"))
        again = pp.Stage(2, plan.stages[1].source, folded(Fold("s", "sum", (column(source, "k"),))))
        host.backend.start(pp.PhysicalPlan((*plan.stages, again), (), (), (), (), ""))
        host.backend.exchange(0)
        parts = fetched(host.backend, 1)
        assert len(parts) == 4
        assert column_of([b for p in parts for b in p], "k") == list(range(rows))
        host.backend.run_stage(2)
        assert host.backend.combine(2) == (sum(range(rows)),)

    @pytest.mark.parametrize("count", [1, 2, 3, 8, 100, 257])
    def test_hash_exchange_puts_every_key_in_one_partition(self, host: Host, count: int) -> None:
        for keys in KEYS:
            host.backend.start(exchanged(SOURCE, pp.Properties(count, "hash", keys)))
            info = host.backend.exchange(0)
            assert (info.partitions, info.rows) == (count, ROWS)
            parts = fetched(host.backend, 1)
            places: dict[Any, set[int]] = {}
            for i, blocks in enumerate(parts):
                columns = [[_as_key(v) for v in column_of(blocks, k)] for k in keys]
                for key in zip(*columns, strict=True):
                    places.setdefault(key, set()).add(i)
                rows = column_of(blocks, "k")
                assert rows == sorted(rows)  # within a partition table order is kept
            assert all(len(p) == 1 for p in places.values())
            assert len(places) == KEYS[keys]
            rows = column_of([b for p in parts for b in p], "k")
            assert Counter(rows) == Counter(range(ROWS))
            host.backend.stop()

    def test_hash_exchange_spreads_many_keys(self, host: Host) -> None:
        host.backend.start(exchanged(SOURCE, pp.Properties(8, "hash", ("k",))))
        host.backend.exchange(0)
        sizes = [sum(b.rows for b in p) for p in fetched(host.backend, 1)]
        assert min(sizes) > ROWS / 8 / 2

    def test_exchange_without_room_spills(self, factory: Factory) -> None:
        host = factory(3_000_000)
        host.backend.start(exchanged(SOURCE, pp.Properties(4, "range")))
        assert host.backend.exchange(0).rows == ROWS
        host.backend.stop()
        assert host.held() == 0

    def test_blocks_are_handed_over_in_order(self, factory: Factory) -> None:
        for memory in (None, 1_000):
            host = factory(memory)
            host.backend.start(exchanged(SOURCE, pp.Properties(40, "range")))
            host.backend.exchange(0)
            found: list[Block] = []
            host.backend.stream(1, found.extend)
            expected = [b for part in fetched(host.backend, 1) for b in part]
            assert bits(found) == bits(expected)
            host.backend.stop()
            assert host.held() == 0

    # Ends.

    def test_stop_gives_everything_back(self, host: Host) -> None:
        stored = pp.StoredTable(1, SOURCE.schema)
        plan = physical(
            (scan(SOURCE), pp.Exchange(1, pp.Properties(3, "range"))),
            (stored, folded(Fold("s", "sum", (calc("exp", column(SOURCE, "x")),)))),
        )
        host.backend.start(plan)
        host.backend.exchange(0)
        host.backend.run_stage(1)
        assert host.held() > 0
        host.backend.stop()
        assert host.held() == 0
        host.backend.stop()

    def test_after_an_error_it_can_be_cancelled_and_stopped(self, host: Host) -> None:
        host.backend.start(exchanged(SOURCE, pp.Properties(3, "range")))
        with pytest.raises((ScalopsError, LookupError)):
            host.backend.run_stage(7)
        host.backend.cancel()
        host.backend.stop()
        assert host.held() == 0

    def test_stop_before_start_is_allowed(self, factory: Factory) -> None:
        host = factory(None)
        host.backend.cancel()
        host.backend.stop()

    def test_error_of_a_stage_is_raised_with_its_partition(self, host: Host) -> None:
        # The last record's index is outside, in the last partition.
        index = calc("take", ex.constant(np.arange(ROWS - 1.0)), K)
        host.backend.start(
            physical((pp.Compute(scan(SOURCE, "k"), (("v", index),)), total_of("v")))
        )
        with pytest.raises(ExecutionError) as caught:
            host.backend.run_stage(0)
        assert f"partition {len(SOURCE.partitions()) - 1}" in str(caught.value)

    @pytest.mark.parametrize("verb", ["run_stage", "run_stages", "load", "exchange", "fetch"])
    def test_cancelled_backend_runs_nothing_more(self, host: Host, verb: str) -> None:
        sink: pp.Sink = {
            "run_stage": total(),
            "run_stages": total(),
            "load": pp.CacheTable(1),
            "exchange": pp.Exchange(1, pp.Properties(3, "range")),
            "fetch": pp.Gather(),
        }[verb]
        host.backend.start(physical((scan(SOURCE, "k"), sink)))
        host.backend.cancel()
        arguments = {"fetch": (0, 0), "run_stages": ((0,),)}.get(verb, (0,))
        with pytest.raises(KeyboardInterrupt):
            getattr(host.backend, verb)(*arguments)

    def test_nobody_is_lost(self, host: Host) -> None:
        host.backend.start(physical((scan(SOURCE, "k"), total())))
        host.backend.run_stage(0)
        assert host.backend.lost() == ()

    def test_change_of_a_neutral_decision_changes_no_bit(self, host: Host) -> None:
        fold = Fold("s", "sum", (calc("exp", column(SOURCE, "x")),))
        host.backend.start(physical((scan(SOURCE), folded(fold))))
        found = []
        for inline in (frozenset[int](), frozenset({0}), frozenset[int]()):
            host.backend.change(Change(inline))
            host.backend.run_stage(0)
            found.append(host.backend.combine(0)[0].tobytes())
        assert len(set(found)) == 1

    # Tables of a loop's state.

    def test_tables_are_adopted_all_at_once_and_fetched_as_often_as_wanted(
        self, host: Host
    ) -> None:
        backend = host.backend
        _held_tables(backend)
        assert (_rows(backend, 1), _rows(backend, 2)) == (10, 20)
        backend.adopt([(1, 2, True), (2, 1, True)])
        for _ in range(2):
            assert (_rows(backend, 1), _rows(backend, 2)) == (20, 10)

    def test_an_adopted_table_takes_the_place_and_the_memory_of_the_one_before(
        self, host: Host
    ) -> None:
        backend = host.backend
        _held_tables(backend)
        held = host.held()
        backend.adopt([(3, 1, False)])
        assert host.held() == held
        backend.adopt([(3, 2, True)])
        assert host.held() < held
        assert (_rows(backend, 3), _rows(backend, 2)) == (20, 20)
        backend.release(2)
        assert _rows(backend, 3) == 20
        backend.stop()
        assert host.held() == 0

    def test_saved_records_are_put_back_as_a_table(self, host: Host) -> None:
        backend = host.backend
        schema = _held_tables(backend)[0].schema
        backend.put(3, schema, [Block(2, {"k": np.array([5, 6])}), Block(1, {"k": np.array([7])})])
        assert _rows(backend, 3) == 3
        backend.adopt([(3, 1, False)])
        assert _rows(backend, 3) == 10
        backend.stop()
        assert host.held() == 0

    def test_columns_that_hold_nan_or_an_infinity_are_told(self, host: Host) -> None:
        source = wide_source(4, a=np.array([1.0, np.nan, 2.0, 3.0]), b=np.array([np.inf, 0, 0, 0]))
        sink = pr.HoldState(1, computed=("a", "b", "x"))
        host.backend.start(physical((scan(source), sink)))
        info = host.backend.exchange(0)
        assert (info.nan, info.infinite) == (("a",), ("b",))


def total_of(name: str) -> pp.TreeAggregate:
    """The sum of a computed float64 column."""
    return folded(Fold("total", "sum", (ex.Column(name, FLOAT64),)))


def _held_tables(backend: Backend) -> list[pp.StoredTable]:
    """Tables 1 and 2 of 10 and 20 records are held; stage n + 1 hands table n of 1 to 3 out."""
    sources = [MemorySource.of_arrays({"k": np.arange(n)}) for n in (10, 20)]
    schema = sources[0].schema
    tables = [pp.StoredTable(n, schema) for n in (1, 2, 3)]
    held: list[tuple[pp.PhysicalTable, pp.Sink]] = [
        (pp.Compute(scan(s), (("k", calc("add", column(s, "k"), 1)),)), pr.HoldState(n))
        for n, s in enumerate(sources, 1)
    ]
    backend.start(physical(*held, *((t, pp.Gather()) for t in tables)))
    assert backend.exchange(0).rows == 10
    assert backend.exchange(1).rows == 20
    return tables


def _rows(backend: Backend, table: int) -> int:
    return sum(b.rows for part in fetched(backend, table + 1) for b in part)


def _as_key(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return "nan" if np.isnan(value) else float(value) + 0.0
    return value


Pair = tuple[np.float64, np.float64]


def _composed(source: MemorySource) -> Pair:
    """The folds of the canonical tree, by its definition."""
    a, w = (np.asarray(source.columns[n]) for n in ("a", "w"))
    pairs: list[Pair] = list(zip(a, w, strict=True))
    size = block_rows(source.schema)
    partitions = source.partitions()
    leaves = leaf_count(len(partitions), source.bytes, 2 * 8)
    partials = []
    for first, last in leaf_ranges(len(partitions), leaves):
        partial: Pair | None = None
        for p in partitions[first:last]:
            for start in range(p.start, p.stop, size):
                made = _halved(pairs[start : min(start + size, p.stop)])
                partial = made if partial is None else _compose(partial, made)
        assert partial is not None
        partials.append(partial)
    return _halved(partials)


def _halved(pairs: Sequence[Pair]) -> Pair:
    """Neighbours combined, an odd one left over, until one is left."""
    level = list(pairs)
    while len(level) > 1:
        odd = level[len(level) // 2 * 2 :]
        level = [_compose(x, y) for x, y in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def _compose(left: Pair, right: Pair) -> Pair:
    return left[0] * right[0], left[1] * right[0] + right[1]
