"""Kernels reuse buffers and hand none out that a later step or block overwrites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import BOOL, FLOAT64, INT64, STRING, ArrayType
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.engine.blocks import Block
from scalops.engine.kernels.folds import FoldKernel
from scalops.engine.kernels.kernel import Kernel, Vector
from scalops.engine.witness.interpreter import Interpreter, block_rows, same_value
from tests.engine.plans import calc
from tests.quick import repeated

SIDE = 3
MATRIX, VECTOR = FLOAT64.with_shape(SIDE, SIDE), FLOAT64.with_shape(SIDE)
KINDS = {"m": MATRIX, "x": VECTOR, "s": FLOAT64, "i": INT64, "b": BOOL}
COLUMNS = {n: ex.Column(n, k) for n, k in KINDS.items()}
BUFFERED_ROWS = 4_096  # a kernel made for so many records keeps buffers for scalars, too


def parameters(name: str, argument: ex.Expression, **given: Any) -> ex.Call:
    """A function with parameters."""
    return ex.call(function(name), argument, **given)


UNARY = ["exp", "tanh", "negative", "absolute", "sin"]
BINARY = ["add", "multiply", "subtract", "maximum"]


@st.composite
def programs(draw: st.DrawFn) -> list[ex.Expression]:
    """Expressions that read each other's results, through views and in place, in any order."""
    made: list[ex.Expression] = [COLUMNS[n] for n in ("m", "x", "s")]

    def of_rank(rank: int) -> ex.Expression:
        return draw(st.sampled_from([e for e in made if len(e.type.shape) == rank]))

    for _ in range(draw(st.integers(1, 12))):
        rank = draw(st.integers(0, 2))
        a = of_rank(rank)
        step = draw(
            st.sampled_from(["unary", "unary", "binary", "binary", "view", "where", "join"])
        )
        if step == "unary":
            new: ex.Expression = calc(draw(st.sampled_from(UNARY)), a)
        elif step == "binary":
            b = of_rank(draw(st.integers(0, 2)))
            new = calc(draw(st.sampled_from(BINARY)), a, b)
        elif step == "where":
            new = calc("where", calc("greater", of_rank(0), 0.25), a, of_rank(rank))
        elif step == "join" and rank:
            new = ex.call(function("concatenate"), a, of_rank(rank), axis=0)
            new = parameters("index", new, key=(("slice", 1, 1 + SIDE, None),))
        elif rank == 2:
            new = draw(
                st.sampled_from(
                    [
                        parameters("transpose", a, axes=(1, 0)),
                        parameters("index", a, key=(draw(st.integers(0, 2)),)),
                        parameters("index", a, key=(("slice", None, None, -1),)),
                    ]
                )
            )
        elif rank == 1:
            new = draw(
                st.sampled_from(
                    [
                        parameters("index", a, key=(draw(st.integers(0, 2)),)),
                        parameters("index", a, key=(("slice", None, None, -1),)),
                        parameters("broadcast_to", a, shape=(SIDE, SIDE)),
                    ]
                )
            )
        else:
            new = parameters("broadcast_to", a, shape=(SIDE,))
        made.append(new)
    roots = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3))
    return [*roots, made[-1]]


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    """Blocks of different sizes, some with nulls."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    made = []
    for rows in draw(st.lists(st.sampled_from([0, 1, 2, 5, 17, 64]), min_size=2, max_size=4)):
        columns = {n: rng.normal(size=(rows, *KINDS[n].shape)) for n in ("m", "x", "s")}
        valid = {}
        if draw(st.integers(0, 3)) == 0:
            valid["s"] = rng.random(rows) < 0.6
        made.append(Block(rows, columns, valid))
    return made


def bits(vectors: Sequence[Vector]) -> list[Any]:
    """Shapes and bytes of results; what stands at a null does not matter."""
    found = []
    for values, mask in vectors:
        known = values if mask is None else values[mask]
        found.append((known.shape, known.tobytes(), None if mask is None else mask.tobytes()))
    return found


@repeated(3)
@settings(max_examples=100)
@given(programs(), blocks(), st.booleans())
def test_results_are_those_of_a_kernel_without_buffers(
    run: int, roots: list[ex.Expression], data: list[Block], transient: bool
) -> None:
    kernel = Kernel(roots, BUFFERED_ROWS, transient)
    frame = kernel.frame()
    kernel.prepare(frame, [], 0)
    kept = []
    with np.errstate(all="ignore"):
        for block in data:
            plain = Kernel(roots, BUFFERED_ROWS)
            bare = plain.frame(buffered=False)
            plain.prepare(bare, [], 0)
            expected = bits(plain.run(bare, block))
            results = kernel.run(frame, block)
            assert bits(results) == expected
            kept.append((results, expected))
    if not transient:
        for results, expected in kept:  # after all other blocks
            assert bits(results) == expected


@repeated(3)
@settings(max_examples=34)
@given(programs(), blocks())
def test_results_are_what_the_expressions_mean(
    run: int, roots: list[ex.Expression], data: list[Block]
) -> None:
    kernel = Kernel(roots, BUFFERED_ROWS, transient=True)
    frame = kernel.frame()
    kernel.prepare(frame, [], 0)
    evaluate = Interpreter().evaluator(roots)
    for block in data:
        with np.errstate(all="ignore"):
            results = kernel.run(frame, block)
        for i, row in enumerate(block_rows(block, KINDS)):
            for (values, mask), expected in zip(results, evaluate((row,)), strict=True):
                found = None if mask is not None and not mask[i] else values[i]
                assert same_value(found, expected)


def test_buffers_are_reused() -> None:
    e: ex.Expression = COLUMNS["m"]
    for _ in range(20):
        e = calc("tanh", calc("add", e, COLUMNS["s"]))
    kernel = Kernel([e], BUFFERED_ROWS, transient=True)
    assert kernel.buffer_bytes <= 2 * MATRIX.bytes * BUFFERED_ROWS
    frame = kernel.frame()
    kernel.prepare(frame, [], 0)
    ones = Block(8, {"m": np.ones((8, SIDE, SIDE)), "s": np.ones(8)})
    first = kernel.run(frame, ones)[0][0]
    second = kernel.run(frame, ones)[0][0]
    assert np.shares_memory(first, second)


def test_view_of_a_buffer_is_read_after_the_buffers_own_last_reader() -> None:
    doubled = calc("multiply", COLUMNS["x"], 2.0)
    view = parameters("index", doubled, key=(("slice", None, None, -1),))
    for _ in range(3):
        doubled = calc("exp", doubled)
    kernel = Kernel([calc("add", doubled, 1.0), view], BUFFERED_ROWS, transient=True)
    frame = kernel.frame()
    kernel.prepare(frame, [], 0)
    x = np.linspace(0, 0.1, 30).reshape(10, 3)
    _, (shown, _) = kernel.run(frame, Block(10, {"x": x}))
    assert np.array_equal(shown, 2 * x[:, ::-1])


def test_values_that_read_no_record_are_computed_once_per_binding() -> None:
    slot = ex.Slot("a", FLOAT64, 0)
    kernel = Kernel([calc("multiply", COLUMNS["s"], calc("exp", slot))], BUFFERED_ROWS, True)
    frame = kernel.frame()
    block = Block(3, {"s": np.ones(3)})
    kernel.prepare(frame, [np.float64(0.0)], 1)
    assert kernel.run(frame, block)[0][0].tolist() == [1.0] * 3
    kernel.prepare(frame, [np.float64(1.0)], 1)  # the same version: nothing is looked at
    assert kernel.run(frame, block)[0][0].tolist() == [1.0] * 3
    kernel.prepare(frame, [np.float64(1.0)], 2)
    assert kernel.run(frame, block)[0][0].tolist() == [np.exp(1.0)] * 3


# Folds.


def partials(fold: Fold, data: Sequence[Block], transient: bool = True) -> Any:
    """The fold of blocks, one after the other, through one kernel."""
    kernel = Kernel(list(fold.arguments), BUFFERED_ROWS, transient)
    frame = kernel.frame()
    kernel.prepare(frame, [], 0)
    folds = FoldKernel(fold, [])
    folds.bind([], 0)
    partial = None
    for block in data:
        vectors = kernel.run(frame, block)
        partial = folds.merge(partial, folds.block(vectors, block.rows))
    return folds.finish(partial)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 5, 2), (4, 1, 1, 3), (1, 64, 1)])
def test_partial_of_one_record_survives_the_next_block(sizes: tuple[int, ...]) -> None:
    x0, x1 = ex.Column("v", VECTOR, 0), ex.Column("v", VECTOR, 1)
    doubled = calc("multiply", COLUMNS["x"], 2.0)
    last = Fold("f", "reduce", (doubled,), (calc("add", calc("multiply", x0, 0.0), x1),), ("v",))
    first = Fold("f", "reduce", (doubled,), (x0,), ("v",))
    rng = np.random.default_rng(0)
    data = [Block(n, {"x": rng.normal(size=(n, SIDE))}) for n in sizes]
    assert np.array_equal(partials(last, data), 2 * data[-1].columns["x"][-1])
    assert np.array_equal(partials(first, data), 2 * data[0].columns["x"][0])


@pytest.mark.parametrize("kind", ["sum", "minimum", "maximum", "mean", "add", "multiply"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 1, 7)])
def test_folds_of_buffers_are_numpys(kind: str, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    data = [Block(n, {"x": rng.normal(size=(n, SIDE))}) for n in sizes]
    whole = np.concatenate([b.columns["x"] for b in data]) * 2
    reference: dict[str, Any] = {
        "sum": whole.sum(axis=0), "add": whole.sum(axis=0), "multiply": whole.prod(axis=0),
        "minimum": whole.min(axis=0), "maximum": whole.max(axis=0), "mean": whole.mean(axis=0),
    }  # fmt: skip
    found = partials(Fold("f", kind, (calc("multiply", COLUMNS["x"], 2.0),)), data)
    np.testing.assert_allclose(found, reference[kind], rtol=1e-14)


@pytest.mark.parametrize("kind", ["minimum", "maximum"])
def test_extreme_of_strings_skips_what_a_choice_made_null(kind: str) -> None:
    text = ex.Column("t", ArrayType(STRING))
    chosen = calc("where", COLUMNS["b"], text, ex.Column("u", ArrayType(STRING)))
    block = Block(
        4,
        {
            "t": pa.array(["a", "z", "m", None]),
            "u": pa.array(["b", "y", None, "k"]),
            "b": np.array([True, False, True, False]),
        },
        {"t": np.array([True, True, True, False]), "u": np.array([True, True, False, True])},
    )
    expected = {"minimum": "a", "maximum": "y"}
    assert partials(Fold("f", kind, (chosen,)), [block, block]) == expected[kind]
    empty = Block(
        0, {"t": pa.array([], pa.string()), "u": pa.array([], pa.string()), "b": np.zeros(0, bool)}
    )
    assert partials(Fold("f", kind, (chosen,)), [empty, block, empty]) == expected[kind]
