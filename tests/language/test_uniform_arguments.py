"""Functions of a record some of whose arguments are the same for all records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so

RNG = np.random.default_rng(0)
ROWS, K, D = 700, 3, 4
S = 2 * np.eye(D) + 0.1 * RNG.random((K, D, D))
MU = RNG.standard_normal((K, D))
X = RNG.standard_normal((ROWS, D))
B = RNG.random(ROWS) < 0.5
U = RNG.integers(0, 256, ROWS).astype(np.uint8)


@pytest.mark.parametrize(
    "right",
    [
        pytest.param(lambda x: (S[0], x), id="a vector"),
        pytest.param(lambda x: (S[0], np.outer(x, x)), id="a matrix"),
        pytest.param(lambda x: (S, (x - MU)[:, :, None]), id="several"),
    ],
)
def test_a_matrix_of_all_records_is_solved_for_each(right: Callable[[Any], Any]) -> None:
    table = so.table({"x": X})
    found = table.map(lambda r: np.linalg.solve(*right(r.x)).reshape(-1)).collect().column(0)
    expected = [np.linalg.solve(*right(x)).reshape(-1) for x in X]
    np.testing.assert_allclose(found.to_pylist(), expected, rtol=1e-12)


def test_a_choice_by_what_is_the_same_for_all_records() -> None:
    table = so.table({"x": X})
    for flag in (True, np.False_):
        found = table.sum(lambda r, f=flag: np.where(f, 1.0, r.x[0])).collect()
        np.testing.assert_allclose(found, ROWS if flag else X[:, 0].sum())


def test_a_chosen_integer_wraps_around_as_numpys_does() -> None:
    table = so.table({"b": np.tile(B, 40), "u": np.tile(U, 40)})  # enough for buffers
    found = table.sum(lambda r: so.cast(np.where(r.b, -1, r.u) + 0, so.int64)).collect()
    assert found == 40 * np.where(B, -1, U).astype(np.int64).sum()


def test_a_long_sum_keeps_its_parentheses_in_explain() -> None:
    table = so.table({"x": X})
    long = table.sum(lambda r: r.x[0] - sum(np.sin(r.x[1] + c) for c in range(40)))
    assert "x[0] - (0 + sin(x[1] + 0)" in long.explain()
