"""fold_constants: calls of constants become constants."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.algebra.expressions import Constant
from scalops.algebra.tree import find
from scalops.optimizer.rules.fold_constants import fold_constants
from tests.conftest import Golden
from tests.optimizer.plans import apply, assert_same_answer, assert_stays, before_and_after, job_of
from tests.optimizer.random_programs import random_table
from tests.quick import repeated

T = so.table({"y": np.array([1.0, -2.0]), "g": np.array([0.5, 4.0], np.float32)})


def test_fires(golden: Golden) -> None:
    cases = {
        "numbers in a record's expression": T.map(lambda r: r.y * (so.lit(2) * 3 - 1)),
        "arrays, from the inside out": T.sum(lambda r: r.y * np.sqrt(so.lit(np.full(3, 8.0)) / 2)),
        "a predicate": T.filter(lambda r: so.lit(3) > so.lit(2)),
    }
    jobs = {title: job_of(thing) for title, thing in cases.items()}
    golden(
        "rules/fold_constants.txt",
        before_and_after(*((t, j, apply(j, fold_constants)[0]) for t, j in jobs.items())),
    )


def test_a_weak_number_stays_weak() -> None:
    product = T.map(lambda r: r.g * (so.lit(2) * 0.25))
    after, _ = apply(job_of(product), fold_constants)
    assert [c.value for c in find((after,), Constant)] == [0.5]
    assert after.outputs[0].schema["value"] == so.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.broadcast_to(so.lit(1.0), (20_000,)), id="large broadcast"),
        pytest.param(np.linalg.inv(so.lit(np.zeros((2, 2)))), id="singular matrix"),
        pytest.param(so.lit(np.arange(3.0))[so.lit(7)], id="index out of range"),
        pytest.param(so.lit(2) ** so.lit(-1), id="integer to a negative power"),
        pytest.param(so.where(so.lit(True), so.lit("a"), so.lit("b")), id="string"),
        pytest.param(so.lit(2.0), id="no call"),
    ],
)
def test_stays(value: so.Value) -> None:
    assert_stays(job_of(value), fold_constants)


def test_stays_where_a_column_is_read() -> None:
    assert_stays(job_of(T.map(lambda r: r.y * 2 + 3)), fold_constants)


def test_a_large_array_may_become_another_of_its_size() -> None:
    large = so.lit(np.ones(20_000)) * 2.0
    after, trace = apply(job_of(large), fold_constants)
    assert len(trace) == 1
    assert isinstance(after.outputs[0], Constant)


@repeated(3)
@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_same_answer(run: int, random: Random) -> None:
    def number() -> so.Value:
        options = (2, -1, 0.5, np.float64(1.5), np.int8(100), np.float32(0.1), True, np.arange(3.0))
        return so.lit(random.choice(options))

    a, b, c = number(), number(), number()
    f = random.choice((np.add, np.multiply, np.maximum, np.divide, np.arctan2))
    g = random.choice((np.tanh, np.abs, np.square))
    table = random_table(random)
    results = (f(a, g(b)), np.where(b > c, a, c), table.map(lambda r: r.f * g(f(a, b)) + r.k))
    before = job_of(*results)
    after, _ = apply(before, fold_constants)
    assert_same_answer(before, after)
