"""Threads or processes: what the choice rests on, and when it is made again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.neutral import Measurements
from scalops.engine.physical_work import ASSUMED_ITERATIONS, FoldWork, fold_works
from scalops.optimizer.placement import Cores, Placement, costs, placement
from scalops.optimizer.replan import replan
from scalops.planning import plan
from tests.engine.plans import job_of

ROWS = 400_000
TWO = Cores(1)
COLUMNS = {n: np.random.default_rng(i).normal(size=ROWS) for i, n in enumerate("abcd")}
T = so.table(COLUMNS)
WIDE = so.table({"x": np.random.default_rng(5).normal(size=(20_000, 100))})
TEXT = so.table({**COLUMNS, "s": ["a", "b"] * (ROWS // 2)})


def stepped(t: so.Table, w: Any) -> Any:
    """A dozen short steps on a block."""
    return t.map(
        lambda r: abs(r.a * w + r.b) * r.c - abs(r.b - w) * r.d + abs(r.c * r.d - w)
    ).mean()


def many_steps(t: so.Table = T, iterations: int = 5000) -> Any:
    """A loop of known length."""
    return so.loop(0.5, range(iterations))(lambda w: w + stepped(t, w))


def works(loop: Any) -> list[FoldWork]:
    return fold_works(plan(job_of(loop), jit=False))


def one(loop: Any) -> FoldWork:
    (found,) = works(loop)
    return found


def test_a_step_is_a_call_of_numpy_on_a_block() -> None:
    fewer = one(so.loop(0.5, range(9))(lambda w: w + T.map(lambda r: r.a * w).mean()))
    more = one(so.loop(0.5, range(9))(lambda w: w + T.map(lambda r: abs(r.a * w) - r.b).mean()))
    assert more.calls == fewer.calls + 2
    assert (fewer.rows, fewer.blocks, fewer.passes, fewer.known) == (ROWS, 7, 9, True)


def test_many_passes_of_many_steps_are_for_processes() -> None:
    work = one(many_steps())
    made = placement([work], TWO)
    assert made.stages == {work.stage}
    assert made.notes[work.stage].startswith("2 processes over shared memory, saves about ")


def test_few_passes_stay_on_threads() -> None:
    work = one(many_steps(iterations=3))
    made = placement([work], TWO)
    assert not made.stages
    assert made.notes[work.stage] == (
        "threads: 3 passes save less than it takes to start processes and share the table"
    )


def test_products_of_matrices_stay_on_threads() -> None:
    """A block's Gram matrix takes milliseconds, in which nobody holds the lock."""
    loop = so.loop(np.zeros((100, 100)), range(100_000))(
        lambda g: g / 2 + WIDE.map(lambda r: np.outer(r.x, r.x * g[0, 0])).sum()
    )
    work = one(loop)
    made = placement([work], TWO)
    assert costs(work, TWO).gain < 0.15
    assert not made.stages
    assert "little beside its arithmetic" in made.notes[work.stage]


def test_processes_that_run_cost_no_start() -> None:
    work = one(many_steps(iterations=700))
    assert not placement([work], Cores(1, running=0)).stages
    assert placement([work], Cores(1, running=1)).stages


def test_what_folds_the_same_table_pays_for_it_once() -> None:
    first, second = one(many_steps(iterations=1000)), one(many_steps(iterations=1001))
    alone = placement([first], TWO)
    both = placement([first, FoldWork(**{**vars(second), "stage": first.stage + 1})], TWO)
    assert (len(alone.stages), len(both.stages)) == (0, 2)


def test_the_session_may_ask_for_either() -> None:
    work = one(many_steps(iterations=3))
    assert placement([work], TWO, "processes").stages == {work.stage}
    assert not placement([one(many_steps())], TWO, "threads").stages
    assert not placement([one(many_steps())], Cores(0)).stages


def test_one_leaf_is_nothing_to_share() -> None:
    small = so.table({n: c[:1000] for n, c in COLUMNS.items()})
    made = placement([one(many_steps(small))], TWO, "processes")
    assert (made.stages, made.notes) == (frozenset(), {})


REFUSED = {
    "strings": (
        lambda w: w + TEXT.map(lambda r: np.where(np.where(r.a > w, r.s, "c") == "a", 1, w)).mean(),
        "strings and lists",
    ),
    "keeps": (lambda w: w + T.map(lambda r: r.a * w).quantile(0.5), "quantile keeps"),
    "slices": (
        lambda w: w + T.slice(so.cast(w, "int64"), 300_000).mean("a"),
        "other tables or counts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_there_is_refused(name: str) -> None:
    body, why = REFUSED[name]
    made = placement([one(so.loop(0.5, range(1000))(body))], TWO, "processes")
    assert not made.stages
    assert why in next(iter(made.notes.values()))


def test_compiled_loops_stay_on_threads() -> None:
    pytest.importorskip("numba")
    (work,) = fold_works(plan(job_of(many_steps()), jit=True))
    assert work.refused is not None
    assert "compiled" in work.refused


def test_opaque_functions_are_no_matter_of_it() -> None:
    own = so.udf(lambda r: float(r.a), returns=so.float64)
    assert works(so.loop(0.5, range(9))(lambda w: w + T.map(own).map(lambda v: v * w).sum())) != []
    inside = so.loop(0.5, range(9))(
        lambda w: w + T.map(so.udf(lambda r: float(r.a) * float(w), returns=so.float64)).sum()
    )
    assert works(inside) == []


def test_passes_of_inner_loops_multiply() -> None:
    def inner(v: Any) -> Any:
        return v + T.map(lambda r: abs(r.a * v)).mean()

    known = so.loop(0.5, range(7))(lambda w: so.loop(w, range(5))(inner) / 2)
    assert (one(known).passes, one(known).known) == (35, True)
    open_ended = so.loop(0.5, range(7))(lambda w: so.loop(w, lambda v: v < 10)(inner) / 2)
    assert (one(open_ended).passes, one(open_ended).known) == (7 * ASSUMED_ITERATIONS, False)
    bounded = so.loop(0.5, lambda v: v < 10, max_iterations=4)(inner)
    assert (one(bounded).passes, one(bounded).known) == (4, False)


def until(limit: float) -> Any:
    """A loop whose length nobody knows before."""
    return so.loop(0.5, lambda w: w < limit)(lambda w: w + stepped(T, w))


def test_a_loop_of_unknown_length_moves_when_it_has_been_worth_it() -> None:
    work = one(until(1e9))
    made = placement([work], TWO)
    assert not made.stages
    once = made.once[work.stage] / made.later[work.stage].gain
    for iteration, moves in ((1, False), (3, False), (7, True)):
        change = replan(Measurements(iteration, {work.stage: once / 6}), made)
        assert (change is not None and change.processes == {work.stage}) == moves


def test_a_quick_stage_is_run_by_the_calling_thread() -> None:
    work = one(until(1e9))
    made = Placement(frozenset(), {work.stage: costs(work, TWO)}, {work.stage: 0.0}, {})
    change = replan(Measurements(7, {work.stage: 1e-5}), made)
    assert change is not None
    assert change.inline == {work.stage}
    assert not change.processes


def test_explain_shows_where_a_stage_folds() -> None:
    loop = many_steps(iterations=3)
    with so.session(threads=2, processes=1, folds="processes", jit=False):
        shown = " ".join(loop.explain(stage="physical").split())
        assert "folds on 2 processes over shared memory, as asked for: about" in shown
    with so.session(threads=2, processes=1, jit=False):
        shown = " ".join(loop.explain(stage="physical").split())
        assert "folds on threads: 3 passes save less than" in shown
    with so.session(threads=2, processes=0, jit=False):
        assert "folds on" not in loop.explain(stage="physical")
