"""Records of two tables that meet, found among the heads of their sources by whole blocks.

A few records of one table seldom have a partner among the first few of another. Looking among
10,000 of each takes the interpreter a second; the engine's kernels take milliseconds. This is for
samples alone: a witness computes record by record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.errors import ScalopsError
from scalops.algebra.relations import LEFT, Join
from scalops.algebra.tree import find
from scalops.engine.blocks import Array, Block
from scalops.engine.columns import empty, taken
from scalops.engine.kernels.kernel import Kernel, Vector
from scalops.engine.kernels.matching import KeyIndex, Pairs
from scalops.engine.relations.whole import gathered

MOST_PARTNERS = 256


def meeting(node: Join, sample: int, few: int) -> tuple[Block, Block] | None:
    """Up to `few` records of the side whose order the join keeps, and their partners.

    Looked for among the first `sample` records of each source. None where a side is more than
    traced functions over a source, or reads what only a run knows.
    """
    try:
        blocks = [_head(side, sample) for side in node.sides]
        keys = [
            _computed(by, block)
            for by, block in zip((node.left_keys, node.right_keys), blocks, strict=True)
        ]
    except (ScalopsError, _NotByBlocksError):
        return None
    lead = int(node.kind == "right")
    ours, theirs = blocks[lead], blocks[1 - lead]
    index = KeyIndex(keys[1 - lead], theirs.rows, node.nulls_equal)
    matches = index.lookup(keys[lead], ours.rows)
    wanted = matches.found if node.kind in ("inner", "semi") else np.ones(ours.rows, bool)
    chosen = np.flatnonzero(wanted)[:few]
    some = index.lookup([_taken(k, chosen) for k in keys[lead]], len(chosen))
    if some.counts is None:
        partners = some.first[some.first >= 0]
    else:
        pairs = Pairs(some, outer=False)
        partners = _NONE if not pairs.total else pairs.piece(0, min(pairs.total, MOST_PARTNERS))[1]
    if node.kind == "full":
        partners = np.concatenate([partners, np.arange(min(few, theirs.rows))])
    found = ours.take(chosen), theirs.take(np.unique(partners).astype(np.int64))
    return (found[1], found[0]) if lead else found


_NONE: Array = np.zeros(0, np.int64)


class _NotByBlocksError(Exception):
    """A table or expression that only the interpreter can evaluate."""


def _head(node: op.Operator, sample: int) -> Block:
    match node:
        case op.Scan(source=source):
            readable: Any = source
            head: Block = readable.head(sample, node.schema.names)
            return head
        case Join(kind="inner" | "left" | "semi" | "anti"):
            return _joined_head(node, sample)
        case op.Cache(source=below) | op.Repartition(source=below):
            return _head(below, sample)
        case op.Project(source=below, outputs=outputs):
            block = _head(below, sample)
            made = _computed([e for _, e in outputs], block)
            named = dict(zip((n for n, _ in outputs), made, strict=True))
            columns = {n: values for n, (values, _) in named.items()}
            return Block(
                block.rows, columns, {n: m for n, (_, m) in named.items() if m is not None}
            )
        case op.Filter(label="sample", source=below):
            return _head(below, sample)  # a share of a few records might be none of them
        case op.Filter(source=below, predicate=predicate):
            block = _head(below, sample)
            ((kept, mask),) = _computed([predicate], block)
            return block.keep(np.asarray(kept if mask is None else kept & mask))
    raise _NotByBlocksError


def _joined_head(node: Join, sample: int) -> Block:
    """The first pairs of both heads."""
    left, right = (_head(side, sample) for side in node.sides)
    own, theirs = _computed(node.left_keys, left), _computed(node.right_keys, right)
    matches = KeyIndex(theirs, right.rows, node.nulls_equal).lookup(own, left.rows)
    if node.kind in ("semi", "anti"):
        rows = np.flatnonzero(matches.found == (node.kind == "semi"))
        positions = np.full(len(rows), -1)
    elif matches.counts is None:
        rows = np.flatnonzero(matches.found | (node.kind == "left"))
        positions = matches.first[rows]
    else:
        pairs = Pairs(matches, outer=node.kind == "left")
        many = min(pairs.total, sample)
        rows, positions = pairs.piece(0, many) if many else (_NONE, _NONE)
    made = Block(len(rows), {})
    for name, side, column in node.outputs:
        if side == LEFT:
            mask = left.valid.get(column)
            values, mask = _taken((left.columns[column], mask), rows)
        else:
            vector = right.columns[column], right.valid.get(column)
            values, mask = gathered(vector, positions, node.right.schema, column)
        made.columns[name] = values
        if mask is not None:
            made.valid[name] = mask
    return made


def _computed(roots: Sequence[ex.Expression], block: Block) -> list[Vector]:
    """The expressions' values over a block."""
    if any(not isinstance(e, _KNOWN) for root in roots for e in find((root,), ex.Expression)):
        raise _NotByBlocksError
    kernel = Kernel(roots, max(1, block.rows))
    frame = kernel.frame(buffered=False)
    kernel.prepare(frame, (), 0)
    return kernel.run(frame, block) if block.rows else [_empty(root) for root in roots]


_KNOWN = (ex.Constant, ex.Held, ex.Column, ex.Call, ex.Item)


def _empty(e: ex.Expression) -> Vector:
    return empty(e.type.strong()), None


def _taken(key: Vector, rows: Array) -> Vector:
    return taken(key[0], rows), None if key[1] is None else key[1][rows]
