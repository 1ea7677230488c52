"""Sparse vectors one by one: what NumPy makes of them, and what it refuses to make."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.dtypes import SparseType, sparse, type_of
from scalops.algebra.expressions import call, constant
from scalops.algebra.functions.hashing import hash_numbers, hash_string, hash_strings
from scalops.algebra.functions.sparse import DENSE, compressed
from scalops.algebra.functions.table import FUNCTIONS
from scalops.algebra.printing import text
from scalops.algebra.sparse import SparseVector

D = 7
X = SparseVector([1, 2, 5], [2.0, -3.0, 0.5], D)
Z = SparseVector([0, 2, 6], [1.0, 3.0, -2.0], D)
W = np.linspace(-1.0, 2.0, D)
M = np.arange(3.0 * D).reshape(3, D)

SPARSE: list[Callable[[Any, Any], Any]] = [
    lambda x, z: 2 * x,
    lambda x, z: x * np.float32(0.5),
    lambda x, z: x / 4,
    lambda x, z: -x,
    lambda x, z: abs(x),
    lambda x, z: x + z,
    lambda x, z: x - z,
    lambda x, z: x * z,
    lambda x, z: x * W,
    lambda x, z: W * x,
    lambda x, z: x / (W + 5),
    lambda x, z: x**2,
    lambda x, z: np.maximum(x, 0),
    lambda x, z: np.minimum(0.0, x),
    lambda x, z: np.maximum(x, z),
    lambda x, z: np.hypot(x, z),
    lambda x, z: np.log1p(abs(x)),
    lambda x, z: np.tanh(x),
    lambda x, z: np.sign(x),
    lambda x, z: np.clip(x, -1, 1),
    lambda x, z: np.round(x, 1),
    lambda x, z: np.nan_to_num(x * np.nan),
    lambda x, z: sum([x, z]),
    lambda x, z: x % 2,
    lambda x, z: x.T * 2,
    lambda x, z: np.ravel(x),
    lambda x, z: np.dot(x, 2.0),
]
DENSE_RESULTS: list[Callable[[Any, Any], Any]] = [
    lambda x, z: x + W,
    lambda x, z: W + x,
    lambda x, z: x - W,
    lambda x, z: W - x,
    lambda x, z: x @ W,
    lambda x, z: W @ x,
    lambda x, z: M @ x,
    lambda x, z: x @ M.T,
    lambda x, z: x @ z,
    lambda x, z: x.dot(W),
    lambda x, z: np.dot(M, x),
    lambda x, z: np.vdot(x, W),
    lambda x, z: np.outer(x, [1.0, 2.0]),
    lambda x, z: np.outer([1.0, 2.0], x),
    lambda x, z: np.linalg.norm(x),
    lambda x, z: np.linalg.norm(x, 1),
    lambda x, z: np.linalg.norm(x, np.inf),
    lambda x, z: np.sum(x),
    lambda x, z: x.mean(),
    lambda x, z: np.max(-abs(x)),
    lambda x, z: x.min(),
    lambda x, z: np.any(x),
    lambda x, z: np.all(x),
    lambda x, z: x[2],
    lambda x, z: x[-2],
    lambda x, z: x[0],
    lambda x, z: np.take(x, 5),
]


@pytest.mark.parametrize("f", SPARSE)
def test_what_leaves_zero_at_zero_stays_sparse(f: Callable[[Any, Any], Any]) -> None:
    made = f(X, Z)
    assert isinstance(made, SparseVector)
    np.testing.assert_allclose(made.toarray(), f(X.toarray(), Z.toarray()))


@pytest.mark.parametrize("f", DENSE_RESULTS)
def test_products_sums_and_elements_are_those_of_the_dense_vector(
    f: Callable[[Any, Any], Any],
) -> None:
    made, expected = f(X, Z), f(X.toarray(), Z.toarray())
    assert not isinstance(made, SparseVector)
    assert np.shape(made) == np.shape(expected)
    assert np.asarray(made).dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(made, expected)


@pytest.mark.parametrize(
    "f",
    [
        np.exp, np.cos, np.isnan, np.logical_not, np.modf, np.sort, np.cumsum, np.argmax, np.var,
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: 1 / x,
        lambda x: x / x,
        lambda x: x**0,
        lambda x: x > 0,
        lambda x: x == x,
        lambda x: np.maximum(x, 1),
        lambda x: np.where(x, 1, 2),
        lambda x: x * np.ones((2, D)),
        lambda x: np.outer(x, x),
        lambda x: np.stack([x, x]),
        lambda x: x[1:3],
        lambda x: np.add.reduce(x),
        lambda x: x.sum(axis=0, keepdims=True),
    ],
)  # fmt: skip
def test_what_would_be_dense_asks_for_dense(f: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"write so\.dense\(x\)"):
        f(X)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"sparse\[7\] and float64\[4\]"):
        X * np.ones(4)
    with pytest.raises(ValueError, match="7 is not 4"):
        X @ np.ones(4)
    with pytest.raises(ValueError, match=r"sparse\[7\] and sparse\[3\]"):
        X + SparseVector([], [], 3)
    with pytest.raises(IndexError, match="out of bounds"):
        X[D]


def test_what_is_not_stored_stays_zero_beside_infinity_and_zero_quotients() -> None:
    with np.errstate(all="ignore"):
        assert (X * np.inf)[0] == 0
        assert (X / np.zeros(D))[0] == 0


def test_vectors_are_read_only_and_pickle() -> None:
    with pytest.raises(ValueError, match="read-only"):
        X.values[0] = 1
    again = pickle.loads(pickle.dumps(X))
    assert again.equals(X)
    assert not again.equals(Z)
    assert SparseVector([1], [0.0], 3).equals(SparseVector([], [], 3))
    assert repr(X) == "SparseVector({1: 2.0, 2: -3.0, 5: 0.5}, dimension=7)"


def test_unknown_partners_are_left_to_answer() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        X * object()
    assert isinstance(X * so.lit(2.0), so.Value)
    assert isinstance(np.multiply(X, so.lit(2.0)), so.Value)


def test_every_function_of_the_table_refuses_or_has_a_rule_of_its_own() -> None:
    kind = sparse(D)
    for entry in FUNCTIONS.values():
        if entry.sparse is None:
            with pytest.raises(TypeError, match=r"write so\.dense"):
                entry.result_type(kind)
    assert DENSE.result_type(kind) == kind.dense() != kind


def test_constants_are_compared_by_content_and_printed_by_type() -> None:
    assert type_of(X) == SparseType(shape=(D,))
    assert constant(X) == constant(SparseVector(X.indices, X.values, D))
    assert constant(X) != constant(Z)
    assert text(call(DENSE, constant(X))) == "dense(sparse[7] constant)"
    assert text((so.lit(X) ** 2).expression) == "sparse[7] constant ** 2"
    greater: Any = np.maximum(so.lit(X), 0)
    assert text(greater.expression) == "maximum(sparse[7] constant, 0)"


def test_compressed_rows_add_repeated_indices_in_order() -> None:
    indptr, indices, values = compressed(
        np.array([3, 0, 2]), np.array([4, 1, 4, 0, 3]), np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 5
    )
    assert indptr.tolist() == [0, 2, 2, 4]
    assert indices.tolist() == [1, 4, 0, 3]
    assert values.tolist() == [2.0, 5.0, 8.0, 16.0]
    assert indptr.dtype == np.int64
    assert indices.dtype == np.int32


# Hashes are part of the language: these numbers never change.


def test_hashes_of_strings_are_what_they_always_were() -> None:
    assert hash_string("") == 16294208416658607535
    assert hash_string("a") == 7075883509774426401
    assert hash_string("hello world") == 9457017876268486413


def test_hashes_of_a_column_are_those_of_its_strings() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcé漢 \x00"))
    words = ["".join(rng.choice(letters, rng.choice([0, 1, 7, 8, 9, 16, 90]))) for _ in range(300)]
    words += ["x" * 5000, "x" * 4999]
    expected = [hash_string(w) for w in words]
    column = pa.array(words, pa.string())
    for form in (column, column.cast(pa.large_string()), column.dictionary_encode()):
        assert hash_strings(form).tolist() == expected
        assert hash_strings(form.slice(5, 100)).tolist() == expected[5:105]
    assert hash_strings(pa.array([None, "a"])).tolist()[1] == hash_string("a")
    assert len(hash_strings(pa.array([], pa.string()))) == 0


def test_hashes_of_numbers_are_equal_for_equal_numbers() -> None:
    floats = hash_numbers(np.array([0.0, -0.0, np.nan, -np.nan, 1.5]))
    assert floats[0] == floats[1]
    assert floats[2] == floats[3]
    assert hash_numbers(np.array([1.5], np.float32))[0] == floats[4]
    small, large = hash_numbers(np.array([-1, 7], np.int8)), hash_numbers(np.array([-1, 7]))
    assert small.tolist() == large.tolist()
    assert large.tolist() == [16490336266968443936, 7191089600892374487]
