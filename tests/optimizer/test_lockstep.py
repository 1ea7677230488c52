"""Which loops of a job run in lock-step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine import physical_plan as pp
from scalops.planning import plan
from tests.engine.plans import job_of


@pytest.fixture
def table() -> so.Table:
    """Ten records."""
    return so.table({"x": np.arange(10.0), "y": np.arange(10.0)[::-1]})


def halving(table: so.Table, start: Any = 1.0) -> Any:
    """A loop of one fold."""
    return so.loop(start, range(3))(lambda s: s / 2 + table.map(lambda r: r.x * s).mean())


def shape(*things: Any) -> list[Any]:
    """The program's instructions: stages by sink, loops by number."""
    made = plan(job_of(*things))

    def short(instruction: pp.Instruction) -> Any:
        match instruction:
            case pp.RunStage(stage=number):
                return type(made.stages[number].sink).__name__
            case pp.Iterate(index=index):
                return index
            case pp.IterateTogether(loops=loops):
                return tuple(loop.index for loop in loops)
        return type(instruction).__name__

    return [s for s in map(short, made.program) if s != "Evaluate"]


def test_loops_over_one_table_run_together(table: so.Table) -> None:
    loops = [halving(table, k) for k in (1.0, 2.0, 3.0)]
    assert shape(*loops) == ["CacheTable", (0, 1, 2)]


def test_one_loop_stays_alone(table: so.Table) -> None:
    assert shape(halving(table)) == ["CacheTable", 0]
    made = halving(table)
    assert shape(made, made + 1, made.iterations) == ["CacheTable", 0]


def test_loops_over_other_tables_or_none_stay_apart(table: so.Table) -> None:
    other = so.table({"x": np.arange(5.0)})
    plain = so.loop(1.0, range(3))(lambda s: s / 2)
    assert shape(halving(table), halving(other)) == ["CacheTable", 0, "CacheTable", 1]
    assert shape(plain, halving(table)) == [0, "CacheTable", 1]


def test_what_a_later_loop_needs_is_moved_before(table: so.Table) -> None:
    second = halving(table, table.mean("y"))
    assert shape(halving(table), second) == ["CacheTable", "TreeAggregate", (0, 1)]


def test_what_needs_a_loop_stays_behind(table: so.Table) -> None:
    first = halving(table)
    after = table.filter(lambda r: r.y > first).count()
    second = halving(table, 2.0)
    assert shape(first, after, second)[-2:] == [(0, 1), "TreeAggregate"]


def test_loop_that_needs_another_is_in_the_next_group(table: so.Table) -> None:
    first = halving(table)
    chained = halving(table, first)
    second, third = halving(table, 2.0), halving(table, first + 1)
    assert shape(first, chained, second, third) == ["CacheTable", (0, 2), (1, 3)]


def test_need_is_seen_through_values_tables_and_inner_loops(table: so.Table) -> None:
    first = halving(table)
    kept = table.filter(lambda r: r.y > first).limit(4).repartition(2)
    through = [
        halving(table, kept.sum("x")),
        so.loop(0.0, so.range(so.cast(first * 0, "int64") + 2))(
            lambda s: s + table.map(lambda r: r.x * s).mean()
        ),
        so.loop(0.0, range(2))(
            lambda s: so.loop(first, range(2))(lambda z: z / 2 + table.sum(lambda r: r.x * z)) + s
        ),
        so.loop(0.0, lambda s: s < first)(lambda s: s + 1 + table.map(lambda r: r.x * s).mean()),
    ]
    for second in through:
        for order in ((first, second), (second, first)):
            assert not [i for i in shape(*order) if isinstance(i, tuple)]


def test_loop_with_a_table_of_its_own_joins_by_the_one_it_shares(table: so.Table) -> None:
    other = so.table({"x": np.arange(5.0)})

    def both(s: Any) -> Any:
        return s / 2 + table.map(lambda r: r.x * s).mean() + other.map(lambda r: r.x * s).mean()

    loops = [halving(table), halving(other), so.loop(3.0, range(3))(both)]
    assert [i for i in shape(*loops) if not isinstance(i, str)] == [(0, 2), 1]
