"""What users write, on three simulated ranks: results, errors and warnings as in this process."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.engine import blocks, memory
from scalops.engine.relations import dealt, group_parts
from tests.cluster.language_cases import CASES
from tests.cluster.simulated import simulated_sessions
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import bits

RANKS = 3
# Some of them each time, the same in every process; all of them at length.
SOME = sorted({*random.Random(8).sample(sorted(CASES), 14), "a_bad_record_of_many_bytes"})


def seen(thing: Any) -> Any:
    """A result with all of its bits, and of a table with its types."""
    if isinstance(thing, so.Table):
        return seen(thing.collect())
    if isinstance(thing, pa.Table):
        return str(thing.schema), [repr(column.to_pylist()) for column in thing.columns]
    if isinstance(thing, dict):
        return {name: seen(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [seen(value) for value in thing]
    return bits(thing) if isinstance(thing, (np.ndarray, np.generic)) else repr(thing)


def outcome(name: str, folder: Path, caplog: pytest.LogCaptureFixture, **options: Any) -> Any:
    """What a case gives or raises, and what it warns of."""
    folder.mkdir()
    caplog.clear()
    with so.session(**options):
        try:
            found = seen(CASES[name](folder))
        except Exception as error:
            found = type(error).__name__, str(error)
        assert so.table({"v": [1.0, 2.0]}).sum("v").collect() == 3.0  # it works afterwards
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return found, [w.replace(str(folder), "") for w in warned]


def make_small(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Tables of some records have several partitions, and everything is dealt out."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_ROWS", rows)
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", 1)
    monkeypatch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
    monkeypatch.setattr(dealt, "SMALL_BYTES", 0)


def same_on_ranks(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fails unless a case ends on ranks as it does in this process."""
    want = outcome(name, folder / "here", caplog)
    with simulated_sessions(SimulatedHub):
        got = outcome(name, folder / "ranks", caplog, workers=RANKS, fan_in=2)
    assert got == want


@pytest.mark.parametrize("name", SOME)
def test_a_program_ends_as_in_this_process(
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_small(monkeypatch, 16)
    same_on_ranks(name, tmp_path, caplog)


@pytest.mark.long
@pytest.mark.parametrize("rows", [64, 16, 4])
@pytest.mark.parametrize("name", CASES)
def test_every_program_ends_so_however_its_tables_are_cut(
    name: str,
    rows: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_small(monkeypatch, rows)
    same_on_ranks(name, tmp_path, caplog)


def test_an_error_may_have_a_text_of_any_length() -> None:
    def long(record: Any) -> float:
        raise ValueError("x" * 5_000_000)

    table = so.table({"v": [1.0, 2.0]})
    with simulated_sessions(SimulatedHub), so.session(workers=RANKS):
        with pytest.raises(so.UserFunctionError) as found:
            table.map(so.udf(long, returns=so.float64)).sum().collect()
        assert table.sum("v").collect() == 3.0
    text = str(found.value)
    assert text.startswith("long() raised ValueError: xxx")
    assert "more characters) ... xxx" in text
    assert f"({Path(__file__).name}:" in text
    assert "the record is {'v': 1.0}" in text


def test_a_run_has_the_memory_that_its_call_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LEAST_WORKING", 10_000)
    monkeypatch.setattr(group_parts, "LEAST_PART", 1_000)
    with simulated_sessions(SimulatedHub), so.session(workers=RANKS):
        outcome_of = CASES["a_run_of_little_memory"](Path())
    assert outcome_of[0] == "refused"
