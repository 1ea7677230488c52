"""Derivatives of the table's functions: by central differences, all of them, and compositions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import special

from scalops.algebra.derivatives.reverse import pull_back
from scalops.algebra.derivatives.rules import FLAT, REFUSED, RULES, is_flat, rule_of
from scalops.algebra.derivatives.terms import Term, fn
from scalops.algebra.derivatives.variables import variable
from scalops.algebra.dtypes import TupleType
from scalops.algebra.errors import PlanError
from scalops.algebra.expressions import Constant, Expression, Item, constant, within
from scalops.algebra.functions import FUNCTIONS, arrangements, function, ufunc_function
from scalops.engine.witness.interpreter import Interpreter

Array = np.ndarray[Any, np.dtype[Any]]
_RNG = np.random.default_rng(7)


def near(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers apart from each other and from whole numbers, where kinks are."""
    n = int(np.prod(shape))
    steps = np.linspace(low, high, n + 2)[1:-1]
    made = _RNG.permutation(steps) + 0.013
    return np.where(np.abs(made - np.rint(made)) < 0.02, made + 0.05, made).reshape(shape)


def positive(*shape: int) -> Array:
    return near(*shape, low=0.3, high=2.7)


def within_one(*shape: int) -> Array:
    return near(*shape, low=-0.9, high=0.9)


def square(n: int) -> Array:
    return near(n, n) + 3 * np.eye(n)


def definite(n: int) -> Array:
    a = near(n, n)
    return a @ a.T + n * np.eye(n)


class Case(NamedTuple):
    """A function, its arguments, its parameters, and which arguments are differentiated by."""

    function: Any
    arguments: tuple[Any, ...]
    parameters: Any = MappingProxyType({})
    by: tuple[int, ...] | None = None
    symmetric: bool = False
    results: tuple[int, ...] = ()  # of several, those that are taken


def case(function: Any, *arguments: Any, **parameters: Any) -> Case:
    return Case(function, arguments, parameters)


_V, _W, _M, _S = near(4), near(4), near(3, 4), near(2, 3, 4)
_INDICES = np.array([2, 0, 2])
_EVERYTHING = ("slice", None, None, None)
UNARY: dict[str, Array] = {
    **dict.fromkeys(("negative", "positive", "square", "absolute", "fabs", "exp", "exp2"), _M),
    **dict.fromkeys(("expm1", "sin", "cos", "sinh", "cosh", "tanh", "arcsinh", "arctan"), _M),
    **dict.fromkeys(("tan", "sigmoid", "deg2rad", "rad2deg", "cbrt", "nan_to_num"), _M),
    **dict.fromkeys(("sqrt", "log", "log2", "log10", "log1p", "reciprocal"), positive(3, 4)),
    **dict.fromkeys(("arcsin", "arccos", "arctanh"), within_one(3, 4)),
    "arccosh": positive(5) + 1.0,
}
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin", "hypot",
          "logaddexp", "logaddexp2", "arctan2", "remainder", "fmod", "copysign")  # fmt: skip
OF_SCIPY: list[Case] = [
    *(case(f, near(4)) for f in (special.erf, special.erfc, special.erfcx, special.ndtr,
                                 special.log_ndtr, special.log_expit, special.exp10, special.j0,
                                 special.i0)),
    *(case(f, positive(4)) for f in (special.gammaln, special.loggamma, special.gamma,
                                     special.entr)),
    case(special.erfinv, within_one(3)),
    *(case(f, np.array([0.2, 0.5, 0.9])) for f in (special.ndtri, special.logit)),
    *(case(f, positive(4), positive(4)) for f in (
        special.beta, special.betaln, special.rel_entr, special.kl_div, special.xlogy,
        special.xlog1py, special.huber, special.pseudo_huber)),
    case(np.radians, _V), case(np.degrees, _V), case(np.conjugate, _V),
]  # fmt: skip
CASES: list[Case] = [
    *(case(name, values) for name, values in UNARY.items()),
    *(case(name, near(3, 1), near(1, 4)) for name in BINARY),
    *(case(name, near(3), near(2, 3)) for name in BINARY),
    *(case(name, positive(3), near(3)) for name in ("power", "float_power")),
    *(Case("power", (near(3), n), by=(0,)) for n in (3, 2, 1, -1, 0)),
    Case("power", (positive(3), 1.5), by=(0,)),
    *OF_SCIPY,
    Case("where", (np.array([True, False, True]), near(2, 3), np.float64(0.7)), by=(1, 2)),
    Case("coalesce", (_V, _W)),
    Case("only_if", (np.bool_(True), np.float64(0.3)), by=(1,)),
    case("cast", _V, dtype="float64"),
    case("variable", _V, number=0),
    # Shapes.
    case("reshape", _M, shape=(2, 6)), case("transpose", _S, axes=(2, 0, 1)),
    case("broadcast_to", near(3, 1), shape=(2, 3, 4)),
    case("broadcast_to", np.float64(0.4), shape=(3,)),
    case("stack", _V, _W, axis=1), case("stack", _M, _M + 1, axis=0),
    case("concatenate", near(2, 3), near(4, 3), axis=0),
    case("concatenate", _M, near(3, 2), axis=1),
    case("assemble", np.float64(0.3), np.float64(-1.2)), case("dense", _V),
    case("index", _V, key=(2,)), case("index", _S, key=(1, ("slice", None, None, 2))),
    case("index", _S, key=(_EVERYTHING, -1, ("slice", 1, 3, None))),
    case("index", _V, key=(None, ("slice", None, None, -1))),
    *(Case("take", (a, i), {"axis": axis}, by=(0,)) for a, i, axis in (
        (_V, np.int64(1), 0), (_V, _INDICES, 0), (_S, np.int64(2), 1), (_S, _INDICES, 2),
        (_M, np.array([[0, 1], [2, 2]]), 0), (_V, np.int32(3), 0))),
    case("put", _V, np.float64(0.3), key=(1,)),
    case("put", _M, near(2), key=(("slice", 0, 2, None), 1)),
    Case("put", (_V, near(3), _INDICES), {"key": ("@",)}, by=(0, 1)),
    Case("put", (_M, near(2), np.array([0, -1]), np.array([1, 3])), {"key": ("@", "@")}, by=(0, 1)),
    Case("put", (_M, np.float64(2.5), np.int64(2)), {"key": (1, "@")}, by=(0, 1)),
    # Folds of axes.
    *(case(name, _S, axis=axis, keepdims=keep)
      for name in ("sum", "mean", "max", "min", "prod", "ptp", "nansum", "nanmean", "nanmax",
                   "nanmin", "nanprod", "median", "logsumexp")
      for axis, keep in ((None, False), (1, False), ((0, 2), True))),
    *(case(name, _S, axis=axis, keepdims=keep, ddof=ddof) for name in ("var", "std")
      for axis, keep, ddof in ((None, False, 0), (1, True, 1))),
    case("prod", np.array([0.0, 1.5, -2.0])), case("prod", np.array([0.0, 1.5, 0.0])),
    *(case("softmax", _S, axis=axis) for axis in (0, 2, None)), case("softmax", _V, axis=0),
    *(case(name, positive(2, 3), axis=axis) for name in ("cumsum", "cumprod")
    for axis in (None, 0, 1)),
    *(case("quantile", _M, q=q, axis=axis, keepdims=keep)
      for q, axis, keep in ((0.3, None, False), ((0.1, 1.0), 1, False), (0.5, 0, True))),
    *(case("sort", a, axis=axis) for a, axis in ((_V, -1), (_S, 1), (_M, 0))),
    *(case("diag", a, k=k) for a in (_V, _M) for k in (0, 1, -1)),
    *(case("diagonal", a, offset=k) for a in (_M, _S) for k in (0, 1)),
    *(case("trace", a, offset=k) for a in (_M, _S) for k in (0, -1)),
    case("flip", _M, axis=1), case("flip", _M, axis=None),
    # Arrangements.
    case("roll", _M, shift=2, axis=1), case("roll", _M, shift=(1, -1), axis=(0, 1)),
    case("tril", _M, k=1), case("triu", _M, k=0),
    case("repeat", _M, repeats=3, axis=1), case("repeat", _M, repeats=(2, 0, 1), axis=0),
    case("tile", _M, reps=(2, 3)), case("tile", _V, reps=(2, 1, 2)), case("tile", _M, reps=(2,)),
    case("diff", _M, n=1, axis=0), case("diff", _V, n=2, axis=-1),
    case("kron", near(2), near(3)), case("kron", near(2, 2), near(3)),
    case("kron", near(2), near(2, 3)),
    case("cross", near(3), near(3)), case("cross", near(2, 3), near(3)),
    Case("interp", (np.array([0.2, -3.0, 1.7, 5.0]), np.array([-1.0, 0.5, 2.0]), near(3))),
    *(case("einsum", *operands, subscripts=s) for s, operands in (
        ("ij,jk->ik", (_M, near(4, 2))), ("i,i->", (_V, _W)), ("ij->", (_M,)), ("ij->j", (_M,)),
        ("ii->i", (near(3, 3),)), ("ii->", (near(3, 3),)),
        ("ij,kj,k->i", (_M, near(2, 4), near(2))),
        ("i,j->ij", (_V, near(2))))),
    # Linear algebra.
    *(case("matmul", a, b) for a, b in (
        (_V, _W), (_M, _V), (near(3), _M), (_M, near(4, 2)), (_S, near(4)), (near(3), _S),
        (_S, near(4, 2)), (near(5, 3), _S), (_S, near(2, 4, 3)), (near(5, 1, 2, 3), near(4, 3, 2)),
        (near(2), near(3, 2, 2)))),
    case("outer", near(3), near(2)), case("outer", near(2, 2), near(2)),
    *(case("norm", a, ord=order, axis=axis, keepdims=keep) for a, order, axis, keep in (
        (_V, None, None, False), (_M, None, None, False), (_M, "fro", None, False),
        (_M, 2, 1, True), (_S, None, (0, 2), False), (_V, 1, None, False), (_V, np.inf, 0, False),
        (_M, -np.inf, 1, False), (_V, 3, None, False), (_M, 1, None, False), (_M, -1, None, True),
        (_M, np.inf, None, False), (_M, 2, None, False), (_M, "nuc", None, False))),
    case("solve", square(3), near(3)), case("solve", square(3), near(3, 2)),
    case("solve", np.stack([square(2), square(2) + 1]), near(2)),
    case("solve", np.stack([square(2), square(2) + 1]), near(2, 3)),
    case("inv", square(3)), case("inv", np.stack([square(2), square(2) + 1])),
    case("det", square(3)), case("det", np.stack([square(2), square(2) + 1])),
    Case("slogdet", (square(3),), results=(0, 1)),
    Case("slogdet", (square(2)[None],), results=(1,)),
    Case("cholesky", (definite(3),), symmetric=True),
    Case("eigvalsh", (definite(3),), symmetric=True),
    Case("eigh", (definite(3),), symmetric=True, results=(0,)),
    Case("eigh", (definite(3),), symmetric=True, results=(0, 1)),
    Case("eigh", (definite(2)[None],), symmetric=True, results=(1,)),
    case("svdvals", near(3, 2)), Case("svd", (near(2, 3),), {"full_matrices": False}, results=(1,)),
    Case("qr", (near(4, 3),), results=(0,)), Case("qr", (square(3),), results=(0, 1)),
    Case("qr", (near(4, 2),), results=(1,)),
    case("pinv", near(4, 2)), case("pinv", near(2, 3)),
    *(case("matrix_power", square(3), n=n) for n in (0, 1, 2, 5, -2)),
    case("squared_distances", near(3), near(2, 3)), case("squared_distances", near(3), near(3)),
    *(case("weighted_squared_distances", near(3), near(2, 3), positive(2, 3), weight=w)
      for w in ("times", "over", "times_squared", "over_squared")),
    Case("sparse_vector", (np.array([3, 1, 3]), near(3)), {"dimension": 5}, by=(1,)),
]  # fmt: skip


def entry_of(key: Any) -> Any:
    return ufunc_function(key) if isinstance(key, np.ufunc) else function(key)


def parts(result: Any, chosen: tuple[int, ...]) -> list[Array]:
    """The results as dense arrays."""
    several = [result[i] for i in chosen] if chosen else [result]
    return [np.asarray(r.toarray() if hasattr(r, "toarray") else r, float) for r in several]


def differences(f: Callable[[list[Array]], float], at: list[Array], i: int, symmetric: bool) -> Any:
    """Central differences of f by its argument number i."""
    out = np.zeros(np.shape(at[i]))
    for place in np.ndindex(*out.shape):
        step = 1e-6
        values = []
        for side in (step, -step):
            moved = np.array(at[i], float)
            moved[place] += side
            if symmetric:
                moved = (moved + moved.swapaxes(-1, -2)) / 2
            values.append(f([*at[:i], moved, *at[i + 1 :]]))
        out[place] = (values[0] - values[1]) / (2 * step)
    return out


def value(e: Expression) -> Any:
    made = Interpreter().value(e)
    return made.toarray() if hasattr(made, "toarray") else made


def weights_of(results: list[Array]) -> list[Array]:
    return [np.cos(1.0 + np.arange(r.size, dtype=float)).reshape(r.shape) for r in results]


@pytest.mark.parametrize(
    "chosen", CASES, ids=lambda c: f"{getattr(c.function, '__name__', c.function)}"
)
def test_derivatives_are_those_of_central_differences(chosen: Case) -> None:
    entry = entry_of(chosen.function)
    at = list(chosen.arguments)
    by = chosen.by if chosen.by is not None else tuple(range(len(at)))
    first = parts(entry.evaluate(*at, **chosen.parameters), chosen.results)
    weights = weights_of(first)

    def loss(arguments: list[Array]) -> float:
        made = parts(entry.evaluate(*arguments, **chosen.parameters), chosen.results)
        return float(sum(np.sum(w * r) for w, r in zip(weights, made, strict=True)))

    symbols = [constant(a) for a in at]
    leaves: list[Expression] = [variable(s) if i in by else s for i, s in enumerate(symbols)]
    made = fn(entry.name, *leaves, **chosen.parameters).e
    several = isinstance(made.any_type, TupleType)
    roots = [Item(made, i) for i in chosen.results] if several else [made]
    seeds = [Term(constant(w[()])) for w in weights]
    found = pull_back(list(zip(roots, seeds, strict=True)), [leaves[i] for i in by])
    for i in by:
        expected = differences(loss, at, i, chosen.symmetric)
        g = found.get(leaves[i])
        got = np.zeros(np.shape(at[i])) if g is None else value(g.e)
        got = np.broadcast_to(got, np.shape(at[i]))
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


def test_the_whole_table_has_derivatives_or_says_why_not() -> None:
    """Of the table as it is imported: functions that others add on use are theirs."""
    script = """
from scalops.algebra.functions import FUNCTIONS
from scalops.algebra.derivatives.reverse import REFUSED
from scalops.algebra.derivatives.rules import is_flat, rule_of, FLAT
import scalops.algebra.derivatives.variables
for name, entry in FUNCTIONS.items():
    ways = [rule_of(entry) is not None, is_flat(entry), name in REFUSED]
    assert sum(ways) == 1, (name, ways)
print(len(FUNCTIONS))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 170


def test_every_rule_has_a_case() -> None:
    tested = {"stored"} | {
        c.function if isinstance(c.function, str) else c.function.__name__ for c in CASES
    }
    made_on_use = {"add_accumulate", "multiply_accumulate", "logaddexp_reduce", "hypot_reduce"}
    assert set(RULES) - tested - made_on_use == set()
    assert not set(RULES) & set(FLAT)
    assert not set(RULES) & set(REFUSED)
    assert all(name in FUNCTIONS for name in REFUSED)


@pytest.mark.parametrize(
    ("ufunc", "method"),
    [(np.add, "accumulate"), (np.multiply, "accumulate"), (np.logaddexp, "reduce"),
     (np.hypot, "reduce")],
    ids=str,
)  # fmt: skip
def test_methods_of_universal_functions(ufunc: np.ufunc, method: str) -> None:
    entry = arrangements.ufunc_method(ufunc, method)
    at = positive(3)
    x = variable(constant(at))
    made = fn(entry.name, x, axis=0)
    weights = weights_of([np.asarray(entry.evaluate(at, axis=0))])[0]
    found = pull_back([(made.e, Term(constant(weights[()])))], [x])[x]
    expected = differences(
        lambda v: float(np.sum(weights * entry.evaluate(v[0], axis=0))), [at], 0, False
    )
    np.testing.assert_allclose(value(found.e), expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_derivative_says_what_to_write(name: str) -> None:
    entry = FUNCTIONS[name]
    assert rule_of(entry) is None
    assert not is_flat(entry)
    if name == "list_item":
        return  # of a list there is no gradient to begin with
    x = variable(constant(near(3)))
    with pytest.raises(PlanError, match=f"no derivative of {name}") as caught:
        pull_back([(fn(name, x).e, Term(Constant(1.0)))], [x])
    assert caught.value.hint == REFUSED[name]


# Compositions.

_STEPS: list[Callable[[Term], Term]] = [
    lambda t: fn("tanh", t),
    lambda t: fn("sigmoid", t) * t,
    lambda t: t * t + 0.5,
    lambda t: fn("exp", t * 0.3),
    lambda t: fn("log1p", fn("exp", t)),
    lambda t: fn("log", 1 + fn("exp", -t)),
    lambda t: t / (1 + fn("exp", t)),
    lambda t: fn("softmax", t, axis=t.ndim - 1),
    lambda t: t - fn("logsumexp", t, axis=t.ndim - 1, keepdims=True),
    lambda t: t.reshape(*t.shape[::-1]),
    lambda t: t.transpose(),
    lambda t: t @ t.swap_last(),
    lambda t: t + fn("sum", t, axis=0),
    lambda t: t * fn("mean", t, axis=t.ndim - 1, keepdims=True),
    lambda t: fn("cumsum", t, axis=0),
    lambda t: fn("sqrt", t * t + 1),
    lambda t: -t / 3.0,
    lambda t: t * fn("index", t, key=(0, 0)),
    lambda t: fn("concatenate", t, t * 2.0, axis=1),
    lambda t: fn("maximum", t, t * 0.5),
    lambda t: fn("log", fn("softmax", t, axis=1)),
    lambda t: 2.0 - t,
    lambda t: fn("arctan", t) * t / fn("cosh", t * 0.1),
    lambda t: fn("einsum", t, t, subscripts="ij,ik->jk"),
]


@pytest.mark.parametrize("seed", range(25))
def test_compositions(seed: int) -> None:
    random = Random(seed)
    at = np.random.default_rng(seed).normal(size=(2, 3)) * 0.7
    steps = [random.choice(_STEPS) for _ in range(random.randint(2, 5))]

    def loss(x: Term) -> Term:
        for step in steps:
            x = step(x)
            if x.type.size > 40:
                x = x.sum(0, keepdims=True)
        return fn("sum", fn("tanh", x * 0.2))

    x = Term(variable(constant(at)))
    found = pull_back([(loss(x).e, Term(Constant(1.0)))], [x.e])[x.e]
    assert found.type.name == "float64"
    expected = differences(lambda v: float(value(loss(Term(constant(v[0]))).e)), [at], 0, False)
    np.testing.assert_allclose(
        np.broadcast_to(value(found.e), at.shape), expected, rtol=1e-4, atol=1e-7
    )
    # By float32 it is the same, in float32.
    single = Term(variable(constant(at.astype(np.float32))))
    less = pull_back([(loss(single).e, Term(Constant(1.0)))], [single.e])[single.e]
    assert less.type.name == "float32"
    np.testing.assert_allclose(value(less.e), value(found.e), rtol=2e-2, atol=1e-4)


def test_derivatives_of_derivatives() -> None:
    """By each element of the gradient in turn: the matrix of second derivatives."""
    at = np.array([0.3, -0.8, 0.5])
    x = Term(variable(constant(at)))
    loss = fn("logsumexp", x * x) + fn("sum", fn("sin", x)) * fn("index", x, key=(1,))
    g = pull_back([(loss.e, Term(Constant(1.0)))], [x.e])[x.e]
    rows = []
    for i in range(3):
        part = fn("index", g, key=(i,))
        rows.append(value(pull_back([(part.e, Term(Constant(1.0)))], [x.e])[x.e].e))

    def gradient(v: Array, i: int) -> float:
        e = np.exp(v * v)
        own = 2 * v * e / e.sum() + np.cos(v) * v[1]
        own[1] += np.sin(v).sum()
        return float(own[i])

    for i in range(3):
        expected = differences(partial(lambda v, i: gradient(v[0], i), i=i), [at], 0, False)
        np.testing.assert_allclose(rows[i], expected, rtol=1e-6)


# What stays finite.


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda u: fn("log1p", fn("exp", u)), [0.0, 0.5, 1.0]),
        (lambda u: fn("log", 1 + fn("exp", u)), [0.0, 0.5, 1.0]),
        (lambda u: fn("log", fn("exp", u) + 1.0), [0.0, 0.5, 1.0]),
        (lambda u: fn("logaddexp", 0.0, u), [0.0, 0.5, 1.0]),
        (lambda u: -fn("log", fn("sigmoid", u)), [-1.0, -0.5, 0.0]),
        (lambda u: fn("log", 1 - fn("sigmoid", u)), [0.0, -0.5, -1.0]),
        (lambda u: fn("log1p", fn("negative", fn("sigmoid", u))), [0.0, -0.5, -1.0]),
        (lambda u: fn("log", 1 / (1 + fn("exp", u))), [0.0, -0.5, -1.0]),
        (lambda u: 4.0 / (1 + fn("exp", -u)), [0.0, 1.0, 0.0]),
        (lambda u: fn("divide", 4.0, fn("add", 1, fn("exp", fn("negative", u)))), [0.0, 1.0, 0.0]),
        (lambda u: fn("sigmoid", u), [0.0, 0.25, 0.0]),
        (lambda u: fn("tanh", u), [0.0, 1.0, 0.0]),
    ],
)
def test_nothing_overflows_in_between(loss: Callable[[Term], Term], expected: list[float]) -> None:
    u = variable(constant(np.array([-800.0, 0.0, 800.0])))
    found = pull_back([(loss(Term(u)).e, Term(Constant(1.0)))], [u])[u]
    np.testing.assert_allclose(value(found.e), expected)


def test_logarithms_of_softmax_stay_finite() -> None:
    z = variable(constant(np.array([900.0, 0.0, -900.0])))
    p = fn("softmax", z, axis=0)
    for chosen in (fn("take", fn("log", p), 2, axis=0), fn("log", fn("take", p, 2, axis=0)),
                   fn("log", fn("index", p, key=(2,)))):  # fmt: skip
        found = pull_back([(chosen.e, Term(Constant(1.0)))], [z])[z]
        np.testing.assert_allclose(value(found.e), [-1.0, 0.0, 1.0])
    total = fn("log", fn("sum", fn("exp", z), axis=None, keepdims=False))
    found = pull_back([(total.e, Term(Constant(1.0)))], [z])[z]
    np.testing.assert_allclose(value(found.e), [1.0, 0.0, 0.0])


def test_at_a_kink_one_side_is_taken() -> None:
    x = variable(constant(np.zeros(2)))

    def at_zero(made: Term) -> Any:
        return value(pull_back([(made.e, Term(Constant(1.0)))], [x])[x].e)

    np.testing.assert_array_equal(at_zero(fn("maximum", x, 0.0)), [0.0, 0.0])
    np.testing.assert_array_equal(at_zero(fn("maximum", 0.0, x)), [1.0, 1.0])
    np.testing.assert_array_equal(at_zero(fn("absolute", x)), [0.0, 0.0])
    np.testing.assert_array_equal(at_zero(fn("max", x, axis=None, keepdims=False)), [0.5, 0.5])
    np.testing.assert_array_equal(at_zero(fn("sqrt", x)), [np.inf, np.inf])


@pytest.mark.parametrize(
    "loss",
    [
        lambda w: chained(w, lambda x: x * x),
        lambda w: fn("log", chained(w, lambda x: x * x)),
        lambda w: chained(w, lambda x: x / (x + 2.0)),
        lambda w: chained(w, lambda x: -x * fn("tanh", x)),
    ],
)
def test_what_is_shared_stays_shared(loss: Callable[[Term], Term]) -> None:
    """Each step reads the one before twice: written out it would be 2⁴⁰ steps."""
    w = variable(constant(np.float64(1.0)))
    found = pull_back([(loss(Term(w)).e, Term(Constant(1.0)))], [w])[w]
    assert len(within([found.e])) < 40 * 40


def chained(x: Term, step: Callable[[Term], Term]) -> Term:
    for _ in range(40):
        x = step(x)
    return x
