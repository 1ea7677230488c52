"""Random loops over tables mean what plain Python says, in any plan and on any threads."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.expressions import CONVERGED, ITERATIONS
from scalops.algebra.tree import walk
from scalops.engine import blocks
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.physical_plan import PhysicalPlan
from scalops.engine.storage.arrow import block_to_batch
from scalops.optimizer.column_invariance import Indexable
from scalops.optimizer.lowering import lower
from scalops.optimizer.phases import PHASES
from scalops.optimizer.rewriter import rewrite
from tests.engine.plans import Backend, bits, table_bits
from tests.language.loop_parts import sources
from tests.language.table_loops import program
from tests.optimizer.plans import answer, same_answer
from tests.quick import quick

LOOPS = 160  # in all
PARTS, QUICK = 8, 2  # tests, for several cores; those of each run
INDEXES = next(i for i, phase in enumerate(PHASES) if phase.name == "indexes")


def written(seed: int) -> op.Job:
    """The loop of this seed as it is written."""
    scope: dict[str, Any] = {"so": so, "np": np, "__name__": "loops", **sources(seed)}
    exec(program(seed), scope)
    return op.Job((scope["loop"].plan,))


def run(plan: PhysicalPlan, threads: int) -> Any:
    """What the engine makes of a loop, or the error's class."""
    try:
        with single_threaded():
            (outcome,) = Driver(plan, Backend(threads, None, False), None, None).run()
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
    before, _ = rewrite(job, PHASES[:INDEXES])
    optimized, _ = rewrite(before, PHASES[INDEXES:])
    assert same_answer(expected, answer(optimized)), "optimized, it means something else"
    plan = lower(optimized)
    one = run(plan, 1)
    assert same_answer(expected, plain(one, expected)), f"{expected}\n{plain(one, expected)}"
    assert exactly(one) == exactly(run(plan, 2)), "two threads give other bits than one"
    if any(isinstance(n, Indexable) and n.indexed for n in walk(optimized)):
        unindexed, _ = rewrite(before, PHASES[INDEXES + 1 :])
        found = plain(run(lower(unindexed), 1), expected)
        assert same_answer(expected, found), f"without the index rule\n{expected}\n{found}"
    return expected


@pytest.mark.parametrize("part", quick(range(PARTS), QUICK))
def test_random_loops_over_tables_mean_what_plain_python_says(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = 0
    for seed in range(part, LOOPS, PARTS):
        with monkeypatch.context() as patch:
            if seed % 3:  # several blocks and partitions, few as the records are
                patch.setattr(blocks, "MIN_BLOCK_ROWS", 3)
                patch.setattr(blocks, "MAX_BLOCK_ROWS", 3)
                patch.setattr(blocks, "MIN_PARTITION_BYTES", 1)
            try:
                found = check(seed)
            except Exception as error:
                told = "".join(traceback.format_exception(error))
                pytest.fail(f"seed {seed}\n{program(seed)}\n{told}", False)
        long += isinstance(found, list) and found[0][ITERATIONS] > 1
    assert long > 0.6 * LOOPS / PARTS  # most of them come to an end, after some iterations
