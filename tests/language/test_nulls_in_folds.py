"""Every fold over mixtures of null, NaN and nothing: NumPy over the known values, and DuckDB."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.quick import crossed

NAN = math.nan
VALUES: dict[str, list[float | None]] = {
    "nothing": [],
    "numbers": [2.0, -1.0, 3.5, 3.5],
    "one": [4.0],
    "nulls": [None, None],
    "null first": [None, 1.0, 0.0],
    "null between": [1.0, None, -2.0],
    "null last": [0.0, 7.0, None],
    "NaN": [1.0, NAN, 2.0],
    "only NaN": [NAN, NAN],
    "null and NaN": [None, NAN, 3.0, None],
    "zeros": [0.0, -0.0],
}
NO_VALUE = object()  # over no records there is none


def over_known(numpy: Callable[[Any], Any], nothing: Any) -> Callable[[list[Any]], Any]:
    """NumPy over the values that are not null."""

    def fold(values: list[Any]) -> Any:
        known = np.array([v for v in values if v is not None])
        return numpy(known) if len(known) else nothing

    return fold


FOLDS: dict[str, tuple[Callable[[so.Table, Any], Any], Callable[[list[Any]], Any]]] = {
    "sum": (lambda t, f: t.sum(f), over_known(np.sum, 0.0)),
    "mean": (lambda t, f: t.mean(f), over_known(np.mean, NAN)),
    "var": (lambda t, f: t.var(f), over_known(np.var, NAN)),
    "std": (lambda t, f: t.std(f, ddof=1), over_known(lambda v: np.std(v, ddof=1), NAN)),
    "min": (lambda t, f: t.min(f), over_known(np.min, NO_VALUE)),
    "max": (lambda t, f: t.max(f), over_known(np.max, NO_VALUE)),
    "any": (lambda t, f: t.any(f), over_known(np.any, False)),
    "all": (lambda t, f: t.all(f), over_known(np.all, True)),
    "count": (lambda t, f: t.count(f), lambda v: sum(x is not None for x in v)),
    "n_unique": (lambda t, f: t.n_unique(f), over_known(lambda v: len(np.unique(v + 0.0)), 0)),
    "quantile": (lambda t, f: t.quantile(0.3, f), over_known(lambda v: np.quantile(v, 0.3), NAN)),
    "first": (lambda t, f: t.first(f), over_known(lambda v: v[0], NO_VALUE)),
    "last": (lambda t, f: t.last(f), over_known(lambda v: v[-1], NO_VALUE)),
    "argmax": (lambda t, f: t.argmax(f, f), over_known(lambda v: v[np.argmax(v)], NO_VALUE)),
    "argmin": (lambda t, f: t.argmin(f, f), over_known(lambda v: v[np.argmin(v)], NO_VALUE)),
    "reduce": (
        lambda t, f: t.map(f if callable(f) else lambda r: r[f]).reduce(lambda a, b: a + b),
        over_known(np.sum, NO_VALUE),
    ),
    "general reduce": (
        lambda t, f: t.map(lambda r: r.v).reduce(lambda a, b: a + 0.5 * a * b + b),
        over_known(lambda v: 2 * (np.prod(1 + v / 2) - 1), NO_VALUE),
    ),
    "aggregate": (
        lambda t, f: t.aggregate(0.0, lambda s, r: s + r.v * r.v, lambda a, b: a + b),
        over_known(lambda v: np.sum(v * v), 0.0),
    ),
}


# DuckDB's answers, below, are for all of them.
@pytest.mark.parametrize(("name", "values"), crossed(FOLDS, VALUES, one_in=3))
def test_a_fold_is_numpys_over_what_is_known(name: str, values: str) -> None:
    column = VALUES[values]
    table = so.from_arrow(pa.table({"v": pa.array(column, pa.float64())}))
    make, witness = FOLDS[name]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # one value has no deviation with ddof=1
        expected = witness(column)
    for value in (make(table, "v"), make(table, lambda r: r.v)):
        if expected is NO_VALUE:
            with pytest.raises(so.DataError, match="over no records has no value"):
                value.collect()
            with pytest.raises(so.DataError, match="over no records has no value"):
                Interpreter().value(value.expression)
            continue
        np.testing.assert_allclose(value.collect(), expected, rtol=1e-12)
        np.testing.assert_allclose(Interpreter().value(value.expression), expected, rtol=1e-12)


SQL = {
    "sum": "coalesce(sum(v), 0)", "mean": "coalesce(avg(v), 'nan'::double)", "count": "count(v)",
    "min": "min(v)", "max": "max(v)", "n_unique": "count(distinct v)",
    "first": "first(v) filter (v is not null)", "last": "last(v) filter (v is not null)",
    "quantile": "quantile_cont(v, 0.3)", "argmax": "arg_max(v, v)", "var": "var_pop(v)",
}  # fmt: skip


@pytest.mark.parametrize("name", SQL)
@pytest.mark.parametrize("values", [v for v in VALUES if "NaN" not in v])
def test_a_fold_is_duckdbs(name: str, values: str) -> None:
    rows = pa.table({"v": pa.array(VALUES[values], pa.float64())})
    assert rows.num_columns == 1
    relation = duckdb.sql(f"select {SQL[name]} from rows")
    assert relation is not None
    (found,) = relation.limit(1).fetchall()
    make, _ = FOLDS[name]
    try:
        value = make(so.from_arrow(rows), "v").collect()
    except so.DataError:
        assert found[0] is None
        return
    if found[0] is None:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(found[0], nan_ok=True)


def test_records_are_counted_with_their_nulls() -> None:
    table = so.from_arrow(
        pa.table({"v": pa.array([None, 1.0, None]), "s": pa.array(["a", None, "b"])})
    )
    counts = so.collect(
        table.count(), table.count("v"), table.count("s"), table.count(lambda r: r.v)
    )
    assert counts == (3, 1, 2, 1)
    assert table.count(lambda r: {"a": r.v, "b": r.s}).collect() == {"a": 1, "b": 2}


@pytest.mark.parametrize("name", ["min", "max", "first", "last", "n_unique", "argmax", "argmin"])
@pytest.mark.parametrize("values", [[None, "b", "a", None], ["x"], [None], []])
def test_strings_skip_nulls_too(name: str, values: list[Any]) -> None:
    table = so.from_arrow(pa.table({"v": pa.array(values, pa.string())}))
    make, _ = FOLDS[name]
    known = [v for v in values if v is not None]
    if not known and name != "n_unique":
        with pytest.raises(so.DataError, match="over no records has no value"):
            make(table, "v").collect()
        return
    expected: dict[str, Callable[[], Any]] = {
        "min": lambda: min(known), "max": lambda: max(known), "first": lambda: known[0],
        "last": lambda: known[-1], "n_unique": lambda: len(set(known)),
        "argmax": lambda: max(known), "argmin": lambda: min(known),
    }  # fmt: skip
    assert make(table, "v").collect() == expected[name]()


@pytest.mark.parametrize("name", FOLDS)
def test_nulls_of_later_blocks_are_skipped_as_well(name: str) -> None:
    if name == "general reduce":
        return  # its products overflow
    values = np.random.default_rng(0).normal(size=150_000)
    keep = np.arange(len(values)) % 3 > 0
    keep[:70_000] = False  # a whole block of nulls
    column = pa.array(values, mask=~keep)
    make, witness = FOLDS[name]
    table = so.from_arrow(pa.table({"v": column}))
    np.testing.assert_allclose(make(table, "v").collect(), witness(column.to_pylist()), rtol=1e-9)
