"""so.grad and so.value_and_grad: by central differences of the loss, in all the places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

import scalops as so

_RNG = np.random.default_rng(11)
N, D = 40, 3
X = _RNG.normal(size=(N, D))
Y = np.where(_RNG.normal(size=N) > 0, 1.0, -1.0)
K = _RNG.integers(0, 4, N)
T = so.table({"x": X, "y": Y, "k": K, "id": np.arange(N)})
W = np.array([0.4, -0.3, 0.2])


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with so.session(threads=1):
        yield


def logistic(r: Any, w: Any) -> Any:
    return np.log1p(np.exp(-r.y * (r.x @ w)))


def assert_gradient(f: Callable[[Any], Any], at: Any) -> None:
    """Along a direction: the difference of two losses is what the gradient makes of it."""
    at = np.asarray(at, float)
    way = _RNG.normal(size=at.shape)
    value, g = so.value_and_grad(f, at)
    losses = [f(so.lit(at + step * way)) for step in (0.0, 1e-5, -1e-5)]
    found, slope, here, ahead, behind = so.collect(value, g, *losses)
    assert slope.shape == at.shape
    assert found == pytest.approx(here, rel=1e-12)
    expected = (ahead - behind) / 2e-5
    np.testing.assert_allclose(np.sum(slope * way), expected, rtol=1e-6, atol=1e-7)


LOSSES: dict[str, Callable[[Any], Any]] = {
    "sum": lambda w: T.map(lambda r: logistic(r, w)).sum(),
    "sum of a function": lambda w: T.sum(lambda r: logistic(r, w)),
    "mean": lambda w: T.mean(lambda r: logistic(r, w)),
    "reduce": lambda w: T.map(lambda r: logistic(r, w)).reduce(lambda a, b: a + b),
    "structured": lambda w: (
        T.map(lambda r: {"a": logistic(r, w), "b": (r.x @ w) ** 2}).reduce(
            lambda p, q: {"a": p.a + q.a, "b": p.b + q.b}
        )
    ).b,
    "with a regulariser": lambda w: T.mean(lambda r: logistic(r, w)) + 0.1 * (w @ w),
    "a regulariser in the record": lambda w: T.mean(lambda r: logistic(r, w) + 0.1 * (w @ w)),
    "sums of sums": lambda w: T.sum(lambda r: logistic(r, w)) / T.count()
    + np.sqrt(T.sum(lambda r: (r.x @ w) ** 2)),
    "a product of sums": lambda w: T.sum(lambda r: r.x @ w) * T.sum(lambda r: (r.x @ w) ** 2),
    "a sum of vectors": lambda w: np.sum(T.sum(lambda r: np.tanh(r.x * w)) ** 2),
    "a mean of matrices": lambda w: np.linalg.det(
        T.mean(lambda r: np.outer(r.x * w, r.x * w)) + np.eye(D)
    ),
    "columns before the fold": lambda w: (
        T.with_columns(m=lambda r: r.x @ w)
        .with_columns(e=lambda r: (r.m - r.y) ** 2, m2=lambda r: r.m * r.m)
        .select("e", "m", "m2")
        .map(lambda r: r.e + r.m * r.m2)
        .sum()
    ),
    "a filter": lambda w: T.filter(lambda r: r.y > 0).map(lambda r: (r.x @ w) ** 2).sum(),
    "a filter after the map": lambda w: (
        T.map(lambda r: {"e": (r.x @ w) ** 2, "y": r.y}).filter(lambda r: r.y > 0).sum("e")
    ),
    "a limit and an order after the map": lambda w: (
        T.map(lambda r: {"e": (r.x @ w) ** 3, "y": r.y, "id": r.id})
        .sort("y", "id")
        .slice(3, 20)
        .limit(11)
        .sum("e")
    ),
    "a union": lambda w: (
        T.map(lambda r: logistic(r, w)).union(T.limit(5).map(lambda r: (r.x @ w) ** 2)).sum()
    ),
    "a union with one side": lambda w: (
        T.map(lambda r: r.y * 1.0).union(T.map(lambda r: np.exp(r.x @ w))).mean()
    ),
    "the least": lambda w: T.min(lambda r: (r.x @ w - 0.3) ** 2),
    "the greatest": lambda w: T.map(lambda r: np.tanh(r.x @ w)).max(),
    "the variance": lambda w: T.var(lambda r: r.x @ w, ddof=1),
    "the deviation": lambda w: T.std(lambda r: np.tanh(r.x @ w)),
    "variances of vectors": lambda w: np.sum(T.var(lambda r: np.tanh(r.x * w)) * W),
    "the chosen": lambda w: T.argmax(lambda r: r.y * r.x[0], lambda r: (r.x @ w) ** 2),
    "the first and the last": lambda w: T.first(lambda r: r.x @ w) * T.map(
        lambda r: {"a": r.x @ w, "b": r.y}
    ).last().a,
    "scattered": lambda w: np.sum(
        T.limit(6).map(lambda r: {"i": 5 - r.id, "v": np.exp(r.x @ w)})
        .to_array("v", index="i", size=8, fill=0.5) * np.arange(8.0)
    ),
    "a fold in the record": lambda w: (
        lambda mean: T.sum(lambda r: (r.x @ w - mean) ** 2 + 0.5 * mean)
    )(T.mean(lambda r: np.exp(r.x @ w))),
    "records that are the same": lambda w: T.map(lambda r: np.sum(np.exp(w))).sum(),
    "no record": lambda w: np.sum(w**3) / (1 + np.sum(np.abs(w))),
    "of a constant of the record": lambda w: T.sum(lambda r: np.where(r.y > 0, w[0], w[1] * r.y)),
    "comparisons choose": lambda w: T.sum(lambda r: np.maximum(0.3 - r.y * (r.x @ w), 0.0)),
    "a take by the record": lambda w: T.sum(lambda r: np.exp(w)[r.k % D] * r.y),
    "an array of elements": lambda w: np.sum(np.array([w[0], w[1] * w[0]]) ** 2) * w[2],
    "elements by the record": lambda w: T.sum(
        lambda r: np.exp(np.outer(w, w))[r.k % D, 1] * np.sum(np.outer(w, w)[r.k % D, 1:])
    ),
    "arrays of matrices by the record": lambda w: T.sum(
        lambda r: np.sum(np.sin(so.lit(np.ones((D, 2, 1))) * w)[r.k % D] * r.y)
    ),
    "what does not depend on it is collected": lambda w: np.sum(w**2) * float(T.mean("y")),
    "a Value's element": lambda w: T.sum(lambda r: r.x[0] * w[2]) * w[0],
}  # fmt: skip


@pytest.mark.parametrize("title", LOSSES)
def test_it_is_that_of_central_differences(title: str) -> None:
    assert_gradient(LOSSES[title], W)


def test_a_scalar_and_matrices() -> None:
    assert_gradient(lambda b: T.sum(lambda r: np.log1p(np.exp(-r.y * (r.x[0] + b)))), 0.3)

    def softmax_loss(m: Any) -> Any:
        return T.map(lambda r: so.logsumexp(m @ r.x) - (m @ r.x)[r.k]).mean() + 0.1 * np.sum(m * m)

    assert_gradient(softmax_loss, _RNG.normal(size=(4, D)))

    def network(m: Any) -> Any:
        return T.sum(lambda r: (np.tanh(m @ r.x) @ np.array([1.0, -0.5]) - r.y) ** 2)

    assert_gradient(network, _RNG.normal(size=(2, D)))


def test_the_loss_and_its_gradient_are_one_pass() -> None:
    @so.loop({"w": np.zeros(D), "b": 0.0, "loss": np.inf}, range(3))
    def model(env: Any) -> Any:
        def loss(r: Any) -> Any:
            return np.log1p(np.exp(-r.y * (r.x @ env["w"] + env["b"])))

        value, g = so.value_and_grad(T.map(loss).mean(), {"w": env["w"], "b": env["b"]})
        return {"w": env["w"] - g["w"], "b": env["b"] - g["b"], "loss": value}

    text = model.explain()
    assert text.count("MapReduceUpdate one pass each iteration") == 1
    assert "s @ X" in text
    w, b = np.zeros(D), 0.0
    for _ in range(3):
        m = Y * (X @ w + b)
        s = -Y / (1 + np.exp(m))
        loss = np.log1p(np.exp(-m)).mean()
        w, b = w - (s @ X) / N, b - s.mean()
    result = model.collect()
    np.testing.assert_allclose(result["w"], w, rtol=1e-12)
    assert result["b"] == pytest.approx(b, rel=1e-12)
    assert result["loss"] == pytest.approx(loss, rel=1e-12)


class Model(so.Environment):
    w: np.ndarray[Any, Any]
    loss: float


class Pair(NamedTuple):
    a: Any
    b: Any


def test_an_environment_and_other_structures() -> None:
    @so.loop(Model(w=W, loss=np.inf), range(2))
    def model(env: Model) -> Model:
        def loss(r: Any) -> Any:
            return (r.x @ env.w - r.y) ** 2

        value, g = so.value_and_grad(T.mean(loss), env)
        assert isinstance(g, Model)
        env.w -= 0.1 * g.w
        env.loss = value + g.loss  # which the loss does not read: 0
        return env

    result = model.collect()
    w = W
    for _ in range(2):
        loss = np.mean((X @ w - Y) ** 2)
        w = w - 0.1 * 2 * ((X @ w - Y) @ X) / N
    np.testing.assert_allclose(result.w, w, rtol=1e-12)
    assert result.loss == pytest.approx(loss)

    def of(p: Any) -> Any:
        return np.sum(p["v"] * p["list"][0]) + p["list"][1] * p["pair"].a

    at = {"v": W, "list": [W + 1, 2.0], "pair": Pair(3.0, 1.0), "tuple": (1.5,)}
    g = so.collect(so.grad(of, at))
    assert set(g) == set(at)
    np.testing.assert_allclose(g["v"], W + 1)
    np.testing.assert_allclose(g["list"][0], W)
    assert g["list"][1] == 3.0
    assert tuple(g["pair"]) == (2.0, 0.0)
    assert g["tuple"] == (0.0,)
    assert isinstance(so.grad(of, at)["pair"], Pair)


def test_a_computed_value_is_a_variable() -> None:
    v = T.mean("x")
    u = 2.0 * v
    loss = T.sum(lambda r: (r.x @ u) ** 2) + np.sum(v)
    by_u, both = so.grad(loss, u), so.grad(loss, [u, v])
    x = X.mean(0) * 2
    expected = 2 * (X @ x) @ X
    np.testing.assert_allclose(by_u.collect(), expected)
    found = so.collect(both)
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[1], 2 * expected + 1)  # what goes through u too


def test_in_a_functions_argument_only_that_is_varied() -> None:
    v = T.mean("x")
    g = so.grad(lambda w: np.sum(w * v) + T.sum(lambda r: r.x @ w), v)
    np.testing.assert_allclose(g.collect(), X.mean(0) + X.sum(0))


def test_inside_a_record_function() -> None:
    @so.loop(W, range(2))
    def model(w: Any) -> Any:
        return w - 0.01 * T.map(lambda r: so.grad(logistic(r, w), w)).sum()

    w = W
    for _ in range(2):
        w = w - 0.01 * ((-Y / (1 + np.exp(Y * (X @ w)))) @ X)
    np.testing.assert_allclose(model.collect(), w, rtol=1e-12)
    # By a column, and of a function of it.
    u = so.lit(W)
    columns = T.map(
        lambda r: {
            "by_x": so.grad(np.tanh(r.x @ u), r.x),
            "of_x": so.grad(lambda x: np.tanh(x @ u), r.x),
            "both": so.value_and_grad(lambda x: np.tanh(x @ u), r.x)[0],
        }
    ).collect()
    expected = (1 - np.tanh(X @ W) ** 2)[:, None] * W
    for name in ("by_x", "of_x"):
        found = np.stack(columns[name].to_numpy(zero_copy_only=False))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(columns["both"], np.tanh(X @ W))


def test_second_derivatives_by_summing() -> None:
    at = so.lit(W)

    def loss(w: Any) -> Any:
        return T.sum(lambda r: logistic(r, w))

    def row(i: int) -> Any:
        return so.grad(lambda w: so.grad(loss, w)[i], at)

    hessian = np.stack(so.collect(*[row(i) for i in range(D)]))
    p = 1 / (1 + np.exp(-Y * (X @ W)))
    np.testing.assert_allclose(hessian, (X.T * (p * (1 - p))) @ X, rtol=1e-10)


def test_nested_loops() -> None:
    @so.loop({"w": W, "s": 0.0}, range(2))
    def outer(env: Any) -> Any:
        @so.loop(env["w"], range(2))
        def inner(w: Any) -> Any:
            return w - 0.1 * so.grad(T.mean(lambda r: logistic(r, w)), w)

        return {"w": inner, "s": np.sum(so.grad(T.mean(lambda r: logistic(r, inner)), inner))}

    w = W
    for _ in range(4):
        w = w + 0.1 * ((Y / (1 + np.exp(Y * (X @ w)))) @ X) / N
    result = outer.collect()
    np.testing.assert_allclose(result["w"], w, rtol=1e-12)
    assert result["s"] == pytest.approx(-np.sum((Y / (1 + np.exp(Y * (X @ w)))) @ X) / N)


def test_sparse_records() -> None:
    rows = sparse.random(N, 5, 0.4, "csr", random_state=3)
    table = so.table({"x": rows, "y": Y})
    at = np.linspace(-1, 1, 5)
    for loss in (
        lambda w: table.sum(lambda r: logistic(r, w)),
        lambda w: table.mean(lambda r: (so.dense(r.x) @ w - r.y) ** 2 + np.sum(r.x * w)),
        lambda w: table.sum(lambda r: np.sum((r.x * w[0]) ** 2) + np.linalg.norm(r.x * w[1])),
    ):
        assert_gradient(loss, at)
    assert "s @ X" in so.grad(lambda w: table.sum(lambda r: logistic(r, w)), at).explain()


def test_types_are_kept() -> None:
    table = so.table({"x": X.astype(np.float32), "y": Y.astype(np.float32)})
    at = W.astype(np.float32)
    value, g = so.value_and_grad(lambda w: table.mean(lambda r: logistic(r, w)), at)
    assert value.dtype == g.dtype == np.float32
    assert "s @ X" in g.explain()
    expected = so.grad(lambda w: T.mean(lambda r: logistic(r, w)), W).collect()
    np.testing.assert_allclose(g.collect(), expected, rtol=1e-4)
    # Of float32 among float64, in float32; a Python number is a float64.
    mixed = so.grad(lambda w: T.mean(lambda r: logistic(r, w)), at)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed.collect(), expected, rtol=1e-6)
    assert so.grad(lambda b: b * b, 2.0).collect() == 4.0
    assert so.grad(lambda b: b * 3, 2.0).dtype == np.float64
    classes = so.grad(
        lambda m: table.with_columns(k=lambda r: so.cast(r.y > 0, "int64")).mean(
            lambda r: so.logsumexp(m @ r.x) - (m @ r.x)[r.k]
        ),
        np.zeros((2, D), np.float32),
    )
    assert "U.T @ V" in classes.explain()


def test_nulls_are_skipped_with_their_records() -> None:
    """A record that the loss skips adds nothing, also where its gradient does not read the null."""
    known = np.arange(N) % 3 != 0
    z = pa.array(X[:, 0], mask=~known)
    table = so.from_arrow(pa.table({"z": z, "y": Y}))
    u = X[known, 0]
    cases: list[tuple[Callable[[Any], Any], float]] = [
        (lambda w: table.sum(lambda r: r.z + r.y * w), Y[known].sum()),
        (lambda w: table.mean(lambda r: r.z + 3.0 * w), 3.0),
        (lambda w: table.mean(lambda r: r.z * w), u.mean()),
        (lambda w: table.mean(lambda r: so.coalesce(r.z * w, 0.0)), u.sum() / N),
        (lambda w: table.sum(lambda r: so.coalesce(r.z, 2.0) * w), u.sum() + 2 * (N - len(u))),
        (lambda w: table.first(lambda r: r.z + r.y * w), Y[1]),
    ]  # fmt: skip
    for loss, expected in cases:
        assert so.grad(loss, 0.5).collect() == pytest.approx(expected)


def test_groups() -> None:
    made = (
        T.group_by("k")
        .map(
            lambda key, rows: {
                "k": key,
                "g": so.grad(lambda w: rows.sum(lambda r: logistic(r, w)), W),
            }
        )
        .sort("k")
        .collect()
    )
    for key, g in zip(made["k"].to_pylist(), made["g"].to_pylist(), strict=True):
        s = (-Y / (1 + np.exp(Y * (X @ W))))[key == K]
        np.testing.assert_allclose(g, s @ X[key == K])


def test_a_trace_is_compared_though_only_its_gradient_is_asked_for() -> None:
    calls: list[int] = []

    def loss(r: Any, w: Any) -> Any:
        return (r.x @ w) ** 2 if r.y is not None and isinstance(r.x, so.Value) else r.x @ w

    del calls
    with pytest.raises(so.TraceError, match="when called plainly"):
        so.grad(lambda w: T.map(lambda r: loss(r, w)).sum(), W).collect()


# What is refused.


def _loop() -> Any:
    @so.loop(W, range(2))
    def model(w: Any) -> Any:
        return w * 0.5

    return model


def _through_a_loop(w: Any) -> Any:
    @so.loop(w, range(2))
    def model(v: Any) -> Any:
        return v * 0.5

    return np.sum(model)


V = T.mean("x")
INTEGERS = T.sum("k")
REFUSALS: dict[str, tuple[Callable[[], Any], type[so.ScalopsError], tuple[str, ...]]] = {
    "a vector": (lambda: so.grad(V, V), so.TraceError, ("one float; it got float64[3]", "sum it")),
    "a table": (lambda: so.grad(T.map(lambda r: r.y), V), so.TraceError, ("fold the table",)),
    "a text": (lambda: so.grad("loss", V), so.TraceError, ("one float; it got string",)),
    "nothing": (lambda: so.grad(None, V), so.TraceError, ("it got a NoneType",)),
    "an integer loss": (lambda: so.grad(INTEGERS, V), so.TraceError, ("only floats have",)),
    "by an integer": (
        lambda: so.grad(np.sum(V) * INTEGERS, INTEGERS), so.TraceError,
        ("which is int64: only floats have derivatives",)),
    "by a number that is whole": (
        lambda: so.grad(lambda w: w * 2.0, 3), so.TraceError, ("int64: only floats",)),
    "by an integer in a structure": (
        lambda: so.grad(np.sum(V), {"w": V, "n": INTEGERS}), so.TraceError,
        ("by n, which is int64", "give the fields that are floats")),
    "by a table": (
        lambda: so.grad(np.sum(V), {"w": V, "t": T}), so.TraceError, ("by t, a Table",)),
    "by a text": (lambda: so.grad(np.sum(V), "w"), so.TraceError, ("which is string",)),
    "by a constant": (
        lambda: so.grad(np.sum(V * W), so.lit(W)), so.PlanError,
        ("a constant: the loss does not tell it from equal ones", "so.grad(lambda w:")),
    "by an array": (lambda: so.grad(np.sum(V * W), W), so.PlanError, ("give a function of it",)),
    "by what it does not read": (
        lambda: so.grad(np.sum(V), T.mean("y")), so.PlanError,
        ("the loss does not depend on", "does not read it")),
    "by a function's argument that it does not read": (
        lambda: so.grad(lambda w: np.sum(V), W), so.PlanError,
        ("does not depend on the function's argument",)),
    "by a filter": (
        lambda: so.grad(lambda w: T.filter(lambda r: r.x @ w > 0).mean("y"), W), so.PlanError,
        ("does not depend on", "smoothly", "filters")),
    "by a comparison": (
        lambda: so.grad(lambda w: T.mean(lambda r: np.where(r.x @ w > 0, 1.0, 0.0)), W),
        so.PlanError, ("smoothly",)),
    "by a count": (
        lambda: so.grad(lambda w: 1.0 * T.count(lambda r: r.x @ w), W), so.PlanError,
        ("smoothly",)),
    "through a loop": (
        lambda: so.grad(_through_a_loop, W), so.PlanError,
        ("does not differentiate through a loop",)),
    "through so.call": (
        lambda: so.grad(lambda w: so.call(lambda v: float(v @ v), w, like=0.0), W), so.PlanError,
        ("cannot look into", "so.call")),
    "through a function that runs as it is": (
        lambda: so.grad(
            lambda w: T.map(so.udf(lambda r: float(r.x @ w), returns=so.float64)).sum(), W),
        so.PlanError, ("cannot look into", "runs as it is")),
    "through a product of records": (
        lambda: so.grad(lambda w: T.map(lambda r: r.x @ w).reduce(lambda a, b: a * b), W),
        so.PlanError, ("does not differentiate the fold reduce", "np.exp(table.sum")),
    "through a reduce": (
        lambda: so.grad(lambda w: T.map(lambda r: r.x @ w).reduce(np.hypot), W), so.PlanError,
        ("does not differentiate the fold reduce", "a + b")),
    "through a quantile": (
        lambda: so.grad(lambda w: T.quantile(0.5, lambda r: r.x @ w), W), so.PlanError,
        ("the fold quantile",)),
    "through the greatest of vectors": (
        lambda: so.grad(lambda w: np.sum(T.max(lambda r: r.x * w)), W), so.PlanError,
        ("the fold max of arrays", "one by one")),
    "through groups": (
        lambda: so.grad(
            lambda w: T.group_by("k").agg(s=so.sum(lambda r: r.x @ w)).sum(lambda g: g.s**2), W),
        so.PlanError, ("does not differentiate columns through agg", "by a map")),
    "through a join": (
        lambda: so.grad(
            lambda w: T.select("id", s=lambda r: r.x @ w).join(T, on="id").sum("s"), W),
        so.PlanError, ("does not differentiate columns through join",)),
    "a function without a derivative": (
        lambda: so.grad(lambda w: np.nanmedian(w), W), so.PlanError,
        ("no derivative of nanmedian", "np.median")),
    "of a ufunc of somebody's": (
        lambda: so.grad(lambda w: np.sum(np.ldexp(w, 2)), W), so.PlanError,
        ("no derivative of ldexp", "docs/gradients.md")),
    "by a sparse column": (
        lambda: so.table({"x": sparse.eye(3, format="csr")}).map(
            lambda r: so.grad(np.sum(r.x * 2.0), r.x)), so.TraceError, ("so.dense(r.x)",)),
    "by slices and positions": (
        lambda: so.grad(
            lambda w: np.sum(so.put(np.zeros((3, 3)), (np.argmax(V), slice(0, 3)), w) ** 2), W),
        so.PlanError, ("positions together with slices",)),
}  # fmt: skip


@pytest.mark.parametrize("title", REFUSALS)
def test_it_is_refused_by_name(title: str) -> None:
    program, kind, said = REFUSALS[title]
    with pytest.raises(kind) as caught:
        program()
    text = str(caught.value)
    assert "so.grad" in text
    for part in said:
        assert part in text, text
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_a_loops_result_is_a_variable_too() -> None:
    model = _loop()
    g = so.grad(T.sum(lambda r: r.x @ model), model)
    np.testing.assert_allclose(g.collect(), X.sum(0))


def test_in_a_function_that_runs_as_it_is_there_is_nothing_to_differentiate() -> None:
    def own(r: Any) -> Any:
        return float(so.grad(float(r.y), np.ones(2)))

    with pytest.raises(so.ScalopsError, match="constant"):
        T.map(so.udf(own, returns=so.float64)).sum().collect()


def test_functions_of_numbers() -> None:
    value, g = so.value_and_grad(lambda p: np.exp(p["a"]) * p["b"], {"a": 0.5, "b": np.float32(2)})
    assert value.collect() == pytest.approx(2 * np.exp(0.5))
    assert g["a"].collect() == pytest.approx(2 * np.exp(0.5))
    assert g["b"].dtype == np.float32


# What would become a constant.


def _hidden(w: Any) -> Any:
    try:
        return w * math.exp(w)
    except so.TraceError:
        return w


CONSTANTS: dict[str, tuple[Callable[[Any], Any], Any, tuple[str, ...]]] = {
    "math.exp": (lambda w: w * math.exp(w), 1.0, ("a float", "np.exp, not math.exp")),
    "math.sqrt of a product": (lambda w: math.sqrt(w @ w) * w[0], W, ("a float",)),
    "float": (lambda w: w * float(w), 1.0, ("a float",)),
    "int": (lambda w: w * int(w), 1.0, ("an int",)),
    "a complex number": (lambda w: w * complex(w).real, 1.0, ("a complex number",)),
    "a truth value": (lambda w: w if w > 0 else -w, 1.0, ("a truth value", "np.where")),
    "an array": (lambda w: w @ np.asarray(w), W, ("a NumPy array",)),
    "an array of arrays": (lambda w: np.sum([w, w]), W, ("a NumPy array", "np.stack")),
    "an array of floats": (lambda w: np.asarray(w, float) * w, 1.0, ("a float",)),
    "a function of an array": (lambda w: np.exp(np.array([w, w]))[0], 1.0, ("np.stack",)),
    "an index": (lambda w: W[np.argmax(w)] * w[0], W, ("an index", "so.lit(array)[i]")),
    "text": (lambda w: w * len(f"{w:.3f}"), 1.0, ("a formatted number",)),
    "a result": (lambda w: w * w.collect(), 1.0, ("a collected result",)),
    "a collected structure": (lambda w: w * so.collect({"a": w})["a"], 1.0, ("a collected",)),
    "a collected table": (
        lambda w: w * T.filter(lambda r: r.y > w).collect().num_rows, 0.1, ("a collected",)),
    "a fold": (lambda w: w * float(T.sum(lambda r: r.y * w)), 1.0, ("a float",)),
    "what an outer function is differentiated by": (
        lambda w: so.grad(lambda v: math.exp(w) * v * v, 3.0), 1.0, ("a float",)),
    "hidden by an except": (_hidden, 1.0, ("a float",)),
}  # fmt: skip


@pytest.mark.parametrize("title", CONSTANTS)
def test_what_depends_on_the_argument_is_not_made_a_constant(title: str) -> None:
    f, at, said = CONSTANTS[title]
    with pytest.raises(so.TraceError) as caught:
        so.grad(f, at)
    text = str(caught.value)
    for part in ("the function given to so.grad", *said):
        assert part in text, text
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_lists_of_its_numbers_stay_symbols() -> None:
    g = so.grad(lambda w: np.sum([w[0], w[1] * w[0]]) ** 2, np.array([2.0, 3.0]))
    np.testing.assert_allclose(g.collect(), [2 * 8 * 4, 2 * 8 * 2])


def test_after_the_function_its_argument_is_a_value_again() -> None:
    kept: list[Any] = []
    so.grad(lambda w: kept.append(w) or w * w, 3.0)  # type: ignore[func-returns-value]
    assert float(kept[0]) == 3.0


def test_integers_are_named_with_what_to_write() -> None:
    with pytest.raises(so.TraceError, match=r"by b, which is int64.*start b as 0\.0"):
        so.grad(lambda p: p["w"] * p["b"], {"w": 1.0, "b": 0})
    with pytest.raises(so.TraceError, match=r"by \[0\], which is int64.*start \[0\] as 0\.0"):
        so.grad(lambda p: p[0] * p[1], [0, 0])
