"""Groups found by several ranks are those of one, to the last bit: folds, and functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.blocks import Block
from scalops.engine.columns import SparseColumn, filtered
from scalops.engine.driver import Driver
from scalops.engine.kernels.grouped_folds import GroupedFolds
from scalops.engine.relations import dealt, groups
from scalops.engine.relations.group_apply import _Grouped
from scalops.engine.relations.rank_groups import GroupPass
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.engine.grouped import KEYS, fold, found, grouped, source
from tests.engine.plans import bits, job_of, run
from tests.engine.test_grouped_folds import PARTS
from tests.engine.test_groups import keys_by_type

SIZES = [(3, 2), (8, 4)]  # ranks, and how many of them meet at a node of their tree
MORE_SIZES = [(1, 4), (2, 2), (3, 3), (5, 2), (5, 16), (8, 3)]


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


def bits_of(made: Sequence[Block]) -> Any:
    """Blocks as something that is equal only where every bit is, but for what null hides."""
    return [
        (b.rows, [(n, bits(_shown(c, b.valid.get(n)))) for n, c in b.columns.items()],
         bits(b.valid))
        for b in made
    ]  # fmt: skip


def _shown(column: Any, valid: Any) -> Any:
    if not isinstance(column, SparseColumn):
        return column if isinstance(column, np.ndarray) else repr(column.to_pylist())
    shown = column if valid is None else filtered(column, valid)
    return [shown.indptr, shown.indices, shown.values]


def same(node: Any, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    one = bits_of(found(node))
    for size, fan_in in sizes:
        assert bits_of(of_ranks(node, size, fan_in)) == one, (size, fan_in)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("keys", ["few", "many"])
def test_every_fold(part: str, keys: str) -> None:
    table = source(250, keys, seed=2)
    same(grouped(table, ["k"], PARTS[part](table)), [(3, 2)])


@pytest.mark.long
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("rows", [0, 1, 700, 2500])
def test_every_fold_by_any_number_of_ranks(part: str, keys: str, rows: int) -> None:
    table = source(rows, keys, seed=3)
    same(grouped(table, ["k"], PARTS[part](table)), MORE_SIZES)


KEYS_BY_TYPE = keys_by_type(300, 23)


@pytest.mark.parametrize("kind", KEYS_BY_TYPE)
@pytest.mark.parametrize("goes", ["along the tree", "by hash"])
def test_keys_of_every_type(kind: str, goes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", 1e9 if goes == "along the tree" else 0.0)
    table = so.table({"k": KEYS_BY_TYPE[kind], "v": np.random.default_rng(1).normal(size=300)})
    made = [fold(table, "n", "count"), fold(table, "s", "sum", "v"), fold(table, "f", "first", "v")]
    same(grouped(table, ["k"], made), [(5, 2)])


def skewed(rows: int) -> Any:
    """Groups of which some are far larger than others, by a number and a string."""
    rng = np.random.default_rng(rows)
    table = so.table(
        {
            "k": rng.integers(0, 40, rows) ** 2 // 40,
            "s": np.array([f"s{i}" for i in rng.integers(0, 5, rows)]),
            "v": rng.normal(size=rows),
        }
    )
    folds = [fold(table, kind, kind, "v") for kind in ("sum", "mean", "n_unique", "last")]
    return grouped(table, ["k", "s"], folds)


@pytest.mark.parametrize("share", [0.0, 1e9])
@pytest.mark.parametrize("rows", [0, 1, 65, 600])
def test_a_few_partitions(rows: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", share)
    same(skewed(rows))


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 1e9])
@pytest.mark.parametrize("rows", [64, 127, 128, 129, 1500, 256 * 64, 257 * 64])
def test_any_number_of_partitions(rows: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WHOLE_SHARE", share)
    same(skewed(rows), MORE_SIZES)


def test_a_leaf_over_several_ranks_is_led_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many bytes of results that there are fewer leaves than ranks."""
    monkeypatch.setattr(groups, "WHOLE_SHARE", 1e9)
    rng = np.random.default_rng(4)
    v = rng.normal(size=(900, 12))
    table = so.table({"k": rng.integers(0, 60, 900), "v": v})
    node = grouped(table, ["k"], [fold(table, "o", "sum_outer", "v", "v")])
    leaves: list[int] = []
    init = GroupPass.__init__

    def watched(self: GroupPass, pipeline: Any, count: int, *rest: Any) -> None:
        leaves.append(count)
        init(self, pipeline, count, *rest)

    monkeypatch.setattr(GroupPass, "__init__", watched)
    same(node)
    assert set(leaves) <= {1, 2}


def test_filters_leave_partitions_empty_and_heads_short() -> None:
    table = source(900, "many", seed=3).filter(lambda r: r.n % 100 > 96)
    same(grouped(table, ["k"], PARTS["numbers"](table)[:6]), [(3, 2), (8, 4)])
    none = table.filter(lambda r: r.n < 0)
    same(grouped(none, ["k"], PARTS["functions"](none)), [(3, 2)])


def test_of_many_groups_no_rank_gets_all_records(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[int] = []
    own = GroupedFolds.over

    def watched(self: GroupedFolds, groups: Any, *rest: Any) -> Any:
        got.append(groups.rows)
        return own(self, groups, *rest)

    monkeypatch.setattr(GroupedFolds, "over", watched)
    table = source(4000, "all distinct")
    of_ranks(grouped(table, ["k"], [fold(table, "s", "sum", "f")]), 5)
    assert sum(got) == 4000
    assert len(got) == 5
    assert max(got) < 1200


def test_groups_feed_what_follows_in_loops_and_out_of_them() -> None:
    rng = np.random.default_rng(6)
    table = so.table({"k": rng.integers(0, 90, 1200), "v": rng.normal(size=1200)})
    first = table.group_by("k").agg(m=so.mean("v"), n=so.count())
    again = first.group_by("n").agg(s=so.sum("m"), k=so.max("k"))

    @so.loop({"w": 0.0}, range(3))
    def model(env: Any) -> Any:
        near = table.filter(lambda r: r.v > env["w"]).group_by("k").agg(v=so.max("v"))
        return {"w": 0.5 * near.map(lambda r: r.v).mean() - near.map(lambda r: r.k * 1e-3).sum()}

    both = table.join(first, on="k")
    joined = both.group_by("n").agg(v=so.sum("v"), m=so.max("m"))
    runs = both.with_columns(c=so.cumsum("m", over="k"))
    things = [first.sort("n"), again, joined, runs, both.sum("m"), model]
    one = repr(bits(run(things)))
    for size in (2, 5):
        with single_threaded():
            made = Driver(planned(job_of(*things)), LockstepBackend(size)).run()
        assert repr(bits(made)) == one


# Functions of users.


def of_users(rows: int) -> so.Table:
    rng = np.random.default_rng(8)
    return so.table(
        {
            "k": np.sort(rng.integers(0, 30, rows)) % 11,
            "s": np.array([f"s{i}" for i in rng.integers(0, 3, rows)]),
            "v": rng.normal(size=rows),
        }
    )


def untraced(state: float, record: Any) -> float:
    return state * 0.9 + (float(record.v) if record.v < 1e9 else 0.0)


@pytest.mark.parametrize("step", [lambda s, r: s * 0.5 + r.v, untraced], ids=["traced", "untraced"])
@pytest.mark.parametrize("rows", [0, 300])
def test_aggregates_of_users_run_over_each_group(rows: int, step: Any) -> None:
    made = (
        of_users(rows)
        .group_by("k", "s")
        .map(
            lambda key, records: {"a": records.aggregate(1.0, step, lambda a, b: a + b), "k": key.k}
        )
    )
    same(made.plan)


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_functions_are_called_once_for_each_group(rows: int) -> None:
    called: list[Any] = []

    def top(records: pa.Table) -> pa.Table:
        called.append(records.column("k")[0].as_py())
        return records.sort_by([("v", "descending")]).slice(0, records.num_rows // 3)

    table = of_users(rows)
    shown = {"k": so.int64, "s": so.string, "v": so.float64}
    node = table.group_by("k").apply(top, shown).plan
    one = bits_of(found(node))
    keys = sorted(called)
    for size in (2, 3, 8):
        called.clear()
        assert bits_of(of_ranks(node, size)) == one
        assert sorted(called) == keys


def test_a_function_of_several_tables_and_the_groups_value() -> None:
    a, b = of_users(400), of_users(90).filter(lambda r: r.k != 3)
    made = so.cogroup(a.by("k"), b.by("k")).map(
        lambda key, x, y: {
            "k": key,
            "all": so.call(lambda s, t: f"{s.num_rows} {t['v'].to_pylist()}", x, y, like=""),
            "sum": x.sum("v"),
        }
    )
    same(made.filter(lambda r: r.k < 9).plan)


def test_in_a_loop_records_stay_where_their_groups_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch = _Grouped.fetch

    def watched(self: _Grouped, *rest: Any) -> Any:
        fetched.append(1)
        return fetch(self, *rest)

    monkeypatch.setattr(_Grouped, "fetch", watched)
    table = of_users(400)

    @so.loop({"w": 0.0}, range(4))
    def model(env: Any) -> Any:
        made = table.group_by("k").map(
            lambda key, rows: {
                "v": so.call(lambda t, w: sum(t["v"].to_pylist()) * w + 1, rows, env["w"], like=0.0)
            }
        )
        return {"w": 0.1 * made.map(lambda r: r.v).mean()}

    with single_threaded():
        (outcome,) = Driver(planned(job_of(model)), LockstepBackend(3)).run()
    assert bits(outcome) == bits(run([model])[0])
    assert len(fetched) == 3  # once at each rank
