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

What that leaves may settle nevertheless, as keys do that are chosen in each iteration by those of
the one before: of two tables that alternating least squares makes of each other, row i stands for
the same user. Such rows and columns are presumed to be invariant: those to which values of the
state come as they are, through what chooses, arranges, joins or groups by what is invariant or
presumed. A value that is computed of presumed ones is not, nor are rows that become more each
time, unless they are made distinct. Nothing may rest on a presumption but what is looked into
again when the plan runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, walk
from scalops.optimizer.identities import (
    VARYING,
    Identity,
    Known,
    computed,
    distinct,
    from_all,
    growing,
    hands_on,
    known_ones,
    node_identity,
    presumed_of,
    proved,
    rows_and_columns,
    sure,
)
from scalops.optimizer.invariance import Tokens, free_tokens, is_table, is_uniform
from scalops.optimizer.properties import UniqueKeys

Indexable = rel.Join | rel.GroupAggregate | op.Filter
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
        self._presume(*self._settle())

    def rows(self, node: op.Operator) -> bool:
        """Whether a table's rows are invariant."""
        return isinstance(self._tables[node].rows, bytes)

    def columns(self, node: op.Operator) -> frozenset[str]:
        """Its invariant columns."""
        return proved(self._tables[node])

    def state_columns(self, name: str) -> frozenset[str]:
        """The invariant columns of a table in the environment."""
        return proved(self._state[name])

    def presumed_columns(self, name: str) -> frozenset[str]:
        """Those of its other columns that may settle."""
        return frozenset(self._state[name].columns) - self.state_columns(name)

    def keeps(self, e: ex.Expression, source: op.Operator) -> bool:
        """Whether an expression stays as its value for each row of a table of the body.

        Any, not only one that the body holds already. It is invariant, or presumed to be where
        the table's rows are no more than that themselves.
        """
        found = self._deciding(e, source)
        return isinstance(found, bytes) or (found is not None and not self.rows(source))

    def indexable(self) -> list[Indexable]:
        """The body's own joins, groups and filters that vary, with keys that do not.

        The keys are invariant or presumed to be. The body's own are those that an iteration of
        this loop makes: what reads an environment of a loop inside belongs to that one.
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
                by = [self._deciding(e, source) for _, e in keys]
                return self._tables[source].rows is not None and None not in by
            case op.Filter(source=source, predicate=predicate):
                return not is_uniform(predicate) and self._deciding(predicate, source) is not None

    # The fixed point.

    def _settle(self) -> tuple[dict[str, Known], _Values]:
        """The identities of the environment from the first iteration's output on."""
        tables = {
            name: Known(from_all("start", name), {c: sure(name, c) for c in t.schema.names})
            for name, t in self._loop.tables
        }
        values = {name: sure("value", name) for name in self._loop.state_types}
        first = self._next(tables, values)
        second = self._next(*first)
        # The second may have more: what follows from that which the first iteration alone changes.
        while (agreed := _agreeing(first, second)) != first:
            first = agreed
            second = self._next(*first)
        return first

    def _presume(self, tables: dict[str, Known], values: _Values) -> None:
        """Presume that of all tables in the environment all stays which is not computed."""
        presumed = {name: presumed_of(tables[name], t) for name, t in self._loop.tables}
        following = self._next(presumed, values)[0]
        while True:
            left = {name: known.borne_out(following[name]) for name, known in presumed.items()}
            if left == presumed:
                return
            presumed = left
            following = self._next(presumed, values)[0]

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
        found = {name: computed(self._identity(e, {})) for name, e in body.update}
        following = {name: self._tables[t] for name, t in body.tables}
        return following, known_ones(found)

    # Tables.

    def _known(self, node: op.Operator) -> Known:
        tokens = self._free[node]
        if not tokens & self._inside:
            return Known(node.digest, {n: sure(node.digest, n) for n in node.schema.names})
        if tokens & self._inner:
            return VARYING  # each iteration of the loop inside has its own
        match node:
            case rel.StateTable(name=name):
                return self._state[name]
            case op.Project(source=source, outputs=outputs):
                found = {n: self._over(e, source) for n, e in outputs}
                return Known(self._tables[source].rows, known_ones(found))
            case op.Cache(source=source) | op.Repartition(source=source):
                return self._tables[source]
            case op.Filter(source=source, predicate=predicate):
                return self._chosen(source, "filter", self._deciding(predicate, source))
            case op.Sort(source=source, keys=keys, descending=down):
                by = [self._deciding(e, source) for e in keys]
                return self._chosen(source, f"sort{down}", *by)
            case op.Slice(source=source, start=start, length=length):
                last = b"" if length is None else self._deciding(length, source)
                made = self._chosen(source, "slice", self._deciding(start, source), last)
                from_first = isinstance(start, ex.Constant) and start.value == 0
                return made if from_first else growing(made)
            case op.Limit(source=source, count=count):
                return self._chosen(source, f"limit{count}")
            case op.Distinct(source=source, columns=compared):
                read = [
                    self._tables[source].columns.get(c) for c in compared or source.schema.names
                ]
                return distinct(self._chosen(source, "distinct", *read))
            case op.Explode(source=source, names=names, index=index):
                # Also of vectors: which of them are null may change.
                items = [self._tables[source].columns.get(c) for c in names]
                made = self._chosen(source, "explode", *items)
                return growing(self._with(made, () if index is None else (index,)))
            case op.WithRowIndex(source=source, name=name):
                return self._with(self._tables[source], (name,))
            case op.Expand(source=source, records=records):
                new = [{n: self._over(e, source) for n, e in record} for record in records]
                rows = from_all("expand", len(records), self._tables[source].rows)
                columns = {n: [r[n] for r in new] for n in node.schema.names}
                return growing(rows_and_columns(rows, columns))
            case op.Union(sources=sources):
                parts = [self._tables[s] for s in sources]
                rows = from_all("union", *(p.rows for p in parts))
                columns = {n: [p.columns.get(n) for p in parts] for n in node.schema.names}
                return growing(rows_and_columns(rows, columns))
        return self._related(node)

    def _related(self, node: op.Operator) -> Known:
        match node:
            case rel.Join():
                return self._joined(node)
            case rel.GroupAggregate(source=source, keys=keys, folds=folds):
                by = [self._deciding(e, source) for _, e in keys]
                rows = from_all("groups", self._tables[source].rows, *by)
                columns = {n: [self._over(e, source)] for n, e in keys}
                columns |= {f.name: [computed(self._fold(f, source))] for f in folds}
                return distinct(rows_and_columns(rows, columns))
            case rel.GroupApply(groups=groups, single=single, kept=kept):
                below = self._tables[groups]
                whole = computed(self._whole_call(node))
                if not single:
                    return rows_and_columns(whole, {n: [b""] for n in node.schema.names})
                if below.rows is None:
                    return VARYING
                given = {n: whole and sure(whole, n) for n in node.declared.names}
                return Known(
                    below.rows, known_ones(given | {n: below.columns.get(n) for n in kept})
                )
            case rel.Cumulate(source=source, columns=running):
                below = self._tables[source]
                made = known_ones({c.name: computed(self._fold(c, source)) for c in running})
                return Known(below.rows, {**below.columns, **made})
            case op.MapBatches(source=source, slots=slots):
                slot_values = (self._identity(e, {}) for e in slots)
                own = from_all(
                    "batches", node.function.__repr__(), self._all_of(source), *slot_values
                )
                return rows_and_columns(computed(own), {n: [b""] for n in node.schema.names})
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
            return rows_and_columns(
                meeting, {n: [given[side].get(c)] for n, side, c in node.outputs}
            )
        columns: dict[str, Identity] = {}
        for name, side, column in node.outputs:
            own = given[side].get(column)
            if own is not None and side == outer:
                columns[name] = own
            elif own is not None and meeting is not None:
                columns[name] = sure(meeting, own)
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
        read += [self._deciding(k, s) for s, keys in sides for k in keys]
        return from_all("join", node.kind, node.nulls_equal, *read)

    def _whole_call(self, node: rel.GroupApply) -> Identity | None:
        """All that the function of a group gets: every column of its tables."""
        pairs = zip(node.sources, node.keys, strict=True)
        by = [self._deciding(e, t) for t, keys in pairs for e in keys]
        read = (*node.group_keys, *node.arguments, *node.slots)
        tables = (self._all_of(t) for t in node.sources)
        given = (self._deciding(e, node.groups) for e in read)
        return from_all("apply", node.function.__repr__(), *tables, *by, *given)

    def _all_of(self, table: op.Operator) -> Identity | None:
        known = self._tables[table]
        return from_all("all", known.rows, *(known.columns.get(n) for n in table.schema.names))

    def _chosen(self, source: op.Operator, how: str, *by: Identity | None) -> Known:
        """Rows of the source that are chosen or arranged in a way that only `by` decides."""
        below = self._tables[source]
        rows = from_all(how, below.rows, *by)
        return rows_and_columns(rows, {n: [i] for n, i in below.columns.items()})

    def _with(self, below: Known, positions: tuple[str, ...]) -> Known:
        if below.rows is None:
            return VARYING
        return Known(below.rows, {**below.columns, **{n: sure(below.rows, n) for n in positions}})

    # Expressions.

    def _over(self, e: ex.Expression, source: op.Operator) -> Identity | None:
        """The identity of a column that is an expression over the rows of a table.

        None where it varies: what is computed of presumed columns may be another each time.
        """
        found = self._deciding(e, source)
        return found if isinstance(found, bytes) or hands_on(e) else None

    def _deciding(self, e: ex.Expression, source: op.Operator) -> Identity | None:
        """The identity of an expression that decides about rows: it stays with what it reads."""
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
        return from_all("fold", below.rows, node_identity(node, made))

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
        return node_identity(node, made)

    def _reads_loop(self, node: Node) -> bool:
        tokens = self._free[node] if node in self._free else free_tokens(node)[node]
        return bool(tokens & self._inside)


def _agreeing(
    first: tuple[dict[str, Known], _Values], second: tuple[dict[str, Known], _Values]
) -> tuple[dict[str, Known], _Values]:
    tables = {n: known.agreeing(second[0][n]) for n, known in first[0].items()}
    return tables, {n: i for n, i in first[1].items() if second[1].get(n) == i}


def invariant_columns(loop: op.Loop) -> tuple[list[str], list[str]]:
    """The columns of a loop's tables that stay, and those presumed to, as "table.column"."""
    if not loop.tables:
        return [], []
    analysis = ColumnInvariance(loop)
    return _listed(loop, analysis.state_columns), _listed(loop, analysis.presumed_columns)


def _listed(loop: op.Loop, columns: Callable[[str], frozenset[str]]) -> list[str]:
    return [
        f"{name}.{column}"
        for name, table in loop.tables
        for column in table.schema.names
        if column in columns(name)
    ]
