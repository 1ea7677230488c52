"""Values folded from tables: NumPy over the whole column is the witness."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from tests.language.witness import assert_same, is_opaque, least, nulls
from tests.quick import crossed

ROWS = (1, 2, 7, 70_000)
DTYPES = ("float64", "float32", "int64", "int8", "uint16", "bool")


def data(rows: int, dtype: str, *shape: int) -> Any:
    """Small numbers of the type."""
    random = np.random.default_rng(rows)
    if dtype == "bool":
        return random.random((rows, *shape)) < 0.5
    if np.dtype(dtype).kind in "iu":
        return random.integers(0, 100, (rows, *shape)).astype(dtype)
    return random.normal(size=(rows, *shape)).astype(dtype)


FOLDS: dict[str, Callable[..., Any]] = {
    "sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max, "any": np.any, "all": np.all,
}  # fmt: skip


@pytest.mark.parametrize(("name", "dtype", "rows"), crossed(FOLDS, DTYPES, ROWS))
def test_a_fold_is_numpys_over_the_first_axis(name: str, dtype: str, rows: int) -> None:
    columns = {"a": data(rows, dtype), "x": data(rows, dtype, 3), "m": data(rows, dtype, 2, 3)}
    table = so.table(columns)
    folded = {c: getattr(table, name)(c) for c in columns}
    by_function = {c: getattr(table, name)(lambda r, c=c: r[c]) for c in columns}
    for made in (so.collect(folded), so.collect(by_function)):
        for column, array in columns.items():
            rtol = 1e-4 if dtype == "float32" else 1e-9
            assert_same(made[column], FOLDS[name](array, axis=0), rtol=rtol)
    for column in columns:
        assert folded[column].dtype == FOLDS[name](columns[column], axis=0).dtype
        assert folded[column].shape == columns[column].shape[1:]


@pytest.mark.parametrize(
    ("f", "dtype", "rows"),
    crossed(
        [operator.add, operator.mul, np.minimum, np.maximum, np.add, np.multiply], DTYPES, (1, 2, 7)
    ),
)
def test_reduce_by_a_known_function_keeps_its_dtype(
    f: Callable[..., Any], dtype: str, rows: int
) -> None:
    a, x = data(rows, dtype), data(rows, dtype, 2)
    table = so.table({"a": a, "x": x})
    with np.errstate(over="ignore"):
        expected = functools.reduce(f, list(a)), functools.reduce(f, list(x))
    for reduced in (
        table.reduce(f),
        table.reduce(lambda p, q: {"a": f(p.a, q.a), "x": f(p.x, q.x)}),
    ):
        assert_same(reduced.a.collect(), np.asarray(expected[0], dtype))
        assert_same(reduced["x"].collect(), expected[1])


def test_reduce_knows_pythons_min_and_max() -> None:
    bare = so.table({"a": [3.0, 1.0, 2.0]}).map(lambda r: r.a)
    assert so.collect(bare.reduce(min), bare.reduce(max)) == (1.0, 3.0)


@pytest.mark.parametrize("f", [operator.and_, operator.or_, np.logical_and, np.logical_or])
def test_reduce_of_truths(f: Callable[..., Any]) -> None:
    for truths in ([True], [True, False], [False, False], [True, True, True]):
        bare = so.table({"b": truths}).map(lambda r: r.b)
        expected = functools.reduce(f, truths)
        assert bare.reduce(f).collect() == expected
        assert bare.reduce(lambda p, q: f(p, q)).collect() == expected


@pytest.mark.parametrize("rows", ROWS)
def test_reduce_keeps_the_order_of_records(rows: int) -> None:
    # Composition of affine maps is associative and does not commute.
    a, b = data(rows, "float64") / 4, data(rows, "float64")
    table = so.table({"a": a, "b": b})

    def compose(p: Any, q: Any) -> Any:
        return {"a": p.a * q.a, "b": p.b * q.a + q.b}

    expected = (1.0, 0.0)
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        expected = (expected[0] * x, expected[1] * x + y)
    made = table.reduce(compose).collect()
    np.testing.assert_allclose([made["a"], made["b"]], expected, rtol=1e-9, atol=1e-12)


def test_reduce_of_matrices_multiplies_in_order() -> None:
    m = data(9, "float64", 2, 2)
    bare = so.table({"m": m}).map(lambda r: r.m)
    expected = functools.reduce(operator.matmul, list(m))
    assert_same(bare.reduce(lambda p, q: p @ q).collect(), expected, rtol=1e-9)
    assert_same(bare.reduce(operator.matmul).collect(), expected, rtol=1e-9)


def test_an_opaque_reduce_gives_the_same() -> None:
    a = data(70, "float64")
    table = so.table({"a": a}).map(lambda r: r.a)

    def larger(p: Any, q: Any) -> Any:
        return p if p > q else q

    value = table.reduce(larger)
    assert is_opaque(value)
    assert value.collect() == a.max()


def test_reduce_widens_to_what_its_function_gives() -> None:
    bare = so.table({"k": np.array([1, 2, 3], "int8")}).map(lambda r: r.k)
    assert_same(bare.reduce(lambda p, q: p + q * 1.0).collect(), np.float64(6))


def test_reduce_may_read_a_value() -> None:
    table = so.table({"a": [1.0, 2.0, 3.0]})
    scale = table.max("a")
    bare = table.map(lambda r: r.a)
    # p ∘ q = p + q + s p q is associative.
    expected = functools.reduce(lambda p, q: p + q + 3.0 * p * q, [1.0, 2.0, 3.0])
    assert bare.reduce(lambda p, q: p + q + scale * p * q).collect() == expected


def test_a_reduce_of_tuples_gives_a_structure_by_position() -> None:
    table = so.table({"a": [1.0, 2.0], "b": [3, 4]}).map(lambda r: (r.a, r.b))
    made = table.reduce(lambda p, q: (p[0] + q[0], np.maximum(p[1], q[1])))
    assert len(made) == 2
    assert made.collect() == (3.0, 4)
    first, second = made
    assert (first + second).collect() == 7.0
    assert "Aggregate" in made.explain()


def test_several_parts_of_one_function() -> None:
    table = so.table({"a": [1.0, 2.0], "x": [[1, 2], [3, 4]]})
    made = table.sum(lambda r: {"a": r.a, "xx": r.x * r.a})
    assert made["a"].collect() == 3.0
    assert_same(made.xx.collect(), np.array([7.0, 10.0]))
    made.forget()
    assert table.mean(lambda r: (r.a, r.a * 2)).collect() == (1.5, 3.0)


# Over no records.


def empty() -> so.Table:
    """No records of a known schema."""
    return so.table({
        "a": np.empty(0), "k": np.empty(0, "int8"), "x": np.empty((0, 3), "float32"),
        "b": np.empty(0, bool), "s": pa.array([], pa.string()),
    })  # fmt: skip


def one() -> so.Table:
    """One record of the same schema."""
    return so.table({
        "a": [1.0], "k": np.ones(1, "int8"), "x": np.ones((1, 3), "float32"),
        "b": [True], "s": ["p"],
    })  # fmt: skip


NONE: dict[str, Callable[[], so.Table]] = {
    "made": empty,
    "filtered": lambda: one().filter(lambda r: r.a > 2),
    "limited": lambda: one().limit(0),
}


@pytest.mark.parametrize("kind", NONE)
def test_over_no_records(kind: str) -> None:
    table = NONE[kind]()
    assert_same(table.sum("a").collect(), np.float64(0))
    assert_same(table.sum("k").collect(), np.int64(0))
    assert_same(table.sum("x").collect(), np.zeros(3, "float32"))
    assert table.count().collect() == 0
    assert table.count("s").collect() == 0
    assert table.is_empty().collect()
    assert not table.any("b").collect()
    assert table.all("b").collect()
    assert_same(table.mean("a").collect(), np.float64("nan"))
    assert_same(table.mean("x").collect(), np.full(3, np.nan, "float32"))
    assert table.map(lambda r: r.x + r.a).collect().num_rows == 0
    programs: list[Callable[[], Any]] = [
        lambda: table.min("a"),
        lambda: table.max("x"),
        lambda: table.max("s"),
        lambda: table.select("a").reduce(operator.add),
        lambda: table.map(lambda r: r.a).reduce(lambda p, q: p * q + p + q),
    ]
    for make in programs:
        with pytest.raises(so.DataError, match="over no records has no value"):
            make().collect()


# Nulls, NaN, strings, counts.


def test_aggregates_skip_nulls() -> None:
    table = so.table({
        "a": nulls([None, 2.0, 4.0, None]), "b": nulls([None, True, False, None]),
        "s": ["q", None, "p", None],
    })  # fmt: skip
    assert table.sum("a").collect() == 6.0
    assert table.mean("a").collect() == 3.0
    assert table.min("a").collect() == 2.0
    assert table.max(lambda r: r.a * 10).collect() == 40.0
    assert table.any("b").collect()
    assert not table.all("b").collect()
    assert so.collect(table.min("s"), table.max("s")) == ("p", "q")
    assert so.collect(table.count(), table.count("a"), table.count(lambda r: r.a > 3)) == (4, 2, 2)
    bare = table.map(lambda r: r.a)
    assert bare.reduce(operator.add).collect() == 6.0
    assert bare.reduce(lambda p, q: p + q + p * q).collect() == 14.0


def test_only_nulls_are_as_no_records() -> None:
    table = so.table({"a": nulls([None, None], pa.float64())})
    assert table.sum("a").collect() == 0.0
    assert np.isnan(table.mean("a").collect())
    assert table.count("a").collect() == 0
    with pytest.raises(so.DataError, match="over no records"):
        table.max("a").collect()


def test_nan_propagates() -> None:
    table = so.table({"a": [1.0, np.nan, 3.0]})
    for name in ("sum", "mean", "min", "max"):
        assert np.isnan(getattr(table, name)("a").collect())
    assert np.isnan(table.map(lambda r: r.a).reduce(np.minimum).collect())


@pytest.mark.parametrize("rows", ROWS)
def test_counts(rows: int) -> None:
    a = data(rows, "float64")
    table = so.table({"a": a})
    assert table.count().collect() == rows
    assert table.filter(lambda r: r.a > 0).count().collect() == np.count_nonzero(a > 0)
    assert table.limit(3).count().collect() == min(3, rows)
    assert bool(table.is_empty().collect()) is False
    assert table.filter(lambda r: r.a > 99).is_empty().collect()


def test_strings_and_timestamps_have_extremes() -> None:
    words = pa.array(["b", "a", "c"])
    times = np.array(["2021-01-01", "2020-01-01", "2022-01-01"], "M8[us]")
    table = so.table({"s": words, "t": times})
    assert table.min("s").collect() == least(words)
    assert table.max(lambda r: r.s).collect() == "c"
    assert_same(table.max("t").collect(), times.max())
    assert (table.max("t") - table.min("t")).collect() == times.max() - times.min()


def test_a_count_is_weakly_typed() -> None:
    g = np.array([1, 2, 4], "float32")
    table = so.table({"g": g, "k": np.array([1, 2, 3], "int8")})
    mean = table.sum("g") / table.count()
    assert mean.dtype == np.float32
    assert_same(mean.collect(), np.float32(7 / 3))
    assert_same((table.max("k") + table.count()).collect(), np.int8(6))
    assert_same((table.count() / 2).collect(), np.float64(1.5))
    assert_same((table.count() + 1).collect(), np.int64(4))
    assert_same(table.count().collect(), np.int64(3))
    count = table.count()
    count.collect()
    assert_same((table.sum("g") / count).collect(), np.float32(7 / 3))


def test_values_combine_over_several_tables() -> None:
    a, b = data(70_000, "float64"), data(100, "float64")
    left, right = so.table({"a": a}), so.table({"b": b})
    ratio = left.sum("a") / right.count() + right.mean("b")
    assert_same(ratio.collect(), a.sum() / 100 + b.mean(), rtol=1e-9)
    centred = left.map(lambda r: (r.a - left.mean("a")) ** 2).sum() / left.count()
    assert_same(centred.collect(), a.var(), rtol=1e-9)
    above = left.filter(lambda r: r.a > right.max("b")).count()
    assert above.collect() == np.count_nonzero(a > b.max())


def test_assume_associative_silences_the_test_of_associativity() -> None:
    numbers = so.table({"x": np.arange(1.0, 6.0)}).map(lambda r: r.x)
    with pytest.raises(so.TraceError, match="associative"):
        numbers.reduce(lambda a, b: a - b).collect()
    assumed = numbers.reduce(so.assume_associative(lambda a, b: a - b)).collect()
    assert np.isfinite(assumed)


def test_rounding_after_cancellation_is_no_counterexample() -> None:
    values = np.array([1e12, 1.0, -1e12, 3.0, 1e-3])
    total = so.table({"x": values}).map(lambda r: r.x).reduce(lambda a, b: a + b + 0.0).collect()
    np.testing.assert_allclose(total, values.sum(), rtol=1e-3)


def test_means_of_products_skip_nulls_as_sums_do() -> None:
    x = np.arange(12.0).reshape(4, 3)
    s = pa.array([1.0, None, 3.0, 4.0])
    table = so.table({"s": s, "x": x})
    known = np.array([0, 2, 3])
    weights = np.array([1.0, 3.0, 4.0])
    got = so.collect(
        table.mean(lambda r: r.s * r.x), table.mean(lambda r: r.s * np.outer(r.x, r.x))
    )
    np.testing.assert_allclose(got[0], (weights[:, None] * x[known]).mean(axis=0))
    outer = np.einsum("n,ni,nj->nij", weights, x[known], x[known]).mean(axis=0)
    np.testing.assert_allclose(got[1], outer)
    assert np.isnan(table.filter(lambda r: r.s > 9).mean(lambda r: r.s * r.x).collect()).all()
