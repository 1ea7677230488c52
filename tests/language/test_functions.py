"""Functions of Values beside NumPy's: nulls, casts, one-hot vectors, replaced elements, hashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import Array, assert_same, is_opaque, listed, records, value
from tests.quick import repeated

few = settings(max_examples=14)


def table_of(**columns: Any) -> so.Table:
    return so.from_arrow(pa.table(columns))


def check(f: Callable[[Any], Any], table: so.Table, expected: list[Any]) -> None:
    """The traced function's results, in the engine and record by record."""
    made = table.map(f)
    assert not is_opaque(made)
    assert repr(listed(made)) == repr(expected)
    interpreted = [row["value"] for row in Interpreter().records(made.plan)]
    plain = [v.tolist() if isinstance(v, (np.generic, np.ndarray)) else v for v in interpreted]
    assert repr(plain) == repr(expected)


# Nulls.

N = table_of(
    i=pa.array([1, None, 3], pa.int32()),
    f=pa.array([None, float("nan"), 2.5]),
    s=pa.array(["a", None, ""]),
    b=pa.array([None, True, False]),
    j=pa.array([7, 8, None]),
)


def test_coalesce_gives_the_first_that_is_not_null() -> None:
    check(lambda r: so.coalesce(r.i, 0), N, [1, 0, 3])
    check(lambda r: so.coalesce(r.i, r.j), N, [1, 8, 3])
    check(lambda r: so.coalesce(r.j, r.i), N, [7, 8, 3])
    check(lambda r: so.coalesce(r.f, r.j), N, [7.0, float("nan"), 2.5])
    check(lambda r: so.coalesce(r.f, r.i), N, [1.0, float("nan"), 2.5])
    check(lambda r: so.coalesce(r.s, "none"), N, ["a", "none", ""])
    check(lambda r: so.coalesce(r.b, ~r.b), N, [None, True, False])
    check(lambda r: so.coalesce(r.f, r.b, r.i), N, [1.0, float("nan"), 2.5])
    check(lambda r: so.coalesce(5, r.i), N, [5, 5, 5])


def test_coalesce_keeps_and_widens_types() -> None:
    kinds = N.map(lambda r: (so.coalesce(r.i, 0), so.coalesce(r.i, 0.5), so.coalesce(r.i, r.j)))
    assert str(kinds.schema) == "_0: int32, _1: float64, _2: int64"


def test_is_null_tells_null_from_nan_and_empty() -> None:
    check(lambda r: so.is_null(r.i), N, [False, True, False])
    check(lambda r: so.is_null(r.f), N, [True, False, False])
    check(lambda r: so.is_null(r.s), N, [False, True, False])
    check(lambda r: so.is_null(r.i + r.f), N, [True, True, False])
    check(lambda r: ~so.is_null(r.b) & r.b, N, [False, True, False])
    check(lambda r: np.isnan(r.f), N, [None, True, False])
    assert listed(N.filter(lambda r: so.is_null(r.s)), "i") == [None]
    assert N.count().collect() == 3


def test_nulls_of_a_column_without_any() -> None:
    table = so.table({"x": [1, 2]})
    check(lambda r: so.is_null(r.x), table, [False, False])
    check(lambda r: so.coalesce(r.x, 0), table, [1, 2])


def test_nulls_in_plain_calls() -> None:
    assert so.coalesce(None, 3) == 3
    assert so.coalesce(None, None, "x") == "x"
    assert so.coalesce(2, 3) == 2
    assert so.is_null(None)
    assert not so.is_null(float("nan"))
    opaque = so.udf(lambda r: so.coalesce(r.i, -1) if not so.is_null(r.i) else -2)
    assert listed(N.map(opaque)) == [1, -2, 3]


def test_is_null_in_a_branch_makes_a_function_opaque() -> None:
    made = N.map(lambda r: 0 if so.is_null(r.i) else r.i)
    assert is_opaque(made)
    assert listed(made) == [1, 0, 3]


def test_a_null_hides_what_would_fail() -> None:
    """What stands where a null is must not be looked at."""
    table = table_of(k=pa.array([0, None, 1]), big=pa.array([5, None, 5]))
    lookup = np.array([10.0, 20.0])
    check(lambda r: so.lit(lookup)[r.k + (r.big - 5)], table, [10.0, None, 20.0])
    check(lambda r: so.lit(lookup)[r.k + 100 * so.is_null(r.big)], table, [10.0, None, 20.0])
    check(lambda r: so.one_hot(r.k * 1, 2), table, [[1.0, 0.0], None, [0.0, 1.0]])


# Casts.


def test_numbers_to_strings_are_numpys() -> None:
    for values in (
        np.array([1.0, -0.0, 1e22, 1e-7, 0.1, np.nan, np.inf]),
        np.array([0.1, 3e38], np.float32),
        np.array([-5, 2**62]),
        np.array([True, False]),
        np.array(["2020-01-31T01:02:03.000004"], "M8[us]"),
        np.array(["2020-01-31"], "M8[s]"),
    ):
        table = so.table({"x": values})
        check(lambda r: so.cast(r.x, "string"), table, values.astype(str).tolist())
        assert so.cast(values[0], so.string) == str(values.astype(str)[0])


@repeated(3)
@few
@given(st.lists(st.none() | st.floats(), max_size=5), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_numbers_come_back_from_their_texts(run: int, floats: list[Any], ints: list[int]) -> None:
    there = table_of(x=pa.array(floats, pa.float64())).map(lambda r: so.cast(r.x, "string"))
    assert repr(listed(there.map(lambda s: so.cast(s, "float64")))) == repr(floats)
    there = table_of(x=pa.array(ints, pa.int64())).map(lambda r: so.cast(r.x, "string"))
    assert listed(there.map(lambda s: so.cast(s, "int64"))) == ints


def test_strings_to_numbers_and_times() -> None:
    table = table_of(
        s=pa.array(["1", None, "-3"]), t=pa.array(["2020-01-02", None, "1970-01-01 00:00:01"])
    )
    for kind in ("int64", "int8", so.float32, np.float16, "float64"):
        made = table.map(lambda r, k=kind: so.cast(r.s, k))
        assert listed(made) == [1, None, -3]
    times = [np.datetime64("2020-01-02", "us").item(), None, np.datetime64(1, "s").item()]
    check(lambda r: so.cast(r.t, so.timestamp), table, times)
    assert so.cast("2.5", "float64") == 2.5
    assert so.cast(table.max("s"), "int64").collect() == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x1", "int64"), ("1.5", "int64"), ("", "float64"), (" 1", "int32"), ("300", "int8"),
     ("-1", "uint8"), ("yes", "bool"), ("2020-13-01", "timestamp[s]")],
)  # fmt: skip
def test_a_text_that_is_no_number_is_named(text: str, kind: str) -> None:
    table = table_of(s=pa.array(["1"] * 500 + [text] + ["0"] * 100).cast(pa.string()))
    table = table.filter(lambda r: (r.s == text) | (kind == "bool") | (kind[0] != "t"))
    made = table.map(lambda r: so.cast(r.s, kind))
    with pytest.raises(so.DataError, match=r"cast cannot read .* as .* \(test_functions\.py") as e:
        made.collect()
    assert repr(text) in str(e.value)
    with pytest.raises(so.DataError, match="cast cannot read"):
        so.cast(text, kind)
    with pytest.raises(so.DataError, match="cast cannot read"):
        so.cast(so.lit(text), kind).collect()


def test_times_are_cast_between_units_and_counts() -> None:
    times = np.array(["2020-01-02T03:04:05", "1969-12-31"], "M8[s]")
    table = so.table({"t": times})
    for kind in ("timestamp[us]", "M8[ns]", "datetime64[ms]"):
        expected = times.astype(kind.replace("timestamp", "M8"))
        assert_same(records(table.map(lambda r, k=kind: so.cast(r.t, k))), expected)
    counts = times.astype(np.int64)
    check(lambda r: so.cast(r.t, "int64"), table, counts.tolist())
    back = so.table({"n": counts}).map(lambda r: so.cast(r.n, "timestamp[s]"))
    assert_same(records(back), times)


def test_casts_without_meaning_are_refused() -> None:
    table = so.table({"t": np.array(["2020-01-02"], "M8[s]"), "x": [[1.0, 2.0]]})
    for program in (
        lambda r: so.cast(r.t, "float64"),
        lambda r: so.cast(r.x, "string"),
        lambda r: so.cast(r.t, "duration[s]"),
        lambda r: so.cast(r.x, "complex128"),
        lambda r: so.cast(r.x, so.vector(2)),
    ):
        with pytest.raises(so.TraceError, match="cast "):
            table.map(program)


# One-hot vectors, replaced elements.


@pytest.mark.parametrize("kind", ["int64", "uint8", "int8"])
def test_one_hot_is_a_row_of_the_identity(kind: str) -> None:
    indices = np.array([0, 3, 1, 3], kind)
    table = so.table({"i": indices, "v": np.stack([indices, indices[::-1]], axis=1)})
    assert_same(records(table.map(lambda r: so.one_hot(r.i, 4))), np.eye(4)[indices])
    assert_same(records(table.map(lambda r: so.one_hot(r.v, 4))), np.eye(4)[table_v(indices)])
    assert_same(so.one_hot(value(indices[1]), 4).collect(), np.eye(4)[3])
    assert_same(so.one_hot(indices[1], 4), np.eye(4)[3])


def table_v(indices: Array) -> Array:
    return np.stack([indices, indices[::-1]], axis=1)


def test_one_hot_of_a_null_is_null_and_outside_an_error() -> None:
    table = table_of(i=pa.array([1, None, 4]))
    check(lambda r: so.one_hot(r.i, 5), table.limit(2), [[0.0, 1.0, 0.0, 0.0, 0.0], None])
    programs: list[Callable[[], Any]] = [
        lambda: table.map(lambda r: so.one_hot(r.i, 4)).collect(),
        lambda: table.map(lambda r: so.one_hot(-r.i, 9)).collect(),
        lambda: so.one_hot(so.lit(4), 4).collect(),
    ]
    for program in programs:
        with pytest.raises(so.DataError, match=r"one_hot found -?\d; expected 0 to .*test_funct"):
            program()
    with pytest.raises(so.TraceError, match="its length n as a Python int"):
        so.one_hot(table.max("i"), table.count())
    with pytest.raises(so.TraceError, match="one_hot needs an integer, not float64"):
        table.map(lambda r: so.one_hot(r.i * 0.5, 3))


X = np.arange(24.0).reshape(6, 4)
AT = np.array([0, 3, -1, 2, 1, -4])


def expected_put(arrays: Array, keys: list[Any], elements: list[Any]) -> Array:
    made = arrays.copy()
    for row, key, element in zip(made, keys, elements, strict=True):
        row[key] = element
    return made


def test_put_is_numpys_assignment() -> None:
    y = np.linspace(-1, 0, 6)
    pairs = np.stack([AT, AT[::-1]], axis=1)
    table = so.table({"x": X, "i": AT, "y": y, "p": pairs})
    fixed = np.array([2, 0])
    cases: list[tuple[Callable[[Any], Any], list[Any], list[Any]]] = [
        (lambda r: so.put(r.x, 1, r.y), [1] * 6, list(y)),
        (lambda r: so.put(r.x, -1, 5), [-1] * 6, [5] * 6),
        (lambda r: so.put(r.x, r.i, r.y), list(AT), list(y)),
        (lambda r: so.put(r.x, r.i, 0), list(AT), [0] * 6),
        (lambda r: so.put(r.x, fixed, r.y), [fixed] * 6, list(y)),
        (lambda r: so.put(r.x, r.p, r.y), list(pairs), list(y)),
        (lambda r: so.put(r.x, r.p, r.x[:2]), list(pairs), list(X[:, :2])),
        (lambda r: so.put(r.x, slice(1, None, 2), r.y), [slice(1, None, 2)] * 6, list(y)),
        (lambda r: so.put(r.x, slice(2), [7.0, 8.0]), [slice(2)] * 6, [[7.0, 8.0]] * 6),
    ]
    for f, keys, elements in cases:
        made = table.map(f)
        assert not is_opaque(made)
        expected = expected_put(X, keys, elements)
        assert_same(records(made), expected)
        rows = [row["value"] for row in Interpreter().records(made.plan)]
        assert_same(np.stack(rows), expected)
    shared = table.map(lambda r: so.put(np.zeros(4), r.i, 1.0))
    assert_same(records(shared), expected_put(np.zeros((6, 4)), list(AT), [1.0] * 6))


def test_put_into_matrices() -> None:
    arrays = np.arange(48.0).reshape(4, 3, 4)
    i, j = np.array([0, 2, 1, -1]), np.array([3, 0, 1, -2])
    table = so.table({"m": arrays, "i": i, "j": j, "v": arrays[:, 0]})
    cases: list[tuple[Callable[[Any], Any], list[Any], list[Any]]] = [
        (lambda r: so.put(r.m, (r.i, r.j), -1), list(zip(i, j, strict=True)), [-1] * 4),
        (lambda r: so.put(r.m, (1, r.j), -1), [(1, k) for k in j], [-1] * 4),
        (lambda r: so.put(r.m, r.i, r.v), list(i), list(arrays[:, 0])),
        (lambda r: so.put(r.m, (slice(None), r.j), 0), [(slice(None), k) for k in j], [0] * 4),
        (lambda r: so.put(r.m, (slice(1, 3), 2), r.i), [(slice(1, 3), 2)] * 4, list(i)),
        (
            lambda r: so.put(r.m, (np.array([0, 1]), np.array([2, 3])), r.j),
            [(np.array([0, 1]), np.array([2, 3]))] * 4,
            list(j),
        ),
    ]
    for f, keys, elements in cases:
        assert_same(records(table.map(f)), expected_put(arrays, keys, elements))


def test_put_at_the_driver_and_plainly() -> None:
    v = value(np.zeros(3))
    assert_same(so.put(v, 1, 2.0).collect(), np.array([0, 2.0, 0]))
    assert_same(so.put(v, value(2), v[0] + 1).collect(), np.array([0, 0, 1.0]))
    plain = np.zeros(3)
    assert_same(so.put(plain, 1, 2.0), np.array([0, 2.0, 0]))
    assert plain.tolist() == [0, 0, 0]


def test_put_keeps_the_arrays_type_and_says_what_does_not_fit() -> None:
    table = so.table({"x": np.zeros((2, 3), np.float32), "n": np.zeros((2, 3), int), "k": [0, 5]})
    assert str(table.map(lambda r: so.put(r.x, 0, 1.5)).schema) == "value: float32[3]"
    wrong: list[tuple[Callable[[Any], Any], str]] = [
        (lambda r: so.put(r.n, 0, 1.5), "a fraction"),
        (lambda r: so.put(r.n, 0, r.x[0]), "cannot place float32"),
        (lambda r: so.put(r.x, 3, 1), "out of bounds"),
        (lambda r: so.put(r.x, r.x[0], 1), "integers as positions"),
        (lambda r: so.put(r.x, r.x > 0, 1), "not a mask"),
        (lambda r: so.put(r.x, 0, r.x), r"cannot place float32\[3\]"),
        (lambda r: so.put(r.k, 0, 1), "needs an array"),
    ]
    for program, message in wrong:
        with pytest.raises(so.TraceError, match=message):
            table.map(program)
    with pytest.raises(so.DataError, match=r"no such place: index 5 .*\(test_functions\.py"):
        table.map(lambda r: so.put(r.x, r.k, 1)).collect()
    with pytest.raises(so.TraceError, match=r"so\.put\(v, 2, x\)"):
        table.map(lambda r: r.x.__setitem__(2, 1.0))


# Hashes.


def test_hashes_do_not_change() -> None:
    """A change here changes every user's results."""
    found = [so.hash(v, 1000) for v in ("", "a", "straße", 0, -1, 2**62, 0.5, True)]
    assert found == [535, 401, 860, 535, 936, 75, 309, 465]


def test_hashes_are_the_same_in_a_column_and_alone() -> None:
    columns = {
        "s": pa.array(["a", None, "ß" * 50, ""]),
        "i": pa.array([1, None, -7, 2**40]),
        "f": pa.array([0.5, None, -0.0, float("nan")]),
        "b": pa.array([True, None, False, True]),
    }
    for name, column in columns.items():
        expected = [None if v is None else int(so.hash(v, 97)) for v in column.to_pylist()]

        def hashed(r: Any, name: str = name) -> Any:
            return so.hash(r[name], 97)

        check(hashed, table_of(**{name: column}), expected)
    assert so.hash(-0.0, 10**9) == so.hash(0.0, 10**9)
    assert so.hash(np.int8(5), 10**9) == so.hash(5, 10**9)


def test_hashes_fill_their_buckets_evenly() -> None:
    for column in (np.arange(20_000), np.arange(20_000).astype(str)):
        drawn = records(so.table({"x": column}).map(lambda r: so.hash(r.x, 64)))
        counts = np.bincount(drawn, minlength=64)
        assert len(counts) == 64
        assert np.sum((counts - 312.5) ** 2 / 312.5) < 110  # chi-squared of 63 degrees


def test_buckets_are_a_positive_python_int() -> None:
    numbers: list[Any] = [0, -1, 2.5, so.table({"x": [1]}).count()]
    for buckets in numbers:
        with pytest.raises(so.TraceError, match="hash needs"):
            so.hash("a", buckets)


# Strings and times with NumPy's functions.


@pytest.mark.parametrize("name", ["s", "t"])
def test_arithmetic_without_meaning_is_refused(name: str) -> None:
    table = so.table({"s": ["a"], "t": np.array(["2020-01-02"], "M8[s]")})
    for f in (np.sqrt, lambda v: v * 2, lambda v: np.mean(v), lambda v: np.logaddexp(v, 1.0)):
        with pytest.raises(so.TraceError, match=r"has no meaning|cannot|ufunc"):
            table.map(lambda r, f=f: f(r[name]))
    with pytest.raises(so.TraceError, match="minimum has no meaning for string"):
        table.map(lambda r: np.minimum(r.s, "b"))
    latest = table.map(lambda r: np.maximum(r.t, np.datetime64("2021-01-01", "s")))
    assert listed(latest) == [np.datetime64("2021-01-01", "s").item()]


def test_a_filter_that_casts_sees_only_what_the_filter_before_it_has_kept() -> None:
    table = table_of(s=pa.array(["1", "x", "3"]))
    kept = table.filter(lambda r: r.s != "x").filter(lambda r: so.cast(r.s, "int64") > 1)
    assert listed(kept, "s") == ["3"]


def test_where_chooses_plain_strings_and_lists() -> None:
    assert so.where(True, "a", "b") == "a"
    assert so.where(None, ["a"], ["b", "c"]) == ["b", "c"]
    assert_same(so.where(np.array([True, False]), 1.0, 0.0), np.array([1.0, 0.0]))


def test_a_value_that_is_null_is_null_for_every_record() -> None:
    words = table_of(s=pa.array(["1 2"])).max("s").str.split()
    text, number = words[5], so.cast(words[5], "float64")
    assert number.collect() is None
    assert (number + 1).collect() is None
    assert so.coalesce(number, 4).collect() == 4.0
    assert so.is_null(text).collect()
    table = so.table({"x": [1.0, 2.0], "v": [[1.0, 2.0], [3.0, 4.0]]})
    made = table.map(
        lambda r: {
            "sum": r.x + number,
            "text": so.cast(r.x, "string") + text,
            "itself": number,
            "filled": so.coalesce(number, r.x),
            "null": so.is_null(number) & (r.x > 0),
            "chosen": so.where(number > 0, "yes", "no"),
            "vector": r.v * number,
            "lookup": r.v[so.cast(number, "int64")],
        }
    )
    assert made.collect().to_pydict() == {
        "sum": [None, None],
        "text": [None, None],
        "itself": [None, None],
        "filled": [1.0, 2.0],
        "null": [True, True],
        "chosen": ["no", "no"],
        "vector": [None, None],
        "lookup": [None, None],
    }
    opaque = so.udf(lambda r: -1.0 if number is None else r.x + number, returns=so.float64)
    assert listed(table.map(opaque)) == [-1.0, -1.0]
    assert table.sum(lambda r: r.x * number).collect() == 0.0
