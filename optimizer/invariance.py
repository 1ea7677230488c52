"""What a loop leaves unchanged: used by rules, lowering and explain.

A node varies with a loop when it reads the loop's state or iteration number. Whatever does not
is invariant: the same in every iteration, to be computed once.
"""

from __future__ import annotations

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.relations import StateTable
from scalops.algebra.tree import Node, walk

Tokens = frozenset[int]


def free_tokens(*roots: Node) -> dict[Node, Tokens]:
    """For every node below the roots: the loops whose state, bindings or iteration it reads.

    A loop's own token is not free in the loop: from outside, a loop is one value.
    """
    free: dict[Node, Tokens] = {}
    for node in walk(*roots):
        tokens: Tokens = frozenset().union(*(free[c] for c in node.children))
        if isinstance(node, (ex.State, ex.Bound, ex.Iteration, StateTable)):
            tokens |= {node.loop}
        elif isinstance(node, op.Loop):
            tokens -= {node.token}
        free[node] = tokens
    return free


class Invariance:
    """The analysis of one loop."""

    def __init__(self, loop: op.Loop) -> None:
        parts: list[Node] = [loop.body]
        if loop.condition is not None:
            parts.append(loop.condition)
        self.parts = tuple(parts)
        inner = {n.token for n in walk(*parts) if isinstance(n, op.Loop)}
        self._inside = frozenset({loop.token, *inner})
        self._free = free_tokens(*parts)

    def varies(self, node: Node) -> bool:
        """Whether it may change from one iteration to the next, or belongs to a loop inside."""
        return bool(self._free[node] & self._inside)

    def inside(self, token: int) -> bool:
        """Whether a token is this loop's, or that of a loop in its body."""
        return token in self._inside

    def invariant_inputs(self) -> list[op.Operator]:
        """The largest invariant tables that varying operators read, in plan order."""
        found: dict[op.Operator, None] = {}
        for node in self._free:
            if isinstance(node, op.Operator) and self.varies(node) and is_table(node):
                for child in node.inputs:
                    if not self.varies(child) and is_table(child):
                        found[child] = None
        return list(found)


def is_table(node: Node) -> bool:
    """Whether an operator stands for records (a loop or a job does not)."""
    return isinstance(node, op.Operator) and not isinstance(node, (op.Loop, op.Update, op.Job))


def is_uniform(predicate: ex.Expression) -> bool:
    """Whether it is the same for every record of a table: it reads no column."""
    return not any(isinstance(n, (ex.Column, ex.Opaque)) for n in ex.within([predicate]))
