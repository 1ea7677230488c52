"""The rewriter checks each firing, names the rule at fault, and keeps the trace."""

from dataclasses import replace

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import OptimizerError
from scalops.algebra.expressions import Call, Column, Constant, State, constant
from scalops.algebra.tree import Node
from scalops.optimizer.rewriter import Firing, Phase, rewrite
from tests.optimizer.plans import apply, job_of, plan_text

T = so.table({"y": np.arange(3.0), "n": np.arange(3)})
JOB = job_of(T.filter(lambda r: r.y > 0).filter(lambda r: r.y > 1).map(lambda r: r.y + 2.0))


def drop_filter(node: Node) -> Node | None:
    return node.source if isinstance(node, op.Filter) else None


def double_constant(node: Node) -> Node | None:
    if isinstance(node, Constant) and node.value == 2.0:
        return Constant(4.0)
    return None


def test_a_rule_that_changes_a_schema_is_named() -> None:
    def narrow_scan(node: Node) -> Node | None:
        wide = isinstance(node, op.Scan) and len(node.schema) > 1
        return replace(node, columns=("y",)) if wide else None  # type: ignore[call-arg]

    with pytest.raises(OptimizerError, match=r"narrow_scan turned \(y: float64, n: int64\) into"):
        apply(JOB, narrow_scan)


def test_a_rule_that_makes_no_table_of_a_table_is_named() -> None:
    def to_number(node: Node) -> Node | None:
        return Constant(1.0) if isinstance(node, op.Filter) else None

    with pytest.raises(OptimizerError, match=r"to_number turned .* into \(Constant\)"):
        apply(JOB, to_number)


def test_a_rule_that_changes_a_type_is_named() -> None:
    def round_constant(node: Node) -> Node | None:
        return Constant(2) if isinstance(node, Constant) and node.value == 2.0 else None

    # 2 == 2.0 in Python; the types differ.
    with pytest.raises(OptimizerError, match="round_constant changed the type float64"):
        apply(job_of(so.lit(2.0)), round_constant)


def test_a_rule_that_fires_without_change_is_named() -> None:
    def rebuild(node: Node) -> Node | None:
        return replace(node) if isinstance(node, op.Filter) else None

    with pytest.raises(OptimizerError, match="the rule rebuild fired and changed nothing"):
        apply(JOB, rebuild)


def test_a_rule_that_does_not_settle_is_named() -> None:
    def flip(node: Node) -> Node | None:
        if isinstance(node, Constant) and node.value in (1.0, 2.0):
            return Constant(3.0 - node.value)
        return None

    with pytest.raises(OptimizerError, match="the rule flip does not settle"):
        apply(JOB, flip)


def test_a_phase_that_does_not_settle_is_named_with_its_last_rule() -> None:
    def wrap(node: Node) -> Node | None:
        if isinstance(node, op.Job):
            (output,) = node.outputs
            assert isinstance(output, op.Operator)
            return op.Job((op.Limit(output, 9),)) if _depth(output) % 2 else None
        return None

    def wrap_again(node: Node) -> Node | None:
        if isinstance(node, op.Job):
            (output,) = node.outputs
            assert isinstance(output, op.Operator)
            return op.Job((op.Repartition(output, 1),)) if _depth(output) % 2 == 0 else None
        return None

    with pytest.raises(OptimizerError, match="phase 'endless' does not settle; its last rule was"):
        rewrite(job_of(T), [Phase("endless", (wrap, wrap_again))])


def _depth(node: op.Operator) -> int:
    depth = 0
    while isinstance(node, (op.Limit, op.Repartition)):
        node, depth = node.source, depth + 1
    return depth


def test_a_symbol_outside_its_loop_is_refused() -> None:
    def leak(node: Node) -> Node | None:
        if isinstance(node, Constant) and node.value == 2.0:
            return State("w", so.float64, 7)
        return None

    with pytest.raises(so.ScalopsError, match="outside its loop"):
        apply(job_of(so.lit(np.float64(2.0)) * 1.0), leak)


def test_the_trace_is_in_order_of_phases_then_firings() -> None:
    phases = [Phase("first", (double_constant,)), Phase("second", (drop_filter,))]
    after, trace = rewrite(JOB, phases)
    assert [(f.phase, f.rule) for f in trace] == [
        ("first", "double_constant"),
        ("second", "drop_filter"),
        ("second", "drop_filter"),
    ]
    assert all(isinstance(f, Firing) and f.before != f.after for f in trace)
    assert "Filter" not in plan_text(after)


def test_inputs_are_rewritten_before_what_reads_them() -> None:
    seen: list[str] = []

    def watch(node: Node) -> Node | None:
        if isinstance(node, op.Operator):
            seen.append(type(node).__name__)
        return None

    apply(JOB, watch)
    assert seen == ["Scan", "Filter", "Filter", "Project", "Job"]


def test_a_rule_is_tried_again_on_what_it_made() -> None:
    def count_down(node: Node) -> Node | None:
        if isinstance(node, op.Limit) and node.count > 0:
            return replace(node, count=node.count - 1)
        return None

    after, trace = apply(job_of(T.limit(5)), count_down)
    assert len(trace) == 5
    assert after == job_of(T.limit(0))


def test_a_shared_input_is_rewritten_once() -> None:
    kept = T.filter(lambda r: r.y > 0)
    _, trace = apply(job_of(kept.map(lambda r: r.y), kept.sum("y")), drop_filter)
    assert len(trace) == 1


def test_the_job_given_is_untouched() -> None:
    before = plan_text(JOB)
    digest = JOB.digest
    after, trace = apply(JOB, drop_filter, double_constant)
    assert trace
    assert after is not JOB
    assert (plan_text(JOB), JOB.digest) == (before, digest)


def test_a_job_that_no_rule_changes_comes_back_itself() -> None:
    after, trace = rewrite(JOB, [Phase("none", ()), Phase("idle", (lambda node: None,))])
    assert after is JOB
    assert trace == []


def test_columns_and_calls_are_offered_to_rules_as_well() -> None:
    kinds: set[type[Node]] = set()

    def watch(node: Node) -> Node | None:
        kinds.add(type(node))
        return None

    apply(JOB, watch)
    assert {Call, Column, Constant} <= kinds
    assert constant(2.0) == Constant(2.0)
