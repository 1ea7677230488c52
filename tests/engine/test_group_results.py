"""Functions of a group's records: what they may give, where they are called, what is kept."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import BOOL, FLOAT64, INT64, ArrayType, list_of
from scalops.algebra.errors import SchemaError, UserFunctionError, WorkerLost
from scalops.engine.blocks import Block
from scalops.engine.opaque.group_functions import GroupedTable, Groups, batches
from scalops.engine.physical_relations import ApplyGroups
from scalops.engine.processes.group_calls import GroupsCall
from scalops.engine.processes.runner import ProcessRunner
from scalops.engine.relations import group_apply
from scalops.optimizer.cardinality import estimate
from scalops.planning import plan as planned
from scalops.table import Table
from tests.engine.group_plans import (
    COUNT_AND_SUM,
    ROWS,
    TEXT,
    applied,
    keys_of,
    rows,
    run,
    small,
    sums,
)
from tests.engine.plans import column_of, job_of, table_bits

FLOAT32 = ArrayType("float32")
VECTOR = FLOAT64.with_shape(2)


# One record for each group.


def test_results_are_cast_to_the_declared_types(runner: ProcessRunner | None) -> None:
    def several(table: pa.Table) -> dict[str, Any]:
        return {"on": True, "x": [1, 2], "n": np.int32(len(table)), "f": 1, "s": "é"}

    gives = {"f": FLOAT32, "n": INT64, "s": TEXT, "x": VECTOR, "on": BOOL}
    t = small()
    found = run(applied(several, keys_of(t), t, gives=gives), runner)
    assert [b.columns["f"].dtype for b in found] == [np.float32]
    assert column_of(found, "n") == [3, 2, 1]
    assert column_of(found, "s") == ["é"] * 3
    assert np.array_equal(column_of(found, "x"), [[1.0, 2.0]] * 3)
    assert column_of(found, "on") == [True] * 3


def test_a_bare_value_a_tuple_a_list_and_a_named_tuple(runner: ProcessRunner | None) -> None:
    Named = namedtuple("Named", ["b", "a"])
    t = small().limit(1)
    groups = keys_of(t)
    assert rows(applied(lambda table: 1.5, groups, t, gives=FLOAT64), runner) == [(3, 1.5)]
    pair = {"_0": INT64, "_1": FLOAT64}
    assert rows(applied(lambda table: (1, 2.0), groups, t, gives=pair), runner) == [(3, 1, 2.0)]
    assert rows(applied(lambda table: [1, 2.0], groups, t, gives=pair), runner) == [(3, 1, 2.0)]
    named = {"a": INT64, "b": FLOAT64}
    assert rows(applied(lambda table: Named(2.0, 1), groups, t, gives=named), runner) == [
        (3, 1, 2.0)
    ]


def test_an_array_that_a_function_writes_into_again_is_copied() -> None:
    def same() -> Callable[[pa.Table], Any]:
        held = np.zeros(2)

        def f(table: pa.Table) -> Any:
            held[0] += 1.0
            return held

        return f

    t = small()
    found = run(applied(same(), keys_of(t), t, gives=VECTOR))
    assert [x[0] for x in column_of(found, "value")] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("wrong", "gives", "says"),
    [
        (lambda: np.zeros(3), VECTOR, r"gives float64\[3\]; expected float64\[2\]"),
        (lambda: np.zeros((1, 2)), VECTOR, r"gives float64\[1,2\]; expected float64\[2\]"),
        (lambda: 2.5, INT64, "gives float64; expected int64"),
        (lambda: "no", FLOAT64, "gives string; expected float64"),
        (lambda: None, FLOAT64, "gives None; expected float64"),
        (lambda: 1, TEXT, "gives int64; expected string"),
        (lambda: (1, 2), FLOAT64, r"gives \(int64, int64\); expected float64"),
        (lambda: object(), FLOAT64, "gives a object; expected float64"),
        (lambda: 1.0, COUNT_AND_SUM, r"gives float64; expected \(int64, float64\)"),
        (lambda: (1, 2, 3), COUNT_AND_SUM, r"expected \(int64, float64\)"),
        (lambda: (1, None), COUNT_AND_SUM, r"gives \(int64, None\); expected \(int64, float64\)"),
        (lambda: {"a": 1}, {"b": INT64}, r"gives {a: int64}; expected {b: int64}"),
    ],
)
def test_a_result_that_is_not_as_declared_names_the_group_and_both_types(
    runner: ProcessRunner | None, wrong: Any, gives: Any, says: str
) -> None:
    right = {"float64": 1.0, "int64": 1, "string": "a", "float64[2]": np.zeros(2)}
    if isinstance(gives, dict):
        fine: Any = {n: right[str(k)] for n, k in gives.items()}
        fine = tuple(fine.values()) if "_0" in gives else fine
    else:
        fine = right[str(gives)]

    def f(table: pa.Table) -> Any:
        return wrong() if table.column("k")[0].as_py() == 1 else fine

    t = small()
    with pytest.raises(UserFunctionError, match=rf"{says}.*the group's key is 1\b") as caught:
        run(applied(f, keys_of(t), t, gives=gives), runner)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_lists_and_objects_cannot_be_declared() -> None:
    t = small()
    with pytest.raises(SchemaError, match=r"is declared to give list.* as 'value'"):
        applied(sums, keys_of(t), t, gives=list_of(FLOAT64))


def test_keys_of_another_type_are_refused() -> None:
    with pytest.raises(SchemaError, match="keys of groups and of their records are string and int"):
        applied(sums, so.table([{"k": "a"}]), small(), gives=COUNT_AND_SUM)


# A table for each group.


def test_tables_follow_one_another_in_the_order_of_the_groups(
    runner: ProcessRunner | None,
) -> None:
    def larger(table: pa.Table) -> pa.Table:
        v = table.column("v").to_numpy()
        kept = v[v > 1.5]
        return pa.table({"d": [f"{x:g}" for x in kept], "v": kept})

    t = small()
    gives = {"v": FLOAT64, "d": TEXT}
    found = rows(applied(larger, keys_of(t), t, gives=gives, table=True), runner)
    assert found == [(2.0, "2"), (5.0, "5"), (4.0, "4"), (3.0, "3")]


def test_tables_without_rows(runner: ProcessRunner | None) -> None:
    def none(table: pa.Table) -> pa.Table:
        return table.slice(0, 0)

    t = small()
    gives = {"k": INT64, "v": FLOAT64}
    assert rows(applied(none, keys_of(t), t, gives=gives, table=True), runner) == []


def test_nulls_lists_and_vectors_in_resulting_tables(runner: ProcessRunner | None) -> None:
    def made(table: pa.Table) -> pa.Table:
        v = table.column("v").to_pylist()
        return pa.table(
            {
                "v": pa.array([None, *v[1:]], pa.float64()),
                "l": [[x] * int(x) if x < 3 else None for x in v],
                "x": pa.array([[x, -x] for x in v], pa.list_(pa.float64(), 2)),
            }
        )

    t = small()
    gives = {"v": FLOAT64, "l": list_of(FLOAT64), "x": VECTOR}
    found = rows(applied(made, keys_of(t), t, gives=gives, table=True), runner)
    assert found[:4] == [
        (None, [], [0.0, -0.0]),
        (2.0, [2.0, 2.0], [2.0, -2.0]),
        (5.0, None, [5.0, -5.0]),
        (None, [1.0], [1.0, -1.0]),
    ]


def test_large_results_have_blocks_of_their_own_size(runner: ProcessRunner | None) -> None:
    def repeated(table: pa.Table) -> pa.Table:
        return pa.table({"n": np.arange(100_000)})

    t = small()
    table = applied(repeated, keys_of(t), t, gives={"n": INT64}, table=True)
    found = run(table, runner)
    assert sum(b.rows for b in found) == 300_000
    assert max(b.rows for b in found) == 65_536
    assert run(Table(table.plan).sum("n"), runner) == 3 * sum(range(100_000))


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (lambda t: t.to_pydict(), "gives a dict; expected a pyarrow.Table"),
        (lambda t: t.select(["k"]), r"gives the columns \['k'\]; expected \['k', 'v'\]"),
        (lambda t: t.set_column(1, "v", t.column("k")), "gives int64 as 'v'; expected float64"),
    ],
)
def test_a_table_that_is_not_as_declared_names_the_group(
    runner: ProcessRunner | None, result: Any, says: str
) -> None:
    def f(table: pa.Table) -> Any:
        return result(table) if len(table) == 2 else table

    t = small()
    gives = {"k": INT64, "v": FLOAT64}
    with pytest.raises(UserFunctionError, match=rf"{says}.*the group's key is 1\b"):
        run(applied(f, keys_of(t), t, gives=gives, table=True), runner)


# Errors.


def test_an_exception_comes_with_the_key_and_the_users_own_error(
    runner: ProcessRunner | None,
) -> None:
    def fails(table: pa.Table) -> float:
        return float(1 / (len(table) - 2))

    t = so.from_arrow(pa.table({"k": ["a", "b", "a", "b", "b"], "j": [1, None, 1, None, None]}))
    groups = keys_of(t, "k", "j")
    with pytest.raises(
        UserFunctionError, match=r"fails\(\) raised ZeroDivisionError: .*key is \('a', 1\)"
    ) as caught:
        run(applied(fails, groups, t, on=("k", "j"), gives=FLOAT64), runner)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert runner is None or "in fails" in notes
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_of_several_failures_the_first_groups_is_raised(runner: ProcessRunner | None) -> None:
    def fails(table: pa.Table) -> float:
        key = table.column("k")[0].as_py()
        if key >= 30:
            raise KeyError(key)
        return 0.0

    t = so.table({"k": np.arange(60), "v": np.zeros(60)})
    with pytest.raises(UserFunctionError, match="key is 30") as caught:
        run(applied(fails, keys_of(t), t, gives=FLOAT64), runner, threads=2)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.args == (30,)


def test_a_function_may_not_write_into_its_arguments(runner: ProcessRunner | None) -> None:
    def writes(table: pa.Table, w: Any) -> float:
        w += 1.0
        return 0.0

    t = small()
    w = ex.constant(np.zeros(2))
    with pytest.raises(UserFunctionError, match="read-only"):
        run(applied(writes, keys_of(t), t, arguments=(ROWS, w), gives=FLOAT64), runner)


def test_a_worker_that_dies_is_replaced_and_a_deadly_group_is_an_error() -> None:
    def dies(table: pa.Table) -> float:
        if table.column("k")[0].as_py() == 2:
            os._exit(3)
        return 1.0

    t = small()
    own = ProcessRunner(1)
    try:
        with pytest.raises(WorkerLost, match=r"exit code 3, over the group whose key is 2"):
            run(applied(dies, keys_of(t), t, gives=FLOAT64), own)
        assert len(own.lost()) == 3
        assert column_of(run(applied(sums, keys_of(t), t, gives=COUNT_AND_SUM), own), "_0") == [
            3, 2, 1,
        ]  # fmt: skip
    finally:
        own.stop()


def test_a_group_that_takes_too_long_is_named() -> None:
    def hangs(table: pa.Table) -> float:
        if table.column("k")[0].as_py() == 1:
            threading.Event().wait()
        return 1.0

    t = small()
    own = ProcessRunner(1)
    try:
        run(applied(sums, keys_of(t), t, gives=COUNT_AND_SUM), own)
        own._desk.timeout = 0.5  # from now on: Arrow's first table takes as long as pandas' import
        with pytest.raises(
            UserFunctionError, match=r"was ended after 0.5 s, over the group whose key is 1"
        ):
            run(applied(hangs, keys_of(t), t, gives=FLOAT64), own)
    finally:
        own.stop()


# The same anywhere.


def test_the_bits_do_not_depend_on_where_the_function_is_called(
    two_workers: ProcessRunner,
) -> None:
    def fit(table: pa.Table, w: Any) -> tuple[Any, float]:
        x = np.stack(table.column("x").to_pylist())
        for row in x:
            w = w + 0.1 * np.tanh(row @ w) * row
        return w, float(x.sum())

    rng = np.random.default_rng(2)
    t = so.table({"k": rng.integers(0, 40, 3000), "x": rng.normal(size=(3000, 4))})
    w = ex.constant(rng.normal(size=4))
    gives = {"_0": FLOAT64.with_shape(4), "_1": FLOAT64}
    table = applied(fit, keys_of(t), t, arguments=(ROWS, w), gives=gives)
    found = [
        table_bits(run(table, r, threads))
        for r, threads in ((None, 1), (None, 2), (two_workers, 1), (two_workers, 2))
    ]
    two_workers._count = 1  # which cuts the groups as it does for one worker
    found.append(table_bits(run(table, two_workers)))
    two_workers._count = 2
    assert all(f == found[0] for f in found[1:])


def test_batches_of_groups_follow_one_another_and_leave_none_out() -> None:
    lengths = np.array([0, 100, 0, 1, 1, 1, 50, 0, 0, 3])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    table = GroupedTable(small().plan.schema, Block(156, {}), offsets)
    groups = Groups(10, (table,), (), ())
    for count in (1, 2, 3, 10, 50):
        bounds = batches(groups, count)
        assert [a for a, _ in bounds] == [0, *(b for _, b in bounds[:-1])]
        assert bounds[-1][1] == 10
        assert len(bounds) <= count
        assert all(a < b for a, b in bounds)
    assert batches(groups, 50) == [(i, i + 1) for i in range(10)]
    assert batches(Groups(0, (), (), ()), 4) == []


# Loops.


def averaged(groups: Table, t: Table, rounds: int) -> Any:
    """Each round's `w` is the groups' mean of a step from it."""

    def step(table: pa.Table, w: Any) -> Any:
        return w + table.column("v").to_numpy().mean()

    class State(so.Environment):
        w: np.ndarray

    @so.loop(State(w=np.zeros(2)), range(rounds))
    def model(env: Any) -> Any:
        arguments = (ROWS, env.w.expression)
        models = applied(step, groups, t, arguments=arguments, gives=VECTOR)
        env.w = models.map(lambda r: r.value).reduce(lambda a, b: a + b) / 3
        return env

    return model


def test_in_a_loop_groups_are_found_once(
    runner: ProcessRunner | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    shipped: list[bool] = []
    rows_of_groups, request = group_apply.rows_of_groups, GroupsCall.request

    def counted(*arguments: Any) -> Any:
        found.append(1)
        return rows_of_groups(*arguments)

    def watched(self: GroupsCall, *arguments: Any, known: bool) -> Any:
        shipped.append(not known)
        return request(self, *arguments, known=known)

    monkeypatch.setattr(group_apply, "rows_of_groups", counted)
    monkeypatch.setattr(GroupsCall, "request", watched)
    t = small()
    outcome = run(averaged(keys_of(t), t, 5), runner)
    means = [7 / 3, 5 / 2, 3.0]
    np.testing.assert_allclose(outcome.state["w"], [5 * sum(means) / 3] * 2)
    assert len(found) == 1
    if runner is not None:
        tasks = len(shipped) // 5
        assert shipped[:tasks] == [True] * tasks
        # A task that another worker takes over is sent to that one once more.
        assert sum(shipped) <= 2 * tasks


def test_groups_that_change_in_a_loop_are_found_again(runner: ProcessRunner | None) -> None:
    t = so.table({"k": np.arange(12) % 3, "v": np.arange(12.0)})

    class State(so.Environment):
        total: float

    @so.loop(State(total=0.0), so.range(4))
    def model(env: Any, i: Any) -> Any:
        own = t.filter(lambda r: r.v > i)
        found = applied(sums, keys_of(own), own, gives=COUNT_AND_SUM)
        env.total += found.map(lambda r: r._1 * r._0).reduce(lambda a, b: a + b)
        return env

    v, k = np.arange(12.0), np.arange(12) % 3
    expected = sum(
        float(((k == g) & (v > i)).sum() * v[(k == g) & (v > i)].sum())
        for i in range(4)
        for g in range(3)
    )
    assert run(model, runner).state["total"] == expected


# The plan.


def test_the_plan_names_the_function_and_reads_all_columns_of_the_tables() -> None:
    t = so.table({"k": np.array([1, 2]), "v": np.zeros(2), "unread": np.zeros(2)})
    table = applied(sums, keys_of(t), t, gives=COUNT_AND_SUM)
    text = str(table.select("_1").explain(stage="optimized"))
    assert "GroupApply sums() gives _0: int64, _1: float64" in text
    assert "called once per group" in text
    assert "k: int64, v: float64, unread: float64" in text
    physical = planned(job_of(table.select("_1")))
    (stage,) = (s for s in physical.stages if isinstance(s.sink, ApplyGroups))
    assert stage.calls_functions
    assert "ApplyGroups sums()" in str(table.explain(stage="physical"))


def test_fingerprints_tell_functions_apart() -> None:
    t = small()

    def fingerprint(f: Callable[..., Any]) -> str:
        return planned(job_of(applied(f, keys_of(t), t, gives=COUNT_AND_SUM))).fingerprint

    assert fingerprint(sums) == fingerprint(sums)
    assert fingerprint(sums) != fingerprint(lambda table: (1, 1.0))


def test_as_many_records_as_groups_are_expected() -> None:
    t = small()
    groups = so.table({"k": np.arange(4)})
    made = estimate(applied(sums, groups, t, gives=COUNT_AND_SUM).plan)
    assert (made.rows, made.provenance) == (4, "exact")
    tables = applied(sums, groups, t, gives={"v": FLOAT64}, table=True)
    assert estimate(tables.plan).provenance == "assumed"


def test_groups_larger_than_the_memory_are_given_whole() -> None:
    t = so.table({"k": np.arange(20_000) % 7, "v": np.ones(20_000), "x": np.ones((20_000, 50))})
    table = applied(sums, keys_of(t), t, gives=COUNT_AND_SUM)
    expected = table.collect()
    with so.session(memory=1_000_000, processes=0):
        assert table.collect().equals(expected)
