"""What varies with a loop, and what does not."""

from typing import Any

import numpy as np

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.tree import Node, find
from scalops.optimizer.invariance import Invariance, free_tokens, is_table
from scalops.optimizer.rules.hoist_invariants import hoist_invariants
from tests.optimizer.plans import apply, job_of

T = so.table({"y": np.arange(3.0)})


def only(nodes: list[Any]) -> Any:
    (node,) = nodes
    return node


def loop_of(body: Any, condition: Any = None) -> op.Loop:
    made = so.loop(0.0, condition or range(3), name="repeat")(body)
    plan: op.Loop = made.plan
    return plan


def nested() -> op.Loop:
    def outer(w: Any) -> Any:
        kept = T.filter(lambda r: r.y > w)

        @so.loop(0.0, range(2))
        def inner(v: Any) -> Any:
            return v + kept.sum("y") + T.sum(lambda r: r.y * v) + np.exp(w)

        @so.loop(0.0, range(2))
        def independent(v: Any) -> Any:
            return v + T.count()

        return inner + independent

    return loop_of(outer)


def test_what_reads_the_state_varies() -> None:
    loop = loop_of(lambda w: T.filter(lambda r: r.y > w).sum("y") + T.sum("y"))
    analysis = Invariance(loop)
    kept = only(find(analysis.parts, op.Filter))
    assert analysis.varies(kept)
    assert not analysis.varies(kept.source)
    first, second = find(analysis.parts, op.Aggregate)
    assert [analysis.varies(first), analysis.varies(second)] == [True, False]


def test_what_reads_the_iteration_varies() -> None:
    loop: op.Loop = so.loop(0.0, range(3))(lambda w, i: w + np.exp(i) + np.exp(so.lit(2.0))).plan
    analysis = Invariance(loop)
    exps = [c for c in find(analysis.parts, ex.Call) if c.function.name == "exp"]
    assert sorted(analysis.varies(e) for e in exps) == [False, True]


def test_the_condition_belongs_to_the_loop() -> None:
    loop = loop_of(lambda w: w + 1.0, lambda w: T.sum(lambda r: r.y * w) < T.count())
    analysis = Invariance(loop)
    varying = {a.folds[0].kind: analysis.varies(a) for a in find(analysis.parts, op.Aggregate)}
    assert varying == {"sum": True, "count": False}


def test_a_binding_counts_as_varying_so_that_it_is_bound_once() -> None:
    after, _ = apply(job_of(so.loop(0.0, range(3))(lambda w: w + T.count())), hoist_invariants)
    loop = only(find((after,), op.Loop))
    assert Invariance(loop).varies(only(find(Invariance(loop).parts, ex.Bound)))


def test_a_whole_loop_inside_varies_only_with_what_comes_from_outside_it() -> None:
    analysis = Invariance(nested())
    inner, independent = find(analysis.parts, op.Loop)
    assert [analysis.varies(inner), analysis.varies(independent)] == [True, False]
    # Its body reads a state of its own.
    assert analysis.varies(independent.body)


def test_seen_from_the_inner_loop_the_outer_state_is_fixed() -> None:
    inner = find((nested().body,), op.Loop)[0]
    analysis = Invariance(inner)
    kept = only(find(analysis.parts, op.Filter))
    assert not analysis.varies(kept)


def test_tokens_inside_are_those_of_the_loop_and_of_loops_in_its_body() -> None:
    outer = nested()
    inner, _ = find((outer.body,), op.Loop)
    assert Invariance(outer).inside(inner.token)
    assert not Invariance(inner).inside(outer.token)


def test_free_tokens_of_a_loop_are_those_of_the_loops_around_it() -> None:
    outer = nested()
    inner, independent = find((outer.body,), op.Loop)
    free = free_tokens(outer)
    assert free[outer] == frozenset()
    assert free[inner] == {outer.token}
    assert free[inner.body] == {outer.token, inner.token}
    assert free[independent] == frozenset()


def test_invariant_inputs_are_the_largest_tables() -> None:
    fixed = T.filter(lambda r: r.y > 1).map(lambda r: r.y * 2)
    other = so.table({"z": np.arange(2.0)})

    def body(w: Any) -> Any:
        return fixed.sum(lambda v: v * w) + other.limit(1).sum(lambda r: r.z + w) + T.count()

    inputs = Invariance(loop_of(body)).invariant_inputs()
    assert inputs == [fixed.plan, other.limit(1).plan]


def test_no_invariant_inputs_where_no_table_varies() -> None:
    assert Invariance(loop_of(lambda w: w + T.sum("y"))).invariant_inputs() == []


def test_tables_of_inner_loops_are_inputs_of_the_outer_one_too() -> None:
    assert Invariance(nested()).invariant_inputs() == [T.plan]


def test_loops_updates_and_jobs_are_no_tables() -> None:
    loop = loop_of(lambda w: w + 1.0)
    nodes: list[Node] = [loop, loop.body, op.Job((loop,)), ex.Constant(1.0)]
    assert not any(map(is_table, nodes))
    assert is_table(T.plan)
    assert is_table(T.filter(lambda r: r.y > 0).plan)
