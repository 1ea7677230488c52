"""Running aggregates, prefixes, counts and stacks of folds by several ranks: the bits of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.errors import UserFunctionError
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.relations.running import Summaries
from scalops.engine.stacked import StackedReduction
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.engine.plans import bits, job_of, run

SIZES = [(3, 2), (8, 16)]  # ranks, and how many of them meet at a node of their tree


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 64 records, one in each partition."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 64)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)


def of_ranks(things: Sequence[Any], size: int, fan_in: int = 4) -> list[Any]:
    """What several ranks give."""
    with single_threaded():
        return Driver(planned(job_of(*things)), LockstepBackend(size, fan_in)).run()


def same(*things: Any, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    one = repr(bits(run(things)))  # in which NaN is NaN
    for size, fan_in in sizes:
        assert repr(bits(of_ranks(things, size, fan_in))) == one, (size, fan_in)


def numbers(rows: int, seed: int = 0) -> so.Table:
    """Values of several types, some null, and groups of which most partitions have only some."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=rows)
    return so.table(
        {
            "v": v,
            "b": rng.uniform(0.5, 1.5, rows),
            "n": np.ma.array(rng.integers(-9, 9, rows), mask=rng.random(rows) < 0.2),
            "w": rng.normal(size=(rows, 2)).astype(np.float32),
            "g": np.arange(rows) // 50 + rng.integers(0, 3, rows),
            "s": pa.array([None if i % 7 == 0 else f"s{i % 3}" for i in range(rows)], pa.string()),
        }
    )


# Running aggregates.


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_every_kind(rows: int, reverse: bool) -> None:
    same(
        numbers(rows).with_columns(
            a=so.cumsum("v", reverse=reverse),
            c=so.cummin("w", reverse=reverse),
            d=so.cummax("n", reverse=reverse),
            e=so.cumprod("b", reverse=reverse),
            f=so.cumsumprod("v", "b", reverse=reverse),
        )
    )


@pytest.mark.long
def test_many_partitions() -> None:
    made = numbers(257 * 64).with_columns(a=so.cumsum("v"), b=so.cumprod("b", reverse=True))
    same(made, sizes=[(1, 4), (2, 2), (5, 3), (8, 4)])


@pytest.mark.parametrize(("over", "reverse"), [("g", True), ("s", False), (["g", "s"], True)])
def test_groups_run_on_from_rank_to_rank(over: Any, reverse: bool) -> None:
    same(
        numbers(900).with_columns(
            a=so.cumsum("v", over=over, reverse=reverse),
            b=so.cumprod("b", over=over, reverse=reverse),
            c=so.cummax("n", over="g"),
            d=so.cumsum("n"),
        )
    )


@pytest.mark.parametrize("over", [None, "g"])
def test_a_carry_is_led_through_records_where_they_are(
    monkeypatch: pytest.MonkeyPatch, over: Any
) -> None:
    """Infinities and products that leave the range: the summaries alone do not tell."""
    through: list[int] = []
    own = Summaries._through

    def counted(self: Summaries, column: Any, partition: int, *rest: Any) -> Any:
        through.append(partition)
        return own(self, column, partition, *rest)

    monkeypatch.setattr(Summaries, "_through", counted)
    v = np.random.default_rng(3).normal(size=640)
    v[[100, 333]] = np.inf
    v[400] = -np.inf
    p = np.full(640, 1e9)
    p[320:] = 1e-9
    table = so.table({"v": v, "p": p, "g": np.arange(640) % 2})
    made = table.with_columns(
        a=so.cumsum("v", over=over), b=so.cumprod("p", over=over), c=so.cumsumprod("v", "p")
    )
    run([made])
    expected = list(through)
    assert expected
    for size in (2, 3, 8):
        through.clear()
        of_ranks([made], size)
        assert through == expected  # each partition at one rank, in the same order
    same(made)


def test_a_filter_may_leave_partitions_empty() -> None:
    table = numbers(700).filter(lambda r: (r.v > 2) | (r.v < -2.5))
    same(table.with_columns(a=so.cumsum("v"), b=so.cumprod("b", over="s")))
    same(numbers(700).filter(lambda r: r.v > 99).with_columns(a=so.cumsum("v", over="g")))


# Prefixes and counts.


@pytest.mark.parametrize("count", [0, 64, 65, 5000])
def test_the_first_records_are_those_of_one_rank(count: int) -> None:
    table = numbers(700)
    same(table.limit(count), table.filter(lambda r: r.v > 1).limit(count).sum("v"))


def test_no_rank_reads_behind_the_last_record_that_is_wanted() -> None:
    def checked(r: Any) -> float:
        if r.n >= 70:
            raise ValueError("too far")
        return float(r.n)

    def seen(size: int, count: int) -> Any:
        table = so.table({"n": np.arange(640)})
        made = table.map(so.udf(checked, returns=so.float64)).limit(count)
        return bits(of_ranks([made], size))

    assert [seen(size, 50) for size in (2, 8)] == [seen(1, 50)] * 2
    for size in (1, 2, 8):
        with pytest.raises(UserFunctionError, match="too far"):
            seen(size, 100)


def test_slices_and_numbers_of_records() -> None:
    kept = numbers(700).filter(lambda r: r.v > -1)
    numbered = kept.with_row_index("i")
    same(kept, numbered, numbered.filter(lambda r: r.i % 5 == 3).sum("v"))
    same(kept.slice(77, 300), kept.slice(5000, 10), numbers(0).with_row_index("i"))


def test_partitions_of_a_rank_need_not_be_neighbours() -> None:
    both = numbers(300).union(numbers(500, seed=1))
    same(
        both.limit(420).sum("v"),
        both.with_row_index("i").slice(250, 100),
        both.with_columns(a=so.cumsum("v", over="s"), b=so.cumprod("b", reverse=True)),
    )


# Stacks of folds.

ROWS, WIDTH = 4_000, 20


def chosen(table: so.Table, c: float) -> Any:
    """A loop whose records choose by its state: a null is left out of one choice alone."""

    def step(w: Any) -> Any:
        return w - 0.1 * (
            table.map(lambda r: np.where(r.x @ w > c, r.y, 0.5 * (r.x @ w)) * r.x).mean()
        )

    return so.loop(np.full(WIDTH, 0.01), range(3))(step)


def several(place: int | None) -> list[Any]:
    """Five loops over a table with at most one null."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(ROWS, WIDTH))
    mask = np.zeros(ROWS, bool)
    if place is not None:
        mask[place] = True
    y = pa.array(np.sign(x[:, 0]), mask=mask)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    table = so.from_arrow(pa.table({"x": vectors, "y": y}))
    return [chosen(table, 0.1 * k) for k in range(5)]


@pytest.mark.parametrize("place", [None, 3_100])
def test_all_ranks_take_a_stack_apart_where_one_finds_a_null(
    monkeypatch: pytest.MonkeyPatch, place: int | None
) -> None:
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", 512)
    loops = several(place)
    stacked = watched(monkeypatch)
    one = bits(run(loops))
    assert stacked() == [5]
    for size, fan_in in ((2, 2), (5, 3)):
        assert bits(of_ranks(loops, size, fan_in)) == one
        assert stacked() == [5] * size


def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Of how many loops each stack is that has been compiled since it was asked last."""
    found: list[int] = []
    init = StackedReduction.__init__

    def counted(self: StackedReduction, stages: Any, *rest: Any) -> None:
        found.append(len(stages))
        init(self, stages, *rest)

    def told() -> list[int]:
        made = list(found)
        found.clear()
        return made

    monkeypatch.setattr(StackedReduction, "__init__", counted)
    return told
