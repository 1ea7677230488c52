"""Benign or malignant: logistic regression on the breast-cancer data that scikit-learn carries.

make demo                          trains; shows the plan before and the result after
scalops run examples/demo.py       the same program from the command line
scalops explain examples/demo.py   its plan; nothing is run
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

import scalops as so
from scalops.cli.progress import ProgressLine


class Model(so.Environment):
    """What the loop changes: the weights, the loss, and by how much the loss fell."""

    w: np.ndarray
    loss: float
    delta: float


def tumours() -> so.Table:
    """569 records: `i` the number, `x` 30 standardised measurements, `y` 1 benign, -1 malignant."""
    data = load_breast_cancer()
    i = np.arange(len(data.target))
    seen = data.data[i % 5 != 0]
    x = (data.data - seen.mean(axis=0)) / seen.std(axis=0)
    return so.table({"i": i, "x": x, "y": np.where(data.target == 1, 1.0, -1.0)})


def train(xy: so.Table, features: int, eps: float, eta: float) -> Any:
    """Gradient descent with the step `eta`, until the loss falls by no more than `eps`."""
    start = Model(w=np.zeros(features), loss=np.inf, delta=np.inf)
    n = xy.count()

    @so.loop(start, lambda env: env.delta > eps, max_iterations=10_000)
    def model(env: Model) -> Model:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env.w)

        gradient = xy.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).sum() / n
        loss = xy.map(lambda r: np.log1p(np.exp(-margin(r)))).sum() / n
        env.w -= eta * gradient
        env.delta = env.loss - loss
        env.loss = loss
        return env

    return model


@so.program
def main(eps: float = 2e-6, eta: float = 0.5) -> dict[str, Any]:
    """Train on four fifths of the records; count the right answers on the fifth held out."""
    records = tumours()
    model = train(records.filter(lambda r: r.i % 5 != 0), 30, eps, eta)
    held_out = records.filter(lambda r: r.i % 5 == 0)
    right = held_out.map(lambda r: r.y * (r.x @ model.w) > 0)
    return {"model": model, "accuracy": right.mean(), "held_out": held_out.count()}


def demo() -> None:
    """The plan, the run, the result."""
    program = main()
    model = program["model"]
    print("The plan of the loop in examples/demo.py. Nothing has run yet.\n")
    print(model.explain())

    begin = time.perf_counter()
    with ProgressLine(sys.stderr, is_terminal=sys.stderr.isatty()) as line:
        result = so.collect({**program, "iterations": model.iterations}, listen=line)
    seconds = time.perf_counter() - begin

    print("\nThe result.\n")
    print(f"  accuracy    {result['accuracy']:.1%} of {result['held_out']} records held out")
    print(f"  loss        {result['model'].loss:.4f} on the training records")
    print(f"  iterations  {result['iterations']}, one pass over the cached records each")
    print(f"  time        {seconds:.2f} s")
    print("\nEvery stage of the plan: .venv/bin/scalops explain examples/demo.py --stage all")


if __name__ == "__main__":
    demo()
