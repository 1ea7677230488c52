"""Nodes are compared by structure, shared parts are visited once, and traversals do not recurse."""

import pickle
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra.errors import Location
from scalops.algebra.expressions import (
    Column,
    Constant,
    Expression,
    State,
    call,
    columns,
    constant,
    in_record,
)
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.functions import function
from scalops.algebra.printing import text
from scalops.algebra.tree import Node, find, substitute, transform, walk
from scalops.engine.witness.interpreter import Interpreter

A, B = Column("a", so.float64), Column("b", so.float64)


def add(a: Expression, b: Expression, line: int = 1) -> Expression:
    return call(function("add"), a, b, location=Location("program.py", line))


def table() -> so.Table:
    return so.table({"a": np.arange(3.0)})


def test_lines_take_no_part_in_equality() -> None:
    assert add(A, B, line=1) == add(A, B, line=2)
    assert hash(add(A, B, line=1)) == hash(add(A, B, line=2))


def test_labels_take_no_part_in_equality() -> None:
    source = table().plan
    assert op.Limit(source, 1, label="limit") == op.Limit(source, 1)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (A, B),
        (A, Column("a", so.float32)),
        (A, Column("a", so.float64, 1)),
        (add(A, B), add(B, A)),
        (Constant(1), Constant(1.0)),
        (Constant(1), Constant(True)),
        (Constant(1), Constant(np.int64(1))),
        (Constant(0.0), Constant(-0.0)),
        (constant(np.ones(2)), constant(np.ones((1, 2)))),
        (constant(np.ones(2)), constant(np.ones(2, np.float32))),
        (State("w", so.float64, 1), State("w", so.float64, 2)),
    ],
)
def test_different_nodes_differ(left: Node, right: Node) -> None:
    assert left != right
    assert left.digest != right.digest


def test_arrays_are_compared_by_content() -> None:
    assert constant(np.array([1.0, np.nan])) == constant(np.array([1.0, np.nan]))
    assert constant(np.ones((2, 2))) == constant(np.ones((2, 2), order="F"))
    assert constant(np.ones(2)) != constant(np.zeros(2))


def test_a_constant_is_the_array_as_it_was() -> None:
    array = np.ones(2)
    held = constant(array)
    array[0] = 5.0
    assert held == constant(np.ones(2))


def test_a_loop_is_told_from_its_twin_by_its_token() -> None:
    def repeat() -> so.Loop:
        return so.loop({"w": 0.0}, range(2))(lambda env: {"w": env["w"] + 1})  # type: ignore[no-any-return]

    assert repeat().plan != repeat().plan


def test_memory_tables_are_told_apart_even_where_they_hold_the_same() -> None:
    assert table().plan != table().plan


def test_a_pickled_node_is_equal() -> None:
    for node in (A, Constant(1.5), State("w", so.vector(3), 4)):
        assert pickle.loads(pickle.dumps(node)) == node


def test_sixty_doublings_are_sixty_nodes() -> None:
    x: Expression = constant(np.float64(1.0))
    for _ in range(60):
        x = add(x, x)
    assert len(list(walk(x))) == 61
    assert Interpreter().value(x) == 2.0**60
    assert len(text(x)) < 1000
    assert fingerprint(x) == fingerprint(x)
    assert columns([x]) == []
    assert transform(x, lambda node: node) is x
    other = substitute(x, {constant(np.float64(1.0)): constant(np.float64(0.5))})
    assert Interpreter().value(other) == 2.0**59


def test_a_deep_plan_is_no_deep_recursion() -> None:
    x: Expression = A
    for _ in range(5000):
        x = add(x, B)
    assert len(list(walk(x))) == 5002
    assert transform(x, lambda node: node) is x
    assert columns([substitute(x, {A: B})]) == [B]


def test_children_come_before_parents_and_once() -> None:
    shared = add(A, B)
    order = list(walk(add(shared, shared)))
    assert order == [A, B, shared, add(shared, shared)]


def test_transform_gives_the_same_object_where_nothing_changes() -> None:
    t = table()
    plan = t.filter(lambda r: r.a > 1).map(lambda r: r.a + t.mean("a")).plan
    assert transform(plan, lambda node: node) is plan


def test_transform_gives_the_same_object_where_equal_parts_were_written_twice() -> None:
    x = add(add(A, B, line=1), add(A, B, line=2))
    assert transform(x, lambda node: node) is x


def test_transform_sees_replaced_children_and_changes_a_shared_node_once() -> None:
    seen: list[Node] = []

    def to_b(node: Node) -> Node:
        seen.append(node)
        return B if node == A else node

    shared = add(A, A)
    assert transform(add(shared, shared), to_b) == add(add(B, B), add(B, B))
    assert seen == [A, add(B, B), add(add(B, B), add(B, B))]


def test_transform_leaves_alone_what_it_may_not_enter() -> None:
    x = add(add(A, B), A)
    changed = transform(x, lambda n: B if n == A else n, enter=lambda n: n != add(A, B))
    assert changed == add(add(A, B), B)


def test_substitution_prefers_the_largest() -> None:
    mapping: dict[Node, Node] = {add(A, B): A, A: B}
    assert substitute(add(add(A, B), A), mapping) == add(A, B)


def test_substitution_does_not_enter_what_it_puts_in() -> None:
    assert substitute(A, {A: add(A, A)}) == add(A, A)
    assert substitute(add(A, B), {A: add(A, A)}) == add(add(A, A), B)


def test_substitution_in_a_record_leaves_subqueries_alone() -> None:
    t = table()
    (output,) = t.map(lambda r: r.a - t.mean("a")).plan.outputs  # type: ignore[attr-defined]
    outside = substitute(output[1], {A: B}, in_record)
    assert columns([outside]) == [B]
    assert find([outside], op.Aggregate) == find([output[1]], op.Aggregate)


def test_nodes_keep_their_lines_through_a_substitution() -> None:
    made: Any = substitute(add(add(A, B, line=7), A, line=8), {B: A})
    assert (made.location.line, made.arguments[0].location.line) == (8, 7)
