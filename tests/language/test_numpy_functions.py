"""NumPy's functions on Values and on records: NumPy's own answer is the witness."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

import scalops as so
from scalops.algebra.functions import FUNCTIONS, Function, arrays, elementwise, linear
from scalops.numpy_protocol import _FUNCTIONS
from tests.language.witness import Array, assert_same, column, is_opaque, records, value
from tests.quick import crossed, repeated

ROWS = 9
UFUNCS = sorted({f.ufunc for f in FUNCTIONS.values() if f.ufunc}, key=lambda u: u.__name__)
DTYPES = ("float64", "float32", "int64", "int8", "uint16", "bool")
few = settings(max_examples=9)


def numbers(dtype: str, *shape: int, seed: int = 0) -> Array:
    """Numbers within the domain of every function: between 0 and 1, or small integers."""
    random = np.random.default_rng((seed, *shape))
    if dtype == "bool":
        return random.random(shape) < 0.5
    if np.dtype(dtype).kind in "iu":
        return random.integers(1, 6, shape).astype(dtype)
    return random.uniform(0.1, 0.9, shape).astype(dtype)


def quiet(f: Callable[..., Any], *args: Any) -> Any:
    """NumPy's answer without its warnings."""
    with np.errstate(all="ignore"):
        return f(*args)


def over_records(f: Callable[..., Any], arrays: list[Array]) -> Array:
    """The witness: the function of each record."""
    return np.stack([np.asarray(f(*row)) for row in zip(*arrays, strict=True)])


def check_on_records(f: Callable[..., Any], *arrays: Array) -> None:
    """The function of every record's arrays, with some of them the same for all records."""
    names = "abc"[: len(arrays)]
    table = so.table(dict(zip(names, arrays, strict=True)))
    made, expected = [], []
    for constant in (None, *range(len(arrays))) if len(arrays) > 1 else (None,):
        fixed = {} if constant is None else {names[constant]: arrays[constant][0]}

        def row(r: Any, fixed: dict[str, Any] = fixed) -> Any:
            return f(*(fixed[n] if n in fixed else r[n] for n in names))

        made.append(table.map(row))
        assert not is_opaque(made[-1])
        given = [
            np.broadcast_to(fixed[n], a.shape) if n in fixed else a
            for n, a in zip(names, arrays, strict=True)
        ]
        expected.append(over_records(f, given))
    for found, wanted in zip(so.collect(made), expected, strict=True):
        assert_same(column(found), wanted)


def check_on_values(f: Callable[..., Any], *arrays: Array) -> None:
    """The function at the driver: of Values, and of Values and constants mixed."""
    expected = np.asarray(f(*arrays))
    values = [value(a) for a in arrays]
    made = [f(*values)]
    if len(arrays) > 1:
        made += [f(values[0], *arrays[1:]), f(arrays[0], *values[1:])]
    for found in so.collect(made):
        assert_same(found, expected)


def check(f: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float64") -> None:
    """The function of records and of Values of these shapes."""
    arrays = [numbers(dtype, ROWS, *s, seed=i) for i, s in enumerate(shapes)]
    check_on_records(f, *arrays)
    check_on_values(f, *(a[0] for a in arrays))


# Universal functions.


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda u: u.__name__)
def test_a_universal_function_is_numpys_for_every_type(ufunc: np.ufunc) -> None:
    names = "ab"[: ufunc.nin]
    columns: dict[str, Array] = {}
    expected: dict[str, tuple[Array, Any]] = {}
    at_driver: dict[str, Any] = {}
    for dtype in DTYPES:
        arrays = [numbers(dtype, ROWS, seed=i) for i in range(ufunc.nin)]
        own = {f"{dtype} {n}": a for n, a in zip(names, arrays, strict=True)}
        try:
            wanted = quiet(ufunc, *arrays)
        except TypeError:
            with pytest.raises(so.TraceError, match="has no meaning for"):
                so.table(own).map(lambda r, own=own: ufunc(*(r[n] for n in own)))
            continue
        columns |= own
        expected[dtype] = wanted, quiet(ufunc, *(a[0] for a in arrays))
        at_driver[dtype] = ufunc(*(value(a[0]) for a in arrays))
    made = so.table(columns).map(
        lambda r: {d: ufunc(*(r[f"{d} {n}"] for n in names)) for d in expected}
    )
    results, values = so.collect(made, at_driver)
    for dtype, (of_records, of_first) in expected.items():
        assert_same(column(results, dtype), of_records)
        assert_same(values[dtype], of_first)


@pytest.mark.parametrize(
    ("ufunc", "dtype"),
    crossed([u for u in UFUNCS if u.nin == 2], ("float32", "int8")),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_python_number_takes_its_partners_type(ufunc: np.ufunc, dtype: str) -> None:
    array = numbers(dtype, ROWS)
    for two in (2, 2.0):
        try:
            expected = quiet(ufunc, array, two)
        except TypeError:
            continue
        made = so.table({"a": array}).map(lambda r, two=two: ufunc(r.a, two))
        assert_same(records(made), expected)
        assert_same(ufunc(two, value(array[0])).collect(), quiet(ufunc, two, array[0]))


@pytest.mark.parametrize("f", [np.modf, np.frexp, np.divmod], ids=lambda u: u.__name__)
def test_functions_with_two_results_give_two_columns(f: np.ufunc) -> None:
    arrays = [numbers("float64", ROWS, seed=i) for i in range(f.nin)]
    table = so.table(dict(zip("ab", arrays, strict=False)))
    made = table.map(lambda r: f(*r)).collect()
    for name, expected in zip(("_0", "_1"), f(*arrays), strict=True):
        assert_same(made[name].to_numpy(), expected)
    first, second = f(*(value(a[0]) for a in arrays))
    assert_same(so.collect(first, second), np.asarray(f(*(a[0] for a in arrays))))


def test_scipys_functions_need_no_entry() -> None:
    a = numbers("float64", ROWS)
    table = so.table({"a": a})
    assert_same(records(table.map(lambda r: special.gammaln(r.a))), special.gammaln(a))
    assert_same(records(table.map(lambda r: special.xlogy(r.a, 2.0))), special.xlogy(a, 2.0))
    assert_same(special.erf(table.sum("a")).collect(), special.erf(a.sum()))


def test_sigmoid_does_not_overflow() -> None:
    a = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    assert_same(records(so.table({"a": a}).map(lambda r: so.sigmoid(r.a))), special.expit(a))
    assert so.sigmoid(0.0) == 0.5


OPERATORS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv,
    operator.mod, operator.pow, operator.lt, operator.le, operator.gt, operator.ge,
    operator.eq, operator.ne,
)  # fmt: skip
SHAPES = (((), ()), ((3,), ()), ((2, 3), (3,)), ((3, 1), (4,)))


@pytest.mark.parametrize(("f", "shapes"), crossed(OPERATORS, SHAPES, one_in=2))
def test_python_operators_broadcast(
    f: Callable[..., Any], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    left, right = shapes
    check(f, left, right)
    check(f, right, left, dtype="float32")


@pytest.mark.parametrize("f", [operator.and_, operator.or_, operator.xor])
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64"])
def test_python_bit_operators(f: Callable[..., Any], dtype: str) -> None:
    check(f, (), (), dtype=dtype)
    check(f, (3,), (), dtype=dtype)


@pytest.mark.parametrize("f", [operator.neg, operator.pos, operator.abs, operator.invert])
def test_python_unary_operators(f: Callable[..., Any]) -> None:
    check(f, (3,), dtype="int8")


def test_round_gives_an_int_unless_told_how_many_digits() -> None:
    check(round, ())
    check(lambda a: round(a, 1), ())


# Functions of arrays: every entry of the table of adapters has a case here.

V, M, S = (4,), (3, 4), (3, 3)


def spd(a: Any) -> Any:
    """A symmetric positive definite matrix of any square one."""
    return a @ a.T + 3 * np.eye(3)


def both(pair: Any) -> Any:
    """The parts of a NamedTuple of arrays as one array."""
    return (
        np.concatenate([np.ravel(p) for p in pair])
        if not hasattr(pair, "sign")
        else np.stack([pair.sign, pair.logabsdet])
    )


Case = tuple[Any, Callable[..., Any], tuple[tuple[int, ...], ...]]
CASES: list[Case] = [
    (np.where, lambda a, b: np.where(a > 0.5, a, b), (V, V)),
    (np.where, lambda a, b: np.where(a > 0.5, b, 0.0), ((), V)),
    (np.where, lambda a, b: np.where(a > 0.5, a, b), (M, V)),
    (np.dot, lambda a, b: np.dot(a, b), (V, V)),
    (np.dot, lambda a, b: np.dot(a, b), (M, V)),
    (np.dot, lambda a, b: np.dot(a, b), (V, (4, 3))),
    (np.dot, lambda a, b: np.dot(a, b), (M, (4, 2))),
    (np.dot, lambda a, b: np.dot(a, b), ((), V)),
    (np.vdot, lambda a, b: np.vdot(a, b), (M, M)),
    (np.inner, lambda a, b: np.inner(a, b), (V, V)),
    (np.inner, lambda a, b: np.inner(a, b), (M, (2, 4))),
    (np.inner, lambda a, b: np.inner(a, b), (M, V)),
    (np.inner, lambda a, b: np.inner(a, b), (V, M)),
    (np.outer, lambda a, b: np.outer(a, b), (V, (3,))),
    (np.outer, lambda a, b: np.outer(a, b), (M, ())),
    (np.linalg.outer, lambda a, b: np.linalg.outer(a, b), (V, (3,))),
    (np.linalg.norm, lambda a: np.linalg.norm(a), (V,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a), (M,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, axis=1), (M,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, axis=-1, keepdims=True), (M,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, 1), (V,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, ord=np.inf), (V,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, "fro"), (M,)),
    (np.linalg.norm, lambda a: np.linalg.norm(a, 1, axis=0), (M,)),
    (np.linalg.solve, lambda a, b: np.linalg.solve(spd(a), b), (S, (3,))),
    (np.linalg.solve, lambda a, b: np.linalg.solve(spd(a), b), (S, (3, 2))),
    (np.linalg.inv, lambda a: np.linalg.inv(spd(a)), (S,)),
    (np.linalg.cholesky, lambda a: np.linalg.cholesky(spd(a)), (S,)),
    (np.linalg.det, lambda a: np.linalg.det(spd(a)), (S,)),
    (np.linalg.slogdet, lambda a: both(np.linalg.slogdet(spd(a))), (S,)),
    (np.linalg.eigh, lambda a: np.linalg.eigh(spd(a)).eigenvalues, (S,)),
    (np.linalg.eigh, lambda a: np.abs(np.linalg.eigh(spd(a))[1]), (S,)),
    (np.linalg.matmul, lambda a, b: np.linalg.matmul(a, b), (M, (4, 2))),
    (np.sum, lambda a: np.sum(a), (M,)),
    (np.sum, lambda a: a.sum(axis=0), (M,)),
    (np.sum, lambda a: np.sum(a, axis=(0, -1), keepdims=True), (M,)),
    (np.sum, lambda a: np.sum(a), ((),)),
    (np.sum, lambda a: np.add.reduce(a, axis=1), (M,)),
    (np.prod, lambda a: np.prod(a, axis=-1), (M,)),
    (np.mean, lambda a: np.mean(a, 0), (M,)),
    (np.mean, lambda a: a.mean(), (V,)),
    (np.max, lambda a: np.max(a, axis=1, keepdims=True), (M,)),
    (np.min, lambda a: a.min(), (M,)),
    (np.amax, lambda a: np.amax(a), (V,)),
    (np.amin, lambda a: np.amin(a, axis=0), (M,)),
    (np.any, lambda a: np.any(a > 0.7), (V,)),
    (np.any, lambda a: (a > 0.7).any(axis=0), (M,)),
    (np.all, lambda a: np.all(a > 0.3, axis=1), (M,)),
    (np.argmax, lambda a: np.argmax(a), (M,)),
    (np.argmax, lambda a: a.argmax(axis=-1), (M,)),
    (np.argmax, lambda a: np.argmax(a, keepdims=True), (M,)),
    (np.argmin, lambda a: np.argmin(a, axis=0), (M,)),
    (np.var, lambda a: np.var(a, axis=1), (M,)),
    (np.var, lambda a: np.var(a, ddof=1), (V,)),
    (np.std, lambda a: a.std(axis=0, ddof=1), (M,)),
    (np.cumsum, lambda a: np.cumsum(a), (M,)),
    (np.cumsum, lambda a: np.cumsum(a, axis=0), (M,)),
    (np.cumsum, lambda a: np.cumsum(a), ((),)),
    (np.cumprod, lambda a: np.cumprod(a, -1), (M,)),
    (np.sort, lambda a: np.sort(a), (M,)),
    (np.sort, lambda a: np.sort(a, axis=0), (M,)),
    (np.argsort, lambda a: np.argsort(a), (V,)),
    (np.argsort, lambda a: np.argsort(a, axis=-2), (M,)),
    (np.flip, lambda a: np.flip(a), (M,)),
    (np.flip, lambda a: np.flip(a, 1), (M,)),
    (np.diag, lambda a: np.diag(a), (V,)),
    (np.diag, lambda a: np.diag(a, k=1), (M,)),
    (np.diagonal, lambda a: np.diagonal(a, offset=1), (M,)),
    (np.trace, lambda a: np.trace(a), (S,)),
    (np.round, lambda a: np.round(a, 2), (V,)),
    (np.around, lambda a: np.around(a, decimals=1), (V,)),
    (np.nan_to_num, lambda a: np.nan_to_num(np.where(a > 0.5, np.nan, a)), (V,)),
    (np.stack, lambda a, b: np.stack([a, b]), (V, V)),
    (np.stack, lambda a, b: np.stack((a, b, a), axis=-1), (M, M)),
    (np.concatenate, lambda a, b: np.concatenate([a, b]), (V, (2,))),
    (np.concatenate, lambda a, b: np.concatenate([a, b], axis=None), (M, V)),
    (np.concatenate, lambda a, b: np.concatenate((a, b), axis=1), (M, (3, 2))),
    (np.hstack, lambda a, b: np.hstack([a, b]), (V, (2,))),
    (np.hstack, lambda a, b: np.hstack([a, b]), (M, (3, 2))),
    (np.hstack, lambda a, b: np.hstack([a, b]), ((), ())),
    (np.hstack, lambda a, b: np.hstack([a, b]), ((2, 1, 3), (2, 2, 3))),
    (np.vstack, lambda a, b: np.vstack([a, b]), (V, V)),
    (np.vstack, lambda a, b: np.vstack([a, b]), (M, V)),
    (np.vstack, lambda a, b: np.vstack([a, b]), (M, (2, 4))),
    (np.clip, lambda a: np.clip(a, 0.3, 0.6), (V,)),
    (np.clip, lambda a, b: a.clip(max=b), (M, V)),
    (np.clip, lambda a: np.clip(a, min=0.4), ((),)),
    (np.reshape, lambda a: np.reshape(a, (2, -1)), (M,)),
    (np.reshape, lambda a: a.reshape(6, 2), (M,)),
    (np.ravel, lambda a: np.ravel(a), (M,)),
    (np.ravel, lambda a: a.flatten(), ((),)),
    (np.transpose, lambda a: np.transpose(a), (M,)),
    (np.transpose, lambda a: np.transpose(a, (2, 0, 1)), ((2, 3, 4),)),
    (np.transpose, lambda a: a.T @ a, (M,)),
    (np.transpose, lambda a: a.transpose(1, 0), (M,)),
    (np.swapaxes, lambda a: np.swapaxes(a, 0, -1), ((2, 3, 4),)),
    (np.expand_dims, lambda a: np.expand_dims(a, 1), (M,)),
    (np.expand_dims, lambda a: np.expand_dims(a, -1), (V,)),
    (np.squeeze, lambda a: np.squeeze(a), ((1, 4, 1),)),
    (np.squeeze, lambda a: np.squeeze(a, axis=0), ((1, 4, 1),)),
    (np.broadcast_to, lambda a: np.broadcast_to(a, (3, 4)), (V,)),
    (np.broadcast_to, lambda a: np.broadcast_to(a, (2,)), ((),)),
    (np.zeros_like, lambda a: np.zeros_like(a) + a, (V,)),
    (np.ones_like, lambda a: np.ones_like(a) * a, (M,)),
    (np.full_like, lambda a: np.full_like(a, 2.5) + a, (V,)),
    (np.take, lambda a: np.take(a, [2, 0, -1]), (M,)),
    (np.take, lambda a: np.take(a, 1, axis=0), (M,)),
    (np.take, lambda a: np.take(a, [[0, 1], [2, 3]], axis=-1), (M,)),
    (np.copy, lambda a: np.copy(a) + a.copy(), (V,)),
    (np.shape, lambda a: a * np.shape(a)[0], (V,)),
    (np.ndim, lambda a: a + np.ndim(a), (M,)),
    (np.size, lambda a: a.sum() / np.size(a), (M,)),
]  # fmt: skip


@pytest.mark.parametrize(("f", "shapes"), [(f, s) for _, f, s in CASES], ids=[
    f"{c[0].__name__}-{i}" for i, c in enumerate(CASES)
])  # fmt: skip
def test_an_array_function_is_numpys(
    f: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]
) -> None:
    check(f, *shapes)
    check_on_records(f, *(numbers("float32", ROWS, *s) for s in shapes))


def test_every_adapter_has_a_case() -> None:
    assert set(_FUNCTIONS) == {c[0] for c in CASES}


def test_every_function_of_the_table_has_a_case() -> None:
    tested = {c[0].__name__ for c in CASES} | {u.__name__ for u in UFUNCS}
    elsewhere = {"assemble", "index"}
    entries = [e for m in (arrays, elementwise, linear) for e in vars(m).values()]
    named = {e.name for e in entries if isinstance(e, Function) and e.ufunc is None}
    assert named <= tested | elsewhere


MATMULS = [(a, b) for a in (V, M, (2, 3, 4)) for b in (V, (4, 2), (4, 1), (2, 4, 3))]


@pytest.mark.parametrize(("left", "right"), MATMULS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8"])
def test_matmul_of_every_rank(left: tuple[int, ...], right: tuple[int, ...], dtype: str) -> None:
    check(operator.matmul, left, right, dtype=dtype)


@pytest.mark.parametrize("f", [np.sum, np.prod, np.mean, np.var, np.max, np.argmin, np.cumsum])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "bool", "float32"])
def test_folds_over_axes_widen_as_numpys(f: Callable[..., Any], dtype: str) -> None:
    check(lambda a: f(a, axis=0), (3, 2), dtype=dtype)
    check(f, (3,), dtype=dtype)


def test_an_outer_product_by_a_universal_function() -> None:
    check(lambda a, b: np.subtract.outer(a, b), (3,), (2,))


def test_array_means_stack_in_a_row_function() -> None:
    for f in (
        lambda a, b: np.array([a, b]),
        lambda a, b: np.asarray((a, b)),
        lambda a, b: np.array([[a, b], [b, a]]),
    ):
        check_on_records(f, numbers("float64", ROWS), numbers("float64", ROWS, seed=1))


def test_array_of_one_scalar_is_that_scalar() -> None:
    check_on_records(lambda a: np.array(a), numbers("float64", ROWS))


def test_a_list_is_an_array() -> None:
    table = so.table({"a": np.arange(3.0), "k": np.arange(3)})
    made = table.map(lambda r: [r.a, r.k])
    assert not is_opaque(made)
    assert_same(records(made), [[0.0, 0], [1, 1], [2, 2]])
    assert_same(so.collect(np.stack([table.sum("a"), table.max("k")])), np.array([3.0, 2.0]))


def test_casts_keep_the_shape() -> None:
    array = numbers("float64", ROWS, 2) * 10
    table = so.table({"a": array})
    for dtype in ("int8", "float32", "bool", so.int64, so.float32):
        name: Any = getattr(dtype, "name", dtype)
        made = table.map(lambda r, dtype=dtype: so.cast(r.a, dtype))
        assert_same(records(made), array.astype(name))
        assert_same(table.sum("a").astype(name).collect(), array.sum(axis=0).astype(name))


def test_functions_beside_numpys_take_plain_numbers() -> None:
    assert_same(so.where(np.array([True, False]), 1.0, 2.0), np.array([1.0, 2.0]))
    assert_same(so.cast(2.75, "int32"), np.int32(2))
    assert_same(so.cast([1, 2], so.float32), np.array([1, 2], np.float32))


# Indexing.

KEYS: list[Any] = [
    0, -1, slice(None), slice(1, 3), slice(None, None, 2), slice(None, None, -1), slice(-2, None),
    (0, 1), (slice(None), 0), (slice(1, None), slice(None, 2)), (Ellipsis, 0), (0, Ellipsis),
    (None, 0), (slice(None), None), (Ellipsis, None), Ellipsis, None, slice(2, 2),
    np.int64(1), [0, 2, 1], np.array([[0, 1], [2, 2]]),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indexing_is_numpys(key: Any) -> None:
    check(lambda a: a[key], (3, 4))


def test_an_index_may_be_a_value_or_a_column() -> None:
    x, i = numbers("float64", ROWS, 5), np.arange(ROWS) % 5
    table = so.table({"x": x, "i": i})
    assert_same(records(table.map(lambda r: r.x[r.i])), x[np.arange(ROWS), i])
    weights = np.arange(5.0)
    assert_same(records(table.map(lambda r: np.take(weights, r.i))), weights[i])
    env = so.loop(weights, range(1))(lambda w: w + 1)
    assert_same(records(table.map(lambda r: env[r.i])), weights[i] + 1)
    assert_same(table.sum("x")[table.min("i")].collect(), x.sum(axis=0)[0])
    j = np.stack([i, (i + 1) % 5], axis=1)
    both = so.table({"x": x, "j": j}).map(lambda r: r.x[r.j])
    assert_same(records(both), np.take_along_axis(x, j, axis=1))


@repeated(3)
@few
@given(hnp.basic_indices((3, 2, 4), allow_newaxis=True, allow_ellipsis=True))
def test_basic_indices_of_any_form(run: int, key: Any) -> None:
    array = np.arange(5 * 24.0).reshape(5, 3, 2, 4)
    made = so.table({"a": array}).map(lambda r: r.a[key])
    assert_same(records(made), np.stack([a[key] for a in array]))


# Shapes and axes, by hypothesis.

shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)


def arange(rows: int, shape: tuple[int, ...]) -> Array:
    """Distinct small numbers of both signs."""
    size = rows * int(np.prod(shape))
    return ((np.arange(size) * 7) % 11 - 5.0).reshape(rows, *shape)


@repeated(3)
@few
@given(st.data(), shapes, st.sampled_from([np.sum, np.prod, np.mean, np.max, np.any, np.var]))
def test_folds_over_any_axes(
    run: int, data: st.DataObject, shape: tuple[int, ...], f: Callable[..., Any]
) -> None:
    axis = data.draw(
        st.none()
        | st.integers(-len(shape), len(shape) - 1)
        | hnp.valid_tuple_axes(len(shape), min_size=1)
    )
    keepdims = data.draw(st.booleans())
    array = arange(4, shape)

    def fold(a: Any) -> Any:
        return f(a, axis=axis, keepdims=keepdims)

    made = so.table({"a": array}).map(lambda r: fold(r.a))
    assert_same(records(made), np.stack([fold(a) for a in array]))
    assert_same(fold(value(array[0])).collect(), fold(array[0]))


@repeated(3)
@few
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_any_two_shapes_that_broadcast(run: int, both: hnp.BroadcastableShapes) -> None:
    left, right = (arange(4, s) for s in both.input_shapes)
    check_on_records(lambda a, b: a * 2 + b, left, right)
    check_on_records(lambda a, b: np.where(a > b, a, b), left, right)
    check_on_values(lambda a, b: a - b, left[1], right[1])


@repeated(3)
@few
@given(st.data(), shapes)
def test_joins_along_any_axis(run: int, data: st.DataObject, shape: tuple[int, ...]) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    a, b = arange(3, shape), arange(3, shape) + 1
    check_on_records(lambda x, y: np.concatenate([x, y], axis=axis), a, b)
    check_on_records(lambda x, y: np.stack([x, y], axis=axis), a, b)


@repeated(3)
@few
@given(st.data(), shapes)
def test_axes_in_any_order(run: int, data: st.DataObject, shape: tuple[int, ...]) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    signed = [a - len(shape) if data.draw(st.booleans()) else a for a in order]
    array = arange(3, shape)
    check_on_records(lambda a: np.transpose(a, signed), array)
    check_on_values(lambda a: a.transpose(*signed), array[0])
    i, j = (data.draw(st.integers(-len(shape), len(shape) - 1)) for _ in range(2))
    check_on_records(lambda a: np.swapaxes(a, i, j), array)


# What NumPy has and the table has not.


@pytest.mark.parametrize(
    "f",
    [
        np.gradient,
        np.unique,
        lambda a: np.sum(a, where=[True, False, True]),
        lambda a: np.mean(a, dtype=np.float32),
        lambda a: np.reshape(a, (3, 1), order="F"),
        lambda a: np.take(a, 0, mode="clip"),
        lambda a: a[a > 0],
        lambda a: np.add.reduceat(a, [0, 2]),
        lambda a: np.sum(a, 0, np.float32),
    ],
)
def test_a_function_that_is_not_in_the_table_runs_record_by_record(f: Callable[..., Any]) -> None:
    table = so.table({"a": numbers("float64", ROWS, 3)})
    made = table.map(lambda r: np.sum(f(r.a)))
    assert is_opaque(made)
    expected = [float(np.sum(f(a))) for a in numbers("float64", ROWS, 3)]
    np.testing.assert_allclose(records(made), expected, rtol=1e-6)
