"""Filter what a join or a group-by reads, not what it gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, Expression, call, columns_read, opaque_calls
from scalops.algebra.functions import function
from scalops.algebra.tree import Node, find, substitute, walk
from scalops.optimizer.column_invariance import ColumnInvariance
from scalops.optimizer.invariance import is_uniform
from scalops.optimizer.properties import UniqueKeys
from scalops.optimizer.rules.merge_filters import may_raise
from scalops.optimizer.rules.merge_maps import inline
from scalops.optimizer.rules.push_filter_down import is_exact
from scalops.optimizer.selectivity import conjuncts

# By kind: the sides of which every record that p drops is missing from the result, and no other.
_FILTERED = {
    "inner": (rel.LEFT, rel.RIGHT),
    "cross": (rel.LEFT, rel.RIGHT),
    "left": (rel.LEFT,),
    "semi": (rel.LEFT,),
    "anti": (rel.LEFT,),
    "right": (rel.RIGHT,),
    "full": (),
}
_SEES_ALL = (("left", rel.LEFT), ("right", rel.RIGHT))
_Analyses = dict[op.Operator, ColumnInvariance]


def push_filter_into_joins(node: Node) -> Node | None:
    """Filter(Join(L, R), p & q & r) -> Filter(Join(Filter(L, p), Filter(R, q)), r), where p reads
    columns of L alone and q columns of R;
    Filter(GroupAggregate(T, k, f), p & r) -> Filter(GroupAggregate(Filter(T, p∘k), k, f), r),
    where p reads keys alone.

    Sound because & is Kleene's, and a record of an inner or cross join is there as long as both of
    its parts are. Of a left join the left side alone, and likewise of `semi` and `anti`: the right
    one's null must be seen. Of a right join the right side alone, of a full one neither. A group
    goes or stays whole. A p that reads no column goes to both sides, so that nothing is read where
    it is false.

    Not where another operator reads the join or the groups too: they would be computed twice.
    Not where p may fail, or is opaque, and would see records that found no partner, or be called
    for each record instead of each group; nor below a group-by where p reads keys of which equal
    values differ, as 0.0 and -0.0 do. In a loop that leaves the keys as they are only what it
    leaves alone too goes below: the keys would change with it.
    """
    if not isinstance(node, op.Job):
        return None
    candidates = _candidates(node)
    if not candidates:
        return None
    analyses = _analyses(node)
    mapping: dict[Node, Node] = {}
    for kept in candidates:
        made = _pushed(kept, analyses)
        if made is not None:
            mapping[kept] = made
    return substitute(node, mapping) if mapping else None


def _candidates(job: op.Job) -> list[op.Filter]:
    """Filters that are the only reader of a join or a group-by."""
    readers = Counter(c for n in walk(job) for c in {*n.children})
    return [
        n
        for n in find((job,), op.Filter)
        if isinstance(n.source, rel.Join | rel.GroupAggregate) and readers[n.source] == 1
    ]


def _analyses(job: op.Job) -> _Analyses:
    """What each loop leaves alone, by the joins and groups that it could index."""
    keys = UniqueKeys(job)
    made = [ColumnInvariance(loop, keys) for loop in find((job,), op.Loop)]
    return {node: analysis for analysis in made for node in analysis.indexable()}


def _pushed(node: op.Filter, analyses: _Analyses) -> op.Operator | None:
    source, p = node.source, node.predicate
    analysis = analyses.get(source)
    parts = [p] if is_uniform(p) else conjuncts(p)
    movable = [q for q in parts if analysis is None or analysis.keeps(q, source)]
    if isinstance(source, rel.Join):
        below = _by_side(source, movable)
    else:
        assert isinstance(source, rel.GroupAggregate)
        below = [[q for q in movable if _reads_keys(source, q)]]
    moved = {q for side in below for q in side}
    if not moved:
        return None
    made = _over_filtered(node, source, below)
    rest = [q for q in parts if q not in moved]
    return replace(node, source=made, predicate=_all_of(rest), origin=None) if rest else made


def _over_filtered(
    node: op.Filter, source: rel.Join | rel.GroupAggregate, below: list[list[Expression]]
) -> op.Operator:
    if isinstance(source, rel.GroupAggregate):
        return replace(source, source=_filtered(node, source.source, below[0], source.keys))
    left, right = (
        _filtered(node, side, parts, _outputs_of(source, i))
        for i, (side, parts) in enumerate(zip(source.sides, below, strict=True))
    )
    return replace(source, left=left, right=right)


def _by_side(join: rel.Join, parts: Iterable[Expression]) -> list[list[Expression]]:
    """Which parts of a predicate go below a join's left side, and which below its right one."""
    below: list[list[Expression]] = [[], []]
    side_of = {name: side for name, side, _ in join.outputs}
    for q in parts:
        if is_uniform(q):
            below[rel.LEFT].append(q)
            below[rel.RIGHT].append(q)
            continue
        sides = {side_of[c] for c in columns_read([q])}
        if len(sides) == 1:
            (side,) = sides
            safe = (join.kind, side) in _SEES_ALL or not may_raise(q)
            if side in _FILTERED[join.kind] and safe:
                below[side].append(q)
    return below


def _reads_keys(groups: rel.GroupAggregate, q: Expression) -> bool:
    if is_uniform(q):
        return True
    keys = dict(groups.keys)
    read = columns_read([q])
    if not read <= keys.keys() or opaque_calls([q, *(keys[n] for n in read)]):
        return False
    return all(is_exact(keys[n].type) for n in read)


def _outputs_of(join: rel.Join, side: int) -> tuple[op.Named, ...]:
    schema = join.sides[side].schema
    return tuple((n, Column(c, schema[c])) for n, of, c in join.outputs if of == side)


def _filtered(
    node: op.Filter, below: op.Operator, parts: list[Expression], outputs: tuple[op.Named, ...]
) -> op.Operator:
    if not parts:
        return below
    p = inline(_all_of(parts), outputs)
    return replace(node, source=below, predicate=p, origin=None)


def _all_of(parts: list[Expression]) -> Expression:
    made, *others = parts
    for q in others:
        made = call(function("bitwise_and"), made, q, location=q.location or made.location)
    return made
