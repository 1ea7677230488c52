"""What went wrong once in rules, kernels and gradients over blocks, compared with NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

import scalops as so

rng = np.random.default_rng(0)
ROWS = 300  # enough for kernels to use their buffers
X = rng.normal(size=(ROWS, 3))
FLAGS = rng.random((ROWS, 3)) < 0.5
A, B = rng.normal(size=ROWS), rng.normal(size=ROWS)
KNOWN = rng.random(ROWS) < 0.7
W = np.array([0.3, -0.7, 0.9])
SPARSE = np.where(rng.random((ROWS, 3)) < 0.5, X, 0.0)

t = so.table({"x": X, "flags": FLAGS, "a": A, "b": B, "f": X.astype(np.float32)})
n = so.from_arrow(
    pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3),
            "i": pa.array(np.arange(ROWS)),
            "a": pa.array(A),
            "y": pa.array(B, mask=~KNOWN),
        }
    )
)
odd = n.join(
    so.table({"i": np.arange(0, ROWS, 2), "s": csr_array(SPARSE[::2])}), on="i", how="left"
)

many = so.table({"k": np.arange(20_001) % 3})

Z = X @ W
Made = Callable[[], Any]

POINTS = np.column_stack([rng.integers(0, 3, (20_001, 2)), np.ones((20_001, 6))]).astype(float)
points = so.table({"x": POINTS})
CENTRES = np.vstack([POINTS[:3] + rng.normal(size=(3, 8)), np.full((1, 8), 99.0)])


def centres() -> Any:
    """Points of few distinct values; one centre stays alone."""

    def step(c: Any) -> Any:
        near = points.group_by(near=lambda r: np.argmin(((c - r.x) ** 2).sum(axis=1)))
        return near.agg(m=so.mean("x")).to_array("m", index="near", size=4, fill=c)

    return so.loop(CENTRES, range(20))(step)


def moved(c: Any) -> Any:
    """Those of NumPy."""
    for _ in range(20):
        near = np.argmin(np.stack([((POINTS - one) ** 2).sum(axis=1) for one in c]), axis=0)
        c = np.array([POINTS[near == i].mean(axis=0) if i in near else c[i] for i in range(len(c))])
    return c


VALUES: dict[str, tuple[Made, Any]] = {
    "a vector of bools is a term of a sum": (
        lambda: t.sum(lambda r: r.a * r.x - r.flags),
        (A[:, None] * X - FLAGS).sum(axis=0),
    ),
    "a flag of Python's chooses for all records": (
        lambda: t.sum(lambda r: np.where(True, r.a + 1, r.b) * 2),
        ((A + 1) * 2).sum(),
    ),
    "a flag of Python's chooses a number": (
        lambda: t.sum(lambda r: so.where(so.lit(False), r.a + 1, 0.5) + r.b),
        (0.5 + B).sum(),
    ),
    "a filter is true or null, or false for all": (
        lambda: so.loop(0.0, range(2))(
            lambda s: s + n.filter(lambda r: (r.y > 0) | (so.lit(1) > 2)).sum("a")
        ),
        2 * A[KNOWN & (B > 0)].sum(),
    ),
    "a constant column of records that are collapsed": (
        lambda: so.loop(0.0, range(50))(
            lambda s: s + many.with_columns(c=2.0).sum(lambda r: np.exp(r.c * r.k + 0 * s))
        ),
        50 * np.exp(2.0 * np.arange(20_001) % 6).sum(),
    ),
    "vectors by key that are collapsed": (centres, moved(CENTRES)),
    "a constant that is infinite as a float32": (
        lambda: t.sum(lambda r: (r.f * 1e39)[0] * 0 + r.a),
        np.nan,
    ),
    "a product with a constant that is infinite as a float32": (
        lambda: t.filter(lambda r: r.a > 99).sum(lambda r: r.f * 1e39),
        np.zeros(3, np.float32),
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    made, expected = VALUES[case]
    found = np.asarray(made().collect())
    np.testing.assert_allclose(found, expected, rtol=1e-9)


LOSSES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "the other way where one is null": (
        lambda w: n.sum(lambda r: so.coalesce(r.y * (r.x @ w), (r.x @ w) ** 2)),
        np.where(KNOWN, B, 2 * Z) @ X,
    ),
    "a choice by what is null": (
        lambda w: n.mean(lambda r: so.where(so.is_null(r.y), (r.x @ w) ** 2, r.y * (r.x @ w))),
        np.where(KNOWN, B, 2 * Z) @ X / ROWS,
    ),
    "null where the loss is": (
        lambda w: n.mean(lambda r: r.y * so.where(r.a > 0, (r.x @ w) ** 2, r.x @ w)),
        np.where(A > 0, 2 * Z, 1)[KNOWN] * B[KNOWN] @ X[KNOWN] / KNOWN.sum(),
    ),
    "sparse vectors and nulls": (
        lambda w: odd.mean(lambda r: (r.s @ w) * so.coalesce(r.y, 1.0)),
        np.where(KNOWN, B, 1.0)[::2] @ SPARSE[::2] / (ROWS // 2),
    ),
    "a sparse vector that is null": (
        lambda w: odd.mean(lambda r: so.where(so.is_null(r.s), w[0] ** 2, r.s @ w)),
        (SPARSE[::2].sum(axis=0) + np.array([ROWS / 2 * 2 * W[0], 0, 0])) / ROWS,
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_gradients_where_records_have_nulls(case: str) -> None:
    loss, expected = LOSSES[case]
    np.testing.assert_allclose(so.grad(loss, W).collect(), expected, rtol=1e-9)


def test_gradients_of_a_record_with_nulls() -> None:
    few = so.from_arrow(pa.table({"a": [1.0, 2.0, None], "y": [3.0, None, 2.0]}))
    chosen = few.map(lambda r: so.grad(so.coalesce(r.y * r.a, r.a**2), r.a))
    assert chosen.collect().column("value").to_pylist() == [3.0, 4.0, None]
