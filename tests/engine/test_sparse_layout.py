"""Sums of sparse vectors: in place, in two steps where records stay, one dense array a leaf."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import sparse as sp

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64, sparse
from scalops.algebra.folds import Fold
from scalops.engine.columns import SparseColumn
from scalops.engine.kernels.folds import FoldKernel, FoldSet
from scalops.engine.kernels.sparse import dense_rows
from scalops.engine.kernels.sparse_folds import Added
from scalops.engine.kernels.sparse_products import add_products, rows_times
from scalops.engine.reduction import leaf_bytes
from scalops.engine.value_codec import decode_value, encode_value

D, K = 50, 3
S, U, X = ex.Column("s", FLOAT64), ex.Column("u", FLOAT64.with_shape(K)), ex.Column("x", sparse(D))
FOLDS = {
    "scaled": Fold("r", "sum_scaled", (S, X)),
    "mean scaled": Fold("r", "mean_scaled", (S, X)),
    "outer, sparse first": Fold("r", "sum_outer", (X, U)),
    "outer, sparse second": Fold("r", "sum_outer", (U, X)),
    "sum": Fold("r", "sum", (X,)),
    "mean": Fold("r", "mean", (X,)),
    "maximum": Fold("r", "maximum", (X,)),
    "minimum": Fold("r", "minimum", (X,)),
}


def column(matrix: Any) -> SparseColumn:
    """The column on a canonical CSR array's memory."""
    x = sp.csr_array(matrix)
    indptr, indices = x.indptr.astype(np.int64), x.indices.astype(np.int32)
    return SparseColumn(indptr, indices, x.data, x.shape[1])


def matrix(rows: int, columns: int, seed: int = 0) -> Any:
    """Random, with explicit zeros, empty and full records."""
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.2, 1.0], (rows, 1), p=[0.2, 0.7, 0.1])
    made = sp.csr_array((rng.random((rows, columns)) < share) * rng.normal(size=(rows, columns)))
    made.data[::7] = 0.0
    return made


def blocks(seed: int = 0, sizes: tuple[int, ...] = (40, 1, 25, 60)) -> list[dict[str, Any]]:
    """Columns of several blocks."""
    rng = np.random.default_rng(seed + 1)
    return [
        {
            "x": column(matrix(n, D, seed + i)), "s": rng.normal(size=n),
            "u": rng.normal(size=(K, n)).T,
        }
        for i, n in enumerate(sizes)
    ]  # fmt: skip


def folded(fold: Fold, given: list[dict[str, Any]], waits: bool, buffer: bool = False) -> Any:
    """The fold's value over two leaves of the blocks."""
    kernel = FoldKernel(fold)
    if isinstance(kernel.form, Added):
        kernel.form.waits = waits
    leaves: list[Any] = [None, None]
    reused = {n: np.empty((100, *np.shape(given[0][n])[1:])) for n in ("s", "u")}
    for i, block in enumerate(given):
        vectors = []
        for name in (a.name for a in fold.arguments):  # type: ignore[attr-defined]
            values = block[name]
            if buffer and name in reused:
                into = reused[name][: len(values)]
                into[...] = values
                values = into
            vectors.append((values, None))
        leaf = i * 2 // len(given)
        leaves[leaf] = kernel.extend(leaves[leaf], vectors, len(block["x"]), None)
    return kernel.finish(kernel.merge(*leaves))


@pytest.mark.parametrize("title", FOLDS)
def test_two_steps_give_the_bits_of_one(title: str) -> None:
    given, fold = blocks(), FOLDS[title]
    at_once = folded(fold, given, waits=False)
    assert np.array_equal(folded(fold, given, waits=True, buffer=True), at_once)


@pytest.mark.parametrize("title", FOLDS)
def test_folds_agree_with_scipy(title: str) -> None:
    given, fold = blocks(5), FOLDS[title]
    x: Any = sp.csr_array(np.concatenate([dense_rows(b["x"]) for b in given]))
    s, u = (np.concatenate([b[n] for b in given]) for n in ("s", "u"))
    expected: Any = {
        "scaled": lambda: x.T @ s, "mean scaled": lambda: x.T @ s / len(s),
        "outer, sparse first": lambda: x.T @ u, "outer, sparse second": lambda: (x.T @ u).T,
        "sum": lambda: x.sum(axis=0), "mean": lambda: x.mean(axis=0),
        "maximum": lambda: x.toarray().max(axis=0), "minimum": lambda: x.toarray().min(axis=0),
    }[title]()  # fmt: skip
    np.testing.assert_allclose(folded(fold, given, waits=True), expected, rtol=1e-12, atol=1e-13)


def test_sums_are_those_of_one_product_over_the_leaf() -> None:
    x = matrix(300, D)
    s = np.random.default_rng(3).normal(size=300)
    total = np.zeros(D)
    for a, b in ((0, 1), (1, 150), (150, 300)):
        add_products(column(x[a:b]), s[a:b], total)
    assert np.array_equal(total, x.T @ s)
    assert np.array_equal(total, x.T.tocsr() @ s)  # by columns: each in table order, too


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (6, 1), (1, 1), (0, 1), (9, 4)])
def test_products_of_any_shape(shape: tuple[int, int]) -> None:
    x = matrix(*shape, seed=2)
    rows, dimension = shape
    rng = np.random.default_rng(0)
    for tail in ((), (1,), (K,)):
        w, s = rng.normal(size=(dimension, *tail)), rng.normal(size=(rows, *tail))
        np.testing.assert_allclose(rows_times(column(x), w), x.toarray() @ w, atol=1e-12)
        out = np.full((*tail[::-1], rows), 7.0).T if tail else np.full(rows, 7.0)
        assert rows_times(column(x), w, out) is out
        np.testing.assert_allclose(out, x.toarray() @ w, atol=1e-12)
        total = np.ones((dimension, *tail))
        add_products(column(x), s, total)
        np.testing.assert_allclose(total, 1 + x.toarray().T @ s, atol=1e-12)


def test_a_slice_of_a_column_is_multiplied_as_it_is() -> None:
    x = matrix(30, D)
    part = column(x).slice(7, 19)
    np.testing.assert_array_equal(rows_times(part, np.arange(D) * 1.0), (x @ np.arange(D))[7:19])


def test_what_is_stored_counts_and_nothing_else() -> None:
    """NaN and infinity where they are stored; what is not stored gives no NaN with infinity."""
    x = column(sp.csr_array(([np.nan, np.inf, 0.0], ([0, 1, 2], [0, 1, 2])), shape=(4, D)))
    w = np.full(D, np.inf)
    with np.errstate(invalid="ignore"):
        found = rows_times(x, w)
    np.testing.assert_array_equal(found, [np.nan, np.inf, np.nan, 0.0])
    total = np.zeros(D)
    add_products(x, np.ones(4), total)
    np.testing.assert_array_equal(total[:4], [np.nan, np.inf, 0.0, 0.0])


def test_extremes_make_no_array_of_the_dimension_for_each_block() -> None:
    dimension = 1_000_000
    kernel = FoldKernel(Fold("r", "maximum", (ex.Column("x", sparse(dimension)),)))
    x = column(sp.csr_array(([1.0, -2.0], ([0, 1], [5, 9])), shape=(3, dimension)))
    leaf = kernel.extend(None, [(x, None)], 3, None)
    tracemalloc.start()
    leaf = kernel.extend(leaf, [(x, None)], 3, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < dimension
    assert kernel.finish(leaf)[[5, 9, 0]].tolist() == [1.0, 0.0, 0.0]


def test_only_what_stays_waits() -> None:
    folds = FoldSet([FOLDS["sum"], FOLDS["scaled"]])
    folds.wait([False, True, False])
    leaf = folds.blank()
    block = blocks()[0]
    folds.extend(leaf, [(block["x"], None), (block["s"], None), (block["x"], None)], 40)
    assert not leaf[1][2]
    folds.wait([False, False, True])
    folds.extend(leaf, [(block["x"], None), (block["s"], None), (block["x"], None)], 40)
    assert len(leaf[1][2]) == 1
    folds.seal(leaf)
    assert not leaf[1][2]


def test_sparse_partials_count_twice() -> None:
    assert leaf_bytes([FOLDS["scaled"]]) == 2 * 8 * D
    assert leaf_bytes([Fold("r", "sum", (S,))]) == 8


# Whole programs.

ROWS, WIDE = 6_000, 20_000


def data(seed: int = 0) -> tuple[Any, Any]:
    """A matrix of 30 stored numbers a row, and labels."""
    rng = np.random.default_rng(seed)
    columns = (WIDE ** rng.random(ROWS * 30)).astype(np.int32) - 1
    starts = np.arange(ROWS + 1, dtype=np.int32) * 30
    x = sp.csr_array((rng.normal(size=ROWS * 30), columns, starts), shape=(ROWS, WIDE))
    x.sum_duplicates()
    return x, np.where(rng.random(ROWS) < 0.5, -1.0, 1.0)


def logistic(xy: so.Table, dimension: int, rounds: int) -> Any:
    def step(w: Any) -> Any:
        return w + 1e-3 * xy.map(lambda r: r.y * so.sigmoid(-r.y * (r.x @ w)) * r.x).sum()

    return so.loop(np.zeros(dimension), range(rounds))(step)


def by_scipy(x: Any, y: Any, rounds: int) -> Any:
    w = np.zeros(x.shape[1])
    for _ in range(rounds):
        w = w + 1e-3 * (x.T @ (y / (1 + np.exp(y * (x @ w)))))
    return w


@pytest.mark.parametrize("cached", [False, True])
def test_same_bits_on_any_threads_and_memory(cached: bool) -> None:
    """A source in memory, and a column that is computed and cached, as far as there is room."""
    x, y = data()
    xy = so.table({"x": x, "y": y})
    if cached:
        xy = xy.map(lambda r: {"x": r.x / (1 + abs(r.x).max()), "y": r.y})
        scale = np.diff(x.indptr)
        x = sp.csr_array((x.data / np.repeat(1 + abs(x).max(axis=1).toarray(), scale),
                          x.indices, x.indptr), x.shape)  # fmt: skip
    results = []
    for threads, memory in ((1, None), (2, None), (2, "1MB"), (1, "10KB")):
        with so.session(threads=threads, memory=memory):
            results.append(logistic(xy, WIDE, 4).collect())
    for other in results[1:]:
        assert np.array_equal(other, results[0])
    np.testing.assert_allclose(results[0], by_scipy(x, y, 4), rtol=1e-10, atol=1e-14)


def test_softmax_agrees_with_scipy() -> None:
    x, _ = data(1)
    x = x[:, :200].tocsr()
    labels = np.random.default_rng(2).integers(0, 4, ROWS)
    xy = so.table({"x": x, "label": labels})

    def step(w: Any) -> Any:
        def error(r: Any) -> Any:
            return so.softmax(w @ r.x) - so.one_hot(r.label, 4)

        return w - 1e-4 * xy.sum(lambda r: np.outer(error(r), r.x))

    found = so.loop(np.zeros((4, 200)), range(3))(step).collect()
    w = np.zeros((4, 200))
    for _ in range(3):
        p = np.exp(x @ w.T)
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(ROWS), labels] -= 1
        w = w - 1e-4 * (x.T @ p).T
    np.testing.assert_allclose(found, w, rtol=1e-9, atol=1e-13)


def test_a_wide_model_is_not_copied_for_each_partition() -> None:
    """At most: the start, the model, the last sum or the next model, and the partial."""
    dimension, rows = 2_000_000, 4_000
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, dimension, (rows, 10)), axis=1).astype(np.int32).ravel()
    x = sp.csr_array((np.ones(rows * 10), columns, np.arange(rows + 1) * 10), (rows, dimension))
    x.sum_duplicates()
    xy = so.table({"x": x, "y": np.ones(rows)}).repartition(8)
    with so.session(threads=2):
        logistic(xy.limit(10), 5 * 10**5 * 4, 1).collect()  # imports, and what is held for good
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        found = logistic(xy, dimension, 3).collect()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert np.count_nonzero(found) == len(np.unique(columns))
    assert (peak - before) / (8 * dimension) < 4.5


def test_explain_says_how_partials_are_made() -> None:
    x, y = data()
    xy = so.table({"x": x, "y": y})
    shown = " ".join(str(logistic(xy, WIDE, 2).explain("physical")).split())
    assert "sum: dense partials of 160 KB, counted 2 times for leaves" in shown
    assert "in memory: scalars of a leaf, then its sum" in shown
    shown = str(xy.max("x").explain("physical"))
    assert "counted 2 times for leaves, added to in place" in shown


def test_driver_values_are_written_over_only_where_nobody_reads_them() -> None:
    """In w - eta * g the product is overwritten; what is read twice, or handed out, is not."""
    w, g = np.arange(20_000.0), np.ones(20_000)
    given = so.table({"a": [1.0]}).sum("a")

    def step(env: Any) -> Any:
        scaled = given * env["w"]
        twice = scaled * 2.0
        return {"w": twice - (scaled + g), "kept": scaled, "sum": scaled + scaled}

    start = {"w": w, "kept": w, "sum": w}
    found = so.loop(start, range(2))(step).collect()
    once = 2 * w - (w + g)
    np.testing.assert_array_equal(found["kept"], once)
    np.testing.assert_array_equal(found["sum"], 2 * once)
    np.testing.assert_array_equal(found["w"], 2 * once - (once + g))
    np.testing.assert_array_equal(w, np.arange(20_000.0))


@pytest.mark.parametrize("title", FOLDS)
def test_partials_travel_between_processes(title: str) -> None:
    kernel, block = FoldKernel(FOLDS[title]), blocks()[0]
    vectors = [(block[a.name], None) for a in FOLDS[title].arguments]  # type: ignore[attr-defined]
    made = [kernel.extend(None, vectors, 40, None) for _ in range(2)]
    buffers: list[Any] = []
    sent = [encode_value(p, buffers) for p in made]
    taken = [decode_value(item, buffers) for item in sent]
    assert np.array_equal(kernel.finish(kernel.merge(*taken)), kernel.finish(kernel.merge(*made)))
