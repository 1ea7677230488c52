"""Blocks, partials and results arrive as they were, bit by bit; nonsense is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import FLOAT64, INT64, OBJECT, ArrayType, list_of, sparse
from scalops.algebra.folds import FOLDS, Fold, OpaqueAggregate, Transition
from scalops.algebra.schema import Schema
from scalops.algebra.segment_folds import PREFIX, Segment
from scalops.algebra.sparse import SparseVector
from scalops.capture import capture
from scalops.engine.block_codec import blocks_of_piece, decode_block, encode_block, piece_of_blocks
from scalops.engine.blocks import Block
from scalops.engine.collective import Piece
from scalops.engine.columns import SparseColumn
from scalops.engine.kernels.folds import FoldKernel, FoldSet
from scalops.engine.value_codec import decode_value, encode_value
from tests.engine.plans import calc

ROWS, WIDTH, SIZE = 7, 3, 4
STRING = ArrayType("string")
KINDS = {
    "b": ArrayType("bool"),
    "i8": ArrayType("int8"),
    "i": INT64,
    "u": ArrayType("uint16"),
    "f16": ArrayType("float16"),
    "f": FLOAT64,
    "v": FLOAT64.with_shape(WIDTH),
    "m": ArrayType("float32", (2, WIDTH)),
    "bv": ArrayType("bool", (WIDTH,)),
    "t": ArrayType("timestamp[us]"),
    "d": ArrayType("duration[ns]"),
    "s": STRING,
    "l": list_of(FLOAT64),
    "ls": list_of(STRING),
    "ll": list_of(list_of(INT64)),
    "x": sparse(50),
}
SCHEMA = Schema(tuple(KINDS.items()))


def column(name: str, rows: int) -> Any:
    """A column of this kind."""
    rng = np.random.default_rng(len(name) + rows)
    kind = KINDS[name]
    match name:
        case "s":
            return pa.array([None if i == 1 else f"é{i}" for i in range(rows)], pa.string())
        case "l":
            return pa.array([[0.5] * i for i in range(rows)], pa.list_(pa.float64()))
        case "ls":
            return pa.array(
                [["a", None] if i % 2 else None for i in range(rows)], pa.list_(pa.string())
            )
        case "ll":
            return pa.array([[[i], []] for i in range(rows)], pa.list_(pa.list_(pa.int64())))
        case "x":
            indptr = np.arange(rows + 1, dtype=np.int64) * 2
            indices = np.tile(np.array([3, 40], np.int32), rows)
            return SparseColumn(indptr, indices, rng.normal(size=2 * rows), 50)
    shape = (rows, *kind.shape)
    if kind.name == "bool":
        return rng.random(shape) < 0.5
    values = (100 * rng.normal(size=shape)).astype("int64" if name in "td" else kind.numpy)
    return values.astype(kind.numpy)


def block(rows: int, names: tuple[str, ...] = tuple(KINDS), nulls: bool = True) -> Block:
    """A block of columns of every kind, some of their values null."""
    made = Block(rows, {n: column(n, rows) for n in names})
    if nulls:
        made.valid = {n: np.arange(rows) % 3 > 0 for n in names if n in ("i", "f", "t", "x")}
    return made


def sent(piece: Piece) -> Piece:
    """A piece as another process gets it: bytes, of no alignment."""
    header = msgpack.unpackb(msgpack.packb(piece.header))
    buffers = [np.frombuffer(b"x" + b.tobytes(), np.uint8)[1:] for b in piece.buffers]
    return Piece(header, buffers)


def bits(value: Any) -> Any:
    """Types, layouts and bits of a value."""
    match value:
        case Block():
            columns = {n: bits(c) for n, c in value.columns.items()}
            return value.rows, columns, {n: bits(v) for n, v in value.valid.items()}
        case np.ndarray() | np.generic():
            at = [int(s) for s in np.asarray(value).strides] if np.size(value) > 1 else []
            return type(value), value.dtype, value.shape, at, value.tobytes()
        case SparseColumn():
            parts = value.indptr, value.indices, value.values
            return "sparse", value.dimension, [bits(p) for p in parts]
        case SparseVector():
            return "vector", value.shape, bits(value.indices), bits(value.values)
        case pa.Array():
            return "arrow", value.type, value.to_pylist()
        case float():
            return float, value.hex()
        case dict():
            return type(value), [(bits(k), bits(v)) for k, v in value.items()]
        case list() | tuple():
            return type(value), [bits(v) for v in value]
    return type(value), value


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_a_column_of_every_kind_arrives_as_it_was(name: str, rows: int) -> None:
    schema = Schema(((name, KINDS[name]),))
    given = [block(rows, (name,)), block(rows, (name,), nulls=False)]
    found = blocks_of_piece(sent(piece_of_blocks(given)), schema)
    assert bits(found) == bits(given)


def test_blocks_of_all_columns_of_none_and_of_some_arrive() -> None:
    given = [block(0), block(1), block(ROWS), block(ROWS).slice(2, 5)]
    assert bits(blocks_of_piece(sent(piece_of_blocks(given)), SCHEMA)) == bits(given)
    buffers: list[Any] = []
    only_counts = decode_block(encode_block(Block(5, {}), buffers), buffers, SCHEMA)
    assert bits(only_counts) == bits(Block(5, {}))
    some = block(ROWS, ("s", "f"))
    assert bits(decode_block(encode_block(some, buffers), buffers, SCHEMA)) == bits(some)


def test_contiguous_arrays_are_not_copied_and_axes_keep_their_order() -> None:
    whole = np.arange(60.0).reshape(10, 2, 3)
    shown = {
        "c": whole,
        "columns first": np.asfortranarray(whole),
        "turned": np.ascontiguousarray(whole.transpose(2, 0, 1)).transpose(1, 2, 0),
    }
    kind = FLOAT64.with_shape(2, 3)
    schema = Schema(tuple((n, kind) for n in shown))
    piece = piece_of_blocks([Block(10, dict(shown))])
    assert all(np.shares_memory(b, a) for b, a in zip(piece.buffers, shown.values(), strict=True))
    (found,) = blocks_of_piece(piece, schema)
    assert [found.columns[n].strides for n in shown] == [a.strides for a in shown.values()]
    assert np.shares_memory(found.columns["c"], whole)
    (moved,) = blocks_of_piece(sent(piece), schema)
    assert all(moved.columns[n].flags.aligned for n in shown)


def nonsense() -> Iterator[Any]:
    """Headers that no well-behaved process sends."""
    yield from (None, 3, [3], [[]], [["x", []]], [[-1, []]], [[2, {}]], [[2, [["f"]]]])
    yield [[2, [["unknown", ["array", None, "<f8", [2], None, 0]]]]]
    for item in (
        ["array", None, "<f8", [3], None, 0],  # other rows
        ["array", None, "<i8", [2], None, 0],  # another type
        ["array", None, "O", [2], None, 0],
        ["array", None, "<f8", [2], None, 9],
        ["array", None, "<f8", [2], None, -1],
        ["array", None, "<f8", [2], [1], 0],
        ["array", None, "<f8", [2], [0, 0], 0],
        ["array", 0, "<f8", [2], None, 0],  # a mask of 16 records
        ["array", None, "f8,f8", [1], None, 0],
        ["arrow", None, 0, 0],
        ["sparse", None, 50, [0, 0, 0]],
        ["same", b""],
        "array",
        None,
    ):
        yield [[2, [["f", item]]]]
    yield [[2, [["f", ["array", None, "<f8", [2], None, 0]]] * 2]]  # the same column twice


@pytest.mark.parametrize("header", list(nonsense()), ids=str)
def test_blocks_that_make_no_sense_are_refused(header: Any) -> None:
    schema = Schema((("f", FLOAT64),))
    with pytest.raises(ValueError, match=r"."):
        blocks_of_piece(Piece(header, [np.zeros(16, np.uint8)]), schema)


def test_broken_sparse_vectors_and_texts_are_refused() -> None:
    x = SparseColumn(np.array([0, 1], np.int64), np.array([70], np.int32), np.ones(1), 50)
    with pytest.raises(ValueError, match="sparse"):
        blocks_of_piece(piece_of_blocks([Block(1, {"x": x})]), Schema((("x", sparse(50)),)))
    piece = piece_of_blocks([Block(2, {"s": pa.array(["ab", "cd"])})])
    broken = piece.buffers[1].copy()
    at = broken.tobytes().index(b"abcd")
    broken[at] = 0xFF  # no letter of UTF-8 begins so
    with pytest.raises(ValueError, match="no sense"):
        blocks_of_piece(Piece(piece.header, [piece.buffers[0], broken]), Schema((("s", STRING),)))


# Values.

VALUES: dict[str, Any] = {
    "numbers": [None, True, 3, -(2**80), -0.0, float("nan"), 1 + 2j],
    "NumPy's": (np.float32(0.1), np.int8(-3), np.bool_(True), np.datetime64(5, "us")),
    "arrays": [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3)), np.array(2.0), np.arange(9000)],
    "texts": ["a\ud800b", "", "x" * 100_000, b"bytes"],
    "times": [datetime(2020, 1, 2, 3), timedelta(microseconds=-1)],
    "columns": [block(ROWS, ("x",)).columns["x"], pa.array([["a"], None])],
    "a sparse vector": SparseVector([1, 5], [0.5, -0.0], 9),
    "a dict": {"a": [1, (2, np.arange(3))], 4: Counter("aab")},
    "many": [[1.5, None]] * 5000,
    "many arrays": [np.arange(2)] * 3000,
    "nanoseconds": pa.array([5], pa.timestamp("ns")).to_pylist(),
}


def travelled(value: Any) -> Any:
    """The value as another process gets it."""
    buffers: list[Any] = []
    piece = Piece(encode_value(value, buffers), buffers)
    return decode_value(*sent(piece))


@pytest.mark.parametrize("name", VALUES)
def test_a_value_arrives_as_it_was(name: str) -> None:
    found = travelled(VALUES[name])
    assert bits(found) == bits(VALUES[name])
    if name == "arrays":
        assert all(a.flags.writeable for a in found)


@pytest.mark.parametrize(
    "item",
    [[], {}, 5, b"", ["what"], ["list", [["int", 2.0]]], ["list", 7], ["number", "<f8", b"1"],
     ["array", "O", [1], None, b"12345678"], ["packed", b"\xc1"], ["packed", 3],
     ["column", ["array"]], ["vector", 3, None, None], ["nanoseconds", "x", 1],
     ["int", "zz"], ["number", "|O", b""]],
    ids=str,
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(item: Any) -> None:
    with pytest.raises(ValueError, match="no sense"):
        decode_value(item, [])


def test_what_is_no_data_is_not_sent() -> None:
    for value in (object(), [{1, 2}], np.array([object()])):
        with pytest.raises(TypeError):
            encode_value(value, [])


# Folds.


def col(name: str) -> ex.Column:
    """A column of the table below."""
    return ex.Column(name, KINDS[name])


def later(name: str) -> ex.Column:
    """The same of the second of two records."""
    return ex.Column(name, KINDS[name], 1)


def opaque(state: Any, number: Any) -> Any:
    return {**state, "n": state["n"] + 1, "s": state["s"] + number * np.ones(2)}


def fold_cases() -> Iterator[Fold]:
    """At least one fold of each kind, and of each form of partial."""
    parameters: dict[str, tuple[tuple[str, Any], ...]] = {
        "var": (("ddof", 0),), "std": (("ddof", 1),), "quantile": (("q", (0.2, 0.7)),),
        "to_array": (("size", ROWS),),
    }  # fmt: skip
    forms = (("forms", (("scaled", 2), ("gram", 2))),)
    for kind in FOLDS:
        word, _, form = kind.partition("_")
        of: list[tuple[ex.Column, ...]] = [(col("f"),), (col("i"),), (col("v"),)]
        match form or word:
            case "scaled":
                of = [(col("f"), col("v")), (col("f"), col("x"))]
            case "outer":
                of = [(col("v"), col("v")), (col("v"), col("x"))]
            case "gram":
                of = [(col("f"), col("v"))]
            case "terms":
                matrix = ex.Column("o", FLOAT64.with_shape(WIDTH, WIDTH))
                parameters[kind] = forms
                of = [(col("f"), matrix, col("f"), col("v"))]
            case "squares":
                centres = ex.Column("c", FLOAT64.with_shape(2, WIDTH))
                of = [(ex.Column("r", FLOAT64.with_shape(2)), col("v"), centres)]
            case "and" | "or":
                of = [(col("i8" if word == "bitwise" else "b"),)]
            case "sum" | "add" | "mean":
                of.append((col("x"),))
            case "minimum" | "maximum":
                of += [(col("x"),), (col("s"),), (col("t"),)]
            case "first" | "last" | "record":
                of += [(col("s"),), (col("l"),), (col("x"),), (col("d"),)]
            case "unique":
                of += [(col("s"),), (col("x"),), (col("l"),)]
            case "argmax" | "argmin":
                of = [(col("f"), col("s")), (col("s"), col("x")), (col("i"), col("ll"))]
            case "list":
                of += [(col("s"),), (col("t"),), (col("d"),), (col("l"),)]
            case "array":
                of = [(ex.Column("at", INT64), col("v"))]
        for arguments in of:
            yield Fold("r", kind, arguments, parameters=parameters.get(kind, ()))
    yield Fold(
        "r", "reduce", (col("i"), col("v")), fields=("i", "v"), output=1,
        combine=(calc("add", col("i"), later("i")), calc("add", col("v"), later("v"))),
    )  # fmt: skip
    yield Fold("r", "reduce", (col("s"),), combine=(later("s"),), fields=("s",))
    number, state = ex.Column("0", FLOAT64, 1), ex.Column("f", FLOAT64)
    yield Transition(
        "r", "aggregate", (col("f"),), fields=("f",), zero=(ex.constant(0.5),),
        step=(calc("add", calc("multiply", state, 2.0), number),),
        combine=(calc("add", state, later("f")),),
    )  # fmt: skip
    merge, initialize = lambda a, b: {**a, "s": a["s"] + b["s"]}, lambda: {"n": 0, "s": 0.0}
    yield OpaqueAggregate(
        "r", "aggregate", (col("f"),), transition=capture(opaque)[0], merge=capture(merge)[0],
        initialize=capture(initialize)[0], slots=((), (), ()), declared=OBJECT,
    )  # fmt: skip
    key = ex.Column("key", INT64)
    for kind, own in (("count", ()), ("sum", ("v",)), ("minimum", ("f",)), ("mean", ("i",))):
        yield Segment("r", PREFIX + kind, (key, *map(col, own)), size=SIZE, key="key")


CASES = {f"{i}: {type(f).__name__} {f.kind}": f for i, f in enumerate(fold_cases())}


def leaf_of(fold: Fold, folds: FoldSet, seed: int, rows: int) -> list[Any]:
    """A leaf over two blocks."""
    rng = np.random.default_rng(seed)
    leaf = folds.blank()
    for part in range(2):
        extra = {
            "r": rng.random((rows, 2)),
            "c": np.broadcast_to(rng.random((2, WIDTH)), (rows, 2, WIDTH)),
            "o": rng.random((rows, WIDTH, WIDTH)),
            "at": np.arange(rows) + (2 * seed + part) * rows,
            "key": rng.integers(0, SIZE, rows),
        }
        given = block(rows, nulls=False)
        names = [a.name for a in fold.arguments if isinstance(a, ex.Column)]
        vectors = [(extra[n] if n in extra else given.columns[n], None) for n in names]
        folds.extend(leaf, vectors, rows)
    folds.seal(leaf)
    return leaf


@pytest.mark.parametrize("name", CASES)
@np.errstate(all="ignore")
def test_partials_and_results_of_every_fold_arrive_as_they_were(name: str) -> None:
    fold = CASES[name]
    if fold.kind == "to_array":
        fold = Fold("r", fold.kind, fold.arguments, parameters=(("size", 4 * ROWS),))
    folds = FoldSet([fold])
    folds.bind([], 1)
    assert bits(travelled(folds.blank())) == bits(folds.blank())
    left, right = (leaf_of(fold, folds, seed, ROWS) for seed in (0, 1))
    there = travelled([left, right])
    assert bits(there) == bits([left, right])
    merged = folds.merge(left, right)
    again = folds.merge(*there)
    assert bits(again) == bits(merged)
    results = folds.finish(merged)
    assert bits(folds.finish(again)) == bits(results)
    assert bits(travelled(results)) == bits(results)


def test_every_kind_of_fold_is_among_those_tested() -> None:
    assert {f.kind for f in CASES.values()} >= {*FOLDS, "reduce"}
    assert {type(f) for f in CASES.values()} == {Fold, Transition, OpaqueAggregate, Segment}


def test_a_fold_over_nothing_gives_what_can_be_sent() -> None:
    kernel = FoldKernel(Fold("r", "sum", (col("v"),)))
    value = kernel.finish(None)
    assert bits(travelled(value)) == bits(value)
