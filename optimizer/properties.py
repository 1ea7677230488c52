"""What is known of a table before it is made: keys, order, where equal records lie.

A key is a set of columns in which no two records agree (null with null and NaN with NaN do). The
empty set is the key of a table of one record at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.expressions import Column, Expression
from scalops.algebra.tree import Node, walk

Key = frozenset[str]
Keys = frozenset[Key]

NO_KEYS: Keys = frozenset()
MOST_KEYS = 8  # a product of joins has many; the smallest are kept


class UniqueKeys:
    """The keys of tables. Those of a table in a loop's environment follow from the loop.

    A state table has a key if its start has, and the body's next one under the assumption that
    the present one has: the greatest fixed point, reached from the keys of the start downwards.
    """

    def __init__(self, *roots: Node) -> None:
        self._known: dict[op.Operator, Keys] = {}
        self._states: dict[int, dict[str, Keys]] = {}
        self._loops = {n.token: n for n in walk(*roots) if isinstance(n, op.Loop) and n.tables}

    def of(self, node: op.Operator) -> Keys:
        """The keys of a table."""
        if node in self._known:
            return self._known[node]
        for n in walk(node):
            if isinstance(n, rel.StateTable) and n.loop in self._loops:
                self._assume(self._loops[n.loop])
            elif isinstance(n, rel.LoopTable):
                self._assume(n.loop)
        for n in walk(node, enter=lambda n: n not in self._known):
            if isinstance(n, op.Operator):
                self._known[n] = _smallest(self._keys(n))
        return self._known[node]

    def identifies(self, node: op.Operator, by: Iterable[Expression]) -> bool:
        """Whether no two records of a table agree in all of these expressions."""
        named = frozenset(e.name for e in by if isinstance(e, Column))
        return any(key <= named for key in self.of(node))

    def _assume(self, loop: op.Loop) -> None:
        """Find the keys of a loop's tables, unless they are known or being found."""
        if loop.token in self._states or not isinstance(loop.body, op.Update):
            return
        begun = {name: self.of(start) for name, start in loop.tables}
        self._states[loop.token] = begun
        inner = {n.token for n in walk(loop.body) if isinstance(n, op.Loop)}
        while True:
            self._known.clear()
            for token in inner:  # found under the assumption before
                self._states.pop(token, None)
            assumed = self._states[loop.token]
            kept = {name: assumed[name] & self.of(t) for name, t in loop.body.tables}
            if kept == assumed:
                return
            self._states[loop.token] = kept

    def _keys(self, node: op.Operator) -> Keys:
        match node:
            case op.Project(source=source, outputs=outputs):
                return _renamed(self._known[source], _new_names(outputs))
            case op.WithRowIndex(source=source, name=name):
                return self._known[source] | {frozenset((name,))}
            case op.Distinct(source=source, columns=columns):
                return self._known[source] | {frozenset(columns or source.schema.names)}
            case op.Explode(source=source, names=names, index=str(index)):
                return frozenset(k | {index} for k in self._known[source] if not k & {*names})
            case op.Expand(source=source, records=(record,)):
                return self._keys(op.Project(source, record))
            case rel.GroupAggregate(keys=keys):
                return frozenset((frozenset(n for n, _ in keys),))
            case rel.GroupApply(groups=groups, single=True, kept=kept):
                return _renamed(self._known[groups], {n: n for n in kept})
            case rel.Join():
                return self._joined(node)
            case rel.StateTable(loop=loop, name=name):
                return self._states.get(loop, {}).get(name, NO_KEYS)
            case rel.LoopTable(loop=loop, name=name):
                return self._states.get(loop.token, {}).get(name, NO_KEYS)
            case op.Filter() | op.Limit() | op.Slice() | op.Sort():
                return self._known[node.source]
            case op.Repartition() | op.Cache() | rel.Cumulate():
                return self._known[node.source]
        return NO_KEYS

    def _joined(self, node: rel.Join) -> Keys:
        left, right = (_renamed(self._known[s], side_names(node, i)) for i, s in _sides(node))
        one_right = self.identifies(node.right, node.right_keys)
        one_left = self.identifies(node.left, node.left_keys)
        both = frozenset(a | b for a in left for b in right)
        match node.kind:
            case "semi" | "anti":
                return left
            case "inner":
                return both | (left if one_right else NO_KEYS) | (right if one_left else NO_KEYS)
            case "left":
                return both | (left if one_right else NO_KEYS)
            case "right":
                return both | (right if one_left else NO_KEYS)
            case "cross":
                return both
        return NO_KEYS  # of a full join: null may stand for a missing record, or be a key


def _sides(node: rel.Join) -> list[tuple[int, op.Operator]]:
    return [(rel.LEFT, node.left), (rel.RIGHT, node.right)]


def side_names(node: rel.Join, side: int) -> dict[str, str]:
    """The columns of one side of a join that it gives, each with its first name there."""
    names: dict[str, str] = {}
    for name, of, column in node.outputs:
        if of == side:
            names.setdefault(column, name)
    return names


def _new_names(outputs: tuple[op.Named, ...]) -> dict[str, str]:
    """The columns that a projection hands on, each with its first name there."""
    names: dict[str, str] = {}
    for name, e in outputs:
        if isinstance(e, Column):
            names.setdefault(e.name, name)
    return names


def _renamed(keys: Keys, names: Mapping[str, str]) -> Keys:
    """The keys of which every column is still there, under the new names."""
    return frozenset(frozenset(names[c] for c in key) for key in keys if key <= names.keys())


def _smallest(keys: Keys) -> Keys:
    """Keys that hold no other; the smallest, if there are many."""
    least = [k for k in keys if not any(other < k for other in keys)]
    return frozenset(sorted(least, key=lambda k: (len(k), sorted(k)))[:MOST_KEYS])


def keeps_records(node: op.Operator, source: op.Operator, keys: UniqueKeys | None = None) -> bool:
    """Whether record i of an operator comes from record i of this input, and none is dropped.

    A join does so for its left input where each record there has just one partner or none: a
    left join whose right keys are unique, as far as `keys` tell.
    """
    match node:
        case op.Project() | op.WithRowIndex() | op.Cache() | op.Repartition() | rel.Cumulate():
            return node.inputs == (source,)
        case op.Expand(records=records):
            return len(records) == 1
        case rel.GroupApply(groups=groups, single=single):
            return single and source == groups
        case rel.Join(kind="left", left=left, right=right, right_keys=by):
            return source == left and keys is not None and keys.identifies(right, by)
        case rel.Join(kind="right", left=left, right=right, left_keys=by):
            return source == right and keys is not None and keys.identifies(left, by)
    return False


def is_ordered(node: op.Operator) -> bool:
    """Whether the order of the records says something: none is left by `shuffle`, `repartition`.

    A sort by the user's own keys restores one; groups come by first appearance.
    """
    below: list[op.Operator] = [node]
    while below:
        n = below.pop()
        if isinstance(n, op.Repartition) or (isinstance(n, op.Sort) and n.label == "shuffle"):
            return False
        if not isinstance(n, (op.Sort, op.Scan)):
            # A join has the order of its left side, a right join that of its right side.
            inputs = n.inputs if not isinstance(n, rel.Join) else (n.sides[n.kind == "right"],)
            below.extend(inputs)
    return True


def gathered_by(node: op.Operator) -> Keys:
    """Sets of columns whose equal records an operator below has brought together.

    A join does so for its keys, a group-by for its own. What keeps records as they are hands
    that on.
    """
    match node:
        case rel.GroupAggregate(keys=keys):
            return frozenset((frozenset(n for n, _ in keys),))
        case rel.Join(kind="cross" | "full"):
            return NO_KEYS
        case rel.Join():
            found: set[Key] = set()
            for i, by in enumerate((node.left_keys, node.right_keys)):
                # Where a side has no match its columns are null, wherever the record lies.
                if (node.kind, i) in (("left", rel.RIGHT), ("right", rel.LEFT)):
                    continue
                names = side_names(node, i)
                columns = [e.name for e in by if isinstance(e, Column)]
                if len(columns) == len(by) and names.keys() >= {*columns}:
                    found.add(frozenset(names[c] for c in columns))
            return frozenset(found)
        case op.Project(source=source, outputs=outputs):
            return _renamed(gathered_by(source), _new_names(outputs))
        case (
            op.Filter(source=source) | op.WithRowIndex(source=source) | rel.Cumulate(source=source)
        ):
            return gathered_by(source)
        case op.Cache(source=source) | op.Distinct(source=source):
            return gathered_by(source)
    return NO_KEYS


def same_keys(node: op.Operator, keys: Iterable[Expression]) -> bool:
    """Whether records that agree in `keys` lie together already, so that none is exchanged.

    So they do where the keys hold all columns of a set by which `node` was gathered: what agrees
    in more columns agrees in these.
    """
    named = frozenset(e.name for e in keys if isinstance(e, Column))
    return any(key and key <= named for key in gathered_by(node))
