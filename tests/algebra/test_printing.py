"""Printed algebra means in Python what the expression means."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra.expressions import Column, Expression, call, constant
from scalops.algebra.functions import function
from scalops.algebra.printing import constant_text, number, text
from scalops.engine.witness.interpreter import Interpreter
from tests.quick import repeated

ROW = {"a": np.float64(1.5), "b": np.float64(-2.0), "c": np.float64(0.5)}
BITS = {"i": np.int64(6), "j": np.int64(3), "k": np.int64(1)}
NAMES: dict[str, Any] = {**ROW, **BITS, "abs": abs, "where": np.where, "exp": np.exp}


def _call(name: str, *arguments: Expression) -> Expression:
    return call(function(name), *arguments)


def _binary(
    names: list[str], inner: st.SearchStrategy[Expression]
) -> st.SearchStrategy[Expression]:
    return st.builds(_call, st.sampled_from(names), inner, inner)


def _unary(names: list[str], inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.builds(_call, st.sampled_from(names), inner)


floats = st.recursive(
    st.sampled_from(
        [
            *(Column(n, so.float64) for n in ROW),
            *(constant(np.float64(v)) for v in (2, 3, -1, -0.5)),
        ]
    ),
    lambda inner: st.one_of(
        _binary(["add", "subtract", "multiply", "divide", "floor_divide", "remainder"], inner),
        _binary(["add", "subtract", "multiply", "divide", "power"], inner),
        _unary(["negative", "positive", "absolute", "exp"], inner),
    ),
    max_leaves=8,
)
bits = st.recursive(
    st.sampled_from([*(Column(n, so.int64) for n in BITS), constant(np.int64(2))]),
    lambda inner: st.one_of(
        _binary(["bitwise_and", "bitwise_or", "bitwise_xor", "add", "subtract"], inner),
        st.builds(_call, st.sampled_from(["left_shift", "right_shift"]), inner,
                  st.just(Column("k", so.int64))),
        _unary(["invert", "negative"], inner),
    ),
    max_leaves=8,
)  # fmt: skip
bools = st.recursive(
    _binary(["less", "greater_equal", "equal", "not_equal"], floats),
    lambda inner: st.one_of(
        _binary(["bitwise_and", "bitwise_or", "bitwise_xor", "equal", "less"], inner),
        _unary(["invert"], inner),
    ),
    max_leaves=5,
)
choices = st.builds(lambda c, x, y: _call("where", c, x, y), bools, floats, floats)


@repeated(3)
@given(st.one_of(floats, bits, bools, choices))
@settings(max_examples=100)
def test_printed_algebra_has_the_value_of_the_expression(run: int, e: Expression) -> None:
    printed = text(e)
    assume("…" not in printed)
    # As NumPy's numbers, which divide by zero and take roots of negatives without a fuss.
    kind = "np.int64" if e.type.name == "int64" else "np.float64"
    typed = re.sub(r"(?<![\w.])(\d+(\.\d+)?)", rf"{kind}(\1)", printed)
    with np.errstate(all="ignore"):
        again = eval(typed, {**NAMES, "np": np})
    (value,) = Interpreter().evaluator([e])(({**ROW, **BITS},))
    # Scalar and array loops of NumPy's power may differ in the last bit.
    np.testing.assert_allclose(again, value, rtol=1e-15, err_msg=printed)


def test_comparisons_do_not_chain() -> None:
    a, b, c = (Column(n, so.float64) for n in "abc")
    assert text(_call("equal", _call("less", a, b), _call("less", b, c))) == "(a < b) == (b < c)"


@pytest.mark.parametrize(
    ("f", "printed"),
    [
        (lambda r: -r.y * r.x / (1 + np.exp(r.y)), "-y * x / (1 + exp(y))"),
        (lambda r: (-r.y) ** 2, "(-y) ** 2"),
        (lambda r: -(r.y**2), "-y ** 2"),
        (lambda r: r.y - (r.y - 1), "y - (y - 1)"),
        (lambda r: r.y / (r.y / 2), "y / (y / 2)"),
        (lambda r: 2 ** (r.y**3), "2 ** y ** 3"),
        (lambda r: (2**r.y) ** 3, "(2 ** y) ** 3"),
        (lambda r: r.y * (r.x @ r.x), "y * (x @ x)"),
        (lambda r: (r.y > 0) & ~(r.y < 2), "(y > 0) & ~(y < 2)"),
        (lambda r: r.x[0] + r.x[:2].sum(), "x[0] + sum(x[:2])"),
        (lambda r: r.x[..., None][-1, 0], "x[:, None][-1, 0]"),
        (lambda r: np.outer(r.x, r.x).T, "outer(x, x).T"),
        (lambda r: abs(r.y) + so.cast(r.y, "int8"), "abs(y) + int8(y)"),
        (lambda r: np.where(r.y > 0, "a", "b"), "where(y > 0, 'a', 'b')"),
        (lambda r: np.stack([r.y] * 9), "stack(y, y, …, y, axis=0)"),
    ],
)  # fmt: skip
def test_reads_as_it_was_written(f: Any, printed: str) -> None:
    table = so.table({"y": np.ones(1), "x": np.ones((1, 3))})
    ((_, e),) = table.map(f).plan.outputs  # type: ignore[attr-defined]
    assert text(e) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.3333333333"),
        (100.0, "100"),
        (1e-7, "1e-07"),
        (np.float64("inf"), "inf"),
        (True, "True"),
        (np.int8(-3), "-3"),
    ],
)
def test_numbers_are_short(value: Any, printed: str) -> None:
    assert number(value) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (np.array([1.0, -2.5]), "[1, -2.5]"),
        (np.zeros(10), "float64[10] of 0"),
        (np.arange(10), "int64[10] constant"),
        (np.zeros((2, 0)), "float64[2,0] constant"),
        ("it's", '"it\'s"'),
    ],
)
def test_large_constants_print_as_their_type(value: Any, printed: str) -> None:
    assert constant_text(value) == printed
