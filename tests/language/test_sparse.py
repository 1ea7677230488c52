"""Sparse vectors through the language: what stays sparse, what folds to dense, same answers."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse as sp

import scalops as so
from scalops.algebra.functions.hashing import hash_string
from scalops.algebra.sparse import SparseVector
from scalops.cli.results_json import to_json
from scalops.engine.witness.interpreter import Interpreter
from tests.language.witness import records

D, ROWS, STORED = 40, 3000, 4


def data(rows: int = ROWS, dimension: int = D, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Indices with repeats, values, labels, and the matrix that SciPy makes of them."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, dimension, (rows, STORED))
    values = rng.normal(size=(rows, STORED))
    values[rng.random(rows) < 0.1] = 0  # some records store zeros alone
    y = np.where(rng.random(rows) < 0.5, 1.0, -1.0)
    bounds = np.arange(0, rows * STORED + 1, STORED)
    parts = values.flatten(), indices.flatten(), bounds  # SciPy adds up in place
    matrix = sp.csr_array(parts, shape=(rows, dimension))
    matrix.sum_duplicates()
    return indices, values, y, matrix


def table(rows: int = ROWS, dimension: int = D, seed: int = 0) -> tuple[so.Table, Any, Any]:
    """Records of a sparse x and a label y, with the same as arrays."""
    indices, values, y, matrix = data(rows, dimension, seed)
    plain = so.table({"i": indices, "v": values, "y": y})
    made = plain.map(lambda r: {"x": so.sparse_vector(r.i, r.v, dimension), "y": r.y})
    return made, matrix, y


W = np.linspace(-1, 1, D)
M = np.arange(3.0 * D).reshape(3, D) / 50


def test_the_type_says_sparse_and_its_dimension() -> None:
    t, _, _ = table(5)
    assert str(t.schema["x"]) == "sparse[40]"
    assert "x: sparse[40]" in str(t.schema)
    assert t.map(lambda r: r.x).schema["value"].shape == (D,)


MAPS: list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = [
    (lambda r: r.x @ W, lambda x, y: x @ W),
    (lambda r: W @ r.x, lambda x, y: x @ W),
    (lambda r: M @ r.x, lambda x, y: x @ M.T),
    (lambda r: r.x @ M.T, lambda x, y: x @ M.T),
    (lambda r: np.dot(r.x, W) * r.y, lambda x, y: x @ W * y),
    (lambda r: r.x @ r.x, lambda x, y: (x * x).sum(axis=1)),
    (lambda r: r.x @ np.tanh(r.x), lambda x, y: (x * np.tanh(x)).sum(axis=1)),
    (lambda r: np.linalg.norm(r.x), lambda x, y: np.linalg.norm(x, axis=1)),
    (lambda r: r.x.sum(), lambda x, y: x.sum(axis=1)),
    (lambda r: r.x.max() + r.x.min(), lambda x, y: x.max(axis=1) + x.min(axis=1)),
    (lambda r: r.x[3], lambda x, y: x[:, 3]),
    (lambda r: np.linalg.norm(r.x - W), lambda x, y: np.linalg.norm(x - W, axis=1)),
    (lambda r: so.dense(r.x), lambda x, y: x),
    (lambda r: so.dense(r.y * r.x), lambda x, y: y[:, None] * x),
    (lambda r: so.dense(r.x * W), lambda x, y: x * W),
    (lambda r: so.dense(r.x / 2 + r.x**2), lambda x, y: x / 2 + x**2),
    (lambda r: so.dense(np.maximum(r.x, 0)), lambda x, y: np.maximum(x, 0)),
    (lambda r: so.dense(r.x - np.sign(r.x)), lambda x, y: x - np.sign(x)),
    (lambda r: r.x + W, lambda x, y: x + W),
    (lambda r: W - r.x, lambda x, y: W - x),
    (lambda r: np.outer([1.0, 2.0], r.x), lambda x, y: np.array([1.0, 2.0])[:, None] * x[:, None]),
    (lambda r: np.exp(so.dense(r.x)), lambda x, y: np.exp(x)),
]


@pytest.mark.parametrize(("f", "expected"), MAPS)
def test_records_give_what_the_dense_matrix_gives(
    f: Callable[[Any], Any], expected: Callable[[Any, Any], Any]
) -> None:
    t, matrix, y = table(300)
    np.testing.assert_allclose(records(t.map(f)), expected(matrix.toarray(), y), atol=1e-12)


FOLDS: list[tuple[Callable[[so.Table], Any], Callable[[Any, Any], Any]]] = [
    (lambda t: t.sum("x"), lambda x, y: x.sum(axis=0)),
    (lambda t: t.mean("x"), lambda x, y: x.mean(axis=0)),
    (lambda t: t.max("x"), lambda x, y: x.max(axis=0)),
    (lambda t: t.min("x"), lambda x, y: x.min(axis=0)),
    (lambda t: t.map(lambda r: r.x).reduce(lambda a, b: a + b), lambda x, y: x.sum(axis=0)),
    (lambda t: t.map(lambda r: r.x).reduce(np.maximum), lambda x, y: x.max(axis=0)),
    (lambda t: t.map(lambda r: r.y * r.x).sum(), lambda x, y: y @ x),
    (lambda t: t.map(lambda r: -r.x * r.y / 3).mean(), lambda x, y: -(y @ x) / 3 / len(y)),
    (lambda t: t.sum(lambda r: so.dense(r.x)), lambda x, y: x.sum(axis=0)),
    (lambda t: t.sum(lambda r: r.y * so.dense(r.x)), lambda x, y: y @ x),
    (lambda t: t.sum(lambda r: np.outer(M @ r.x, r.x)), lambda x, y: (x @ M.T).T @ x),
    (
        lambda t: t.sum(lambda r: r.y * np.outer(r.x, M @ r.x)),
        lambda x, y: (y[:, None] * x).T @ (x @ M.T),
    ),
    (
        lambda t: t.sum(lambda r: np.outer([2, 3], r.x)),
        lambda x, y: np.outer([2, 3], x.sum(axis=0)),
    ),
    (
        lambda t: t.sum(lambda r: np.outer(r.x, [1, 2])),
        lambda x, y: np.outer(x.sum(axis=0), [1, 2]),
    ),
    (lambda t: t.sum(lambda r: (r.x - W) ** 2), lambda x, y: ((x - W) ** 2).sum(axis=0)),
    (
        lambda t: t.aggregate(np.zeros(D), lambda s, r: s + r.x, lambda a, b: a + b),
        lambda x, y: x.sum(axis=0),
    ),
    (lambda t: t.count("x"), lambda x, y: len(y)),
    (lambda t: t.filter(lambda r: r.x @ W > 0).count(), lambda x, y: (x @ W > 0).sum()),
]


@pytest.mark.parametrize(("fold", "expected"), FOLDS)
def test_folds_give_dense_values(
    fold: Callable[[so.Table], Any], expected: Callable[[Any, Any], Any]
) -> None:
    t, matrix, y = table()
    found = fold(t).collect()
    assert not isinstance(found, SparseVector)
    np.testing.assert_allclose(found, expected(matrix.toarray(), y), atol=1e-9)


@pytest.mark.parametrize(("fold", "expected"), FOLDS)
def test_the_interpreter_agrees(fold: Callable[[so.Table], Any], expected: Any) -> None:
    value = fold(table(20)[0])
    found = Interpreter().value(value.expression)
    np.testing.assert_allclose(value.collect(), found, atol=1e-9)


def test_results_of_the_command_line_hold_what_is_stored() -> None:
    made = so.sparse_vector([4, 1], [np.inf, 2.0], 6)
    stored = [{"index": 1, "value": 2.0}, {"index": 4, "value": "Infinity"}]
    assert json.loads(to_json({"x": made})) == {"x": stored}


def test_a_scipy_matrix_is_a_sparse_column() -> None:
    matrix = data(500)[3]
    t = so.table({"x": matrix, "n": np.arange(500.0)})
    assert str(t.schema["x"]) == "sparse[40]"
    np.testing.assert_allclose(t.sum(lambda r: r.n * r.x).collect(), np.arange(500.0) @ matrix)


def test_folds_over_nothing_know_the_shape() -> None:
    t = table(10)[0].filter(lambda r: r.y > 5)
    assert t.sum("x").collect().tolist() == [0.0] * D
    assert np.isnan(t.mean("x").collect()).all()
    with pytest.raises(so.DataError, match="over no records"):
        t.max("x").collect()


def test_other_folds_of_sparse_records_say_what_to_write() -> None:
    t = table(5)[0].map(lambda r: r.x)
    folds: list[Callable[[], Any]] = [
        lambda: t.var(),
        lambda: t.reduce(lambda a, b: a * b),
        lambda: t.reduce(lambda a, b: a + 2 * b),
    ]
    for fold in folds:
        with pytest.raises(so.TraceError, match=r"so\.dense\(x\).*test_sparse\.py"):
            fold()


@pytest.mark.parametrize(
    "f",
    [
        lambda r: np.exp(r.x),
        lambda r: r.x + 1,
        lambda r: r.x + r.y,
        lambda r: np.maximum(r.x, r.y),
        lambda r: r.x > 0,
        lambda r: np.where(r.y > 0, r.x, r.x),
        lambda r: np.stack([r.x, r.x]),
        lambda r: r.x[1:3],
        lambda r: r.x.reshape(2, 20),
        lambda r: np.sort(r.x),
        lambda r: 1 / r.x,
    ],
)
def test_a_function_with_no_zero_at_zero_asks_for_dense(f: Callable[[Any], Any]) -> None:
    with pytest.raises(so.TraceError, match=r"write so\.dense\(x\) \(test_sparse\.py:\d+\)"):
        table(5)[0].map(f)


def test_the_first_record_and_constants_are_sparse_vectors() -> None:
    t, matrix, _ = table(5)
    first = t.first("x").collect()
    assert isinstance(first, SparseVector)
    np.testing.assert_allclose(first.toarray(), matrix.toarray()[0])
    constant = so.sparse_vector([3, 1, 3], [1.0, 2.0, 4.0], D)
    np.testing.assert_allclose(
        records(t.map(lambda r: r.x @ constant)), matrix @ constant.toarray()
    )
    assert so.collect(so.lit(constant) * 2).equals(constant * 2)
    np.testing.assert_allclose(so.dense(so.lit(constant)).collect(), constant.toarray())


def test_sparse_vectors_are_made_of_lists_and_of_plain_values() -> None:
    lists = so.table({"n": [0, 1, 2, 3]}).map(
        so.udf(
            lambda r: ([5, 0, 5][: r.n], [1.0, 2.0, 4.0][: r.n]),
            returns=(so.list_(so.int64), so.list_(so.float64)),
        )
    )
    t = lists.map(lambda p: {"x": so.sparse_vector(p[0], p[1], 6)})
    expected = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 5]]
    assert records(t.map(lambda r: so.dense(r.x))).tolist() == expected
    own = so.sparse_vector([5, 0, 5], [1.0, 2.0, 4.0], 6)
    assert own.indices.tolist() == [0, 5]
    assert own.values.tolist() == [2.0, 5.0]
    assert own.shape == (6,)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([1, 6], [1.0, 2.0], r"has the index 6; expected 0\.\.5"),
        ([-1, 2], [1.0, 2.0], r"has the index -1; expected 0\.\.5"),
        ([1], [1.0, 2.0], "has 1 indices and 2 values"),
        ([1, None], [1.0, 2.0], "has a null among its"),
    ],
)
def test_bad_items_are_data_errors_with_the_line(indices: Any, values: Any, message: str) -> None:
    with pytest.raises(so.DataError, match=message + r".*test_sparse\.py"):
        so.sparse_vector(indices, values, 6)
    kinds = (so.list_(so.int64), so.list_(so.float64))
    lists = so.table({"n": [1, 2]}).map(so.udf(lambda r: (indices, values), returns=kinds))
    made = lists.map(lambda p: so.sparse_vector(p[0], p[1], 6)).sum()
    with pytest.raises(so.DataError, match=message + r".*test_sparse\.py"):
        made.collect()


def test_bad_arguments_are_trace_errors() -> None:
    t = so.table({"a": [1.0, 2.0], "s": ["a", "b"]})
    for wrong in (
        lambda r: so.sparse_vector([r.a, r.a], [1.0, 2.0], 5),  # indices that are no integers
        lambda r: so.sparse_vector(r.a, r.a, 5),
        lambda r: so.sparse_vector([1, 2], [r.a, r.a], 2.5),  # type: ignore[arg-type]
        lambda r: so.sparse_vector([1, 2], [r.a, r.a], 0),
        lambda r: so.sparse_vector([1, 2, 3], [r.a, r.a], 5),
        lambda r: so.hashed_counts(r.a, 5),
        lambda r: so.dense(r.s),
    ):
        with pytest.raises(so.TraceError, match=r"test_sparse\.py"):
            t.map(wrong)
    calls: list[Callable[[], Any]] = [
        lambda: so.sparse_vector([1.5], [1.0], 5),
        lambda: so.sparse_vector([1], ["a"], 5),
        lambda: so.sparse_vector([1], [1.0], True),
        lambda: so.hashed_counts("text", 5),
        lambda: so.hashed_counts([1, 2], 5),
    ]
    for plain in calls:
        with pytest.raises(so.TraceError, match=r"test_sparse\.py"):
            plain()


def test_tokens_are_counted_at_their_hashes() -> None:
    texts = ["to be or not to be", "", "être ou ne pas être", "be " * 40]
    counted = so.table({"text": texts}).map(
        lambda r: {"x": so.hashed_counts(r.text.str.split(), 64)}
    )
    expected = np.zeros((len(texts), 64))
    for row, text in enumerate(texts):
        for token in text.split():
            expected[row, hash_string(token) % 64] += 1
    assert records(counted.map(lambda r: so.dense(r.x))).tolist() == expected.tolist()
    plain = so.hashed_counts(texts[0].split(), 64)
    assert plain.toarray().tolist() == expected[0].tolist()
    # A list may hold null, which does not count.
    assert so.hashed_counts(["a", None, "a"], 8).sum() == 2


def test_nulls_stay_null_and_are_skipped() -> None:
    texts = pa.table({"text": pa.array(["a b", None, "a", None, "c"])})
    t = so.from_arrow(texts).map(lambda r: {"x": so.hashed_counts(r.text.str.split(), 16)})
    assert t.map(lambda r: r.x.sum()).collect()["value"].to_pylist() == [2.0, None, 1.0, None, 1.0]
    assert t.map(lambda r: so.is_null(r.x)).collect()["value"].to_pylist() == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert t.count("x").collect() == 3
    assert t.sum("x").collect().sum() == 4.0
    np.testing.assert_allclose(t.mean("x").collect().sum(), 4 / 3)
    assert t.filter(lambda r: r.x.sum() > 1).count().collect() == 1
    assert t.map(lambda r: (r.x * 2).sum()).sum().collect() == 8.0


def test_opaque_functions_take_and_give_sparse_vectors() -> None:
    t, matrix, _ = table(50)

    @so.udf
    def scaled(r: Any) -> Any:
        assert r.x.indices.dtype == np.int32
        assert r.x.shape == (D,)
        return r.x * (float(r.x.values.sum()) > 0)

    expected = matrix.toarray() * (matrix.sum(axis=1) > 0)[:, None]
    np.testing.assert_allclose(t.map(scaled).sum().collect(), expected.sum(axis=0), atol=1e-12)
    if_ = t.map(lambda r: 1.0 if r.x @ W > 0 else -1.0)
    np.testing.assert_allclose(records(if_), np.where(matrix @ W > 0, 1.0, -1.0))


def train(t: so.Table, rounds: int = 8) -> so.Loop:
    """Logistic regression by gradient descent."""
    n = t.count()

    class Model(so.Environment):
        w: np.ndarray
        loss: float

    def step(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        env.loss = t.map(lambda r: np.logaddexp(0.0, -margin(r))).sum() / n
        env.w += 0.5 / n * t.map(lambda r: r.y * so.sigmoid(-margin(r)) * r.x).sum()
        return env

    loop: so.Loop = so.loop(Model(w=np.zeros(D), loss=np.inf), range(rounds))(step)
    return loop


def test_a_loop_over_sparse_records_is_the_loop_over_dense_ones() -> None:
    t, matrix, y = table()
    result = train(t).collect()
    dense = train(so.table({"x": matrix.toarray(), "y": y})).collect()
    np.testing.assert_allclose(result.w, dense.w, rtol=1e-9)
    np.testing.assert_allclose(result.loss, dense.loss, rtol=1e-9)
    w = np.zeros(D)
    for _ in range(8):
        w = w + 0.5 / len(y) * (matrix.T @ (y / (1 + np.exp(y * (matrix @ w)))))
    np.testing.assert_allclose(result.w, w, rtol=1e-9)


def test_the_gradient_is_one_product_and_the_table_is_cached() -> None:
    text = str(train(table(50)[0]).explain())
    assert "as s @ X" in text
    assert "contract_products" in text
    assert "holds   x: sparse[40], y: float64" in text


def test_same_bits_with_threads_and_without_memory() -> None:
    t, _, _ = table(20_000)
    seen = set()
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 2, "memory": "1MB"}):
        with so.session(**options):
            result = train(t).collect()
            seen.add((result.w.tobytes(), float(result.loss), t.mean("x").collect().tobytes()))
    assert len(seen) == 1


def test_an_environment_holds_no_sparse_vector() -> None:
    x = so.sparse_vector([1], [1.0], D)
    with pytest.raises(so.LoopError, match=r"starts as a sparse vector.*so\.dense\(x\)"):
        so.loop(x, range(3))(lambda w: w * 2)
    with pytest.raises(so.LoopError, match=r"returns sparse\[40\].*so\.dense\(x\)"):
        so.loop(np.zeros(D), range(3))(lambda w: so.lit(x))
    final = so.loop(np.zeros(D), range(3))(lambda w: w + x).collect()
    assert final.tolist() == (3 * x.toarray()).tolist()


@pytest.mark.parametrize("dimension", [1, 2])
def test_small_dimensions_and_no_records(dimension: int) -> None:
    t, matrix, y = table(7, dimension)
    np.testing.assert_allclose(t.map(lambda r: r.y * r.x).sum().collect(), y @ matrix)
    none = t.filter(lambda r: r.y > 5)
    assert none.map(lambda r: r.x @ np.ones(dimension)).collect().num_rows == 0
    assert none.sum("x").collect().tolist() == [0.0] * dimension


def test_no_dense_matrix_of_the_records_is_ever_made() -> None:
    rows, dimension = 2_000, 100_000  # 1.6 GB if dense
    t, matrix, y = table(rows, dimension)
    w = np.ones(dimension)
    plans = {
        "gradient": t.map(lambda r: r.y * so.sigmoid(r.x @ w) * r.x).sum(),
        "mean": t.mean("x"),
        "outer": t.sum(lambda r: np.outer([1.0, 2.0], r.x)),
        "dense": t.sum(lambda r: r.y * so.dense(r.x)),
        "distances": t.limit(100).sum(lambda r: np.linalg.norm(r.x - w)),
    }
    with so.session(threads=1):
        tracemalloc.start()
        found = so.collect(plans)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 60e6
    np.testing.assert_allclose(found["dense"], y @ matrix, atol=1e-12)
    np.testing.assert_allclose(found["mean"], matrix.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found["outer"][1], 2 * matrix.sum(axis=0), atol=1e-12)
