"""Joins give what they mean: every kind, key and payload, on any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import JoinKind
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import block_rows
from scalops.engine.memory import MemoryBudget
from scalops.engine.physical_display import display
from scalops.engine.witness.interpreter import Interpreter
from scalops.planning import plan
from tests.engine.joins import KEYS, KINDS, Plan, arrow, assert_agree, column, engine, join, source
from tests.engine.plans import bits, calc, column_of, job_of, run, sinks
from tests.quick import crossed

ONE_SIDED = ("semi", "anti")


@pytest.fixture(scope="module")
def tables() -> tuple[so.Table, so.Table]:
    """Two tables of many partitions, whose keys occur several times, or not at all."""
    return source(36, 1).repartition(4), source(24, 2)


@pytest.mark.parametrize(("kind", "key"), crossed(KINDS[:-1], KEYS, one_in=2))
def test_agrees_with_the_interpreter(
    tables: tuple[so.Table, so.Table], kind: JoinKind, key: str
) -> None:
    columns = ["row", "text", "items", "thin", "matrix", "time", key]
    for nulls_equal in (False, True):
        assert_agree(join(*tables, kind, [key], nulls_equal, [*dict.fromkeys(columns)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [["int", "string"], ["float", "bool", "time"]], ids=",".join)
def test_agrees_in_several_keys_with_all_columns(kind: JoinKind, keys: list[str]) -> None:
    assert assert_agree(join(source(30, 3), source(20, 4), kind, keys))


@pytest.mark.parametrize("kind", KINDS)
def test_sides_of_many_blocks(kind: JoinKind) -> None:
    left, right = source(200, 30, width=4_000), source(70, 31, width=4_000)
    (blocks,) = run([left])
    assert len(blocks) > 3
    assert_agree(join(left, right, kind, columns=["row", "text"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["left", "right", "both"])
def test_an_empty_side(kind: JoinKind, empty: str) -> None:
    left, right = source(9, 5), source(7, 6)
    left = left.limit(0) if empty != "right" else left
    right = right.limit(0) if empty != "left" else right
    given = {"left": 9 if empty == "right" else 0, "right": 7 if empty == "left" else 0}
    expected = {"full": sum(given.values()), "anti": given["left"], **given}
    assert assert_agree(join(left, right, kind)) == expected.get(kind, 0)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_partners_that_are_unique(kind: JoinKind) -> None:
    left = so.table({"k": np.arange(50) * 7 % 50, "x": np.arange(50)})
    for step in (1, 10**12):
        right = so.table({"k": np.arange(0, 100, 2) * step, "y": np.arange(50) * 1.5})
        keys = [(calc("multiply", column(left, "k"), ex.constant(step)), column(right, "k"))]
        outputs = [("k", 0, "k"), ("x", 0, "x")]
        if kind not in ONE_SIDED:
            outputs += [("y", 1, "y"), ("again", 1, "k")]
        made = op_join(left, right, keys, kind, outputs)
        count = assert_agree(made)
        found = {"inner": 25, "left": 50, "right": 50, "full": 75, "semi": 25, "anti": 25}
        assert count == found[kind]


def op_join(left: so.Table, right: so.Table, keys: Any, kind: JoinKind, outputs: Any) -> Plan:
    """A join with these outputs."""
    from scalops.algebra.relations import Join

    a, b = zip(*keys, strict=True)
    return Plan(Join(left.plan, right.plan, a, b, kind, tuple(outputs)))


def test_computed_keys_of_both_sides() -> None:
    left, right = source(40, 7), source(30, 8)
    keys = (calc("add", column(left, "int"), 1), calc("multiply", column(right, "int"), 2))
    for kind in KINDS[:-1]:
        assert_agree(join(left, right, kind, [keys, "bool"], columns=["row", "text"]))


def test_the_same_table_on_both_sides() -> None:
    table = source(40, 9)
    for kind in KINDS:
        assert_agree(join(table, table, kind, columns=["row", "thin"]))


def test_joins_over_filters_caches_and_joins() -> None:
    left, right = source(200, 10), source(90, 11)
    few = left.filter(lambda r: r.row % 3 != 0).cache()
    first = join(few, right.filter(lambda r: r["int"] > 0), "inner", columns=["row", "int"])
    keys = tuple(ex.Column(n, first.plan.schema[n]) for n in ("int", "row_right"))
    others = source(150, 12).repartition(5).plan
    theirs = tuple(ex.Column(n, others.schema[n]) for n in ("int", "row"))
    from scalops.algebra.relations import Join

    for kind in KINDS[:-1]:
        outputs: list[Any] = [("row", 0, "row"), ("int", 0, "int_right")]
        if kind not in ONE_SIDED:
            outputs.append(("text", 1, "text"))
        node = Join(first.plan, others, keys, theirs, kind, tuple(outputs))
        assert_agree(Plan(node))


def test_folds_read_joins() -> None:
    left, right = source(300, 13), source(40, 14)
    made = so.Table(join(left, right, "left", columns=["row", "float"]).plan)
    total, count = run([made.sum("row_right"), made.count()], threads=2)
    records = list(Interpreter().records(made.plan))
    assert count == len(records)
    assert total == sum(r["row_right"] for r in records if r["row_right"] is not None)


def test_a_record_with_very_many_partners_is_cut() -> None:
    many = 200_000
    left = so.table({"k": np.array([1, 0, 1])})
    right = so.table({"k": np.ones(many, np.int64), "y": np.arange(many)})
    made = op_join(left, right, [(column(left, "k"), column(right, "k"))], "left", [("y", 1, "y")])
    (blocks,) = run([made])
    assert max(b.rows for b in blocks) <= block_rows(made.plan.schema)
    assert column_of(blocks, "y") == [*range(many), None, *range(many)]


def test_wide_partners_make_short_blocks() -> None:
    left = so.table({"k": np.arange(3_000)})
    right = so.table({"k": np.arange(0, 6_000, 2), "v": np.ones((3_000, 300))})
    keys = [(column(left, "k"), column(right, "k"))]
    for kind in ("inner", "left"):
        made = op_join(left, right, keys, kind, [("k", 0, "k"), ("v", 1, "v")])
        (blocks,) = run([made])
        assert max(b.rows for b in blocks) <= block_rows(made.plan.schema) < 1_500
        assert sum(b.rows for b in blocks) == (1_500 if kind == "inner" else 3_000)


@pytest.mark.parametrize("kind", ["inner", "semi", "cross"])
def test_nothing_is_read_beside_an_empty_side(kind: JoinKind) -> None:
    seen: list[int] = []

    def watch(r: Any) -> int:
        seen.append(int(r.row))
        return int(r.row)

    left = source(20, 15).with_columns(watched=so.udf(watch, returns=so.int64))
    nothing = source(5, 16).filter(lambda r: r["int"] > 100)
    keys: list[str] = [] if kind == "cross" else ["int"]
    made = join(left, nothing, kind, keys, columns=["row"])
    assert engine(made) == []
    assert seen == []


def test_null_columns_of_a_side_without_match() -> None:
    left = so.table({"k": np.array([1, 2])})
    right = source(3, 17).filter(lambda r: r.row < 0)
    outputs = [("k", 0, "k"), *((n, 1, n) for n in right.plan.schema.names)]
    made = op_join(left, right, [(column(left, "k"), column(right, "row"))], "left", outputs)
    assert [row[1:] for row in engine(made)] == [[None] * len(right.plan.schema)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_duckdb(kind: JoinKind) -> None:
    duckdb = pytest.importorskip("duckdb")
    a, b = arrow(150, 18), arrow(90, 19)
    left, right = so.from_arrow(a), so.from_arrow(b)
    keys = ("int", "wide", "string", "time", "bool", "float")
    for key in keys[:1] if kind == "cross" else keys:
        made = join(left, right, kind, [key], columns=["row"])
        on = "" if kind == "cross" else f"on a.{key} = b.{key}"
        columns = "a.row" if kind in ONE_SIDED else "a.row, b.row"
        word = {"full": "full outer", "left": "left", "right": "right"}.get(kind, kind)
        with duckdb.connect() as db:
            db.register("a", a)
            db.register("b", b)
            rows = db.execute(f"select {columns} from a {word} join b {on}").fetchall()
        order = _in_order(rows, kind)
        assert [[_int(v) for v in r] for r in engine(made)] == order, key


def _in_order(rows: list[tuple[Any, ...]], kind: JoinKind) -> list[list[Any]]:
    """Rows in the order that the language promises."""

    def place(row: tuple[Any, ...]) -> Any:
        own = row[::-1] if kind == "right" else row
        return [(v is None, v or 0) for v in own]

    return [list(r) for r in sorted(rows, key=place)]


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def test_the_held_side_is_not_copied() -> None:
    """Records that lie in memory in one piece take no more of it."""
    rows = 50_000
    right = so.table({"k": np.arange(rows), "v": np.zeros((rows, 20))})
    left = so.table({"k": np.arange(5)})
    keys = [(column(left, "k"), column(right, "k"))]
    made = op_join(left, right, keys, "inner", [("k", 0, "k"), ("v", 1, "v")])
    budget = MemoryBudget(rows * 20)
    assert bits(run([made], memory=budget)) == bits(run([made]))
    assert budget.peak < rows * 20
    assert not budget.spilled


def test_plans_show_how_sides_meet() -> None:
    left, right = source(5, 22), source(5, 23)
    made = join(left, right, "left", ["int", "string"], columns=["row"])
    shown = display(plan(job_of(made))).to_text()
    assert "Probe t1: left join on int, string" in shown
    assert "broadcast: the index of one side is shared by all partitions" in shown
    big = so.table({"k": np.zeros(3_000_000, np.int8)})
    made = op_join(big, big, [(column(big, "k"), column(big, "k"))], "semi", [("k", 0, "k")])
    physical = plan(job_of(made))
    shown = display(physical).to_text()
    assert "partitioned by hash of k into 32 parts" in shown
    assert [s.parts for s in sinks(physical, pr.BuildIndex) if isinstance(s, pr.BuildIndex)] == [32]


def test_only_what_is_read_is_held() -> None:
    left, right = source(5, 24), source(5, 25)
    made = join(left, right, "semi", columns=["row"])
    (sink,) = sinks(plan(job_of(made)), pr.BuildIndex)
    assert isinstance(sink, pr.BuildIndex)
    assert (sink.keys, sink.kept) == (("int",), ())


def test_text_beyond_two_gigabytes_is_held() -> None:
    from scalops.engine.columns import arrow_type
    from scalops.engine.relations.indexed_table import large, of_type

    for kind in (so.string, so.list_(so.string), so.list_(so.int32)):
        some: list[Any] = [None, "a", "b"] if kind == so.string else [None, [], []]
        made = pa.array(some).cast(arrow_type(kind)).cast(large(arrow_type(kind)))
        assert of_type(made.take([1, 0]), kind).type == arrow_type(kind)


def test_samples_find_partners_far_down() -> None:
    left = so.table({"k": np.arange(1_000)})
    right = so.table({"k": np.arange(1_000)[::-1].copy(), "y": np.arange(1_000)})
    keys = [(column(left, "k"), column(right, "k"))]
    for kind in ("inner", "left", "right", "semi"):
        outputs = [("k", 0, "k"), *([] if kind == "semi" else [("y", 1, "y")])]
        sample = Interpreter(sample=16)
        found = list(sample.records(op_join(left, right, keys, kind, outputs).plan))
        assert len(found) == 16
        assert [r["k"] for r in found] == (
            list(range(999, 983, -1)) if kind == "right" else list(range(16))
        )


def test_samples_without_partners_look_further_on_both_sides() -> None:
    left = so.table({"k": np.arange(1_000)})
    right = so.table({"k": np.arange(900, 1_000)})
    made = op_join(left, right, [(column(left, "k"), column(right, "k"))], "inner", [("k", 0, "k")])
    assert [r["k"] for r in Interpreter(sample=16).records(made.plan)] == list(range(900, 916))


def test_results_do_not_depend_on_how_an_index_is_built() -> None:
    """Hash parts are a neutral decision."""
    left, right = source(400, 26), source(300, 27)
    made = join(left, right, "inner", ["wide"], columns=["row", "text"])
    assert isinstance(made.plan, op.Operator)
    one = run([made])
    assert bits(one) == bits(run([made], threads=2))


@pytest.mark.parametrize("kind", ["inner", "left", "semi"])
def test_samples_of_joins_over_joins_and_filters(kind: JoinKind) -> None:
    ids = np.arange(2_000)
    left = so.table({"k": ids, "s": [f"{i}" for i in ids]}).filter(lambda r: r.k >= 700)
    right = so.table({"k": ids[::-1].copy(), "y": ids}).with_columns(z=lambda r: r.y * 2)
    below = join(left, right, "inner", ["k"], columns=["k"])
    keys = (ex.Column("k_right", below.plan.schema["k_right"]), column(right, "k"))
    from scalops.algebra.relations import Join

    outputs: list[Any] = [("k", 0, "k"), *([] if kind == "semi" else [("z", 1, "z")])]
    node = Join(below.plan, right.plan, (keys[0],), (keys[1],), kind, tuple(outputs))
    found = list(Interpreter(sample=16).records(node))
    assert [int(r["k"]) for r in found] == list(range(700, 716))
    if kind != "semi":
        assert [int(r["z"]) for r in found] == [2 * (1999 - k) for k in range(700, 716)]
