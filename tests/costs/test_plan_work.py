"""Records, bytes and arithmetic of plans, against what is counted by hand."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64, ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.tree import find
from scalops.engine import physical_plan as pp
from scalops.engine.stage_operators import operators_of
from scalops.optimizer.costs.expression_work import record_work
from scalops.optimizer.costs.fold_work import fold_work
from scalops.optimizer.costs.machine import ASSUMED
from scalops.optimizer.costs.plan_work import PlanWork, StageWork, plan_work
from scalops.planning import plan
from tests.costs.programs import NAMES, ROWS, logistic, physical, sliding, work_of
from tests.engine.plans import job_of

ABSTRACT = {"Fewer", "Multiply", "StoreSink"}


def work_for(thing: Any) -> PlanWork:
    return plan_work(plan(job_of(thing), jit=False))


def last(work: PlanWork) -> StageWork:
    """The stage that runs last outside of loops."""
    return work.stages[work.once[-1]]


def subclasses(of: type[Any]) -> Iterator[type[Any]]:
    for made in of.__subclasses__():
        yield made
        yield from subclasses(made)


def test_the_programs_have_every_table_and_every_sink() -> None:
    stages = [s for name in NAMES for s in physical(name).stages]
    there = {type(n).__name__ for s in stages for n in (*find((s,), pp.PhysicalTable), s.sink)}
    known = {c.__name__ for base in (pp.PhysicalTable, pp.Sink) for c in subclasses(base)}
    assert there == known - ABSTRACT


@pytest.mark.parametrize("name", NAMES)
def test_each_operator_has_its_work(name: str) -> None:
    work, made = work_of(name), physical(name)
    rates = {r.name for r in ASSUMED}
    for stage in made.stages:
        operators = work.stages[stage.number].operators
        own = operators_of(stage)
        assert [o.title.split()[0] for o in operators] == [type(n).__name__ for n in own]
        for operator in operators:
            amounts = {**operator.amounts, **operator.once}
            assert amounts.keys() <= rates
            sizes = (operator.rows, operator.bytes, operator.calls, operator.read_bytes)
            assert all(math.isfinite(v) and v >= 0 for v in (*sizes, *amounts.values()))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("limit", 7),
        ("numbered", 100),
        ("both", 2 * ROWS),
        ("several", 2 * ROWS),
        ("cut", ROWS),
        ("sorted", ROWS),
        ("distinct", 100),
        ("joined", ROWS),
        ("groups", 100),
        ("applied", 100),
        ("running", ROWS),
    ],
)
def test_rows_are_those_that_come_out(name: str, rows: int) -> None:
    """Where the data tell: distinct keys are estimated from samples."""
    assert last(work_of(name)).operators[-1].rows == pytest.approx(rows, rel=0.1)


def test_only_columns_that_are_read_count() -> None:
    t = so.table({"a": np.ones(1000), "b": np.ones(1000), "m": np.ones((1000, 5), np.float32)})
    work = work_for(t.map(lambda r: r.a + r.m.sum()).sum())
    scan, fold = work.stages[0].operators
    assert (scan.rows, scan.bytes) == (1000, 1000 * 28)
    # A scan of arrays only shows them; who computes with them reads them.
    assert (scan.read_bytes, fold.read_bytes) == (0, 1000 * 28)
    assert scan.provenance == "exact"


def test_a_filter_passes_on_what_is_read_above_it() -> None:
    work = work_for(so.table({"a": np.arange(1000.0), "b": np.ones(1000)}).filter(
        lambda r: r.a < 250.0
    ).sum("b"))  # fmt: skip
    scan, select, fold = work.stages[0].operators
    assert scan.bytes == 16_000
    assert select.rows == pytest.approx(250, rel=0.15)
    assert select.bytes == pytest.approx(8 * select.rows)
    assert fold.rows == 1


def test_items_may_have_their_positions() -> None:
    t = so.table({"x": np.ones((50, 3)), "y": np.arange(50.0), "z": np.ones(50)})

    def unnested(index: str | None, *read: str) -> dict[str, float]:
        made = t.explode("x", index=index).map(lambda r: sum(getattr(r, n) for n in read)).sum()
        return dict(work_for(made).stages[0].operators[1].amounts)

    alone = unnested(None, "x", "y")
    assert alone == {"element": 150, "gather": 150}  # of x; of y, which is repeated
    assert unnested("j", "x", "y") == alone
    assert unnested("j", "x", "y", "j") == {"element": 300, "gather": 150}


X, Y = ex.Column("x", ArrayType("float64", (8,))), ex.Column("y", FLOAT64)
SLOT = ex.Slot("w", ArrayType("float64", (8,)), 0)
MATRIX = ex.Slot("m", ArrayType("float64", (8, 3)), 1)
SMALL = ex.Column("a", ArrayType("float64", (3, 8)))


def call(name: str, *arguments: ex.Expression) -> ex.Call:
    return ex.call(function(name), *arguments)


@pytest.mark.parametrize(
    ("e", "amounts"),
    [
        (Y, {}),
        (call("add", Y, Y), {"element": 1}),
        (call("multiply", X, Y), {"element": 8}),
        (call("exp", X), {"transcendental": 8}),
        (call("log1p", call("exp", Y)), {"transcendental": 2}),
        (call("sqrt", X), {"element": 64}),
        (call("sin", Y), {"transcendental": 8}),
        (call("remainder", Y, Y), {"element": 16}),
        (call("matmul", X, SLOT), {"product_vector": 16}),
        (call("matmul", X, X), {"product_vector": 16}),
        (call("matmul", X, MATRIX), {"product": 48}),
        (call("matmul", SMALL, X), {"product_vector": 48}),
        (call("matmul", SMALL, MATRIX), {"product": 2 * 3 * 8 * 3}),
        (call("outer", X, X), {"element": 64}),
        (call("power", X, ex.constant(2)), {"element": 8}),
        (call("power", X, Y), {"transcendental": 8}),
        (call("add", call("exp", Y), call("exp", Y)), {"transcendental": 1, "element": 1}),
    ],
    ids=str,
)
def test_flops_of_one_record(e: ex.Expression, amounts: dict[str, float]) -> None:
    assert record_work([e]).amounts == amounts


def test_what_reads_no_record_is_computed_once() -> None:
    work = record_work([call("add", Y, call("exp", ex.Slot("s", FLOAT64, 2)))])
    assert (work.amounts, work.calls) == ({"element": 1}, 1)
    assert (work.uniform, work.uniform_calls) == ({"transcendental": 1}, 1)


@pytest.mark.parametrize(
    ("fold", "amounts"),
    [
        (Fold("n", "count", ()), {}),
        (Fold("s", "sum", (X,)), {"element": 8}),
        (Fold("s", "sum_scaled", (Y, X)), {"product_vector": 16}),
        (Fold("s", "sum_outer", (X, X)), {"product": 128}),
        (Fold("s", "sum_gram", (Y, X)), {"product": 64, "element": 8}),
        (Fold("s", "var", (Y,), parameters=(("ddof", 0),)), {"element": 4}),
        (Fold("s", "n_unique", (Y,)), {"group": 1}),
    ],
    ids=lambda given: given.kind if isinstance(given, Fold) else "amounts",
)
def test_flops_of_a_fold(fold: Fold, amounts: dict[str, float]) -> None:
    assert fold_work([fold])[0] == amounts


def test_folds_of_one_computation_are_one() -> None:
    both = [Fold("a", "sum", (X,)), Fold("b", "sum", (X,))]
    assert fold_work(both) == fold_work(both[:1])


def test_a_pass_of_logistic_regression() -> None:
    """Per record: x @ w, the sigmoid's exp, three elementwise steps, s @ X."""
    (loop,) = work_of("logistic").loops
    (number,) = loop.stages
    stage = work_of("logistic").stages[number]
    assert (stage.rows, stage.bytes, stage.source) == (ROWS, ROWS * 40, "stored")
    assert stage.partial_bytes == 32
    fold = stage.operators[-1]
    assert fold.amounts["product_vector"] == ROWS * (8 + 8)
    assert fold.transcendentals == ROWS
    assert fold.flops == fold.amounts["product_vector"] + fold.amounts["element"]
    assert loop.environment_bytes == 32


def test_iterations_are_known_or_assumed() -> None:
    (known,) = work_for(logistic()).loops
    (assumed,) = work_for(sliding()).loops
    assert (known.iterations, known.known) == (7, True)
    assert (assumed.iterations, assumed.known) == (20, False)
    assert known.evaluations > 0


def test_what_stays_is_found_once() -> None:
    work = work_of("pages")
    (loop,) = work.loops
    joins = [work.stages[s].operators[-1] for s in loop.stages]
    found = [o for o in joins if o.title.startswith("IndexJoin")]
    assert found
    assert all(o.once["probe"] > 0 and not o.amounts for o in found)


def test_a_join_tells_what_may_be_sent() -> None:
    work = work_of("joined")
    built = work.stages[work.once[0]]
    assert built.index_bytes == 100 * 16
    (probed,) = last(work).probed
    assert probed == (built.makes, ROWS * (8 + 8 + 32))
    assert work.stages[work.once[-1]].reads == (built.makes,)


def test_exchanges_move_what_they_read() -> None:
    assert work_of("cut").stages[0].moved_bytes == 8 * ROWS
    assert last(work_of("sorted")).gathered_bytes == 16 * ROWS


def test_files_are_decoded(tmp_path: Any) -> None:
    path = str(tmp_path / "t.parquet")
    so.table({"a": np.arange(5000.0), "b": np.arange(5000.0)}).write_parquet(path)
    work = work_for(so.read_parquet(path).sum("a"))
    stage = work.stages[0]
    assert stage.source == "disk"
    scan = stage.operators[0]
    assert scan.amounts["parquet"] == 40_000
    assert 0 < scan.amounts["disk_read"] < 80_000


def test_origins_stay_where_the_plan_is_made() -> None:
    made = physical("groups")
    assert made.origins.job is not None
    assert pickle.loads(pickle.dumps(made.origins)).job is None
    alone = pp.PhysicalPlan(
        made.stages, made.program, made.slots, made.outputs, made.loops, made.fingerprint
    )
    assert alone == made
    # Without them rows follow from the sources, and groups are assumed.
    assert plan_work(alone).stages[0].operators[-1].provenance == "assumed"
