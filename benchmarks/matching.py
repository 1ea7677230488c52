"""Finding keys among others: the index of joins, beside other ways to do it.

    python -m benchmarks.matching [--rows N] [--rounds K]

N keys are indexed and N others are looked for among them, in blocks of 65,536, half of which are
there: integers of a narrow range, integers of any size, and strings. The peers: np.searchsorted
over the sorted keys, pyarrow's `index_in` of all at once (it would make its table anew for each
block), and a join of Polars that keeps the left order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.measure import interleaved, report
from scalops.engine.columns import sliced
from scalops.engine.kernels.matching import KeyIndex, Run, in_turn
from scalops.engine.threads import ThreadPool

BLOCK = 65_536


def indexed(held: Any, sought: Any, run: Run) -> int:
    """How many are found."""
    index = KeyIndex([(held, None)], len(held), run=run)
    starts = range(0, len(sought), BLOCK)
    found = [0] * len(starts)

    def task(worker: int, number: int) -> None:
        start, stop = starts[number], min(len(sought), starts[number] + BLOCK)
        matches = index.lookup([(sliced(sought, start, stop), None)], stop - start)
        found[number] = int(np.count_nonzero(matches.found))

    run(task, len(starts))
    return sum(found)


def searched(held: Any, sought: Any) -> int:
    """By sorting, and np.searchsorted for each block, sorted as well."""
    order = np.argsort(held)
    keys = held[order]
    found = 0
    for start in range(0, len(sought), BLOCK):
        block = sought[start : start + BLOCK]
        block = block[np.argsort(block)]
        at = np.minimum(np.searchsorted(keys, block), len(keys) - 1)
        found += int(np.count_nonzero(keys[at] == block))
    return found


def arrow(held: Any, sought: Any) -> int:
    """By pyarrow's hash table."""
    return len(sought) - pc.index_in(pa.array(sought), value_set=pa.array(held)).null_count


def polars(held: Any, sought: Any) -> int:
    """By a join."""
    import polars as pl

    left = pl.DataFrame({"k": sought}).with_row_index("i")
    right = pl.DataFrame({"k": held}).with_row_index("j")
    return left.join(right, on="k", how="inner", maintain_order="left_right").height


def timed(call: Callable[[], Any]) -> Callable[[], list[float]]:
    """A round: one call."""

    def one() -> list[float]:
        start = perf_counter()
        call()
        return [0.0, perf_counter() - start]

    return one


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    n, pool = given.rows, ThreadPool(2)
    narrow = rng.permutation(2 * n)[:n], rng.permutation(2 * n)[:n]
    wide = rng.integers(0, 2**62, 2 * n)
    few = n // 5
    texts = tuple(pa.array([f"user-{k}" for k in keys[:few]]) for keys in narrow)
    cases: dict[str, tuple[Any, Any]] = {
        f"{n:,} integers below {2 * n:,}": narrow,
        f"{n:,} integers of any size": (wide[:n], rng.permutation(wide[n // 2 : n // 2 + n])),
        f"{few:,} strings": texts,
    }
    for title, keys in cases.items():
        ways: dict[str, Callable[[], int]] = {
            "index, 1 thread": lambda keys=keys: indexed(*keys, in_turn),  # type: ignore[misc]
            "index, 2 threads": lambda keys=keys: indexed(*keys, pool.run),  # type: ignore[misc]
            "index_in": lambda keys=keys: arrow(*keys),  # type: ignore[misc]
            "Polars": lambda keys=keys: polars(*keys),  # type: ignore[misc]
        }
        if isinstance(keys[0], np.ndarray):
            ways["searchsorted"] = lambda keys=keys: searched(*keys)  # type: ignore[misc]
        assert len({way() for way in ways.values()}) == 1
        timings = interleaved({n: timed(w) for n, w in ways.items()}, given.rounds)
        report(title, timings, "index, 2 threads", "Polars")


if __name__ == "__main__":
    main()
