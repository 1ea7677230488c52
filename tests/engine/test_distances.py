"""Blocks of squared distances: beside longer numbers, beside the direct form, near ties."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from scalops.algebra import expressions as ex
from scalops.algebra.distance_bounds import TOLERANCE, at_risk, direct, expand
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.functions import function
from scalops.engine.kernels.batched import batched

OFFSETS = [0.0, 1e3, 1e6, 1e8]
WEIGHTS = ["times", "over", "times_squared", "over_squared"]


def step(name: str, *arrays: Any, **parameters: Any) -> Any:
    """The kernel over a block x and what all records share."""
    kinds = [ArrayType(arrays[0].dtype.name, arrays[0].shape[1:])]
    kinds += [ArrayType(a.dtype.name, a.shape) for a in arrays[1:]]
    columns = [ex.Column(n, k) for n, k in zip("xca", kinds, strict=False)]
    node = ex.call(function(name), *columns, **{"form": "expanded", **parameters})
    with np.errstate(all="ignore"):
        return batched(node, [i == 0 for i in range(len(arrays))])(*arrays)


def records(offset: float, dtype: str, rows: int = 900, d: int = 7, k: int = 9) -> Any:
    """x [rows, d], c [k, d]: two centres are equal, some records lie on centres or between."""
    rng = np.random.default_rng(int(offset) % 97)
    x = (rng.standard_normal((rows, d)) + offset).astype(dtype)
    c = x[rng.choice(rows, k, replace=False)].copy()
    c[5] = c[2]
    x[10:20] = c[2]
    x[20:40] = (c[0] + c[1]) / 2
    return x, c


def exact(x: Any, c: Any, a: Any = None, weight: str = "times") -> Any:
    """Sums of squares of long doubles."""
    wide = [None if v is None else v.astype(np.longdouble) for v in (x[:, None], c, a)]
    return direct(wide[0], wide[1], wide[2], weight)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_distances_keep_the_tolerance(offset: float, dtype: str) -> None:
    x, c = records(offset, dtype)
    made = step("squared_distances", x, c)
    assert made.dtype == dtype
    np.testing.assert_allclose(made, exact(x, c), rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_weighted_distances_keep_the_tolerance(offset: float, weight: str) -> None:
    x, c = records(offset, "float64")
    a = np.random.default_rng(3).uniform(1e-3, 1e3, c.shape)
    for own in (a, a[0], a[:, :1]):
        made = step("weighted_squared_distances", x, c, own, weight=weight)
        np.testing.assert_allclose(made, exact(x, c, own, weight), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_nearest_is_the_direct_forms(offset: float, dtype: str) -> None:
    x, c = records(offset, dtype)
    made = step("nearest", x, c)
    assert made.dtype == np.int64
    np.testing.assert_array_equal(made, direct(x[:, None], c).argmin(axis=1))
    by_root = np.sqrt(direct(x[:, None], c)).argmin(axis=1)
    np.testing.assert_array_equal(step("nearest", x, c, root=True), by_root)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_weighted_nearest_is_the_direct_forms(offset: float, weight: str) -> None:
    x, c = records(offset, "float64")
    a = np.random.default_rng(4).uniform(1e-3, 1e3, c.shape)
    a[5] = a[2]
    made = step("weighted_nearest", x, c, a, weight=weight)
    np.testing.assert_array_equal(made, direct(x[:, None], c, a, weight).argmin(axis=1))


def test_almost_ties_are_decided_by_the_direct_form() -> None:
    rng = np.random.default_rng(8)
    c = rng.standard_normal((12, 30))
    pairs = rng.integers(0, 12, (4000, 2))
    x = (c[pairs[:, 0]] + c[pairs[:, 1]]) / 2  # the last digits decide between two centres
    x = np.nextafter(x, rng.choice([-9.0, 9.0], x.shape))
    np.testing.assert_array_equal(step("nearest", x, c), direct(x[:, None], c).argmin(axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e160, -1e200, 1e-170, 5e-324])
def test_extreme_records(bad: float) -> None:
    x, c = records(0.0, "float64", rows=200)
    x[3] = bad
    x[7, 2] = bad
    with np.errstate(all="ignore"):
        wanted = direct(x[:, None], c)
        made = step("squared_distances", x, c)
        np.testing.assert_allclose(made, wanted, rtol=1e-10)
        np.testing.assert_array_equal(step("nearest", x, c), wanted.argmin(axis=1))
        a = np.full(c.shape, 0.5)
        np.testing.assert_array_equal(step("weighted_nearest", x, c, a), wanted.argmin(axis=1))
        weighted = step("weighted_squared_distances", x, c, a)
        np.testing.assert_allclose(weighted, direct(x[:, None], c, a), rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e160, -1e300])
def test_extreme_centres(bad: float) -> None:
    x, c = records(0.0, "float64", rows=200)
    c[4, 1] = bad
    with np.errstate(all="ignore"):
        wanted = direct(x[:, None], c)
    np.testing.assert_allclose(step("squared_distances", x, c), wanted, rtol=1e-10)
    np.testing.assert_array_equal(step("nearest", x, c), wanted.argmin(axis=1))


@pytest.mark.parametrize(
    "a", [-1.0, 0.0, np.nan, np.inf], ids=["negative", "zero", "nan", "infinite"]
)
@pytest.mark.parametrize("weight", ["times", "over"])
def test_extreme_weights(weight: str, a: float) -> None:
    x, c = records(1e3, "float64", rows=200)
    weights = np.ones(c.shape)
    weights[2, 3] = a
    with np.errstate(all="ignore"):
        wanted = direct(x[:, None], c, weights, weight)
    made = step("weighted_squared_distances", x, c, weights, weight=weight)
    np.testing.assert_allclose(made, wanted, rtol=1e-10)
    found = step("weighted_nearest", x, c, weights, weight=weight)
    np.testing.assert_array_equal(found, wanted.argmin(axis=1))


@pytest.mark.parametrize("k", [1, 2, 255, 256, 300])
def test_any_number_of_centres(k: int) -> None:
    rng = np.random.default_rng(k)
    x, c = rng.standard_normal((500, 3)), rng.standard_normal((k, 3))
    wanted = direct(x[:, None], c)
    np.testing.assert_array_equal(step("nearest", x, c), wanted.argmin(axis=1))
    np.testing.assert_allclose(step("squared_distances", x, c), wanted, rtol=1e-10)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_records(rows: int) -> None:
    x, c = records(0.0, "float64")
    assert step("nearest", x[:rows], c).shape == (rows,)
    assert step("squared_distances", x[:rows], c).shape == (rows, 9)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int8", "float16"])
def test_direct_has_the_same_bits_as_one_record(dtype: str) -> None:
    rng = np.random.default_rng(5)
    x, c = ((10 * rng.standard_normal(s)).astype(dtype) for s in ((300, 50), (7, 50)))
    wanted = [function("squared_distances").evaluate(r, c) for r in x]
    np.testing.assert_array_equal(step("squared_distances", x, c, form="direct"), wanted)
    least = [int(np.argmin(w)) for w in wanted]
    np.testing.assert_array_equal(step("nearest", x, c, form="direct"), least)


@pytest.mark.parametrize("weight", ["", *WEIGHTS])
def test_one_vector(weight: str) -> None:
    x, c = records(1e6, "float64")
    a = np.random.default_rng(6).uniform(0.5, 2, c.shape[1])
    name = "weighted_squared_distances" if weight else "squared_distances"
    shared = (c[0], a) if weight else (c[0],)
    more = {"weight": weight} if weight else {}
    made = step(name, x, *shared, form="direct", **more)
    wanted = exact(x, c[:1], a if weight else None, weight or "times")[:, 0]
    np.testing.assert_allclose(made, wanted, rtol=1e-13)


def test_what_is_shared_may_change() -> None:
    x, c = records(0.0, "float64")
    node = ex.call(
        function("nearest"),
        ex.Column("x", ArrayType("float64", (7,))),
        ex.Column("c", ArrayType("float64", (9, 7))),
        form="expanded",
    )
    nearest = batched(node, (True, False))
    for shared in (c, c[::-1].copy(), c):
        wanted = direct(x[:, None], shared).argmin(axis=1)
        np.testing.assert_array_equal(nearest(x, shared), wanted)


def test_the_bound_holds() -> None:
    rng = np.random.default_rng(7)
    for d, offset in ((1, 0), (2, 30), (30, 0), (300, 30)):
        x, c = rng.standard_normal((200, d)), rng.standard_normal((6, d)) + offset
        made = expand(c, None, "times", np.dtype("float64"))
        assert made is not None
        y = x if made.centre is None else x - made.centre
        norms = np.square(y).sum(axis=1)
        scores = y @ made.factors[:, :-1].T + made.factors[:, -1] + norms[:, None]
        bound = made.gamma * (np.sqrt(norms) + made.radius) ** 2
        assert (np.abs(scores - exact(x, c)) <= bound[:, None]).all()


def test_what_is_at_risk() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((64, 4))
    assert at_risk(x + 1e8, x[:5] + 1e8, None, "times", deciding=True) == 0
    near = np.concatenate((x[:3], x[:1] + 1e9))  # one centre far away: the bound is large
    assert at_risk(x, near, None, "times", deciding=True) == 1
    # The three records that are centres, but no others.
    assert at_risk(x, near, None, "times", deciding=False) == 3 / 256
    assert at_risk(x + 1e8, near + 1e8, None, "times", deciding=False) == 0.75
    assert at_risk(x, np.full((2, 4), np.nan), None, "times", deciding=True) == 1


@pytest.mark.parametrize("form", ["expanded", "direct"])
def test_no_array_of_records_by_vectors_by_features(form: str) -> None:
    rng = np.random.default_rng(10)
    x, c = rng.standard_normal((4096, 50)), rng.standard_normal((50, 50))
    tracemalloc.start()
    step("nearest", x, c, form=form)
    step("squared_distances", x, c, form=form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 4096 * 50 + 3_000_000  # the result, and buffers: 4096 x 50 x 50 are 82 MB
