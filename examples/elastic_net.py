"""Disease progression: an elastic net with line search, stopped early on a validation split.

python examples/elastic_net.py               trains, and trains again with NumPy alone
scalops run examples/elastic_net.py          the program from the command line
scalops explain examples/elastic_net.py      its plan; nothing is run
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

import scalops as so

SEED = 7


class Search(so.Environment):
    """The line search: a candidate for the weights, its loss, and the step that led there."""

    w: np.ndarray
    loss: float
    step: float
    enough: bool


class Model(so.Environment):
    """What a round changes; `best` is the model with the least validation error so far."""

    w: np.ndarray
    step: float
    best: np.ndarray
    error: float
    stalled: int


def patients() -> so.Table:
    """442 records: `x` ten standardised measurements, `y` the progression, standardised."""
    x, y = load_diabetes(return_X_y=True)
    return so.table({"x": (x - x.mean(axis=0)) / x.std(axis=0), "y": (y - y.mean()) / y.std()})


def shrink(w: Any, amount: Any) -> Any:
    """Each weight towards 0 by `amount`, as far as 0."""
    return np.sign(w) * np.maximum(np.abs(w) - amount, 0.0)


def train(
    training: so.Table, validation: so.Table, alpha: float, ratio: float, patience: int
) -> Any:
    """Proximal gradient descent (Beck and Teboulle, SIAM J. Imaging Sciences 2009, eq. 2.6).

    Minimises mean (y - x·w)² / 2 + alpha (ratio |w|₁ + (1 - ratio) |w|² / 2) over `training`,
    until the error over `validation` has not fallen for `patience` rounds.
    """
    ridge = alpha * (1 - ratio)

    def smooth(w: Any) -> Any:
        """The differentiable part of the loss."""
        squares = training.mean(lambda r: (r.y - r.x @ w) ** 2)
        return 0.5 * squares + 0.5 * ridge * np.sum(w * w)

    start = Model(w=np.zeros(10), step=1.0, best=np.zeros(10), error=np.inf, stalled=0)

    @so.loop(start, lambda env: env.stalled < patience, max_iterations=500)
    def model(env: Model) -> Model:
        slope = training.mean(lambda r: (r.x @ env.w - r.y) * r.x) + ridge * env.w
        loss = smooth(env.w)

        def attempt(step: Any) -> Search:
            w = shrink(env.w - step * slope, step * alpha * ratio)
            moved = w - env.w
            bound = loss + np.sum(slope * moved) + np.sum(moved * moved) / (2 * step)
            reached = smooth(w)
            return Search(w=w, loss=reached, step=step, enough=reached <= bound + 1e-12)

        @so.loop(attempt(2 * env.step), lambda line: ~line.enough, max_iterations=60)
        def search(line: Search) -> Search:
            return attempt(line.step / 2)

        error = validation.mean(lambda r: (r.y - r.x @ search.w) ** 2)
        better = error < env.error
        env.best = np.where(better, search.w, env.best)
        env.stalled = np.where(better, 0, env.stalled + 1)
        env.error = np.minimum(error, env.error)
        env.w, env.step = search.w, search.step
        return env

    return model


@so.program
def main(alpha: float = 0.1, ratio: float = 0.9, patience: int = 5) -> dict[str, Any]:
    """Train on three quarters of the patients, stop by the others."""
    training, validation = patients().random_split([0.75, 0.25], seed=SEED)
    model = train(training, validation, alpha, ratio, patience)
    return {"w": model.best, "error": model.error, "rounds": model.iterations}


def reference(
    training: Any, validation: Any, alpha: float, ratio: float, patience: int
) -> dict[str, Any]:
    """The same by NumPy, over the same two sets of records: pairs of arrays x, y."""
    (x, y), (held, truth) = training, validation
    ridge = alpha * (1 - ratio)

    def smooth(w: Any) -> float:
        return float(0.5 * np.mean((y - x @ w) ** 2) + 0.5 * ridge * np.sum(w * w))

    w, step, best, error, stalled, rounds = np.zeros(10), 1.0, np.zeros(10), np.inf, 0, 0
    while stalled < patience and rounds < 500:
        slope = x.T @ (x @ w - y) / len(y) + ridge * w
        loss, step = smooth(w), 2 * step
        while True:
            candidate = shrink(w - step * slope, step * alpha * ratio)
            moved = candidate - w
            bound = loss + slope @ moved + moved @ moved / (2 * step)
            if smooth(candidate) <= bound + 1e-12:
                break
            step /= 2
        w = candidate
        found = float(np.mean((truth - held @ w) ** 2))
        stalled = 0 if found < error else stalled + 1
        if found < error:
            best, error = w, found
        rounds += 1
    return {"w": best, "error": error, "rounds": rounds}


def arrays(table: so.Table) -> tuple[Any, Any]:
    """A table's x and y as arrays."""
    records = table.collect()
    x = np.array(records.column("x").to_pylist())
    return x, records.column("y").to_numpy()


if __name__ == "__main__":
    ours = so.collect(main())
    sides = patients().random_split([0.75, 0.25], seed=SEED)
    theirs = reference(arrays(sides[0]), arrays(sides[1]), 0.1, 0.9, 5)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-8, atol=1e-10)
    assert ours["rounds"] == theirs["rounds"]
    print(
        f"elastic_net: {np.count_nonzero(ours['w'])} of 10 weights, validation error"
        f" {ours['error']:.3f} of the variance, {ours['rounds']} rounds"
    )
