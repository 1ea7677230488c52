"""How many bytes the buffers of kernels take.

A step that computes numbers writes into a buffer, which is used again as soon as what is in it has
been read for the last time: as `engine/kernels/buffers.py` hands them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from scalops.algebra import expressions as ex
from scalops.algebra.definitions import over_source
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.tree import Node, walk
from scalops.engine import physical_plan as pp
from scalops.engine.physical_compiled import CompiledAggregate
from scalops.engine.physical_work import rows_of_block
from scalops.engine.stage_operators import operators_of

_SMALL_BYTES = 1 << 14  # smaller results have no buffers: as engine/kernels/buffers.py has it
# Functions of whole vectors that write into what they are given; elementwise ones all do.
_INTO = frozenset({"matmul", "softmax", "squared_distances", "weighted_squared_distances"})


def stage_buffers(stage: pp.Stage) -> float:
    """Bytes of the buffers that one thread has for the kernels of a stage."""
    found = 0.0
    for node in operators_of(stage):
        match node:
            case CompiledAggregate():
                continue
            case pp.Compute(outputs=outputs, map=mapped, source=source):
                roots = over_source(mapped, [e for _, e in outputs])
                found += buffer_bytes(roots, rows_of_block(source.schema), handed_out=True)
            case pp.Select(predicate=predicate, source=source):
                found += buffer_bytes([predicate], rows_of_block(source.schema), handed_out=True)
            case pp.TreeAggregate(map=mapped, folds=folds):
                roots = over_source(mapped, [a for f in folds for a in f.arguments])
                found += buffer_bytes(roots, rows_of_block(stage.source.schema))
    return found


def buffer_bytes(roots: Sequence[ex.Expression], rows: int, handed_out: bool = False) -> float:
    """Bytes of the buffers that computing the expressions for blocks of so many records takes.

    Roots that are `handed_out` are no buffers: they are arrays of their own.
    """
    steps = [n for n in walk(*roots, enter=_is_expression) if isinstance(n, ex.Expression)]
    of_records = _of_records(steps)
    last = {child: i for i, node in enumerate(steps) for child in node.children}
    kept = set(roots)
    buffers: list[ArrayType] = []
    free: dict[ArrayType, int] = {}
    live: dict[Node, ArrayType] = {}
    for i, node in enumerate(steps):
        kind = node.any_type
        if node not in of_records or not isinstance(node, ex.Call) or not _writes(node):
            continue
        if not isinstance(kind, ArrayType) or kind.bytes * rows < _SMALL_BYTES:
            continue
        if handed_out and node in kept:
            continue
        until = i if node.function.elementwise else i - 1
        for done in [n for n in live if n not in kept and last.get(n, i) <= until]:
            own = live.pop(done)
            free[own] = free.get(own, 0) + 1
        kind = kind.strong()
        if free.get(kind):
            free[kind] -= 1
        else:
            buffers.append(kind)
        live[node] = kind
    return float(rows * sum(k.bytes for k in buffers))


def _is_expression(node: Node) -> bool:
    return isinstance(node, ex.Expression)


def _writes(node: ex.Call) -> bool:
    """Whether it computes numbers into an array that it may be given."""
    kind = node.any_type
    if not isinstance(kind, ArrayType) or not kind.is_plain:
        return False
    return node.function.elementwise or node.function.name in _INTO


def _of_records(steps: Sequence[ex.Expression]) -> set[Node]:
    """What differs from record to record."""
    found: set[Node] = set()
    for node in steps:
        if isinstance(node, (ex.Column, ex.Opaque)) or found.intersection(node.children):
            found.add(node)
    return found
