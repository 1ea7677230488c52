"""Which rows and columns of tables a loop leaves as they are, although the tables vary.

A table's rows are invariant where each iteration has as many and row i stands for the same
thing; its column c is invariant where row i has the same value in it. What is said holds from
the first iteration's output on: the start may have other keys than the body gives.

Of a table in the environment nothing is known but what the body makes of it. So all rows and
columns of all of them are assumed invariant, and what the body then turns out to change is given
up, until the assumption bears itself out: the greatest fixed point.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.folds import Fold
from scalops.algebra.tree import Node, walk
from scalops.optimizer.invariance import Tokens, free_tokens, is_table, is_uniform
from scalops.optimizer.properties import UniqueKeys

Columns = frozenset[str]
Indexable = rel.Join | rel.GroupAggregate | op.Filter


@dataclass(frozen=True)
class Fixed:
    """What of a table is invariant; no column is where the rows are not."""

    rows: bool
    columns: Columns = frozenset()

    def __and__(self, other: Fixed) -> Fixed:
        rows = self.rows and other.rows
        return Fixed(rows, self.columns & other.columns if rows else frozenset())


VARYING = Fixed(False)


class ColumnInvariance:
    """The analysis of one loop; `keys` are those of the tables that it reads."""

    def __init__(self, loop: op.Loop, keys: UniqueKeys | None = None) -> None:
        parts: list[Node] = [loop.body]
        if loop.condition is not None:
            parts.append(loop.condition)
        self._loop = loop
        self._order = list(walk(*parts))
        self._free = free_tokens(*parts)
        inner = frozenset(n.token for n in self._order if isinstance(n, op.Loop))
        self._inside: Tokens = inner | {loop.token}
        self._inner: Tokens = inner
        self._keys = keys or UniqueKeys(loop)
        self._state = {n: Fixed(True, frozenset(t.schema.names)) for n, t in loop.tables}
        self._tables: dict[Node, Fixed] = {}
        self._settle()

    def rows(self, node: op.Operator) -> bool:
        """Whether a table's rows are invariant."""
        return self._tables[node].rows

    def columns(self, node: op.Operator) -> Columns:
        """Its invariant columns."""
        return self._tables[node].columns

    def state_columns(self, name: str) -> Columns:
        """The invariant columns of a table in the environment."""
        return self._state[name].columns

    def keeps(self, e: ex.Expression, source: op.Operator) -> bool:
        """Whether an expression has the same value for each row of a table of the body.

        Any, not only one that the body holds already.
        """
        return self.rows(source) and self._is_fixed(e, self.columns(source))

    def indexable(self) -> list[Indexable]:
        """The body's own joins, groups and filters that vary, with keys that do not.

        The body's own are those that an iteration of this loop makes: what reads an environment
        of a loop inside belongs to that one.
        """
        found: list[Indexable] = []
        for node in self._order:
            if isinstance(node, Indexable) and self._is_own(node) and self._has_fixed_keys(node):
                found.append(node)
        return found

    def _is_own(self, node: Node) -> bool:
        tokens = self._free[node]
        return self._loop.token in tokens and not tokens & self._inner

    def _has_fixed_keys(self, node: Indexable) -> bool:
        match node:
            case rel.Join(kind=kind):
                return kind != "cross" and self._matches(node)
            case rel.GroupAggregate(source=source, keys=keys):
                return all(self.keeps(e, source) for _, e in keys) and self.rows(source)
            case op.Filter(source=source, predicate=predicate):
                return not is_uniform(predicate) and self.keeps(predicate, source)

    # The fixed point.

    def _settle(self) -> None:
        following = dict(getattr(self._loop.body, "tables", ()))
        while True:
            self._tables = {}
            for node in self._order:
                if is_table(node) and isinstance(node, op.Operator):
                    self._tables[node] = self._fixed(node)
            after = {n: f & self._tables[following[n]] for n, f in self._state.items()}
            if after == self._state:
                return
            self._state = after

    def _fixed(self, node: op.Operator) -> Fixed:
        tokens = self._free[node]
        if not tokens & self._inside:
            return Fixed(True, frozenset(node.schema.names))
        if tokens & self._inner:
            return VARYING  # each iteration of the loop inside has its own
        match node:
            case rel.StateTable(name=name):
                return self._state[name]
            case op.Project(source=source, outputs=outputs):
                return self._over(source, outputs)
            case op.Expand(source=source, records=records):
                made = self._over(source, records[0])
                for record in records[1:]:
                    made = made & self._over(source, record)
                return made
            case op.Filter(source=source, predicate=predicate):
                return self._if(self.keeps(predicate, source), source)
            case op.Sort(source=source, keys=keys):
                return self._if(all(self.keeps(e, source) for e in keys), source)
            case op.Slice(source=source, start=start, length=length):
                known = all(e is None or self.keeps(e, source) for e in (start, length))
                return self._if(known, source)
            case op.Distinct(source=source, columns=columns):
                compared = frozenset(columns or source.schema.names)
                return self._if(compared <= self.columns(source), source)
            case op.Limit(source=source) | op.Repartition(source=source) | op.Cache(source=source):
                return self._tables[source]
            case op.WithRowIndex(source=source, name=name):
                return self._if(self.rows(source), source, frozenset((name,)))
            case op.Explode(source=source, names=names, index=index):
                # Also of vectors: which of them are null may change.
                known = self.columns(source) >= {*names}
                return self._if(known, source, frozenset(() if index is None else (index,)))
            case op.Union(sources=(first, *others)):
                made = self._tables[first]
                for other in others:
                    made = made & self._tables[other]
                return made
        return self._related(node)

    def _related(self, node: op.Operator) -> Fixed:
        match node:
            case rel.Join():
                return self._joined(node)
            case rel.GroupAggregate(source=source, keys=keys, folds=folds):
                if not (self.rows(source) and all(self.keeps(e, source) for _, e in keys)):
                    return VARYING
                columns = self.columns(source)
                same = (f.name for f in folds if self._children_fixed(f, columns))
                return Fixed(True, frozenset((*(n for n, _ in keys), *same)))
            case rel.GroupApply(groups=groups, single=single, kept=kept):
                whole = all(
                    self.columns(t) >= {*t.schema.names} and self.rows(t) for t in node.sources
                )
                read = (*node.group_keys, *node.arguments, *node.slots)
                pairs = zip(node.sources, node.keys, strict=True)
                whole = whole and all(self.keeps(e, t) for t, by in pairs for e in by)
                known = whole and all(self.keeps(e, groups) for e in read)
                if known and self.columns(groups) >= {*kept}:
                    return Fixed(True, frozenset(node.schema.names))
                kept_ones = self.columns(groups) & {*kept}
                return Fixed(single and self.rows(groups), kept_ones if single else frozenset())
            case rel.Cumulate(source=source, columns=columns):
                of = self.columns(source)
                made = (c.name for c in columns if self._children_fixed(c, of))
                return self._if(self.rows(source), source, frozenset(made))
            case op.MapBatches(source=source, slots=slots):
                whole = self.columns(source) >= {*source.schema.names}
                if whole and all(self.keeps(e, source) for e in slots):
                    return Fixed(True, frozenset(node.schema.names))
        return VARYING

    def _joined(self, node: rel.Join) -> Fixed:
        """Rows and columns of a join.

        Where the keys may change, a left join has the left side's rows all the same if its right
        side is unique on the keys: each record has one partner or none.
        """
        given = [self.columns(node.left), self.columns(node.right)]
        if node.kind == "cross":
            known = self.rows(node.left) and self.rows(node.right)
        else:
            known = self._matches(node)
        if known:
            return Fixed(True, frozenset(n for n, side, c in node.outputs if c in given[side]))
        outer = {"left": rel.LEFT, "right": rel.RIGHT}.get(node.kind)
        if outer is None or not self.rows(node.sides[outer]):
            return VARYING
        if outer == rel.LEFT:
            one = self._keys.identifies(node.right, node.right_keys)
        else:
            one = self._keys.identifies(node.left, node.left_keys)
        if not one:
            return VARYING
        own = (n for n, side, c in node.outputs if side == outer and c in given[outer])
        return Fixed(True, frozenset(own))

    def _matches(self, node: rel.Join) -> bool:
        """Whether rows and keys of both sides are invariant, and so which rows meet."""
        sides = ((node.left, node.left_keys), (node.right, node.right_keys))
        return all(self.rows(s) and all(self.keeps(k, s) for k in keys) for s, keys in sides)

    def _if(self, known: bool, source: op.Operator, more: Columns = frozenset()) -> Fixed:
        """The source's invariant columns and new ones, where the rows are known to stay."""
        if not (known and self.rows(source)):
            return VARYING
        return Fixed(True, self.columns(source) | more)

    def _over(self, source: op.Operator, outputs: tuple[op.Named, ...]) -> Fixed:
        if not self.rows(source):
            return VARYING
        columns = self.columns(source)
        return Fixed(True, frozenset(n for n, e in outputs if self._is_fixed(e, columns)))

    def _children_fixed(self, node: Fold | rel.Running, columns: Columns) -> bool:
        """Whether a fold reads invariant columns and values only."""
        for e in node.children:
            if isinstance(e, ex.Expression):
                # What combines two states reads their fields, which are no columns.
                state = isinstance(node, Fold) and e not in node.arguments
                if not self._is_fixed(e, None if state else columns):
                    return False
        return True

    def _is_fixed(self, e: ex.Expression, columns: Columns | None) -> bool:
        """Whether an expression over invariant rows reads invariant columns and values only."""
        return all(self._is_fixed_part(n, columns) for n in ex.within([e]))

    def _is_fixed_part(self, node: ex.Expression, columns: Columns | None) -> bool:
        match node:
            case ex.Column(name=name, record=0):
                return columns is None or name in columns
            case ex.Bound(loop=loop):
                return loop not in self._inner
            case ex.State(loop=loop) | ex.Iteration(loop=loop):
                return loop not in self._inside
            case ex.Subquery(source=source, name=name):
                if not self._reads_loop(source):
                    return True
                if source not in self._free or not self.rows(source.source):
                    return False
                (fold,) = (f for f in source.folds if f.name == name)
                return self._children_fixed(fold, self.columns(source.source))
            case ex.LoopOutput(loop=loop):
                return not self._reads_loop(loop)
            case ex.Rows(source=source):
                return not self._reads_loop(source)
        return True

    def _reads_loop(self, node: Node) -> bool:
        tokens = self._free[node] if node in self._free else free_tokens(node)[node]
        return bool(tokens & self._inside)


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
