"""Handwritten digits: softmax regression by stochastic gradient descent over mini-batches.

python examples/minibatch_sgd.py             trains, and trains again with NumPy alone
scalops run examples/minibatch_sgd.py        the program from the command line
scalops explain examples/minibatch_sgd.py    its plan; nothing is run
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import scalops as so

CLASSES, FEATURES, SEED = 10, 65, 3


class Model(so.Environment):
    """The weights and their velocity: float64[65, 10] each."""

    w: np.ndarray
    velocity: np.ndarray


def digits() -> so.Table:
    """1,797 records: `x` 64 grey values in 0..1 and a 1 for the intercept, `y` the digit."""
    data = load_digits()
    x = np.hstack([data.data / 16.0, np.ones((len(data.data), 1))])
    return so.table({"x": x, "y": data.target})


def rate(step: Any, eta: float, decay: float) -> Any:
    """The schedule: the learning rate falls as 1 / (1 + decay · step)."""
    return eta / (1.0 + decay * step)


def train(
    images: so.Table, epochs: int, size: int, eta: float, decay: float, momentum: float
) -> Any:
    """Momentum SGD; each epoch visits the records in an order of its own, `size` at a time."""
    batches = images.count() // size
    start = Model(w=np.zeros((FEATURES, CLASSES)), velocity=np.zeros((FEATURES, CLASSES)))

    @so.loop(start, range(epochs))
    def model(env: Model, epoch: Any) -> Any:
        shuffled = images.shuffle(SEED + epoch)

        @so.loop(env, so.range(batches))
        def inner(state: Model, i: Any) -> Model:
            def slope(r: Any) -> Any:
                return np.outer(r.x, so.softmax(r.x @ state.w) - so.one_hot(r.y, CLASSES))

            gradient = shuffled.slice(i * size, size).mean(slope)
            step = epoch * batches + i
            state.velocity = momentum * state.velocity - rate(step, eta, decay) * gradient
            state.w = state.w + state.velocity
            return state

        env.w, env.velocity = inner.w, inner.velocity
        return env

    return model


@so.program
def main(
    epochs: int = 8, size: int = 32, eta: float = 0.5, decay: float = 0.01, momentum: float = 0.8
) -> dict[str, Any]:
    """Train on four fifths of the images; count the right answers on the others."""
    training, held_out = digits().random_split([0.8, 0.2], seed=SEED)
    model = train(training, epochs, size, eta, decay, momentum)
    right = held_out.mean(lambda r: (np.argmax(r.x @ model.w) == r.y) * 1.0)
    return {"w": model.w, "accuracy": right}


def reference(
    orders: list[tuple[Any, Any]], size: int, eta: float, decay: float, momentum: float
) -> Any:
    """The same by NumPy; `orders` holds, for each epoch, x and y in the epoch's order."""
    w = np.zeros((FEATURES, CLASSES))
    velocity = np.zeros_like(w)
    step = 0
    for x, y in orders:
        for i in range(len(y) // size):
            xs, ys = x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]
            scores = np.exp(xs @ w)
            errors = scores / scores.sum(axis=1, keepdims=True) - np.eye(CLASSES)[ys]
            velocity = momentum * velocity - rate(step, eta, decay) * (xs.T @ errors / size)
            w = w + velocity
            step += 1
    return w


def arrays(table: so.Table) -> tuple[Any, Any]:
    """A table's x and y as arrays."""
    records = table.collect()
    return np.array(records.column("x").to_pylist()), records.column("y").to_numpy()


if __name__ == "__main__":
    ours = so.collect(main())
    training, _ = digits().random_split([0.8, 0.2], seed=SEED)
    orders = [arrays(training.shuffle(SEED + epoch)) for epoch in range(8)]
    theirs = reference(orders, 32, 0.5, 0.01, 0.8)
    np.testing.assert_allclose(ours["w"], theirs, rtol=1e-7, atol=1e-9)
    print(f"minibatch_sgd: accuracy {ours['accuracy']:.3f} on the images held out")
