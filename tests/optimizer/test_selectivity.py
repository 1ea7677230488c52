"""Estimates behind filters: how many records a draw keeps is known from the draw."""

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.functions import function
from scalops.optimizer.cardinality import estimate

ROWS = 4000
T = so.table({"y": np.arange(float(ROWS)), "i": np.arange(ROWS)})
SPLIT = T.random_split([0.7, 0.2, 0.1], seed=3)
U = ex.call(function("random_uniform"), ex.constant(1), ex.Column("i", T.plan.schema["i"]))
V = ex.call(function("random_uniform"), ex.constant(2), ex.Column("i", T.plan.schema["i"]))
ONE = ex.call(function("random_uniform"), ex.constant(1), ex.constant(7))


def draw(name: str, left: Any, right: Any) -> ex.Expression:
    given = (e if isinstance(e, ex.Expression) else ex.constant(e) for e in (left, right))
    return ex.call(function(name), *given)


def both(*parts: ex.Expression) -> ex.Expression:
    first, *others = parts
    for other in others:
        first = ex.call(function("bitwise_and"), first, other)
    return first


@pytest.mark.parametrize(
    ("table", "share"),
    [
        (T.sample(0.1, seed=1), 0.1),
        (T.sample(0.0, seed=1), 0.0),
        (T.sample(1.0, seed=1), 1.0),
        (SPLIT[0], 0.7),
        (SPLIT[1], 0.2),
        (SPLIT[2], 0.1),
        (T.sample(0.5, seed=1).sample(0.5, seed=2), 0.25),
    ],
)
def test_a_draw_keeps_its_share(table: so.Table, share: float) -> None:
    found = estimate(table.plan)
    assert found.rows == pytest.approx(share * ROWS)
    assert found.bytes == pytest.approx(share * ROWS * table.schema.bytes_per_row)
    assert found.provenance == "estimated"
    # Five standard deviations of what is really kept.
    assert abs(table.count().collect() - found.rows) <= 5 * np.sqrt(ROWS * share * (1 - share))


@pytest.mark.parametrize(
    ("predicate", "share", "known"),
    [
        (draw("greater", 0.3, U), 0.3, "estimated"),
        (draw("less_equal", 0.3, U), 0.7, "estimated"),
        (draw("less", U, 1.5), 1.0, "estimated"),
        (draw("less", U, -1), 0.0, "estimated"),
        (both(draw("less", U, 0.2), draw("greater", U, 0.6)), 0.0, "estimated"),
        (both(draw("less", U, 0.2), draw("less", U, 0.6)), 0.2, "estimated"),
        (both(draw("less", U, 0.5), draw("less", V, 0.5)), 0.25, "estimated"),
        (both(draw("less", U, 0.5), draw("less", U, V)), 0.25, "assumed"),
        (draw("less", U, V), 0.5, "assumed"),
        (draw("equal", U, 0.5), 0.5, "assumed"),
        (draw("less", ONE, 0.1), 0.5, "assumed"),  # all records or none
    ],
)  # fmt: skip
def test_what_a_predicate_keeps(predicate: ex.Expression, share: float, known: str) -> None:
    found = estimate(op.Filter(T.plan, predicate))
    assert found.rows == pytest.approx(share * ROWS)
    assert found.provenance == known


def test_a_draw_from_an_assumed_number_of_records_is_assumed() -> None:
    halved = T.filter(lambda r: so.random.uniform(1, r.i) < so.random.uniform(2, r.i))
    found = estimate(halved.sample(0.1, seed=1).plan)
    assert found.rows == pytest.approx(0.05 * ROWS)
    assert found.provenance == "assumed"


def test_explain_says_how_the_rows_are_known() -> None:
    assert "rows  400 (estimated)" in str(T.sample(0.1, seed=1).explain("optimized"))
