"""The operators of a stage, in an order on which planner, engine and readers agree."""

from __future__ import annotations

from scalops.algebra.tree import Node, walk
from scalops.engine.physical_plan import PhysicalTable, Stage


def operators_of(stage: Stage) -> list[Node]:
    """Its tables, what is read before what reads it, each once; its sink last.

    The position is the operator's number in the stage: the same in every process.
    """
    tables = [n for n in walk(stage.source) if isinstance(n, PhysicalTable)]
    return [*tables, stage.sink]


def places_of(stage: Stage) -> list[int]:
    """At how many places of the stage's tree each operator stands: equal ones have one number."""
    numbers = {node: i for i, node in enumerate(operators_of(stage))}
    found = [0] * len(numbers)
    stack: list[Node] = [stage.source]
    while stack:
        node = stack.pop()
        found[numbers[node]] += 1
        stack.extend(n for n in node.children if isinstance(n, PhysicalTable))
    found[-1] = 1
    return found
