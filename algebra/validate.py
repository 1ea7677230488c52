"""Checks of a whole plan that no single node can make."""

from __future__ import annotations

from scalops.algebra.errors import PlanError, user_location
from scalops.algebra.expressions import Bound, Iteration, Slot, State, columns
from scalops.algebra.operators import Job, Loop
from scalops.algebra.relations import GroupKey, GroupRows, StateTable
from scalops.algebra.tree import Node, walk


def validate(job: Job) -> None:
    """Raise PlanError where a symbol has left the function that it belongs to."""
    outside: dict[Node, frozenset[int]] = {}
    for node in walk(job):
        free: frozenset[int] = frozenset().union(*(outside[c] for c in node.children))
        if isinstance(node, (State, Bound, Iteration, StateTable)):
            free |= {node.loop}
        if isinstance(node, Loop):
            bounds = () if node.range is None else node.range.bounds
            starts = (*dict(node.start).values(), *dict(node.tables).values(), *bounds)
            begun = frozenset().union(*(outside[e] for e in starts))
            if node.token in begun:
                raise PlanError("a loop starts from its own state", location=node.location)
            free -= {node.token}
        outside[node] = free
        if isinstance(node, (GroupRows, GroupKey)):
            raise PlanError(
                "the rows or the key of a group are used outside its function",
                location=node.location or user_location(),
                hint="return what is wanted of a group from the function given to its map",
            )
        if isinstance(node, Slot):
            raise PlanError("a logical plan holds a physical slot")
    for output in job.outputs:
        if outside[output]:
            raise PlanError(
                "a symbol of a loop's environment is used outside its loop",
                location=output.location or user_location(),
                hint="use the loop's result: model.w, or model['w']",
            )
        if not hasattr(output, "schema") and columns([output]):  # type: ignore[list-item]
            raise PlanError(
                "a record's symbol is used outside its row function",
                location=output.location or user_location(),
            )
