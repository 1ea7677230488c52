"""Random loops over tables mean what plain Python says, in any plan and on any threads."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import CONVERGED, ITERATIONS
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.storage.arrow import block_to_batch
from scalops.optimizer.lowering import lower
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from tests.engine.plans import Backend, bits, table_bits
from tests.language.table_loops import program, sources
from tests.optimizer.plans import answer, same_answer

LOOPS = 160  # in all
PARTS = 8  # tests, for several cores
UNINDEXED = tuple(p for p in PHASES if p.name != "indexes")


def written(seed: int) -> op.Job:
    """The loop of this seed as it is written."""
    scope: dict[str, Any] = {"so": so, "np": np, "__name__": "loops", **sources(seed)}
    exec(program(seed), scope)
    return op.Job((scope["loop"].plan,))


def run(job: op.Job, threads: int) -> Any:
    """What the engine makes of an optimized loop, or the error's class."""
    try:
        with single_threaded():
            (outcome,) = Driver(lower(job), Backend(threads, None, False), None, None).run()
    except so.ScalopsError as error:
        return type(error)
    assert isinstance(outcome, LoopOutcome)
    return outcome


def exactly(outcome: Any) -> Any:
    """Every bit of a result."""
    if isinstance(outcome, type):
        return outcome
    state = {
        n: table_bits(v.blocks) if isinstance(v, StateRows) else bits(v)
        for n, v in outcome.state.items()
    }
    return state, outcome.iterations, outcome.converged


def plain(outcome: Any, expected: Any) -> Any:
    """A result in the form of the interpreter's answer."""
    if isinstance(outcome, type):
        return outcome
    state = dict(outcome.state)
    for name, rows in state.items():
        if isinstance(rows, StateRows):
            batches = [block_to_batch(b, rows.schema) for b in rows.blocks if b.rows]
            state[name] = [row for batch in batches for row in batch.to_pylist()]
    counts = {ITERATIONS: outcome.iterations, CONVERGED: outcome.converged}
    return [{n: (state | counts)[n] for n in expected[0]}]


def check(seed: int) -> Any:
    """The answer to a loop, if all ways of running it agree."""
    job = written(seed)
    expected = answer(job)
    optimized, _ = rewrite(job, PHASES)
    assert same_answer(expected, answer(optimized)), "optimized, it means something else"
    one = run(optimized, 1)
    assert same_answer(expected, plain(one, expected)), f"{expected}\n{plain(one, expected)}"
    assert exactly(one) == exactly(run(optimized, 2)), "two threads give other bits than one"
    unindexed, _ = rewrite(job, UNINDEXED)
    if unindexed != optimized:
        assert same_answer(expected, plain(run(unindexed, 1), expected)), "without the index rule"
    return expected


@pytest.mark.parametrize("part", range(PARTS))
def test_random_loops_over_tables_mean_what_plain_python_says(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = 0
    for seed in range(part, LOOPS, PARTS):
        with monkeypatch.context() as patch:
            if seed % 3:  # several blocks and partitions, few as the records are
                patch.setattr(blocks, "MIN_BLOCK_ROWS", 3)
                patch.setattr(blocks, "MAX_BLOCK_ROWS", 3)
                patch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
            try:
                finished += isinstance(check(seed), list)
            except Exception as error:
                pytest.fail(f"seed {seed}\n{program(seed)}\n{_told(error)}", False)
    assert finished > 0.9 * LOOPS / PARTS


def _told(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
