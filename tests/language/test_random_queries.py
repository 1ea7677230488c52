"""Random queries give what DuckDB gives, in the order that the language defines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.queries import Generator, Query, sources
from tests.quick import quick

QUERIES = 2_000  # in all
TOGETHER = 50  # in one job
DEPTHS = (1, 2, 1, 3, 2, 1, 2, 4)  # operators one over the other
PARTS, QUICK = 8, 2  # tests, for several cores; those of each run


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of one thread."""
    made = duckdb.connect(config={"threads": 1})
    made.execute("PRAGMA disable_optimizer")  # the tables are small, and the plan is as written
    yield made
    made.close()


def load(database: duckdb.DuckDBPyConnection, tables: list[pa.Table]) -> None:
    """The tables as t0, t1, ..., with the number of each record."""
    for i, table in enumerate(tables):
        # Lists, for DuckDB's arrays have a length that the nulls of a join have not.
        vectors = table.column("x").cast(pa.list_(pa.float64()))
        lists = table.set_column(table.column_names.index("x"), "x", vectors)
        numbered = lists.append_column("ord_", pa.array(np.arange(len(table))))
        database.register("given", numbered)
        database.execute(f"CREATE OR REPLACE TABLE t{i} AS SELECT * FROM given")
        database.unregister("given")


def same(a: Any, b: Any) -> bool:
    """Whether two values are one; floats up to rounding, NaN is NaN."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-12)
    return type(a) is type(b) and bool(a == b)


def expected(database: duckdb.DuckDBPyConnection, query: Query) -> list[Any]:
    """DuckDB's records in order."""
    names = ", ".join(query.columns)
    return database.execute(f"SELECT {names} FROM {query.sql} q ORDER BY ord_").fetchall()


def check(query: Query, seed: int, found: pa.Table, wanted: list[Any]) -> None:
    """Fail with the seed and both texts unless the records are the wanted ones."""
    assert isinstance(found, pa.Table)
    told = f"seed {seed}\n{query.program}\n{query.sql}\n"
    assert found.column_names == list(query.columns), told
    lists = [found.column(n).to_pylist() for n in query.columns]
    rows = list(zip(*lists, strict=True))
    if len(rows) != len(wanted) or not all(map(same, rows, wanted)):
        shown = "\n".join(map(str, rows)), "\n".join(map(str, wanted))
        pytest.fail(f"{told}found {list(query.columns)}\n{shown[0]}\nexpected\n{shown[1]}", False)


@pytest.mark.parametrize("part", quick(range(PARTS), QUICK))
def test_random_queries_agree_with_duckdb(part: int, database: duckdb.DuckDBPyConnection) -> None:
    count = QUERIES // PARTS
    for first in range(part * count, (part + 1) * count, TOGETHER):
        tables = sources(first)
        load(database, tables)
        names: dict[str, Any] = {f"t{i}": so.from_arrow(t) for i, t in enumerate(tables)}
        scope = {"so": so, "np": np, "__name__": "queries", **names}
        seeds = range(first, min(first + TOGETHER, (part + 1) * count))
        queries = [Generator(seed, tables).query(DEPTHS[seed % len(DEPTHS)]) for seed in seeds]
        made = []
        for seed, query in zip(seeds, queries, strict=True):
            try:
                made.append(eval(query.program, scope))
            except so.ScalopsError as error:
                error.add_note(f"seed {seed}\n{query.program}")
                raise
        try:
            collected = so.collect(made)
        except so.ScalopsError:
            for seed, query, table in zip(seeds, queries, made, strict=True):
                try:
                    table.collect()
                except so.ScalopsError as error:
                    error.add_note(f"seed {seed}\n{query.program}")
                    raise
            raise
        for seed, query, found in zip(seeds, queries, collected, strict=True):
            check(query, seed, found, expected(database, query))
