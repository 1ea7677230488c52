"""push_limit_down: first records are taken before anything is computed of them."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.optimizer.rules.push_limit_down import push_limit_down
from tests.conftest import Golden
from tests.optimizer.plans import (
    apply,
    assert_same_answer,
    assert_stays,
    before_and_after,
    job_of,
)

T = so.table({"y": np.arange(5.0), "i": np.arange(5)})


def test_fires(golden: Golden) -> None:
    cases = {
        "below a map": T.map(lambda r: {"a": r.y + 1}).limit(2),
        "two limits": T.limit(3).limit(2),
        "below two maps": T.map(lambda r: r.y + 1).map(lambda v: v * 2).limit(2),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/push_limit_down.txt",
        before_and_after(*((t, j, apply(j, push_limit_down)[0]) for t, j in jobs.items())),
    )


def test_stays_above_a_filter() -> None:
    assert_stays(job_of(T.filter(lambda r: r.y > 1).limit(2)), push_limit_down)


def test_stays_above_a_repartition_and_a_scan() -> None:
    assert_stays(job_of(T.repartition(2).limit(2)), push_limit_down)
    assert_stays(job_of(T.limit(2)), push_limit_down)


def test_an_opaque_function_is_called_for_the_records_taken(tmp_path: Path) -> None:
    log = tmp_path / "calls"

    def counted(r: Any) -> float:
        with open(log, "a") as stream:
            stream.write("x")
        return float(r.y)

    assert T.map(so.udf(counted, returns=so.float64)).limit(2).collect().num_rows == 2
    assert len(log.read_text()) == 2


@given(st.integers(0, 7), st.integers(0, 7), st.booleans())
@settings(max_examples=30)
def test_same_answer(first: int, second: int, dropping: bool) -> None:
    table = T.map(lambda r: {"a": r.y * 2, "i": r.i}).limit(first)
    if dropping:
        table = table.filter(lambda r: r.i % 2 == 0)
    job = job_of(table.select(b=lambda r: r.a + r.i).limit(second))
    assert_same_answer(job, apply(job, push_limit_down)[0])
