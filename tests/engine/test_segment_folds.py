"""Folds by a small integer key agree with NumPy, record by record added in table order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType, sparse
from scalops.algebra.errors import DataError
from scalops.algebra.segment_folds import PREFIX, Segment
from scalops.engine.columns import SparseColumn, filtered
from scalops.engine.kernels.folds import FoldKernel, FoldSet
from scalops.engine.reduction import combine_tree
from scalops.engine.value_codec import decode_value, encode_value

ROWS, SIZE = 600, 7
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64")


def fold(kind: str, *types: ArrayType, size: int = SIZE, output: int = 0, **more: Any) -> Segment:
    """A fold of columns of these types, the key's first."""
    arguments = tuple(ex.Column(f"c{i}", t) for i, t in enumerate(types))
    return Segment("f", PREFIX + kind, arguments, size=size, output=output, key="k", **more)


def travelled(partial: Any) -> Any:
    """The partial of a leaf, as a worker sends it."""
    buffers: list[Any] = []
    item = encode_value(partial, buffers)
    return decode_value(item, [np.frombuffer(bytearray(b), np.uint8) for b in buffers])


@np.errstate(all="ignore")  # as the engine runs its kernels
def folded(one: Segment, columns: list[Any], blocks: int = 3, leaves: int = 2) -> Any:
    """The fold's value over the columns, (values, mask) each, in blocks and leaves."""
    kernel = FoldKernel(one)
    rows = len(columns[0][0])
    made = []
    for leaf in np.array_split(np.arange(rows), leaves):
        partial = None
        for own in np.array_split(leaf, blocks):
            there = np.zeros(rows, bool)
            there[own] = True
            given = [(filtered(v, there), None if m is None else m[there]) for v, m in columns]
            partial = kernel.extend(partial, given, len(own), None)
        made.append(travelled(partial))
    return kernel.finish(combine_tree(made, kernel.merge))


def numbers(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if name.startswith("float"):
        return rng.normal(size=(ROWS, *shape)).astype(name)
    limits = np.iinfo(name)
    return rng.integers(limits.min, limits.max, (ROWS, *shape), dtype=name, endpoint=True)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", [*NUMBERS, "bool"])
def test_folds_are_numpys_of_each_keys_records(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    keys = rng.integers(0, SIZE - 1, ROWS).astype("int16")  # none has the last key
    x = rng.random((ROWS, *shape)) < 0.5 if name == "bool" else numbers(name, shape, rng)
    mask = rng.random(ROWS) < 0.8
    kinds = (ArrayType("int16"), ArrayType(name, shape))
    for kind in ("sum", "mean", "add", "minimum", "maximum"):
        if name == "bool" and kind == "add":
            continue
        one = fold(kind, *kinds)
        found = folded(one, [(keys, None), (x, mask)])
        assert (found.dtype, found.shape) == (one.type.numpy, (SIZE, *shape))
        for key in range(SIZE):
            own = x[mask & (keys == key)]
            if key == SIZE - 1:
                assert not found[key].any()
                continue
            if kind in ("minimum", "maximum"):
                np.testing.assert_array_equal(found[key], getattr(np, kind).reduce(own, axis=0))
                continue
            wide = own.astype(np.float64) if name.startswith("float") else own
            expected = np.mean(wide, axis=0) if kind == "mean" else np.sum(wide, axis=0)
            if one.type.numpy.kind in "iu":
                np.testing.assert_array_equal(found[key], expected.astype(one.type.numpy))
            else:
                close = 2e-3 if one.type.name == "float16" else 1e-6
                np.testing.assert_allclose(found[key], expected.astype(one.type.numpy), rtol=close)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_counts_and_which_keys_there_are(kind: str) -> None:
    rng = np.random.default_rng(5)
    keys = rng.integers(0, SIZE - 2, ROWS).astype(kind)
    mask = keys != 3
    columns: list[Any] = [(keys, None), (np.ones(ROWS), mask)]
    types = (ArrayType(kind), ArrayType("float64"))
    counts = np.bincount(keys, minlength=SIZE)
    np.testing.assert_array_equal(folded(fold("count", types[0]), columns[:1]), counts)
    np.testing.assert_array_equal(
        folded(fold("count", *types), columns), np.where(np.arange(SIZE) == 3, 0, counts)
    )
    for one in ("count", "sum", "mean"):
        there = folded(fold(one, *types, output=1), columns)
        np.testing.assert_array_equal(there, counts > 0)
    mean = folded(fold("mean", *types), columns)
    np.testing.assert_array_equal(mean, [1, 1, 1, np.nan, 1, 0, 0])


def test_within_a_leaf_a_sum_is_that_of_adding_record_by_record() -> None:
    rng = np.random.default_rng(7)
    keys, x = rng.integers(0, 4, ROWS), rng.normal(size=(ROWS, 9)) * 10.0 ** rng.integers(0, 9, 9)
    types = (ArrayType("int64"), ArrayType("float64", (9,)))
    expected = np.zeros((4, 9))
    np.add.at(expected, keys, x)
    for values, out, item in ((x, expected, types[1]), (x[:, 0], expected[:, 0], types[1])):
        one = fold("sum", types[0], ArrayType("float64", item.shape[: values.ndim - 1]), size=4)
        for blocks in (1, 5):
            found = folded(one, [(keys, None), (values, None)], blocks, leaves=1)
            np.testing.assert_array_equal(found, out)


@pytest.mark.parametrize("weight", ["float64", "int32", "bool"])
def test_what_is_scaled_is_not_multiplied_out(weight: str) -> None:
    rng = np.random.default_rng(9)
    keys, x = rng.integers(0, SIZE, ROWS), rng.normal(size=(ROWS, 3))
    s = rng.integers(0, 2, ROWS).astype(weight)
    mask = rng.random(ROWS) < 0.5
    types = (ArrayType("int64"), ArrayType(weight), ArrayType("float64", (3,)))
    hot = np.eye(SIZE)[keys]
    for kind in ("sum_scaled", "mean_scaled"):
        found = folded(fold(kind, *types), [(keys, None), (s, mask), (x, None)])
        expected = (hot * (s * mask)[:, None]).T @ x
        if kind == "mean_scaled":
            expected /= hot[mask].sum(axis=0)[:, None]
        np.testing.assert_allclose(found, expected)


def test_sparse_vectors() -> None:
    rng = np.random.default_rng(11)
    keys, dense = rng.integers(0, SIZE, ROWS), rng.integers(0, 3, (ROWS, 20)) * 1.5
    where = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])
    x = SparseColumn(starts, where[1].astype(np.int32), dense[where], 20)
    hot = np.eye(SIZE)[keys]
    columns: list[Any] = [(keys, None), (x, None)]
    total = folded(fold("sum", ArrayType("int64"), sparse(20)), columns)
    np.testing.assert_allclose(total, hot.T @ dense)
    mean = folded(fold("mean", ArrayType("int64"), sparse(20)), columns)
    np.testing.assert_allclose(mean, hot.T @ dense / hot.sum(axis=0)[:, None])


def test_sums_of_integers_wrap_and_nan_stays_with_its_key() -> None:
    key, whole = ArrayType("int64"), ArrayType("int64")
    most = np.iinfo(np.int64).max
    keys = np.array([0, 0, 1])
    found = folded(fold("sum", key, whole, size=2), [(keys, None), (np.array([most, 1, 5]), None)])
    assert found.tolist() == [np.iinfo(np.int64).min, 5]
    odd = np.array([np.nan, 1.0, 2.0])
    for kind in ("sum", "mean", "minimum", "maximum"):
        one = fold(kind, key, ArrayType("float64"), size=2)
        np.testing.assert_array_equal(folded(one, [(keys, None), (odd, None)]), [np.nan, 2.0])


def test_computations_are_shared_by_sums_and_means_of_floats_alone() -> None:
    key = ArrayType("int64")
    floats, whole = ArrayType("float32", (2,)), ArrayType("int32", (2,))
    assert fold("sum", key, floats).computation == fold("mean", key, floats).computation
    assert fold("sum", key, whole).computation != fold("mean", key, whole).computation
    assert len(FoldSet([fold("sum", key, floats), fold("mean", key, floats)]).blank()) == 1


BAD: list[tuple[str, list[int], list[bool], str, str]] = [
    ("a null", [0, 9, 1], [True, True, False], "sum", "a null in 'k'; expected 0 to 2"),
    ("too large", [0, 9, 7], [True, True, True], "sum", "9 in 'k'; expected 0 to 2"),
    ("negative", [0, 1, -1], [True, True, True], "count", "-1 in 'k'; expected 0 to 2"),
]


@pytest.mark.parametrize(
    ("keys", "there", "kind", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_wrong_keys_are_to_arrays_errors(
    keys: list[int], there: list[bool], kind: str, words: str
) -> None:
    types = (ArrayType("int64"), *([ArrayType("float64")] if kind == "sum" else []))
    columns: list[Any] = [(np.array(keys), np.array(there)), (np.ones(3), np.zeros(3, bool))]
    with pytest.raises(DataError, match=words):
        folded(fold(kind, *types, size=3), columns[: len(types)])


def test_a_key_with_no_value_has_no_least() -> None:
    types = (ArrayType("uint64"), ArrayType("float64"))
    keys = np.array([2, 1, 2**63], np.uint64)
    columns: list[Any] = [(keys[:2], None), (np.ones(2), np.array([False, True]))]
    with pytest.raises(DataError, match="a null as the value at 2"):
        folded(fold("minimum", *types), columns)
    with pytest.raises(DataError, match="9223372036854775808 in 'k'"):
        folded(fold("sum", *types), [(keys, None), (np.ones(3), None)])


def test_nothing_gives_zeros() -> None:
    types = (ArrayType("int64"), ArrayType("float32", (2,)))
    nothing: list[Any] = [(np.zeros(0, np.int64), None), (np.zeros((0, 2), np.float32), None)]
    for kind in ("sum", "mean", "minimum"):
        found = folded(fold(kind, *types), nothing)
        assert (found.dtype, found.shape) == (np.float32, (SIZE, 2))
        assert not found.any()
    assert not folded(fold("count", types[0], output=1), nothing[:1]).any()
    assert folded(fold("count", types[0], size=0), nothing[:1]).shape == (0,)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_on_any_number_of_threads(threads: int) -> None:
    rng = np.random.default_rng(13)
    keys, x = rng.integers(0, 50, 70_000), rng.normal(size=(70_000, 20))
    table = so.table({"k": keys, "x": x, "s": x[:, 0].copy()})
    groups = table.group_by("k").agg(m=so.mean("x"), n=so.count(), t=so.sum("s"))

    def values() -> Any:
        return so.collect(*(groups.to_array(name, "k", 50) for name in ("m", "n", "t")))

    with so.session(threads=1):
        first = values()
    with so.session(threads=threads):
        again = values()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    hot = np.eye(50)[keys]
    np.testing.assert_allclose(first[0], hot.T @ x / hot.sum(axis=0)[:, None], atol=1e-12)
    np.testing.assert_array_equal(first[1], hot.sum(axis=0))
