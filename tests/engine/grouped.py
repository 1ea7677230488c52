"""What tests of groups share: tables with columns of every type, folds of them, both answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.folds import Fold
from scalops.engine.storage import block_to_batch
from scalops.engine.witness.interpreter import Interpreter, block_rows, same_value
from tests.engine.plans import run

# How many groups there are among so many records; the first block decides which way they go.
KEYS: dict[str, Callable[[int, Any], Any]] = {
    "few": lambda rows, rng: rng.integers(0, 7, rows),
    "many": lambda rows, rng: rng.integers(0, max(rows, 1) * 3 // 4 + 1, rows),
    "all distinct": lambda rows, rng: rng.permutation(rows),
    "one": lambda rows, rng: np.zeros(rows, int),
}


def source(rows: int, groups: str = "few", seed: int = 0) -> so.Table:
    """A table with a key `k` and a column of each type, most of them with nulls."""
    rng = np.random.default_rng(seed)
    small = rng.integers(-3, 4, rows)
    floats = np.round(rng.normal(size=rows), 1)
    floats[rng.random(rows) < 0.05] = np.nan

    def nulls() -> Any:
        return rng.random(rows) < 0.3

    def some(values: Any) -> Any:
        return np.ma.array(values, mask=nulls())

    texts = np.array([f"t{n}" for n in small.tolist()], object)
    texts[nulls()] = None
    lists = [[float(n)] * (n % 3) for n in small.tolist()]
    return so.table(
        {
            "k": KEYS[groups](rows, rng),
            "i": some(small),
            "p": some(small.astype(np.int8)),
            "f": some(floats),
            "g": np.round(rng.normal(size=rows), 2).astype(np.float32),
            "b": some(rng.random(rows) < 0.5),
            "s": pa.array(texts.tolist(), pa.string()),
            "d": some(np.array("2020-01-01", "M8[us]") + small.astype("m8[us]")),
            "l": pa.array(lists, pa.list_(pa.float64())),
            "v": np.round(rng.normal(size=(rows, 3)), 1),
            "m": small[:, None, None] + np.arange(4).reshape(2, 2),
            "x": sparse.random(rows, 5, 0.3, "csr", rng=rng),
            "n": np.arange(rows),
        }
    )


def column(table: so.Table, name: str, record: int = 0) -> ex.Column:
    """A column of the table as an expression."""
    return ex.Column(name, table.plan.schema[name], record)


def fold(table: so.Table, name: str, kind: str, *names: str, **more: Any) -> Fold:
    """The fold of these columns."""
    parameters = tuple(sorted(more.pop("parameters", {}).items()))
    return Fold(name, kind, tuple(column(table, n) for n in names), parameters=parameters, **more)


def grouped(table: so.Table, keys: Sequence[str], folds: Sequence[Fold]) -> rel.GroupAggregate:
    """The groups by these columns, with the folds."""
    return rel.GroupAggregate(table.plan, tuple((n, column(table, n)) for n in keys), tuple(folds))


Rows = list[dict[str, Any]]


def found(node: op.Operator, threads: int = 1, memory: int | None = None) -> list[Any]:
    """The blocks that the engine gives."""
    (blocks,) = run([SimpleNamespace(plan=node)], threads, memory)
    return list(blocks)


def rows_of(blocks: Sequence[Any], node: op.Operator) -> Rows:
    """The records of blocks."""
    return [row for b in blocks for row in block_rows(b, node.schema.types)]


def differences(node: op.Operator, blocks: Sequence[Any]) -> Iterator[str]:
    """Where the engine's records are not the interpreter's."""
    expected = list(Interpreter().records(node))
    actual = rows_of(blocks, node)
    if len(actual) != len(expected):
        yield f"{len(actual)} groups, expected {len(expected)}"
        return
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        for name in node.schema.names:
            if not same_value(a[name], b[name]):
                yield f"group {i}, {name}: {a[name]!r}, expected {b[name]!r}"


def bits_of(blocks: Sequence[Any], node: op.Operator) -> list[bytes]:
    """Blocks as something that is equal only where every bit is."""
    return [block_to_batch(b, node.schema).serialize().to_pybytes() for b in blocks]
