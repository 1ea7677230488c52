"""Gradient descent over arrays of odd types, shapes and layouts: the right result, or its name."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so

ROWS, COLUMNS, STEPS = 3000, 5, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, COLUMNS))
Y = np.sign(RNG.standard_normal(ROWS))


def descent(x: Any, y: Any) -> Any:
    """Logistic regression with its loss, one record at a time."""
    xy = so.table({"x": x, "y": y})

    @so.loop({"w": np.zeros(x.shape[1]), "loss": 0.0}, range(STEPS))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).sum()
        env["loss"] = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum()
        env["w"] = env["w"] - 0.1 * gradient
        return env

    return model


def expected(x: Any, y: Any) -> Any:
    x, y = np.asarray(x, float), np.asarray(y, float)
    w = np.zeros(x.shape[1])
    for _ in range(STEPS):
        with np.errstate(over="ignore"):
            w = w - 0.1 * (-y / (1 + np.exp(y * (x @ w)))) @ x
    return w


def _unaligned(x: Any) -> Any:
    made = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    made[...] = x
    assert not made.flags.aligned
    return made


def _read_only(x: Any) -> Any:
    made = x.copy()
    made.setflags(write=False)
    return made


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "no rows": lambda: (X[:0], Y[:0]),
    "one row": lambda: (X[:1], Y[:1]),
    "one column": lambda: (X[:, :1], Y),
    "no columns": lambda: (X[:, :0], Y),
    "a million columns": lambda: (np.tile(X[:2], 200_000) / 1e3, Y[:2]),
    "big-endian": lambda: (X.astype(">f8"), Y.astype(">i4")),
    "float16": lambda: (X.astype(np.float16), Y.astype(np.float16)),
    "float32": lambda: (X.astype(np.float32), Y.astype(np.float32)),
    "small integers": lambda: (np.sign(X).astype(np.int8), Y.astype(np.int8)),
    "bools": lambda: (X > 0, Y),
    "read-only": lambda: (_read_only(X), Y),
    "unaligned": lambda: (_unaligned(X), _unaligned(Y)),
    "by columns": lambda: (np.asfortranarray(X), Y),
    "every other row": lambda: (np.repeat(X, 2, axis=0)[::2], Y),
    "backwards": lambda: (X[::-1], Y[::-1]),
}


@pytest.mark.parametrize("case", CASES)
def test_result_is_numpys(case: str) -> None:
    x, y = CASES[case]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = descent(x, y).collect()
    tolerance = 1e-3 if x.dtype.kind == "f" and x.dtype.itemsize < 8 else 1e-9
    np.testing.assert_allclose(found["w"], expected(x, y), rtol=tolerance, atol=1e-12)
    assert found["w"].dtype == np.float64


@pytest.mark.parametrize("scale", [1e5, 1e300])
def test_overflow_is_the_loops_error_and_no_warning(scale: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(so.LoopError, match=r"has become (infinite|NaN)"):
            descent(X * scale, Y).collect()


def test_narrow_types_stay_narrow() -> None:
    table = so.table({"x": X.astype(np.float32), "b": X > 0, "k": np.sign(X).astype(np.int8)})
    w = np.ones(COLUMNS, np.float32)
    types = table.map(lambda r: {"m": r.x @ w, "b": ~r.b, "k": r.k * 2, "s": so.softmax(r.x)})
    kinds = {n: k.name for n, k in types.schema}
    assert kinds == {"m": "float32", "b": "bool", "k": "int8", "s": "float32"}
    assert table.map(lambda r: (r.x @ w) * r.x).sum().collect().dtype == np.float32


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda r: np.exp(r.s), id="exp"),
        pytest.param(lambda r: r.x + r.s, id="add"),
        pytest.param(lambda r: r.s @ r.x, id="matmul"),
        pytest.param(lambda r: so.one_hot(r.y, 3), id="one_hot"),
    ],
)
def test_a_wrong_type_is_told_when_the_function_is_traced(function: Any) -> None:
    table = so.table({"s": ["a"], "x": np.ones((1, 2)), "y": [1.5]})
    with pytest.raises(so.TraceError, match=r"(string|float64).*test_odd_inputs.py"):
        table.map(function)
