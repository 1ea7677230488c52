"""The shared program of model averaging: a function of each group's records in every iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.relations import group_apply
from tests.programs.test_shared_programs import load


def test_it_gives_the_same_bits_in_this_process_and_in_workers(
    shared_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    rows_of_groups = group_apply.rows_of_groups

    def counted(*arguments: Any) -> Any:
        found.append(1)
        return rows_of_groups(*arguments)

    monkeypatch.setattr(group_apply, "rows_of_groups", counted)
    module = load(shared_programs / "parallel_sgd.py")
    results = []
    for processes in (0, 2):
        with so.session(processes=processes):
            results.append(module.main(rounds=3).collect())
    assert np.array_equal(results[0].w, results[1].w)
    assert results[0].loss == results[1].loss
    assert len(found) == 2  # once for each run: the groups are the same in every iteration


def test_its_plan_tells_what_is_called_for_each_group(shared_programs: Path) -> None:
    text = str(load(shared_programs / "parallel_sgd.py").main(rounds=3).explain())
    assert "GroupApply [map] train_bin()" in text
    assert "called once per group" in text
