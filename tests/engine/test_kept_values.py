"""Folds that keep their values: in files where there is no room, counted, and given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.dtypes import FLOAT64, INT64, ArrayType
from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.expressions import Column
from scalops.algebra.folds import Fold
from scalops.engine import free_memory, kept_values
from scalops.engine.kept_values import KeptValues
from scalops.engine.kernels import order_folds
from scalops.engine.kernels.folds import FoldSet
from scalops.engine.memory import MemoryBudget
from scalops.engine.relations import group_parts

BLOCKS, ROWS = 40, 500
_RNG = np.random.default_rng(3)
NUMBERS = np.concatenate([_RNG.integers(-3000, 3000, BLOCKS * ROWS - 2) / 4, [np.nan, -np.nan]])
COLUMNS: dict[str, tuple[ArrayType, Any, int]] = {
    "floats": (FLOAT64, NUMBERS, len(np.unique(NUMBERS))),
    "integers": (INT64, np.arange(BLOCKS * ROWS) // 3, -(-BLOCKS * ROWS // 3)),
    "vectors": (
        ArrayType("float64", (2,)),
        np.stack([NUMBERS, np.arange(BLOCKS * ROWS) % 2], 1),
        len(set(zip(map(str, np.abs(NUMBERS) * np.sign(NUMBERS) + 0.0),
                    (np.arange(BLOCKS * ROWS) % 2).tolist(), strict=True))),
    ),
    "strings": (
        ArrayType("string"),
        pa.array([f"a{i}" for i in NUMBERS.astype(np.float32)]),
        len({f"a{i}" for i in NUMBERS.astype(np.float32)}),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces count from 2 KB on; of 20 KB at most equal values are found at once."""
    for module in (kept_values, order_folds):
        monkeypatch.setattr(module, "COUNTED_BYTES", 2000)
        monkeypatch.setattr(module, "FULL_BYTES", 16_000)
    monkeypatch.setattr(group_parts, "LEAST_PART", 20_000)


def folded(fold: Fold, values: Any, budget: MemoryBudget) -> Any:
    """A fold's value of the blocks of a column, in four leaves that are merged at the end."""
    folds = FoldSet([fold], kept=KeptValues(budget))
    leaves = [folds.blank() for _ in range(4)]
    for block in range(BLOCKS):
        own = values[block * ROWS : (block + 1) * ROWS]
        folds.extend(leaves[block * 4 // BLOCKS], [(own, None)], ROWS)
    first, second, third, fourth = leaves
    merged = folds.merge(folds.merge(first, second), folds.merge(third, fourth))
    (found,) = folds.finish(merged)
    assert budget.owners() == {}
    return found


@pytest.mark.parametrize("limit", [0, 60_000, None])
@pytest.mark.parametrize("name", COLUMNS)
def test_differing_values_are_counted_beyond_the_memory(name: str, limit: int | None) -> None:
    kind, values, expected = COLUMNS[name]
    budget = MemoryBudget(limit)
    assert folded(Fold("n", "n_unique", (Column("v", kind),)), values, budget) == expected
    assert (budget.spilled > 0) == (limit is not None)
    assert limit is None or budget.peak <= limit


@pytest.mark.parametrize("limit", [0, 60_000, None])
@pytest.mark.parametrize("name", ["floats", "integers", "vectors"])
def test_quantiles_are_numpys_beyond_the_memory(name: str, limit: int | None) -> None:
    kind, values, _ = COLUMNS[name]
    values, budget = np.nan_to_num(values), MemoryBudget(limit)
    fold = Fold("q", "quantile", (Column("v", kind),), parameters=(("q", 0.3),))
    np.testing.assert_array_equal(folded(fold, values, budget), np.quantile(values, 0.3, axis=0))
    assert (budget.spilled > 0) == (limit is not None)
    assert limit is None or budget.peak <= limit


@pytest.mark.parametrize("word", ["quantile", "n_unique"])
def test_values_of_groups_that_cannot_be_arranged_are_an_error(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "LOOK_BYTES", 1000)
    monkeypatch.setattr(free_memory, "free_memory", lambda: 20_000)
    table = so.table({"k": np.zeros(9000, int), "v": np.arange(9000.0)})
    fold = so.quantile(0.5, "v") if word == "quantile" else so.n_unique("v")
    with pytest.raises(OutOfMemoryError, match=rf"{word} of 1 groups.*20 KB are left"):
        table.group_by("k").agg(r=fold).collect()
