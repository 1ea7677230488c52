"""Handwritten digits: softmax regression, the gradient by `so.value_and_grad`.

python examples/softmax.py                              trains, and trains again with NumPy alone
scalops run examples/softmax.py                         the program from the command line
scalops explain examples/softmax.py --stage physical    loss and gradient: one pass, one product
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import scalops as so

CLASSES, PIXELS = 10, 64


class Model(so.Environment):
    """The weights, and the mean loss before the last step."""

    w: np.ndarray
    loss: float


def digits() -> tuple[Any, Any]:
    """float64[1797, 64] of pixels from 0 to 1, int64[1797] of digits."""
    found = load_digits()
    return found.data / 16, found.target


def train(xy: so.Table, steps: int, eta: float) -> Any:
    """Gradient descent on the mean cross-entropy, which is all that is written down."""

    @so.loop(Model(w=np.zeros((CLASSES, PIXELS)), loss=np.inf), range(steps))
    def model(env: Model) -> Model:
        def loss(r: Any) -> Any:
            scores = env.w @ r.x
            return so.logsumexp(scores) - scores[r.y]

        env.loss, slope = so.value_and_grad(xy.map(loss).mean(), env.w)
        env.w -= eta * slope
        return env

    return model


@so.program
def main(steps: int = 60, eta: float = 1.0) -> Any:
    """Train, and say how many digits are told."""
    x, y = digits()
    xy = so.table({"x": x, "y": y})
    model = train(xy, steps, eta)
    told = xy.mean(lambda r: np.argmax(model.w @ r.x) == r.y)
    return {"loss": model.loss, "w": model.w, "told": told}


def reference(steps: int, eta: float) -> tuple[Any, float]:
    """The same in NumPy, with the gradient by hand: weights and loss."""
    x, y = digits()
    w, loss = np.zeros((CLASSES, PIXELS)), np.inf
    for _ in range(steps):
        scores = x @ w.T
        top = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - top)
        total = p.sum(axis=1, keepdims=True)
        chosen = scores[np.arange(len(y)), y]
        loss = float((np.log(total) + top)[:, 0].mean() - chosen.mean())
        p /= total
        p[np.arange(len(y)), y] -= 1
        w = w - eta / len(y) * (p.T @ x)
    return w, loss


if __name__ == "__main__":
    result = so.collect(main())
    w, loss = reference(60, 1.0)
    np.testing.assert_allclose(result["w"], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-9)
    print(f"softmax: loss {loss:.4f}, {result['told']:.1%} of the digits told")
