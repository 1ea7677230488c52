"""Steps and folds over sparse columns agree with their meaning record by record, and with SciPy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import sparse as sp

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import BOOL, FLOAT64, INT64, sparse
from scalops.algebra.folds import Fold
from scalops.algebra.sparse import SparseVector
from scalops.engine.blocks import Block
from scalops.engine.columns import SparseColumn, blank, concatenated, filtered, taken
from scalops.engine.kernels.folds import FoldKernel
from scalops.engine.kernels.kernel import Kernel
from scalops.engine.kernels.sparse import column_from, compressed_matrix, dense_rows, vectors_of
from scalops.engine.witness.interpreter import Interpreter, block_rows, same_value
from scalops.value import Value, lift

D, ROWS = 9, 40
KINDS = {
    "x": sparse(D), "z": sparse(D), "v": FLOAT64.with_shape(D), "m": FLOAT64.with_shape(2, D),
    "u": FLOAT64.with_shape(3), "s": FLOAT64, "i": INT64, "b": BOOL,
}  # fmt: skip
COLUMNS = {n: Value(ex.Column(n, k)) for n, k in KINDS.items()}
ONE = SparseVector([1, 4], [2.0, -1.0], D)
VECTOR = np.linspace(-1.0, 3.0, D)
MATRIX = np.arange(4.0 * D).reshape(4, D) - 7


def column(rng: np.random.Generator, rows: int = ROWS, dimension: int = D) -> SparseColumn:
    """Random sparse vectors, some empty, some with every element stored."""
    share = rng.choice([0.0, 0.3, 1.0], (rows, 1), p=[0.2, 0.7, 0.1])
    stored = rng.random((rows, dimension)) < share
    matrix = sp.csr_array(stored * rng.normal(size=stored.shape))
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
    return SparseColumn(indptr, indices, matrix.data, dimension)


def block(seed: int = 0, rows: int = ROWS) -> Block:
    """A block of all the columns."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"x": column(rng, rows), "z": column(rng, rows)}
    for name in ("v", "m", "u", "s"):
        columns[name] = rng.normal(size=(rows, *KINDS[name].shape))
    columns["i"] = rng.integers(-D, D, rows)
    columns["b"] = rng.random(rows) < 0.5
    return Block(rows, columns)


class Names:
    """Columns by attribute, for the lambdas below."""

    def __getattr__(self, name: str) -> Any:
        return COLUMNS[name]


STEPS: list[Callable[[Any], Any]] = [
    lambda r: r.x * 2.0,
    lambda r: r.s * r.x,
    lambda r: r.x * r.s,
    lambda r: r.x / (1.5 + abs(r.s)),
    lambda r: r.x * r.b,
    lambda r: -r.x,
    lambda r: np.log1p(abs(r.x)),
    lambda r: r.x**2,
    lambda r: np.maximum(r.x, 0),
    lambda r: np.minimum(0, r.x),
    lambda r: np.clip(r.x, -0.5, 0.5),
    lambda r: np.round(r.x, 1),
    lambda r: np.nan_to_num(r.x / 0.0),
    lambda r: r.x * VECTOR,
    lambda r: VECTOR * r.x,
    lambda r: r.x / (VECTOR + 9),
    lambda r: r.x * r.v,
    lambda r: r.v * r.x,
    lambda r: r.x + r.z,
    lambda r: r.x - r.z,
    lambda r: r.x * r.z,
    lambda r: np.maximum(r.x, r.z),
    lambda r: np.hypot(r.x, r.z),
    lambda r: r.x + so.lit(ONE),
    lambda r: so.lit(ONE) - r.x,
    lambda r: r.s * so.lit(ONE),
    lambda r: r.v * so.lit(ONE),
    lambda r: r.x + VECTOR,
    lambda r: VECTOR + r.x,
    lambda r: r.x - VECTOR,
    lambda r: VECTOR - r.x,
    lambda r: r.x + r.v,
    lambda r: r.v - r.x,
    lambda r: r.v + so.lit(ONE),
    lambda r: r.x @ VECTOR,
    lambda r: VECTOR.astype(np.float32) @ r.x,
    lambda r: r.x @ np.arange(D),
    lambda r: MATRIX @ r.x,
    lambda r: r.x @ MATRIX.T,
    lambda r: r.x @ r.v,
    lambda r: r.v @ r.x,
    lambda r: r.m @ r.x,
    lambda r: r.x @ r.m.T,
    lambda r: r.v @ so.lit(ONE),
    lambda r: r.m @ so.lit(ONE),
    lambda r: r.x @ r.x,
    lambda r: r.x @ r.z,
    lambda r: r.x @ so.lit(ONE),
    lambda r: so.lit(ONE) @ r.x,
    lambda r: np.outer(r.x, r.u),
    lambda r: np.outer(r.u, r.x),
    lambda r: np.outer([1.0, 2.0], r.x),
    lambda r: np.outer(so.lit(ONE), r.u),
    lambda r: np.linalg.norm(r.x),
    lambda r: np.linalg.norm(r.x, 1),
    lambda r: np.linalg.norm(r.x, np.inf),
    lambda r: r.x.sum(),
    lambda r: np.mean(r.x),
    lambda r: r.x.max(),
    lambda r: r.x.min(),
    lambda r: r.x.any(),
    lambda r: np.all(r.x),
    lambda r: r.x[3],
    lambda r: r.x[-1],
    lambda r: r.x[r.i],
    lambda r: so.lit(ONE)[r.i],
    lambda r: so.dense(r.x),
    lambda r: so.dense(r.x * r.s) + 1,
    lambda r: so.is_null(r.x),
    lambda r: np.vdot(r.x.T, VECTOR),
    lambda r: so.sparse_vector(np.arange(3), r.u, 8),
    lambda r: so.sparse_vector([abs(r.i), abs(r.i)], [r.u[0], 1.0], D + 1),
    lambda r: r.s * so.dense(so.lit(ONE)),
]  # fmt: skip


@pytest.mark.parametrize("f", STEPS)
@pytest.mark.parametrize("nulls", [False, True])
def test_a_step_over_a_block_is_the_function_of_each_record(
    f: Callable[[Any], Any], nulls: bool
) -> None:
    expression = lift(f(Names()))
    assert expression is not None
    for rows in (ROWS, 1, 0):
        data = block(rows, rows)
        if nulls:
            known = np.arange(rows) % 3 > 0
            data.columns["x"] = _with_blanks(filtered(data.columns["x"], known), known)
            data.valid = {"x": known, "s": np.arange(rows) % 2 > 0}
        kernel = Kernel([expression], 64)
        frame = kernel.frame()
        kernel.prepare(frame, [], 0)
        with np.errstate(all="ignore"):
            ((values, mask),) = kernel.run(frame, data)
        made = Block(rows, {"r": values}, {} if mask is None else {"r": mask})
        evaluate = Interpreter().evaluator([expression])
        expected = [evaluate((row,))[0] for row in block_rows(data, KINDS)]
        found = [row["r"] for row in block_rows(made, {"r": expression.type})]
        assert len(found) == len(expected) == rows
        for a, b in zip(found, expected, strict=True):
            assert same_value(a, b), (a, b)
            assert isinstance(a, SparseVector) == (expression.type.is_sparse and a is not None)
        if isinstance(values, SparseColumn):
            _check_form(values)


def _with_blanks(known: SparseColumn, mask: Any) -> SparseColumn:
    """Empty records where the mask is false."""
    lengths = np.zeros(len(mask), np.int64)
    lengths[mask] = known.lengths
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return SparseColumn(indptr, known.indices, known.values, known.dimension)


def _check_form(x: SparseColumn) -> None:
    assert [str(a.dtype) for a in (x.indptr, x.indices, x.values)] == ["int64", "int32", "float64"]
    assert x.indptr[0] == 0
    assert x.indptr[-1] == len(x.indices) == len(x.values)
    for vector in vectors_of(x):
        assert (np.diff(vector.indices) > 0).all()
        assert ((vector.indices >= 0) & (vector.indices < x.dimension)).all()


def fold(kind: str, *names: str) -> FoldKernel:
    """A fold of columns."""
    return FoldKernel(Fold("r", kind, tuple(ex.Column(n, KINDS[n]) for n in names)))


def folded(kernel: FoldKernel, *columns: Any, masks: Any = None, cuts: int = 4) -> Any:
    """The fold of columns cut into blocks: two leaves of several blocks each."""
    rows = len(columns[0])
    bounds = np.linspace(0, rows, cuts + 1).astype(int)
    leaves: list[Any] = [None, None]
    for number, (a, b) in enumerate(pairwise(bounds)):
        vectors = [
            (taken(c, np.arange(a, b)), None if masks is None else masks[a:b]) for c in columns
        ]
        at = number * 2 // cuts
        leaves[at] = kernel.extend(leaves[at], vectors, b - a, None)
    return kernel.finish(kernel.merge(*leaves))


@pytest.mark.parametrize("rows", [0, 1, ROWS])
@pytest.mark.parametrize("dimension", [1, D, 3000])
@pytest.mark.parametrize("with_nulls", [False, True])
def test_folds_are_those_of_the_dense_matrix(rows: int, dimension: int, with_nulls: bool) -> None:
    rng = np.random.default_rng(rows + dimension)
    columns: dict[str, Any] = {"x": column(rng, rows, dimension)}
    columns |= {"s": rng.normal(size=rows), "u": rng.normal(size=(rows, 3))}
    masks = rng.random(rows) < 0.6 if with_nulls else None
    known = np.ones(rows, bool) if masks is None else masks
    kinds = {"x": sparse(dimension), "s": FLOAT64, "u": FLOAT64.with_shape(3)}
    x, s, u = dense_rows(columns["x"])[known], columns["s"][known], columns["u"][known]

    def made(kind: str, *names: str) -> Any:
        fold = Fold("r", kind, tuple(ex.Column(n, kinds[n]) for n in names))
        return folded(FoldKernel(fold), *(columns[n] for n in names), masks=masks)

    expected: dict[tuple[str, ...], Any] = {
        ("sum", "x"): x.sum(axis=0),
        ("sum_scaled", "s", "x"): s @ x,
        ("sum_outer", "u", "x"): u.T @ x,
        ("sum_outer", "x", "u"): x.T @ u,
        ("count", "x"): len(x),
    }
    if len(x):
        expected |= {
            ("add", "x"): x.sum(axis=0),
            ("mean", "x"): x.mean(axis=0),
            ("maximum", "x"): x.max(axis=0),
            ("minimum", "x"): x.min(axis=0),
            ("mean_scaled", "s", "x"): s @ x / len(x),
            ("mean_outer", "u", "x"): u.T @ x / len(x),
        }
    else:
        assert np.isnan(made("mean", "x")).all()
        with pytest.raises(so.DataError, match="over no records"):
            made("maximum", "x")
    for (kind, *names), value in expected.items():
        found = made(kind, *names)
        assert np.shape(found) == np.shape(value)
        np.testing.assert_allclose(found, value, atol=1e-12)


def test_a_sum_costs_no_array_of_the_dimension_for_each_block() -> None:
    dimension, rows = 1_000_000, 64
    rng = np.random.default_rng(0)
    indices = np.sort(rng.choice(dimension, (rows, 5)), axis=1).astype(np.int32)
    x = SparseColumn(np.arange(rows + 1) * 5, indices.ravel(), np.ones(rows * 5), dimension)
    kernel = FoldKernel(
        Fold("r", "sum_scaled", (ex.Column("s", FLOAT64), ex.Column("x", sparse(dimension))))
    )
    s = np.ones(rows)
    leaf = kernel.extend(None, [(s, None), (x, None)], rows, None)
    tracemalloc.start()
    after = kernel.extend(leaf, [(s, None), (x, None)], rows, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after is leaf
    assert peak < dimension
    found = kernel.finish(after)
    np.testing.assert_allclose(found, 2 * np.bincount(indices.ravel(), minlength=dimension))


def test_a_block_is_cut_where_sparse_vectors_become_dense() -> None:
    dimension = 100_000
    x = Value(ex.Column("x", sparse(dimension)))
    data = Block(50, {"x": blank(sparse(dimension), 50)})
    cut = Kernel([lift(so.dense(x) * 2)], 1024)  # type: ignore[list-item]
    pieces = list(cut.pieces(data))
    assert sum(p.rows for p in pieces) == 50
    assert max(p.rows for p in pieces) * dimension * 8 <= 2_000_000
    assert cut.buffer_bytes <= 2_000_000
    whole = Kernel([lift(x * 2), lift(x @ x)], 1024)  # type: ignore[list-item]
    assert list(whole.pieces(data)) == [data]


def test_columns_are_sliced_taken_and_joined_as_matrices_are() -> None:
    x = column(np.random.default_rng(1))
    dense = dense_rows(x)
    rows = np.array([5, 0, 0, 39, 7])
    np.testing.assert_array_equal(dense_rows(x.take(rows)), dense[rows])
    np.testing.assert_array_equal(dense_rows(x.slice(3, 11)), dense[3:11])
    parts = [x.slice(0, 10), x.slice(10, 10), x.slice(10, ROWS)]
    np.testing.assert_array_equal(dense_rows(concatenated(parts, sparse(D))), dense)
    again = column_from(vectors_of(x), D)
    np.testing.assert_array_equal(dense_rows(again), dense)
    _check_form(again)
    assert compressed_matrix(x) is compressed_matrix(x)
