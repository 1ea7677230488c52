"""A gradient by so.grad becomes the physical plan of the one that is written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import scalops as so
from tests.conftest import Golden

_RNG = np.random.default_rng(3)
X = _RNG.normal(size=(60, 4))
XY = so.table({"x": X, "y": np.where(_RNG.normal(size=60) > 0, 1.0, -1.0)})
SPARSE = so.table(
    {"x": sparse.random(60, 4, 0.5, "csr", random_state=1), "y": np.where(X[:, 0] > 0, 1.0, -1.0)}
)
CLASSES = so.table({"x": X, "y": _RNG.integers(0, 3, 60)})

Written = Callable[[so.Table, Any], Any]


def descent(table: so.Table, start: Any, step: Callable[[so.Table, Any], tuple[Any, Any]]) -> Any:
    """A loop that goes down a gradient and keeps the loss."""

    def train(env: Any) -> Any:
        value, g = step(table, env["w"])
        return {"w": env["w"] - 0.01 * g, "loss": value}

    return so.loop({"w": start, "loss": np.inf}, range(4), name="descent")(train)


def logistic(r: Any, w: Any) -> Any:
    return np.log1p(np.exp(-r.y * (r.x @ w)))


def margin(r: Any, w: Any) -> Any:
    return r.y * (r.x @ w)


def squares(r: Any, w: Any) -> Any:
    return (r.x @ w - r.y) ** 2


def softmax_loss(r: Any, w: Any) -> Any:
    z = w @ r.x
    return so.logsumexp(z) - z[r.y]


def by_hand(r: Any, w: Any) -> Any:
    return -r.y * r.x / (1 + np.exp(margin(r, w)))


def softmax_by_hand(r: Any, w: Any) -> Any:
    return np.outer(so.softmax(w @ r.x) - so.one_hot(r.y, 3), r.x)


def half_squares(r: Any, w: Any) -> Any:
    e = r.y - r.x @ w
    return 0.5 * e * e


def hinge(r: Any, w: Any) -> Any:
    return np.maximum(1 - margin(r, w), 0)


# A loss, and its gradient as one writes it.
PAIRS: dict[str, tuple[so.Table, Any, Any, Any]] = {
    "logistic regression": (XY, np.zeros(4), logistic, by_hand),
    "its loss of the margin": (
        XY, np.zeros(4), lambda r, w: np.log1p(np.exp(-margin(r, w))), by_hand),
    "its loss by logaddexp": (
        XY, np.zeros(4), lambda r, w: np.logaddexp(0, -margin(r, w)), by_hand),
    "its loss by a logarithm": (
        XY, np.zeros(4), lambda r, w: np.log(1 + np.exp(-margin(r, w))), by_hand),
    "its loss by a sigmoid": (
        XY, np.zeros(4), lambda r, w: -np.log(so.sigmoid(margin(r, w))), by_hand),
    "sparse logistic regression": (SPARSE, np.zeros(4), logistic, by_hand),
    "linear regression": (
        XY, np.zeros(4), squares, lambda r, w: 2 * (r.x @ w - r.y) * r.x),
    "half the squares": (
        XY, np.zeros(4), half_squares, lambda r, w: -(r.y - r.x @ w) * r.x),
    "softmax regression": (CLASSES, np.zeros((3, 4)), softmax_loss, softmax_by_hand),
    "softmax regression by probabilities": (
        CLASSES, np.zeros((3, 4)), lambda r, w: -np.log(so.softmax(w @ r.x)[r.y]), softmax_by_hand),
    "a hinge loss": (
        XY, np.zeros(4), hinge, lambda r, w: np.where(1 - margin(r, w) > 0, 1.0, 0.0) * -r.y * r.x),
}  # fmt: skip


_LOCATION = re.compile(r" +\(\S+:\d+\)")
_FINGERPRINT = re.compile(r"\b[0-9a-f]{32}\b")


def stages(thing: Any) -> str:
    """The physical stages' text without lines of the program."""
    return _LOCATION.sub("", _FINGERPRINT.sub("", thing.explain(stage="physical", costs=False)))


@pytest.mark.parametrize(
    ("title", "fold"),
    [*((t, "sum") for t in PAIRS), *((t, f) for t in list(PAIRS)[::5] for f in ("mean", "add"))],
)
def test_the_plan_is_that_of_the_hand_written_gradient(title: str, fold: str) -> None:
    table, start, loss, gradient = PAIRS[title]

    def total(made: so.Table) -> Any:
        return made.reduce(lambda a, b: a + b) if fold == "add" else getattr(made, fold)()

    auto = descent(
        table, start, lambda t, w: so.value_and_grad(total(t.map(lambda r: loss(r, w))), w)
    )
    hand = descent(
        table,
        start,
        lambda t, w: (total(t.map(lambda r: loss(r, w))), total(t.map(lambda r: gradient(r, w)))),
    )
    assert stages(auto) == stages(hand)
    # The text does not show of what type a constant is.
    prints = [_FINGERPRINT.findall(t.explain(stage="physical")) for t in (auto, hand)]
    assert prints[0] == prints[1] or title == "a hinge loss"
    assert f"{fold if fold == 'mean' else 'sum'}(" in stages(auto)


def test_fires(golden: Golden) -> None:
    table, start, loss, _ = PAIRS["logistic regression"]
    w = so.lit(start)
    made = so.grad(lambda w: table.map(lambda r: loss(r, w)).sum(), w)
    golden("gradients/logistic_regression.txt", stages(made))


@pytest.mark.parametrize("fold", ["sum", "mean"])
def test_rows_of_matrices_are_summed_by_segments(fold: str) -> None:
    """Matrix factorisation: each record changes one row of either matrix."""
    rng = np.random.default_rng(5)
    u, i, v = rng.integers(0, 7, 90), rng.integers(0, 5, 90), rng.normal(size=90)
    ratings = so.table({"u": u, "i": i, "v": v})
    at = {"P": rng.normal(size=(7, 3)), "Q": rng.normal(size=(5, 3))}

    def loss(p: Any) -> Any:
        errors = ratings.map(lambda r: (p["P"][r.u] @ p["Q"][r.i] - r.v) ** 2)
        return getattr(errors, fold)()

    g = so.grad(loss, at)
    text = re.sub(r"\s+", " ", stages(g["P"]) + stages(g["Q"]))
    assert "as segment sums [7, 3]" in text
    assert "as segment sums [5, 3]" in text
    assert "reshape" not in text
    e = 2 * ((at["P"][u] * at["Q"][i]).sum(1) - v) / (90 if fold == "mean" else 1)
    expected = np.zeros((7, 3)), np.zeros((5, 3))
    np.add.at(expected[0], u, e[:, None] * at["Q"][i])
    np.add.at(expected[1], i, e[:, None] * at["P"][u])
    np.testing.assert_allclose(so.collect(g)["P"], expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(so.collect(g)["Q"], expected[1], rtol=1e-12, atol=1e-14)


def test_matrices_of_an_array_are_summed_by_segments() -> None:
    rng = np.random.default_rng(6)
    u, y = rng.integers(0, 7, 60), np.asarray(XY.collect()["y"])
    table = so.table({"u": u, "y": y})
    at = rng.normal(size=(7, 2, 3))
    g = so.grad(lambda c: table.sum(lambda r: np.sum(np.sin(c[r.u])) * r.y), at)
    assert "as segment sums [7, 6]" in " ".join(stages(g).split())
    expected = np.zeros_like(at)
    np.add.at(expected, u, np.cos(at[u]) * y[:, None, None])
    np.testing.assert_allclose(g.collect(), expected, rtol=1e-12, atol=1e-14)


def test_a_factor_of_several_terms_is_computed_once() -> None:
    def loss(w: Any) -> Any:
        def of(r: Any) -> Any:
            z = sum(np.tanh(r.x[j] * w[j]) * w[j] for j in range(4))
            return np.log1p((z - r.y) ** 2)

        return XY.sum(of)

    at = np.array([0.3, -0.2, 0.7, 1.1])
    g = so.grad(loss, at)
    assert stages(g).count("/ (1 + ") == 1
    x, y = X, np.asarray(XY.collect()["y"])
    t = np.tanh(x * at)
    z = t @ at - y
    expected = ((2 * z / (1 + z * z))[:, None] * (t + at * x * (1 - t * t))).sum(0)
    np.testing.assert_allclose(g.collect(), expected, rtol=1e-10)
