"""What tests of joins share: tables with columns of every type, plans of joins, plain results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import Join, JoinKind
from scalops.engine.blocks import Block
from scalops.engine.witness.interpreter import Interpreter, block_rows
from tests.engine.plans import run

KINDS: tuple[JoinKind, ...] = ("inner", "left", "right", "full", "semi", "anti", "cross")
KEYS = ("int", "wide", "float", "bool", "string", "time", "vector", "list", "sparse", "null")


@dataclass(frozen=True)
class Plan:
    """Stands for a table of the language."""

    plan: op.Operator


def arrow(rows: int, seed: int) -> pa.Table:
    """Keys of few values and columns to carry along, of most types."""
    rng = np.random.default_rng(seed)
    number = rng.integers(-3, 6, rows)
    nulls = rng.random(rows) < 0.2
    made: dict[str, Any] = {
        "int": number,
        "wide": pa.array(number * 10**15, mask=rng.random(rows) < 0.1),
        "float": np.where(number < 0, np.nan, np.where(number == 3, -0.0, number % 3)),
        "bool": pa.array(number > 2, mask=nulls),
        "string": pa.array([f"key {n}" if n > 0 else None for n in number], pa.string()),
        "time": pa.array(number * 10**9, pa.timestamp("us"), mask=nulls),
        "null": pa.nulls(rows, pa.int64()),
        "row": np.arange(rows),
        "text": pa.array([None if x else "é" * i for i, x in enumerate(nulls)], pa.string()),
        "items": pa.array(
            [None if x else [i, None] for i, x in enumerate(nulls)], pa.list_(pa.int32())
        ),
    }
    return pa.table(made)


def source(rows: int, seed: int = 0, width: int = 3) -> so.Table:
    """The table of `arrow` with vectors and sparse vectors; `width` is that of a payload."""
    table = arrow(rows, seed)
    rng = np.random.default_rng(seed + 1)
    keys = rng.integers(0, 2, (rows, 2))
    sparse = sp.csr_array(keys * rng.integers(0, 3, (rows, 2)) * 1.0)
    columns: dict[str, Any] = {n: table[n] for n in table.column_names}
    columns |= {
        "vector": keys * 1.0,
        "sparse": sparse,
        "list": pa.array([[int(i)] * int(j) for i, j in keys], pa.list_(pa.int64())),
        "payload": rng.normal(size=(rows, width)),
        "matrix": rng.integers(0, 9, (rows, 2, 2)),
        "thin": sp.random_array((rows, 50), density=0.1, rng=rng, format="csr"),
    }
    return so.table(columns)


def column(table: so.Table, name: str) -> ex.Column:
    """A column as an expression."""
    return ex.Column(name, table.plan.schema[name])


def join(
    left: so.Table,
    right: so.Table,
    kind: JoinKind,
    on: Sequence[str | tuple[ex.Expression, ex.Expression]] = ("int",),
    nulls_equal: bool = False,
    columns: Sequence[str] | None = None,
) -> Plan:
    """The join, with all columns of both sides or with these."""
    keys = [(column(left, k), column(right, k)) if isinstance(k, str) else k for k in on]
    if kind == "cross":
        keys = []
    outputs = [(n, 0, n) for n in columns or left.plan.schema.names]
    if kind not in ("semi", "anti"):
        outputs += [(f"{n}_right", 1, n) for n in columns or right.plan.schema.names]
    node = Join(
        left.plan, right.plan, tuple(a for a, _ in keys), tuple(b for _, b in keys),
        kind, tuple(outputs), nulls_equal,
    )  # fmt: skip
    return Plan(node)


def plain(value: Any) -> Any:
    """A value as plain Python, comparable by ==."""
    if value is None:
        return None
    if hasattr(value, "indices") and hasattr(value, "values"):
        return dict(zip(map(int, value.indices), map(float, value.values), strict=True))
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return repr(value.tolist())  # NaN is NaN
    return str(value)


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Records as plain lists."""
    return [[plain(v) for v in r.values()] for r in records]


def witness(table: Plan) -> list[list[Any]]:
    """What the plan means."""
    return rows_of(list(Interpreter().records(table.plan)))


def engine(table: Plan, threads: int = 1, memory: int | None = None) -> list[list[Any]]:
    """What the engine gives."""
    (blocks,) = run([table], threads, memory)
    return found_in(blocks, table)


def found_in(blocks: Sequence[Block], table: Plan) -> list[list[Any]]:
    """The records of a table's blocks."""
    kinds = table.plan.schema.types
    return rows_of([r for b in blocks for r in block_rows(b, kinds)])


def assert_agree(table: Plan) -> int:
    """The engine gives the same records on one thread and on two; their number."""
    expected = witness(table)
    bounds = []
    for threads in (1, 2):
        (blocks,) = run([table], threads)
        assert found_in(blocks, table) == expected
        bounds.append([b.rows for b in blocks])
    assert bounds[0] == bounds[1]
    return len(expected)
