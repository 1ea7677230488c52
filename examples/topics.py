"""Topics of documents: non-negative factorisation of sparse word counts, multiplicative updates.

python examples/topics.py               finds the topics, and again with NumPy and SciPy alone
scalops run examples/topics.py          the program from the command line
scalops explain examples/topics.py      its plan; nothing is run
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

import scalops as so

DOCUMENTS, WORDS, TOPICS, LENGTH = 600, 200, 4, 40
CODING_STEPS, TINY = 8, 1e-9


def planted(seed: int = 0) -> tuple[Any, Any]:
    """A corpus whose topics are known: counts as CSR[documents, words], and topics[4, words].

    Each topic has 50 words of its own; a document draws 40 words from a mixture of topics.
    """
    rng = np.random.default_rng(seed)
    topics = np.full((TOPICS, WORDS), 0.02 / WORDS)
    for topic, own in enumerate(np.split(np.arange(WORDS), TOPICS)):
        topics[topic, own] += 0.98 * rng.dirichlet(np.full(len(own), 0.5))
    mixtures = rng.dirichlet(np.full(TOPICS, 0.2), size=DOCUMENTS)
    words = mixtures @ topics
    counts = np.array([rng.multinomial(LENGTH, p / p.sum()) for p in words], dtype=float)
    return sp.csr_array(counts), topics


def code(x: Any, h: Any, gram: Any) -> Any:
    """A document's weights of the topics: a few multiplicative steps from equal weights.

    `x` is one document, `h` float64[topics, words], `gram` = h hᵀ.
    """
    w = np.ones(TOPICS)
    affinity = h @ x
    for _ in range(CODING_STEPS):
        w = w * affinity / (w @ gram + TINY)
    return w


def factorise(documents: so.Table, start: Any, rounds: int) -> Any:
    """Minimise |V - W H|² over W, H >= 0 (Lee and Seung, NIPS 2000, eq. 4).

    A document's row of W is computed again in every round, from the topics alone, so that the
    loop's state is H: it does not grow with the number of documents.
    """

    @so.loop({"h": start, "loss": np.inf}, range(rounds))
    def model(env: Any) -> Any:
        h = env["h"]
        gram = h @ h.T
        coded = documents.map(lambda r: {"x": r.x, "w": code(r.x, h, gram)})
        targets = coded.map(lambda r: np.outer(r.w, r.x)).sum()
        weights = coded.map(lambda r: np.outer(r.w, r.w)).sum()
        # |x - w h|² without a dense row: x·x - 2 (h x)·w + w (h hᵀ) w.
        loss = coded.sum(lambda r: r.x @ r.x - 2 * ((h @ r.x) @ r.w) + (r.w @ gram) @ r.w)
        return {"h": h * targets / (weights @ h + TINY), "loss": loss}

    return model


def start_topics(seed: int = 1) -> Any:
    """Random topics to begin with: float64[topics, words]."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, size=(TOPICS, WORDS))


@so.program
def main(rounds: int = 60) -> Any:
    """The topics of the planted corpus."""
    counts, _ = planted()
    return factorise(so.table({"x": counts}), start_topics(), rounds)


def reference(counts: Any, h: Any, rounds: int) -> tuple[Any, float]:
    """The same by NumPy and SciPy."""
    loss = np.inf
    for _ in range(rounds):
        gram = h @ h.T
        affinity = counts @ h.T
        w = np.ones((counts.shape[0], TOPICS))
        for _ in range(CODING_STEPS):
            w = w * affinity / (w @ gram + TINY)
        squares = counts.multiply(counts).sum()
        loss = float(squares - 2 * np.sum(affinity * w) + np.sum((w @ gram) * w))
        h = h * (counts.T @ w).T / ((w.T @ w) @ h + TINY)
    return h, loss


def found(h: Any, topics: Any) -> float:
    """The least cosine between a planted topic and the found one that is nearest to it."""
    a = h / np.linalg.norm(h, axis=1, keepdims=True)
    b = topics / np.linalg.norm(topics, axis=1, keepdims=True)
    return float((b @ a.T).max(axis=1).min())


if __name__ == "__main__":
    result = so.collect(main())
    corpus, truth = planted()
    h, loss = reference(corpus, start_topics(), 60)
    np.testing.assert_allclose(result["h"], h, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-8)
    print(f"topics: loss {loss:.0f}, the planted topics found to a cosine of {found(h, truth):.3f}")
