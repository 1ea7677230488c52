"""Exchanges within any memory give the records, blocks and bits that they give without a limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

import scalops as so
from scalops.algebra.dtypes import INT64
from scalops.algebra.schema import Schema
from scalops.engine import memory
from scalops.engine.blocks import Block
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import spilled_exchanges
from scalops.engine.spill import SpilledBlocks, SpillFile
from tests.engine.grouped import source as every_type
from tests.engine.plans import bits, run
from tests.quick import quick

BUDGETS = (1_000, 64_000, 1_000_000)
KEYS = ("k", "i", "p", "f", "g", "b", "s", "d")


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets of a few records, so that they are divided again and again."""
    monkeypatch.setattr(spilled_exchanges, "working_bytes", lambda budget, size: 18_000)
    monkeypatch.setattr(spilled_exchanges, "RUN_BYTES", 1)
    monkeypatch.setattr(spilled_exchanges, "FAN_OUT", 3)


def plan_of(table: so.Table, rng: Any) -> so.Table:
    """Some exchanges over a table, at random, with maps between."""
    for _ in range(rng.integers(1, 4)):
        keys = rng.permutation(KEYS)[: rng.integers(1, 4)].tolist()
        match int(rng.integers(0, 6)):
            case 0:
                down = [bool(d) for d in rng.integers(0, 2, len(keys))]
                table = table.sort(*keys, descending=down)
            case 1:
                table = table.distinct()
            case 2:
                table = table.distinct(*keys)
            case 3:
                table = table.repartition(int(rng.choice([1, 3, 50])))
            case 4:
                table = table.shuffle(seed=int(rng.integers(9)))
            case _:
                table = table.sort(*keys).filter(lambda r: r.i % 5 != 0)
    return table


def ran(table: so.Table, limit: int | None) -> Any:
    """The blocks of a table's records, as bits; the budget is left as it was."""
    budget = MemoryBudget(limit)
    (found,) = run([table], 2, budget)
    assert budget.held == 0
    return [bits(b) for b in found]


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("seed", quick(range(60), 3))
def test_random_plans_give_the_same_bits_in_any_memory(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = plan_of(every_type(int(rng.integers(0, 400)), "few", seed), rng)
    expected = ran(table, None)
    for limit in BUDGETS:
        assert ran(table, limit) == expected


def records(rows: int, seed: int = 0) -> dict[str, Any]:
    """Numbers with ties, NaN, nulls and texts."""
    rng = np.random.default_rng(seed)
    return {
        "f": pa.array(np.where(rng.random(rows) < 0.1, np.nan, rng.integers(-9, 9, rows) / 2)),
        "s": pa.array([None if i % 7 == 0 else f"t{i * 7919 % 50}" for i in range(rows)]),
        "n": np.arange(rows),
    }


def in_little(table: so.Table) -> Any:
    with so.session(memory="1KB", threads=2):
        return table.collect().to_pydict()


@pytest.mark.usefixtures("small_buckets")
def test_order_is_that_of_python() -> None:
    data = records(3_000)
    found = in_little(so.table(data).sort("s", "f", descending=[True, False]))
    texts, reals = data["s"].to_pylist(), data["f"].to_numpy()
    by_real = sorted(range(3_000), key=lambda i: (np.isnan(reals[i]), np.nan_to_num(reals[i])))
    known = [i for i in by_real if texts[i] is not None]
    expected = sorted(known, key=lambda i: texts[i], reverse=True)
    expected += [i for i in by_real if texts[i] is None]
    assert found["n"] == expected


@pytest.mark.usefixtures("small_buckets")
def test_first_records_are_those_of_python() -> None:
    data = records(3_000)
    found = in_little(so.table(data).distinct("s", "f"))
    seen: dict[Any, int] = {}
    for i, key in enumerate(zip(data["s"].to_pylist(), data["f"].to_pylist(), strict=True)):
        seen.setdefault((key[0], str(key[1])), i)
    assert found["n"] == list(seen.values())


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("key", [np.zeros(4_000), np.r_[np.zeros(3_990), np.arange(10.0)]])
def test_equal_keys_are_divided_by_place(key: Any) -> None:
    table = so.table({"k": key, "n": np.arange(len(key)), "v": np.ones((len(key), 5))})
    assert in_little(table.sort("k"))["n"] == np.argsort(key, kind="stable").tolist()
    assert in_little(table.distinct("k"))["n"] == np.unique(key, return_index=True)[1].tolist()


def test_records_larger_than_a_bucket_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled_exchanges, "working_bytes", lambda budget, size: 12_000)
    rng = np.random.default_rng(1)
    texts = ["x" * int(n) + str(i) for i, n in enumerate(rng.integers(0, 9_000, 60))]
    table = so.table({"k": rng.integers(0, 20, 60), "s": texts})
    found = in_little(table.sort("s"))
    assert found["s"] == sorted(texts)
    assert in_little(so.table({"s": texts * 3}).distinct())["s"] == texts


@pytest.mark.usefixtures("small_buckets")
def test_lists_and_sparse_vectors_go_along() -> None:
    table = every_type(300, "many", 5)
    expected = ran(table.sort("f", "k"), None)
    assert ran(table.sort("f", "k"), 1_000) == expected


def test_what_fits_is_sorted_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: SpillFile, *rest: Any) -> None:
        raise AssertionError("no file is needed")

    monkeypatch.setattr(SpillFile, "__init__", refuse)
    table = so.table(records(5_000))
    for made in (table.sort("s"), table.distinct("s"), table.repartition(3), table.shuffle(seed=1)):
        ran(made, 10_000_000)


def test_memory_beyond_the_budget_is_bounded() -> None:
    """Whatever the table has, a step takes what a step may take."""
    table = so.table(
        {"k": np.random.default_rng(0).permutation(400_000), "v": np.ones((400_000, 8))}
    )
    limit = 2_000_000
    for made in (table.sort("k"), table.distinct(), table.repartition(5)):
        budget = MemoryBudget(limit)
        run([made.sum(lambda r: r.v * r.k)], 2, budget)
        assert budget.spilled > 28_000_000
        assert budget.peak <= limit + memory.LEAST_WORKING
        assert budget.held == 0


def test_a_small_step_claims_little() -> None:
    """What others hold beyond the budget leaves room for it."""
    table = so.table({"k": np.random.default_rng(0).integers(0, 900, 6_000)})
    for made in (table.distinct(), table.sort("k"), table.repartition(3)):
        budget = MemoryBudget(1)
        budget.beside = lambda: memory.LEAST_WORKING - (1 << 20)
        run([made.sum("k")], 2, budget)
        assert budget.peak <= 1 << 20


def test_a_join_of_distinct_keys_needs_no_memory_to_spare() -> None:
    rng, n = np.random.default_rng(0), 3_000
    x = sp.random(n, 50, density=0.02, random_state=5, format="csr")
    table = so.table({"k": rng.integers(0, n // 5, n), "x": x})
    joined = table.join(table.distinct("k"), on="k", how="full").sort("k")
    expected = [bits(b) for b in run([joined], 2, MemoryBudget(None))[0]]
    assert [bits(b) for b in run([joined], 2, MemoryBudget(1))[0]] == expected


@pytest.mark.parametrize(
    ("work", "size", "levels"),
    [
        (16 << 20, 20 << 20, 1),
        (16 << 20, 250 << 20, 1),
        (16 << 20, 1 << 30, 2),
        (45_000_000, 1_120_000_000, 1),
        (256 << 20, 64 << 30, 1),
    ],
)
def test_buckets_are_divided_as_seldom_as_runs_of_some_length_allow(
    work: int, size: int, levels: int
) -> None:
    own, left, found = spilled_exchanges.Work(work), size, 0
    while left > 2 * own.bucket:
        count = own.fan_out(left)
        assert 2 <= count <= spilled_exchanges.FAN_OUT
        assert own.unit // count >= spilled_exchanges.RUN_BYTES
        left, found = -(-left // count), found + 1
    assert found == levels


def test_held_records_make_room_to_work_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger budget gives larger buckets: a part of what it holds goes to the file for them."""
    monkeypatch.setattr(spilled_exchanges, "LEAST_WORKING", 1_000)
    budget = MemoryBudget(400_000)
    blocks = SpilledBlocks(budget, "own", Schema((("k", INT64),)))
    parts = [[blocks.add(Block(600, {"k": np.arange(600)})) for _ in range(100)]]
    before = [bits(blocks.get(k)) for k in parts[0]]
    with spilled_exchanges.working(budget, "own", parts, blocks) as work:
        assert work.bytes == 200_000
        assert budget.held <= 400_000
        assert sum(isinstance(k, Block) for k in parts[0]) == 200_000 // 4_800
    assert budget.held == 4_800 * (200_000 // 4_800)
    assert [bits(b) for b in blocks.drained(parts[0])] == before
    assert budget.held == 0
