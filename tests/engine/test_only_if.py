"""`only_if`, a filter as a value: null where its condition does not hold, of any type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import TraceError
from scalops.algebra.expressions import Column, Expression, call, constant
from scalops.algebra.functions import choices

ROWS = 6
TABLES: dict[str, Any] = {
    "float": np.arange(6.0),
    "int8": np.arange(6, dtype=np.int8),
    "bool": np.arange(6) % 2 == 0,
    "vector": np.arange(12.0).reshape(6, 2),
    "string": ["a", "", None, "d", "e", "é"],
    "list": [[1], [], None, [2, 3], [4], [5]],
    "null": [None, 1.5, None, 2.5, 3.5, None],
    "time": np.arange(6).astype("datetime64[s]"),
}
CONDITION = [True, False, True, None, True, True]


def table_of(values: Any) -> so.Table:
    if isinstance(values, list):
        return so.table([{"p": p, "v": v} for p, v in zip(CONDITION, values, strict=True)])
    return so.table({"p": np.array([p is True for p in CONDITION]), "v": values})


def chosen(table: so.Table, p: Expression, v: Expression) -> list[Any]:
    made = so.Table(op.Project(table.plan, (("x", call(choices.ONLY_IF, p, v)),)))
    found: list[Any] = made.collect().column("x").to_pylist()
    return found


@pytest.mark.parametrize("kind", TABLES)
def test_a_value_stays_where_the_condition_holds(kind: str) -> None:
    table = table_of(TABLES[kind])
    p, v = (Column(n, table.schema[n]) for n in ("p", "v"))
    before = table.select("v").collect().column("v").to_pylist()
    expected = [x if c else None for c, x in zip(CONDITION, before, strict=True)]
    assert chosen(table, p, v) == expected


@pytest.mark.parametrize("value", [True, 2.5, "s", np.array([1.0, 2.0])], ids=str)
def test_a_constant_is_a_column_then(value: Any) -> None:
    table = table_of(TABLES["float"])
    p = Column("p", table.schema["p"])
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    assert chosen(table, p, constant(value)) == [plain if c else None for c in CONDITION]


@pytest.mark.parametrize("condition", [True, False])
def test_a_condition_may_be_the_same_for_all(condition: bool) -> None:
    table = table_of(TABLES["string"])
    v = Column("v", table.schema["v"])
    expected = TABLES["string"] if condition else [None] * ROWS
    assert chosen(table, constant(condition), v) == expected


def test_sparse_vectors_stay_sparse() -> None:
    matrix = sp.csr_array(np.diag(np.arange(6.0)))
    table = so.table({"p": np.array([p is True for p in CONDITION]), "v": matrix})
    p, v = (Column(n, table.schema[n]) for n in ("p", "v"))
    made = call(choices.ONLY_IF, p, v)
    assert made.type.is_sparse
    found = so.Table(op.Project(table.plan, (("x", made),))).sum("x").collect()
    assert found.tolist() == [0.0, 0.0, 2.0, 0.0, 4.0, 5.0]


def test_a_condition_that_is_no_bool_is_refused() -> None:
    with pytest.raises(TraceError, match="only_if needs one true or false"):
        call(choices.ONLY_IF, constant(1.0), constant(2.0))
