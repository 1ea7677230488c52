"""Random functions of a record give, for whole blocks, what Python gives record by record."""

from random import Random
from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.language.record_functions import Functions, Made, agree, columns, records

PLANS, FUNCTIONS, ROWS = 100, 10, 20  # 20,000 results of records
SUMS = 5  # one plan in so many sums them up, too; at length each: about 600 sums
REPEATS = 150  # of every other plan's records: enough for kernels to use their buffers


@pytest.mark.parametrize("chunk", range(10))
def test_blocks_give_what_records_give(chunk: int) -> None:
    for seed in range(chunk * PLANS // 10, (chunk + 1) * PLANS // 10):
        _compare(seed, with_sums=seed % SUMS == 0)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(10))
def test_blocks_sum_what_records_give(chunk: int) -> None:
    for seed in range(chunk * PLANS // 10, (chunk + 1) * PLANS // 10):
        _compare(seed, with_sums=True)


def _compare(seed: int, *, with_sums: bool) -> None:
    random = Random(seed)
    given = columns(random, ROWS)
    plain = records(given)
    rng = np.random.default_rng(seed)
    state = {"w": rng.normal(0, 1, 3), "W": rng.normal(0, 1, (4, 3)), "s": np.float32(0.5)}
    source = Functions(random, plain[0], state)
    made = [source.make(random.randint(1, 4)) for _ in range(FUNCTIONS)]
    repeats = REPEATS if seed % 2 else 1
    table = so.table({n: np.concatenate([c] * repeats) for n, c in given.items()})
    mapped = table.map(lambda r: {f"f{i}": m.apply(r) for i, m in enumerate(made)})
    summed = [m for m in made if m.is_float and with_sums]
    sums = [table.map(lambda r, m=m: m.apply(r)).sum() for m in summed]
    collected, *totals = so.collect([mapped, *sums])
    with np.errstate(all="ignore"):
        results = [[m.apply(r) for r in plain] for m in made]
    for i, (m, expected) in enumerate(zip(made, results, strict=True)):
        last = collected.column(f"f{i}")[-ROWS:].to_pylist()
        for row, (want, found) in enumerate(zip(expected, last, strict=True)):
            assert agree(want, _as_array(found)), f"seed {seed}, record {row}: {m.text}"
    of = dict(zip(map(id, made), results, strict=True))
    for m, total in zip(summed, totals, strict=True):
        _check_sum(seed, m, of[id(m)] * repeats, total)


def _check_sum(seed: int, m: Made, results: list[Any], total: Any) -> None:
    """Sums cancel: they agree to rounding of what was added up."""
    values = np.asarray(results, float)
    with np.errstate(all="ignore"):
        expected, most = values.sum(axis=0), np.abs(values).sum(axis=0)
    tolerance = 1e-9 if np.asarray(m.sample).dtype == np.float64 else 1e-3
    finite = np.isfinite(most) & (most < 1e30)
    assert np.shape(total) == m.shape, f"seed {seed}: {m.text}"
    with np.errstate(all="ignore"):
        apart = np.abs(total - expected)
    assert (apart <= tolerance * (most + 1))[finite].all(), (
        f"seed {seed}: sum of {m.text}: {total}, not {expected}"
    )


def _as_array(found: Any) -> Any:
    return np.asarray(found, dtype=None if found is not None else float)
