"""All phases together: whole plans, and the same answers as without them."""

from random import Random
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import Opaque
from scalops.algebra.tree import find
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from tests.conftest import Golden
from tests.optimizer.plans import assert_same_answer, job_of, plan_text
from tests.optimizer.random_programs import random_program
from tests.quick import quick

D = 4


def points(rows: int = 12) -> so.Table:
    """Labelled points."""
    x = np.random.default_rng(7).normal(size=(rows, D))
    return so.table({"id": np.arange(rows), "x": x, "y": np.sign(x @ np.ones(D) + 0.1)})


class Model(so.Environment):
    w: np.ndarray[Any, np.dtype[np.float64]]
    loss: float
    delta: float


def logistic_regression(xy: so.Table) -> so.Loop:
    start = Model(w=np.zeros(D), loss=np.inf, delta=np.inf)

    @so.loop(start, lambda env: env.delta > 1e-2, max_iterations=20, warn=False)
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        xs = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r))))
        gradient = xs.reduce(lambda a, b: a + b)
        loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).reduce(lambda a, b: a + b)
        env.w -= 0.5 * gradient / xy.count()
        env.delta = abs(env.loss - loss)
        env.loss = loss
        return env

    return model  # type: ignore[no-any-return]


def poisson_regression(counts: so.Table) -> so.Loop:
    """The log-likelihood holds log1p(y), which no iteration changes."""

    @so.loop({"w": np.zeros(D), "deviance": np.inf}, range(5))
    def model(env: Any) -> Any:
        def rate(r: Any) -> Any:
            return np.exp(r.x @ env["w"])

        gradient = counts.sum(lambda r: (rate(r) - r.y) * r.x)
        deviance = counts.sum(lambda r: rate(r) - r.y * np.log1p(r.y))
        return {"w": env["w"] - 0.01 * gradient, "deviance": deviance}

    return model  # type: ignore[no-any-return]


def newton(xy: so.Table) -> so.Loop:
    @so.loop(np.zeros(D), range(4))
    def w(w: Any) -> Any:
        def p(r: Any) -> Any:
            return so.sigmoid(r.x @ w)

        gradient = xy.sum(lambda r: (p(r) - (r.y > 0)) * r.x)
        hessian = xy.sum(lambda r: p(r) * (1 - p(r)) * np.outer(r.x, r.x))
        return w - np.linalg.solve(hessian + 0.1 * np.eye(D), gradient + 0.1 * w)

    return w  # type: ignore[no-any-return]


def mean_then_variance(xy: so.Table) -> so.Value:
    mean = xy.mean("x")
    return xy.sum(lambda r: (r.x - mean) ** 2) / (xy.count() - 1)  # type: ignore[no-any-return]


def filtered(xy: so.Table) -> so.Loop:
    far = xy.with_columns(r=lambda r: np.linalg.norm(r.x)).filter(lambda r: r.r > 1)

    @so.loop(0.0, range(3))
    def threshold(t: Any) -> Any:
        above = far.filter(lambda r: r.r > t + 0.07)
        return t + above.mean("r") / far.count()

    return threshold  # type: ignore[no-any-return]


def nested(xy: so.Table) -> so.Loop:
    """A penalty that grows, and gradient steps for each penalty."""

    @so.loop({"w": np.zeros(D), "penalty": 1.0}, range(3), name="outer")
    def outer(env: Any) -> Any:
        @so.loop(env["w"], range(5), name="inner")
        def inner(w: Any) -> Any:
            residual = xy.sum(lambda r: (r.x @ w - r.y) * r.x)
            return w - 0.01 * (residual + np.sqrt(env["penalty"]) * w) / xy.count()

        return {"w": inner, "penalty": env["penalty"] * 2}

    return outer  # type: ignore[no-any-return]


def opaque(xy: so.Table) -> so.Loop:
    @so.loop(0.0, range(3))
    def total(t: Any) -> Any:
        def hinge(r: Any) -> Any:
            return r.y * t if r.y > 0 else 1.0

        return t / 2 + xy.map(hinge).sum() / xy.count()

    return total  # type: ignore[no-any-return]


def folds(xy: so.Table) -> tuple[Any, ...]:
    """Two folds of a cross-validation over records centered by a value of their own."""
    center = xy.mean("x")
    centered = xy.with_columns(x=lambda r: r.x - center)
    made: list[Any] = []
    for k in range(2):
        train = centered.filter(lambda r, k=k: r.id % 2 != k)
        test = centered.filter(lambda r, k=k: r.id % 2 == k)

        def body(w: Any, train: so.Table = train) -> Any:
            return w - 0.01 * train.sum(lambda r: (r.x @ w - r.y) * r.x)

        model = so.loop(np.zeros(D), range(3), name=f"fold{k}")(body)
        made += [model, test.mean(lambda r, model=model: (r.x @ model - r.y) ** 2)]
    return tuple(made)


PROGRAMS: dict[str, Any] = {
    "logistic_regression": logistic_regression,
    "poisson_regression": poisson_regression,
    "newton": newton,
    "mean_then_variance": mean_then_variance,
    "filtered_table": filtered,
    "nested_loops": nested,
    "opaque_function": opaque,
    "cross_validation": folds,
}


def jobs(name: str) -> tuple[op.Job, op.Job]:
    """A program's plan before and after."""
    things = PROGRAMS[name](points())
    before = job_of(*things) if isinstance(things, tuple) else job_of(things)
    return before, rewrite(before, PHASES)[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_whole_plan(name: str, golden: Golden) -> None:
    before, after = jobs(name)
    golden(f"plans/{name}.txt", plan_text(after))
    assert_same_answer(before, after)


def test_two_reduces_of_one_table_are_one_pass_over_one_cache() -> None:
    _, after = jobs("logistic_regression")
    (loop,) = find((after,), op.Loop)
    assert isinstance(loop.body, op.MapReduceUpdate)
    assert len(find((after,), op.Cache)) == 1
    assert len(find((after,), op.Scan)) == 1
    assert [f.kind for f in loop.body.reduce] == ["add_scaled", "add"]


def test_an_invariant_logarithm_becomes_a_cached_column() -> None:
    _, after = jobs("poisson_regression")
    (loop,) = find((after,), op.Loop)
    assert isinstance(loop.body, op.MapReduceUpdate)
    (cache,) = find((after,), op.Cache)
    assert "log1p" in plan_text(cache)
    assert "log1p" not in plan_text(loop).partition("Cache")[0]


def test_newtons_method_makes_no_matrix_per_record() -> None:
    _, after = jobs("newton")
    (loop,) = find((after,), op.Loop)
    assert isinstance(loop.body, op.MapReduceUpdate)
    assert sorted(f.kind for f in loop.body.reduce) == ["sum_gram", "sum_scaled"]


def test_an_opaque_function_is_called_once_per_record() -> None:
    _, after = jobs("opaque_function")
    assert len(find((after,), Opaque)) == 1


def test_each_fold_of_a_cross_validation_is_one_pass_over_a_table_of_its_own() -> None:
    _, after = jobs("cross_validation")
    assert [type(loop.body) for loop in find((after,), op.Loop)] == [op.MapReduceUpdate] * 2
    assert len(find((after,), op.Cache)) == 2
    assert len({c.source for c in find((after,), op.Cache)}) == 2


@pytest.mark.parametrize("part", quick(range(6), 2))
def test_random_programs_give_the_same_answer(part: int) -> None:
    for seed in range(10_000 + part, 10_060, 6):
        before = job_of(*random_program(Random(seed)))
        after, _ = rewrite(before, PHASES)
        try:
            assert_same_answer(before, after)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
