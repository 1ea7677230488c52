"""Flowers: a Gaussian mixture with diagonal covariances, fitted by expectation and maximisation.

python examples/mixture.py                              fits, and fits again with NumPy alone
scalops run examples/mixture.py                         the program from the command line
scalops explain examples/mixture.py --stage physical    distances and sums as products of matrices
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_iris

import scalops as so

COMPONENTS = 3


class Mixture(so.Environment):
    """Shares, means and variances of the components, and the mean log-likelihood."""

    share: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    fit: float
    gain: float


def flowers() -> Any:
    """float64[150, 4]: lengths and widths in centimetres."""
    return load_iris().data


def start(x: Any) -> Mixture:
    """Three flowers far from each other as the means, the variance of all for each."""
    return Mixture(
        share=np.full(COMPONENTS, 1 / COMPONENTS),
        mean=x[[10, 60, 110]],
        variance=np.tile(x.var(axis=0), (COMPONENTS, 1)),
        fit=-np.inf,
        gain=np.inf,
    )


def fit(flowers: so.Table, first: Mixture, tolerance: float) -> Any:
    """Expectation and maximisation (Dempster, Laird and Rubin, JRSS B 1977) until the mean
    log-likelihood gains less than `tolerance`."""

    @so.loop(first, lambda env: env.gain > tolerance, max_iterations=500)
    def mixture(env: Mixture) -> Mixture:
        def scores(r: Any) -> Any:
            """The log density of each component at a flower, times its share."""
            away = (r.x - env.mean) ** 2 / env.variance + np.log(2 * np.pi * env.variance)
            return np.log(env.share) - 0.5 * away.sum(axis=1)

        fit = flowers.mean(lambda r: so.logsumexp(scores(r)))
        share = flowers.mean(lambda r: so.softmax(scores(r)))
        mean = flowers.mean(lambda r: np.outer(so.softmax(scores(r)), r.x)) / share[:, None]
        square = flowers.mean(lambda r: np.outer(so.softmax(scores(r)), r.x**2)) / share[:, None]
        env.gain = so.where(np.isfinite(env.fit), fit - env.fit, np.inf)
        env.fit, env.share, env.mean, env.variance = fit, share, mean, square - mean**2
        return env

    return mixture


@so.program
def main(tolerance: float = 1e-8) -> Any:
    """Fit 150 flowers by three components."""
    x = flowers()
    return fit(so.table({"x": x}), start(x), tolerance)


def reference(tolerance: float) -> tuple[Any, float, int]:
    """The same in NumPy: means, mean log-likelihood, iterations."""
    x, env, gain, count = flowers(), start(flowers()), np.inf, 0
    share, mean, variance, before = env.share, env.mean, env.variance, -np.inf
    while gain > tolerance:
        away = (x[:, None] - mean) ** 2 / variance + np.log(2 * np.pi * variance)
        scores = np.log(share) - 0.5 * away.sum(axis=2)
        top = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - top)
        now = float((np.log(p.sum(axis=1)) + top[:, 0]).mean())
        p /= p.sum(axis=1, keepdims=True)
        share = p.mean(axis=0)
        mean = p.T @ x / p.sum(axis=0)[:, None]
        variance = p.T @ x**2 / p.sum(axis=0)[:, None] - mean**2
        gain = now - before if np.isfinite(before) else np.inf
        before, count = now, count + 1
    return mean, before, count


if __name__ == "__main__":
    found = main().run()
    mean, fitted, count = reference(1e-8)
    assert found.iterations == count, (found.iterations, count)
    np.testing.assert_allclose(found.env.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.env.fit, fitted, rtol=1e-9)
    print(f"mixture: {count} iterations, mean log-likelihood {fitted:.4f}")
