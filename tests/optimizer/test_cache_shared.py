"""cache_shared: what several passes of one job need is made once."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from scalops.optimizer.rules.cache_invariants import cache_invariants
from scalops.optimizer.rules.cache_shared import cache_shared
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    job_of,
    plan_text,
)

T = so.table({"y": np.arange(6.0), "i": np.arange(6)})


def slow(table: so.Table = T) -> so.Table:
    """A table whose records cost a call each."""
    return table.map(so.udf(lambda r: r.y + 1, returns=so.float64))


@pytest.fixture
def scores(tmp_path: Path) -> so.Table:
    """A table with a file to decode."""
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"y": np.arange(6.0), "i": np.arange(6)}), path)
    return so.read_parquet(path)


def test_fires(golden: Golden, scores: so.Table) -> None:
    u = slow()
    centred = u.map(lambda v: v - u.mean())
    loop = so.loop(0.0, range(3))(lambda w: w + scores.map(lambda r: r.y * w).sum())
    cases = {
        "a table and its sum": (u, u.sum()),
        "mean, then what is left": (centred,),
        "a fold and a filter": (u.sum(), u.filter(lambda v: v > 2).count()),
        "a file read by two filters": (
            scores.filter(lambda r: r.y > 1).count(),
            scores.filter(lambda r: r.y > 2).count(),
        ),
        "what a loop holds": (loop, scores.filter(lambda r: r.y > 1)),
    }
    jobs = {title: job_of(*things) for title, things in cases.items()}
    jobs["what a loop holds"] = apply(jobs["what a loop holds"], cache_invariants)[0]
    golden(
        "rules/cache_shared.txt",
        before_and_after(*((t, j, apply(j, cache_shared)[0]) for t, j in jobs.items())),
    )


def test_stays_where_folds_will_be_one_pass(scores: so.Table) -> None:
    assert_stays(job_of(scores.sum("y"), scores.mean("y"), scores.count()), cache_shared)


def test_stays_for_memory_and_cheap_maps() -> None:
    doubled = T.map(lambda r: r.y * 2)
    assert_stays(job_of(doubled, doubled.filter(lambda v: v > 1)), cache_shared)


def test_stays_for_limits() -> None:
    u = slow()
    assert_stays(job_of(u.limit(2), u.limit(3)), cache_shared)


def test_stays_for_one_reader() -> None:
    assert_stays(job_of(slow()), cache_shared)


def test_stays_where_the_table_varies_with_a_loop() -> None:
    def body(w: Any) -> Any:
        u = T.map(so.udf(lambda r: r.y + w, returns=so.float64))
        return w + u.sum() + u.filter(lambda v: v > 2).sum()

    assert_stays(job_of(so.loop(0.0, range(2))(body)), cache_shared)


def test_stays_below_a_loops_cache(scores: so.Table) -> None:
    xy = scores.select(x=lambda r: np.log1p(r.y))
    loop = so.loop(0.0, range(3))(lambda w: w + xy.map(lambda r: r.x * w).sum())
    job = apply(job_of(loop, scores.filter(lambda r: r.y > 1)), cache_invariants)[0]
    assert_stays(job, cache_shared)


def test_a_file_behind_a_loop_and_its_evaluation_is_read_once(scores: so.Table) -> None:
    xy = scores.select(x=lambda r: np.log1p(r.y))
    loop = so.loop(0.0, range(3))(lambda w: w + xy.map(lambda r: r.x * w).sum())
    error = xy.filter(lambda r: r.x > 0).map(lambda r: abs(r.x - loop)).mean()
    optimized, _ = rewrite(job_of(loop, error, xy.limit(2)), PHASES)
    assert plan_text(optimized).count("Scan scores.parquet") == 1


def test_an_opaque_function_is_called_once_per_record(tmp_path: Path) -> None:
    log = tmp_path / "calls"

    def counted(r: Any) -> float:
        with open(log, "a") as stream:
            stream.write("x")
        return float(r.y)

    u = T.map(so.udf(counted, returns=so.float64))
    so.collect(u, u.sum(), u.map(lambda v: v - u.mean()))
    calls = len(log.read_text())
    # Once per record, and again for the samples on which traced functions are compared.
    assert calls <= 6 + 3 * 6


@given(st.lists(st.floats(-5, 5), max_size=6), st.integers(0, 6))
@settings(max_examples=30)
def test_same_answer(values: list[float], count: int) -> None:
    table = so.table({"y": np.array(values, dtype=float)})
    u = slow(table)
    job = job_of(u, u.sum(), u.filter(lambda v: v > 1).count(), u.limit(count))
    assert_same_answer(job, apply(job, cache_shared)[0])


def joined() -> so.Table:
    """A table whose records have to find their partners."""
    return T.join(so.table({"i": np.arange(6), "z": np.ones(6)}), on="i")


def test_a_join_with_two_readers_is_made_once_below_a_loops_cache_too(golden: Golden) -> None:
    examples = joined()
    training = examples.filter(lambda r: r.i % 3 != 0)
    loop = so.loop(0.0, range(3))(lambda w: w + training.map(lambda r: r.z * w + r.y).sum())
    held_out = examples.filter(lambda r: r.i % 3 == 0)
    jobs = {"two filters": job_of(examples.filter(lambda r: r.y > 1), held_out)}
    jobs["training and testing"] = apply(job_of(loop, held_out.count()), cache_invariants)[0]
    golden(
        "rules/cache_shared_joins.txt",
        before_and_after(*((t, j, apply(j, cache_shared)[0]) for t, j in jobs.items())),
    )
    for job in jobs.values():
        assert_same_answer(job, apply(job, cache_shared)[0])


def test_stays_for_a_join_with_one_reader_and_for_groups_which_are_stored() -> None:
    assert_stays(job_of(joined().filter(lambda r: r.y > 1)), cache_shared)
    sums = joined().group_by("i").agg(s=so.sum("y"))
    assert_stays(job_of(sums.filter(lambda r: r.s > 1), sums.sort("s")), cache_shared)
