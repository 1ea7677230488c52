"""The records of all groups at once, as the table operators of a group's map change them.

A filter is a mask as long as it can be one, a new column an expression; what neither can be is
done to the whole table, with the keys beside its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.errors import Location, PlanError
from scalops.algebra.expressions import Column, Expression, Opaque, call, in_record, within
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import HIDDEN, Schema
from scalops.algebra.tree import Node, substitute
from scalops.optimizer.rules.merge_filters import may_raise

INSTEAD = "give the group to an ordinary function: groups.apply(f, schema), or so.call(f, rows)"


@dataclass(frozen=True)
class View:
    """The records of all groups: columns, keys and values of the group as expressions over `base`.

    `mask` is true for the records that there are; `complete` says that every group has records
    in `base`, in the order of the groups.
    """

    base: Operator
    columns: Mapping[str, Expression]
    keys: tuple[Expression, ...]
    known: Mapping[Node, Expression]
    mask: Expression | None
    complete: bool

    @property
    def is_base(self) -> bool:
        """Whether it is the base as it stands, but for hidden columns."""
        names = [n for n in self.base.schema.names if not n.startswith(HIDDEN)]
        return names == list(self.columns) and all(
            isinstance(e, Column) and e.name == n for n, e in self.columns.items()
        )


@dataclass
class GroupRecords:
    """The records of all groups, by the keys `keys`; `token` tells the group's key symbols."""

    token: int
    keys: Schema
    label: str
    location: Location | None

    def rewritten(
        self,
        e: Expression,
        own: Mapping[str, Expression],
        keys: Sequence[Expression],
        known: Mapping[Node, Expression],
    ) -> Expression:
        """The expression with columns, keys and values of the group replaced."""
        mapping: dict[Node, Node] = {}
        for node in within([e]):
            if isinstance(node, Column) and node.name in own:
                mapping[node] = own[node.name]
            elif isinstance(node, rel.GroupKey) and node.token == self.token:
                mapping[node] = keys[self.keys.names.index(node.name)]
            elif node in known:
                mapping[node] = known[node]
        return substitute(e, mapping, in_record)

    def over(self, view: View, e: Expression) -> Expression:
        return self.rewritten(e, view.columns, view.keys, view.known)

    # The operators of tables.

    def filtered(self, view: View) -> View:
        """The view with its mask as a filter."""
        if view.mask is None:
            return view
        base = op.Filter(view.base, view.mask, label="filter", location=view.mask.location)
        return replace(view, base=base, mask=None, complete=False)

    def stored(self, view: View) -> View:
        """The view with all it has as columns of its base."""
        own_values = (*view.keys, *view.known.values(), *([] if view.mask is None else [view.mask]))
        if view.is_base and all(isinstance(e, Column) for e in own_values):
            return view
        names = list(view.columns)
        hidden: list[Named] = []

        def column(e: Expression) -> Expression:
            if isinstance(e, Column) and view.columns.get(e.name) == e:
                return e
            names.append(fresh_name(names))
            hidden.append((names[-1], e))
            return Column(names[-1], e.type.strong())

        keys = tuple(column(e) for e in view.keys)
        known = {node: column(e) for node, e in view.known.items()}
        mask = None if view.mask is None else column(view.mask)
        outputs = (*view.columns.items(), *hidden)
        base = op.Project(view.base, outputs, label=self.label, location=self.location)
        own = {n: Column(n, e.type.strong()) for n, e in view.columns.items()}
        return View(base, own, keys, known, mask, view.complete)

    def _project(self, view: View, node: op.Project) -> View:
        made = {n: typed(self.over(view, e), e) for n, e in node.outputs}
        if view.mask is not None and may_fail(made.values()):
            view = self.filtered(view)
        view = replace(view, columns=made)
        return self.stored(view) if _is_opaque(made.values()) else view

    def _filter(self, view: View, node: op.Filter) -> View:
        predicate = self.over(view, node.predicate)
        if view.mask is not None and may_fail([predicate]):
            view = self.filtered(view)
        if view.mask is not None:
            predicate = call(function("bitwise_and"), view.mask, predicate)
        predicate = replace(predicate, location=node.location)
        view = replace(view, mask=predicate)
        return self.stored(view) if _is_opaque([predicate]) else view

    def _sort(self, view: View, node: op.Sort) -> View:
        view = self.filtered(view)
        keys = tuple(self.over(view, k) for k in node.keys)
        if _is_opaque(keys):
            refused("sort of a group's rows by a function that runs record by record", node)
        base = op.Sort(view.base, keys, node.descending, label=node.label, location=node.location)
        return replace(view, base=base, complete=False)

    def _distinct(self, view: View, node: op.Distinct) -> View:
        view = self.stored(self.filtered(view))
        names = node.columns
        if names:
            names = (*names, *(k.name for k in view.keys if isinstance(k, Column)))
        return replace(view, base=replace(node, source=view.base, columns=names, origin=None))

    def _explode(self, view: View, node: op.Explode) -> View:
        view = self._apart(self.filtered(view), node.names)
        base = replace(node, source=view.base, origin=None)
        own = {n: Column(n, k) for n, k in base.schema if not n.startswith(HIDDEN)}
        own = {n: own[n] for n in node.schema.names}
        return replace(view, base=base, columns=own, complete=False)

    def _apart(self, view: View, changed: Sequence[str]) -> View:
        """The view as columns, its keys and values apart from columns that change."""
        view = self.stored(view)
        hidden: list[Named] = []
        names = list(view.base.schema.names)

        def column(e: Expression) -> Expression:
            if isinstance(e, Column) and e.name not in changed:
                return e
            names.append(fresh_name(names))
            hidden.append((names[-1], e))
            return Column(names[-1], e.type.strong())

        keys = tuple(column(e) for e in view.keys)
        known = {node: column(e) for node, e in view.known.items()}
        if not hidden:
            return view
        outputs = (*((n, Column(n, k)) for n, k in view.base.schema), *hidden)
        base = op.Project(view.base, outputs, label=self.label, location=self.location)
        return replace(view, base=base, keys=keys, known=known)

    def _expand(self, view: View, node: op.Expand) -> View:
        view = self.filtered(view)
        hidden = _hidden(view, node)
        records = tuple(
            (*((n, typed(self.over(view, e), e)) for n, e in record),
             *((n, e) for e, n in hidden.items()))
            for record in node.records
        )  # fmt: skip
        base = op.Expand(view.base, records, label=node.label, location=node.location)
        return _moved(view, base, node, hidden)

    def _groups(self, view: View, node: rel.GroupAggregate) -> View:
        """Groups within each group: by both keys."""
        view = self.filtered(view)
        hidden = _hidden(view, node)
        keys = (
            *((n, e) for e, n in hidden.items()),
            *((n, self.over(view, e)) for n, e in node.keys),
        )
        folds = tuple(
            replace(f, arguments=tuple(self.over(view, a) for a in f.arguments), origin=None)
            for f in node.folds
        )
        base = rel.GroupAggregate(view.base, keys, folds, label=node.label, location=node.location)
        return _moved(view, base, node, hidden)

    def _cumulate(self, view: View, node: rel.Cumulate) -> View:
        view = self.stored(self.filtered(view))
        made = tuple(
            replace(
                c,
                arguments=tuple(self.over(view, a) for a in c.arguments),
                over=(*view.keys, *(self.over(view, o) for o in c.over)),
            )
            for c in node.columns
        )
        base = rel.Cumulate(view.base, made, label=node.label, location=node.location)
        own = {n: Column(n, k) for n, k in node.schema}
        return replace(view, base=base, columns=own)

    def _as_it_is(self, view: View, node: Operator) -> View:
        return view


def _hidden(view: View, node: Operator) -> dict[Expression, str]:
    """Names beside an operator's columns for what the view knows of each record's group."""
    names = list(node.schema.names)
    hidden: dict[Expression, str] = {}
    for e in (*view.keys, *view.known.values()):
        if e not in hidden:
            hidden[e] = fresh_name(names)
            names.append(hidden[e])
    return hidden


def _moved(view: View, base: Operator, node: Operator, hidden: dict[Expression, str]) -> View:
    """The view over a table that carries what is known of the groups in hidden columns."""
    moved = {e: Column(n, e.type.strong()) for e, n in hidden.items()}
    return View(
        base,
        {n: Column(n, k) for n, k in node.schema},
        tuple(moved[e] for e in view.keys),
        {n: moved[e] for n, e in view.known.items()},
        None,
        view.complete,
    )


STEPS: dict[type[Operator], Any] = {
    op.Project: GroupRecords._project,
    op.Filter: GroupRecords._filter,
    op.Sort: GroupRecords._sort,
    op.Distinct: GroupRecords._distinct,
    op.Explode: GroupRecords._explode,
    op.Expand: GroupRecords._expand,
    rel.GroupAggregate: GroupRecords._groups,
    rel.Cumulate: GroupRecords._cumulate,
    op.Cache: GroupRecords._as_it_is,
    op.Repartition: GroupRecords._as_it_is,
}


def refused(what: str, node: Node) -> NoReturn:
    raise PlanError(
        f"{what}: no operator does this to all groups at once",
        location=node.location,
        hint=INSTEAD,
    )


def expressions_of(node: Operator) -> Iterator[Expression]:
    """What an operator computes, in folds and running aggregates too, not what its inputs do."""
    for child in node.children:
        if isinstance(child, Expression):
            yield child
        elif not isinstance(child, Operator):
            yield from (e for e in child.children if isinstance(e, Expression))


def typed(made: Expression, traced: Expression) -> Expression:
    """The expression in the type that it had when it was traced: a count is weak there."""
    wanted = traced.type.strong()
    return made if made.type.strong() == wanted else call(function("cast"), made, dtype=wanted.name)


def may_fail(expressions: Iterable[Expression]) -> bool:
    """Whether they may raise for records that a filter below them leaves out."""
    return any(map(may_raise, expressions))


def _is_opaque(expressions: Iterable[Expression]) -> bool:
    return any(isinstance(e, Opaque) for e in within(expressions))


def fresh_name(taken: Sequence[str]) -> str:
    """A hidden name that is not taken."""
    number = 0
    while f"{HIDDEN}{number}" in taken:
        number += 1
    return f"{HIDDEN}{number}"
