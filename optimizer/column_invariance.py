"""Which rows and columns of tables a loop leaves as they are, although the tables vary.

A table's rows are invariant where each iteration has as many and row i stands for the same
thing; its column c is invariant where row i has the same value in it. What is said holds from
the first iteration's output on: the start may have other keys than the body gives.

Each has an identity, a digest of how it comes about: what has one identity has one content. The
body takes the identities of the environment's columns to those of the next. What it gives in the
second iteration as in the first is assumed invariant, and what the body makes of that assumption
is compared with it; what differs is given up, until the assumption bears itself out: the greatest
fixed point. So a column that is copied, or that comes from outside the loop, is invariant; one
that is a function of itself is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, digest_of, walk
from scalops.optimizer.invariance import Tokens, free_tokens, is_table, is_uniform
from scalops.optimizer.properties import UniqueKeys

Identity = bytes
Indexable = rel.Join | rel.GroupAggregate | op.Filter


@dataclass(frozen=True)
class Known:
    """Identities of a table's rows and columns; what varies has none.

    No column has one where the rows have none.
    """

    rows: Identity | None = None
    columns: Mapping[str, Identity] = field(default_factory=dict)

    def agreeing(self, other: Known) -> Known:
        """What is the same in both."""
        if self.rows is None or self.rows != other.rows:
            return VARYING
        same = {n: i for n, i in self.columns.items() if other.columns.get(n) == i}
        return Known(self.rows, same)


VARYING = Known()
_Values = dict[str, Identity]


class ColumnInvariance:
    """The analysis of one loop; `keys` are those of the tables that it reads."""

    def __init__(self, loop: op.Loop, keys: UniqueKeys | None = None) -> None:
        parts: list[Node] = [loop.body]
        if loop.condition is not None:
            parts.append(loop.condition)
        self._loop = loop
        self._order = list(walk(*parts))
        self._free = free_tokens(*parts)
        self._inner: Tokens = frozenset(n.token for n in self._order if isinstance(n, op.Loop))
        self._inside: Tokens = self._inner | {loop.token}
        self._keys = keys or UniqueKeys(loop)
        self._state: dict[str, Known] = {}
        self._values: _Values = {}
        self._tables: dict[Node, Known] = {}
        self._settle()

    def rows(self, node: op.Operator) -> bool:
        """Whether a table's rows are invariant."""
        return self._tables[node].rows is not None

    def columns(self, node: op.Operator) -> frozenset[str]:
        """Its invariant columns."""
        return frozenset(self._tables[node].columns)

    def state_columns(self, name: str) -> frozenset[str]:
        """The invariant columns of a table in the environment."""
        return frozenset(self._state[name].columns)

    def keeps(self, e: ex.Expression, source: op.Operator) -> bool:
        """Whether an expression has the same value for each row of a table of the body.

        Any, not only one that the body holds already.
        """
        return self._over(e, source) is not None

    def indexable(self) -> list[Indexable]:
        """The body's own joins, groups and filters that vary, with keys that do not.

        The body's own are those that an iteration of this loop makes: what reads an environment
        of a loop inside belongs to that one.
        """
        return [
            node
            for node in self._order
            if isinstance(node, Indexable) and self._is_own(node) and self._has_fixed_keys(node)
        ]

    def _is_own(self, node: Node) -> bool:
        tokens = self._free[node]
        return self._loop.token in tokens and not tokens & self._inner

    def _has_fixed_keys(self, node: Indexable) -> bool:
        match node:
            case rel.Join(kind=kind):
                return kind != "cross" and self._meeting(node) is not None
            case rel.GroupAggregate(source=source, keys=keys):
                return all(self.keeps(e, source) for _, e in keys) and self.rows(source)
            case op.Filter(source=source, predicate=predicate):
                return not is_uniform(predicate) and self.keeps(predicate, source)

    # The fixed point.

    def _settle(self) -> None:
        tables = {
            name: Known(_of("start", name), {c: _sure(name, c) for c in t.schema.names})
            for name, t in self._loop.tables
        }
        values = {name: _sure("value", name) for name in self._loop.state_types}
        first = self._next(tables, values)
        second = self._next(*first)
        while second != first:
            first = _agreeing(first, second)
            second = self._next(*first)
        self._next(*first)

    def _next(self, tables: dict[str, Known], values: _Values) -> tuple[dict[str, Known], _Values]:
        """What the body makes of an environment of these identities."""
        self._state, self._values = tables, values
        self._tables = {}
        for node in self._order:
            if is_table(node) and isinstance(node, op.Operator):
                self._tables[node] = self._known(node)
        body = self._loop.body
        if not isinstance(body, op.Update):
            return {}, {}
        found = {name: self._identity(e, {}) for name, e in body.update}
        following = {name: self._tables[t] for name, t in body.tables}
        return following, {n: i for n, i in found.items() if i is not None}

    # Tables.

    def _known(self, node: op.Operator) -> Known:
        tokens = self._free[node]
        if not tokens & self._inside:
            return Known(node.digest, {n: _sure(node.digest, n) for n in node.schema.names})
        if tokens & self._inner:
            return VARYING  # each iteration of the loop inside has its own
        match node:
            case rel.StateTable(name=name):
                return self._state[name]
            case op.Project(source=source, outputs=outputs):
                found = {n: self._over(e, source) for n, e in outputs}
                return Known(self._tables[source].rows, _those(found))
            case op.Cache(source=source) | op.Repartition(source=source):
                return self._tables[source]
            case op.Filter(source=source, predicate=predicate):
                return self._chosen(source, "filter", self._over(predicate, source))
            case op.Sort(source=source, keys=keys, descending=down):
                return self._chosen(source, f"sort{down}", *(self._over(e, source) for e in keys))
            case op.Slice(source=source, start=start, length=length):
                last = b"" if length is None else self._over(length, source)
                return self._chosen(source, "slice", self._over(start, source), last)
            case op.Limit(source=source, count=count):
                return self._chosen(source, f"limit{count}")
            case op.Distinct(source=source, columns=compared):
                read = [
                    self._tables[source].columns.get(c) for c in compared or source.schema.names
                ]
                return self._chosen(source, "distinct", *read)
            case op.Explode(source=source, names=names, index=index):
                # Also of vectors: which of them are null may change.
                items = [self._tables[source].columns.get(c) for c in names]
                made = self._chosen(source, "explode", *items)
                return self._with(made, () if index is None else (index,))
            case op.WithRowIndex(source=source, name=name):
                return self._with(self._tables[source], (name,))
            case op.Expand(source=source, records=records):
                new = [{n: self._over(e, source) for n, e in record} for record in records]
                rows = _of("expand", len(records), self._tables[source].rows)
                return _made(rows, {n: [r[n] for r in new] for n in node.schema.names})
            case op.Union(sources=sources):
                parts = [self._tables[s] for s in sources]
                rows = _of("union", *(p.rows for p in parts))
                return _made(
                    rows, {n: [p.columns.get(n) for p in parts] for n in node.schema.names}
                )
        return self._related(node)

    def _related(self, node: op.Operator) -> Known:
        match node:
            case rel.Join():
                return self._joined(node)
            case rel.GroupAggregate(source=source, keys=keys, folds=folds):
                by = [self._over(e, source) for _, e in keys]
                rows = _of("groups", self._tables[source].rows, *by)
                columns = {n: [i] for (n, _), i in zip(keys, by, strict=True)}
                columns |= {f.name: [self._fold(f, source)] for f in folds}
                return _made(rows, columns)
            case rel.GroupApply(groups=groups, single=single, kept=kept):
                below = self._tables[groups]
                whole = self._whole_call(node)
                if not single:
                    return _made(whole, {n: [b""] for n in node.schema.names})
                if below.rows is None:
                    return VARYING
                given = {n: whole and _sure(whole, n) for n in node.declared.names}
                return Known(below.rows, _those(given | {n: below.columns.get(n) for n in kept}))
            case rel.Cumulate(source=source, columns=running):
                below = self._tables[source]
                made = _those({c.name: self._fold(c, source) for c in running})
                return Known(below.rows, {**below.columns, **made})
            case op.MapBatches(source=source, slots=slots):
                slot_values = (self._identity(e, {}) for e in slots)
                own = _of("batches", node.function.__repr__(), self._all_of(source), *slot_values)
                return _made(own, {n: [b""] for n in node.schema.names})
        return VARYING

    def _joined(self, node: rel.Join) -> Known:
        """Rows and columns of a join.

        A left join whose right side is unique on the keys has the left side's rows, whatever the
        right side's do: each record has one partner or none.
        """
        given = [self._tables[s].columns for s in node.sides]
        meeting = self._meeting(node)
        outer = self._kept_side(node)
        if outer is None:
            return _made(meeting, {n: [given[side].get(c)] for n, side, c in node.outputs})
        columns: dict[str, Identity] = {}
        for name, side, column in node.outputs:
            own = given[side].get(column)
            if own is not None and side == outer:
                columns[name] = own
            elif own is not None and meeting is not None:
                columns[name] = _sure(meeting, own)
        rows = self._tables[node.sides[outer]].rows
        return Known(rows, columns if rows is not None else {})

    def _kept_side(self, node: rel.Join) -> int | None:
        """The side whose records a join hands on, each just once."""
        if node.kind == "left" and self._keys.identifies(node.right, node.right_keys):
            return rel.LEFT
        if node.kind == "right" and self._keys.identifies(node.left, node.left_keys):
            return rel.RIGHT
        return None

    def _meeting(self, node: rel.Join) -> Identity | None:
        """Which rows of both sides meet; None where rows or keys vary."""
        sides = ((node.left, node.left_keys), (node.right, node.right_keys))
        read = [self._tables[s].rows for s, _ in sides]
        read += [self._over(k, s) for s, keys in sides for k in keys]
        return _of("join", node.kind, node.nulls_equal, *read)

    def _whole_call(self, node: rel.GroupApply) -> Identity | None:
        """All that the function of a group gets: every column of its tables."""
        pairs = zip(node.sources, node.keys, strict=True)
        by = [self._over(e, t) for t, keys in pairs for e in keys]
        read = (*node.group_keys, *node.arguments, *node.slots)
        tables = (self._all_of(t) for t in node.sources)
        given = (self._over(e, node.groups) for e in read)
        return _of("apply", node.function.__repr__(), *tables, *by, *given)

    def _all_of(self, table: op.Operator) -> Identity | None:
        known = self._tables[table]
        return _of("all", known.rows, *(known.columns.get(n) for n in table.schema.names))

    def _chosen(self, source: op.Operator, how: str, *by: Identity | None) -> Known:
        """Rows of the source that are chosen or arranged in a way that only `by` decides."""
        below = self._tables[source]
        rows = _of(how, below.rows, *by)
        return _made(rows, {n: [i] for n, i in below.columns.items()})

    def _with(self, below: Known, positions: tuple[str, ...]) -> Known:
        if below.rows is None:
            return VARYING
        return Known(below.rows, {**below.columns, **{n: _sure(below.rows, n) for n in positions}})

    # Expressions.

    def _over(self, e: ex.Expression, source: op.Operator) -> Identity | None:
        """The identity of an expression over the rows of a table; None where it varies."""
        below = self._tables[source]
        return None if below.rows is None else self._identity(e, below.columns)

    def _fold(self, node: Fold | rel.Running, source: op.Operator) -> Identity | None:
        """The identity of a fold's result."""
        below = self._tables[source]
        made: dict[Node, Identity] = {}
        for e in node.children:
            if isinstance(e, ex.Expression):
                # What combines two states reads their fields, which are no columns.
                state = isinstance(node, Fold) and e not in node.arguments
                own = self._identity(e, None if state else below.columns)
                if own is None:
                    return None
                made[e] = own
        return _of("fold", below.rows, digest_of(node, lambda child: made[child]))

    def _identity(
        self, root: ex.Expression, columns: Mapping[str, Identity] | None
    ) -> Identity | None:
        made: dict[Node, Identity] = {}
        for node in walk(root, enter=ex.in_record):
            assert isinstance(node, ex.Expression)
            own = self._own_identity(node, columns, made)
            if own is None:
                return None
            made[node] = own
        return made[root]

    def _own_identity(
        self,
        node: ex.Expression,
        columns: Mapping[str, Identity] | None,
        made: Mapping[Node, Identity],
    ) -> Identity | None:
        match node:
            case ex.Column(name=name, record=0):
                return node.digest if columns is None else columns.get(name)
            case ex.Bound(loop=loop):
                return None if loop in self._inner else node.digest
            case ex.State(loop=loop, name=name) if loop == self._loop.token:
                return self._values.get(name)
            case ex.State(loop=loop) | ex.Iteration(loop=loop):
                return None if loop in self._inside else node.digest
            case ex.Subquery(source=source, name=name) if self._reads_loop(source):
                if source.source not in self._tables:
                    return None
                (fold,) = (f for f in source.folds if f.name == name)
                return self._fold(fold, source.source)
            case ex.LoopOutput(loop=whole) if self._reads_loop(whole):
                return None
            case ex.Rows(source=table) if self._reads_loop(table):
                return None
        return digest_of(node, lambda child: made.get(child, child.digest))

    def _reads_loop(self, node: Node) -> bool:
        tokens = self._free[node] if node in self._free else free_tokens(node)[node]
        return bool(tokens & self._inside)


def _of(*parts: object) -> Identity | None:
    """The identity of what comes about from these; None where one of them varies."""
    if any(p is None for p in parts):
        return None
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _sure(*parts: object) -> Identity:
    made = _of(*parts)
    assert made is not None
    return made


def _those(found: Mapping[str, Identity | None]) -> dict[str, Identity]:
    return {n: i for n, i in found.items() if i is not None}


def _made(rows: Identity | None, columns: Mapping[str, list[Identity | None]]) -> Known:
    """New rows, with columns that follow from them and from other identities."""
    if rows is None:
        return VARYING
    return Known(rows, _those({n: _of(rows, *parts) for n, parts in columns.items()}))


def _agreeing(
    first: tuple[dict[str, Known], _Values], second: tuple[dict[str, Known], _Values]
) -> tuple[dict[str, Known], _Values]:
    tables = {n: known.agreeing(second[0][n]) for n, known in first[0].items()}
    return tables, {n: i for n, i in first[1].items() if second[1].get(n) == i}


def invariant_columns(loop: op.Loop) -> list[str]:
    """The columns of a loop's tables that stay, as "table.column", for readers."""
    if not loop.tables:
        return []
    analysis = ColumnInvariance(loop)
    return [
        f"{name}.{column}"
        for name, table in loop.tables
        for column in table.schema.names
        if column in analysis.state_columns(name)
    ]
