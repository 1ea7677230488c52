"""A group's map, traced for one group, as operators over all groups at once.

Folds of a group's records become folds of a GroupAggregate, a filter below them a mask on their
arguments. What is no mask is done to the whole table, with the keys beside its columns; groups
that vanish by it come back by a left join, with the values of folds over no records. A fold that
reads another fold of its group gets it as a column, by joining it to the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import OBJECT
from scalops.algebra.errors import Location, PlanError
from scalops.algebra.expressions import (
    Column,
    DriverCall,
    Expression,
    Item,
    Opaque,
    Rows,
    Subquery,
    call,
    constant,
    in_record,
    within,
)
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.algebra.functions import choices, function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, substitute, walk
from scalops.optimizer.rules.merge_filters import may_raise

HIDDEN = "@"  # how the names of columns begin that no user sees
INSTEAD = "give the group to an ordinary function: groups.apply(f, schema), or so.call(f, rows)"
# Folds whose result null arguments change, so that a mask is no filter to them.
_SEE_NULLS = ("first_record", "last_record", "to_array")


@dataclass(frozen=True)
class Root:
    """Where a group's records come from: a table, and the keys as expressions over it.

    It has the columns of the records and, maybe, hidden ones.
    """

    source: Operator
    keys: tuple[Expression, ...]


@dataclass(frozen=True)
class _View:
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


_Part = tuple[Operator, tuple[Expression, ...], bool]  # what views that are folded together share


@dataclass(frozen=True)
class _Frame:
    """One record per group: keys and values of the groups as expressions over `plan`."""

    plan: Operator
    keys: tuple[Expression, ...]
    known: Mapping[Node, Expression]


@dataclass
class Lifting:
    """What a group's function gave, as a table of one record per group.

    `roots` has the tables behind each GroupRows, by its token; `everyone` a table of all keys,
    where no one table has all of them. `keys` are names and types of the keys.
    """

    token: int
    keys: Schema
    roots: Mapping[int, Root]
    everyone: Operator | None
    label: str
    location: Location | None
    _inner: set[Node] = field(default_factory=set)

    def lifted(self, outputs: Sequence[Named], bare: bool, origin: Any) -> Operator:
        """The table of these outputs."""
        expressions = [e for _, e in outputs]
        self._find_inner(expressions)
        atoms = self._atoms(expressions)
        hints: dict[Expression, str] = {
            e: n for n, e in reversed(outputs) if isinstance(e, Subquery)
        }
        frame = self._frame(atoms, hints)
        made = tuple(
            (n, _typed(self._rewritten(e, {}, frame.keys, frame.known), e)) for n, e in outputs
        )
        return op.Project(
            frame.plan, made, bare, label=self.label, origin=origin, location=self.location
        )

    # What belongs to one group.

    def _find_inner(self, roots: Iterable[Node]) -> None:
        for node in walk(*roots):
            own = (isinstance(node, rel.GroupKey) and node.token == self.token) or (
                isinstance(node, rel.GroupRows) and node.token in self.roots
            )
            if own or any(c in self._inner for c in node.children):
                self._inner.add(node)

    def _atoms(self, roots: Iterable[Expression]) -> list[Expression]:
        """The values of a group that the expressions read: folds of it, and calls with it."""
        found: dict[Expression, None] = {}
        stack = list(reversed(list(roots)))
        while stack:
            node = stack.pop()
            if node not in self._inner or node in found:
                continue
            if isinstance(node, (Subquery, DriverCall)):
                found[node] = None
                continue
            if isinstance(node, Opaque) and any(s in self._inner for s in node.slots):
                raise PlanError(
                    f"{node.function.name} runs record by record and reads its group's key or"
                    " values",
                    location=node.location,
                    hint="make them a column that it reads: rows.with_columns(m=lambda r: m)",
                )
            stack.extend(c for c in reversed(node.children) if isinstance(c, Expression))
        return list(found)

    def _rewritten(
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

    def _over(self, view: _View, e: Expression) -> Expression:
        return self._rewritten(e, view.columns, view.keys, view.known)

    # One record per group.

    def _frame(
        self, atoms: Sequence[Expression], hints: Mapping[Expression, str] | None = None
    ) -> _Frame:
        needed = list(self._closure(atoms))
        frame = self._folded([a for a in needed if isinstance(a, Subquery)], hints or {})
        for made in needed:
            if isinstance(made, DriverCall):
                frame = self._called(made, frame)
        return frame

    def _closure(self, atoms: Iterable[Expression]) -> Iterator[Expression]:
        """The atoms, after those that their arguments read."""
        seen: set[Expression] = set()
        for atom in atoms:
            inner = self._atoms(atom.arguments) if isinstance(atom, DriverCall) else []
            for one in (*self._closure(inner), atom):
                if one not in seen:
                    seen.add(one)
                    yield one

    def _folded(self, atoms: Sequence[Subquery], hints: Mapping[Expression, str]) -> _Frame:
        """The groups with these folds of them."""
        parts: dict[_Part, tuple[_View, dict[Fold, str]]] = {}
        places: dict[Node, tuple[_Part, Fold]] = {}
        names = list(self.keys.names)
        for atom in atoms:
            view, fold = self._fold(atom.source, atom.name)
            part = (view.base, view.keys, view.complete)
            _, folds = parts.setdefault(part, (view, {}))
            fold = replace(fold, name="")
            if fold not in folds:
                wanted = hints.get(atom)
                folds[fold] = wanted if wanted and wanted not in names else _fresh(names)
                names.append(folds[fold])
            places[atom] = (part, fold)
        tables = {
            part: self._grouped(view, [replace(f, name=n) for f, n in folds.items()])
            for part, (view, folds) in parts.items()
        }
        complete = next((part for part in tables if part[-1]), None)
        plan = self._everyone() if complete is None else tables[complete]
        for part, table in tables.items():
            if part != complete:
                plan = self._beside(plan, table)
        known: dict[Node, Expression] = {}
        for atom in atoms:
            part, fold = places[atom]
            name = parts[part][1][fold]
            value: Expression = Column(name, plan.schema[name])
            if not part[-1] and fold.empty is not None:
                empty = np.full(fold.type.shape, fold.empty, fold.type.numpy)
                value = call(choices.COALESCE, value, constant(empty[()]))
            known[atom] = value
        return _Frame(plan, self._key_columns, known)

    @property
    def _key_columns(self) -> tuple[Expression, ...]:
        return tuple(Column(n, k) for n, k in self.keys)

    def _everyone(self) -> Operator:
        if self.everyone is not None:
            return self.everyone
        (root,) = self.roots.values()
        view = _View(root.source, {}, root.keys, {}, None, True)
        return self._grouped(view, [])

    def _grouped(self, view: _View, folds: Sequence[Fold]) -> Operator:
        keys = tuple(zip(self.keys.names, view.keys, strict=True))
        return rel.GroupAggregate(
            view.base, keys, tuple(folds), label=self.label, location=self.location
        )

    def _beside(self, left: Operator, right: Operator) -> Operator:
        """The records of the left table, one per group, with the folds of the right one."""
        own = [(n, rel.LEFT, n) for n in left.schema.names]
        other = [(n, rel.RIGHT, n) for n in right.schema.names if n not in self.keys]
        return self._left_join(left, self._key_columns, right, self._key_columns, (*own, *other))

    def _left_join(
        self,
        left: Operator,
        left_keys: tuple[Expression, ...],
        right: Operator,
        right_keys: tuple[Expression, ...],
        outputs: tuple[tuple[str, int, str], ...],
    ) -> Operator:
        return rel.Join(
            left, right, left_keys, right_keys, "left", outputs, nulls_equal=True,
            label=self.label, location=self.location,
        )  # fmt: skip

    def _called(self, made: DriverCall, frame: _Frame) -> _Frame:
        """The groups with what a function makes of the records of each."""
        if any(s in self._inner for s in made.slots):
            raise PlanError(
                f"{made.function.name} closes over its group's key or values",
                location=made.location,
                hint="pass them as arguments: so.call(f, rows, key, m, like=...)",
            )
        tables: dict[tuple[Operator, tuple[Expression, ...]], int] = {}
        read: dict[str, Expression] = {}
        arguments: list[Expression] = []
        taken = list(made.names or ("value",))
        for argument in made.arguments:
            if isinstance(argument, Rows):
                number = tables.setdefault(self._handed(argument.source), len(tables))
                arguments.append(rel.RowsArgument(f"rows{number}", OBJECT, number))
            elif argument in self._inner:
                e = self._rewritten(argument, {}, frame.keys, frame.known)
                taken.append(_fresh(taken))
                read[taken[-1]] = e
                arguments.append(Column(taken[-1], e.type.strong()))
            else:
                arguments.append(argument)
        frame, kept = self._renamed(frame, taken, read)
        declared = Schema(
            tuple(zip(made.names or ("value",), made.outputs, strict=True)), made.names is None
        )
        plan = rel.GroupApply(
            frame.plan,
            tuple(source for source, _ in tables),
            frame.keys,
            tuple(keys for _, keys in tables),
            made.function,
            tuple(arguments),
            made.slots,
            declared,
            single=True,
            kept=kept,
            label=self.label,
            location=made.location,
        )
        parts: dict[Node, Expression] = {
            Item(made, i): Column(n, k) for i, (n, k) in enumerate(declared)
        }
        return replace(frame, plan=plan, known={**frame.known, **parts})

    def _renamed(
        self, frame: _Frame, taken: list[str], read: Mapping[str, Expression]
    ) -> tuple[_Frame, tuple[str, ...]]:
        """The groups with further columns and none whose name is taken; and which to keep."""
        names = frame.plan.schema.names
        if not read and not set(taken) & set(names):
            return frame, names
        outputs: list[Named] = list(read.items())
        moved: dict[Expression, Expression] = {}
        for e in dict.fromkeys((*frame.keys, *frame.known.values())):
            taken.append(_fresh(taken))
            outputs.append((taken[-1], e))
            moved[e] = Column(taken[-1], e.type.strong())
        plan = op.Project(frame.plan, tuple(outputs), label=self.label, location=self.location)
        keys = tuple(moved[k] for k in frame.keys)
        known = {node: moved[e] for node, e in frame.known.items()}
        return _Frame(plan, keys, known), tuple(n for n in plan.schema.names if n not in read)

    def _handed(self, table: Operator) -> tuple[Operator, tuple[Expression, ...]]:
        """A table to be handed to a function, of the group's records, and its keys."""
        view = self._filtered(self._view(table, ()))
        if not view.is_base:
            view = self._stored(view)
        return view.base, view.keys

    # Folds.

    def _fold(self, aggregate: op.Aggregate, name: str) -> tuple[_View, Fold]:
        """One fold of a group's records as a fold over all groups' records."""
        fold = next(f for f in aggregate.folds if f.name == name)
        inner = [c for c in fold.children if c not in fold.arguments and c in self._inner]
        if inner:
            _refuse(f"the function of {fold.word} reads the key or values of its group", fold)
        view = self._view(aggregate.source, fold.arguments)
        arguments = [self._over(view, a) for a in fold.arguments]
        own = isinstance(fold, (Transition, OpaqueAggregate)) or fold.kind in _SEE_NULLS
        if view.mask is not None and (own or _may_fail(arguments)):
            view = self._filtered(view)
        mask = view.mask
        if fold.kind == "is_empty":
            no: Expression = constant(False)
            made = Fold("", "all", (no if mask is None else _only_if(mask, no),))
            return view, replace(made, location=fold.location)
        if mask is not None:
            arguments = [_only_if(mask, a) for a in arguments[:1] or [constant(True)]] + [
                *arguments[1:]
            ]
        return view, replace(fold, arguments=tuple(arguments), origin=None)

    # Tables of all groups' records.

    def _view(self, table: Operator, more: Sequence[Expression]) -> _View:
        """The records of a table that rests on the group's; `more` is read of them."""
        chain: list[Operator] = []
        node = table
        while not isinstance(node, rel.GroupRows):
            if node not in self._inner:
                _refuse("it folds a table that is not the group's, by what the group has", node)
            if type(node) not in _STEPS:
                _refuse(f"{node.label or type(node).__name__.lower()} of a group's rows", node)
            chain.append(node)
            node = node.source  # type: ignore[attr-defined]
        if node.token not in self.roots:
            _refuse("it folds the rows of another group", table)
        read = [e for n in chain for e in _expressions_of(n)]
        root = self.roots[node.token]
        own = {n: Column(n, k) for n, k in node.schema}
        view = _View(root.source, own, root.keys, {}, None, self.everyone is None)
        atoms = self._atoms((*read, *more))
        if atoms:
            view = self._with_values(view, atoms)
        for n in reversed(chain):
            view = _STEPS[type(n)](self, view, n)
        return view

    def _with_values(self, view: _View, atoms: Sequence[Expression]) -> _View:
        """The records with values of their groups beside them."""
        frame = self._frame(atoms)
        names = list(view.base.schema.names)
        keys: list[Named] = []
        for e in frame.keys:
            names.append(_fresh(names))
            keys.append((names[-1], e))
        values: list[Named] = []
        for e in frame.known.values():
            names.append(_fresh(names))
            values.append((names[-1], e))
        right = op.Project(
            frame.plan, (*keys, *values), label=self.label, location=self.location
        )
        outputs = (
            *((n, rel.LEFT, n) for n in view.base.schema.names),
            *((n, rel.RIGHT, n) for n, _ in values),
        )
        right_keys = tuple(Column(n, e.type.strong()) for n, e in keys)
        base = self._left_join(view.base, view.keys, right, right_keys, outputs)
        known = {
            node: Column(n, e.type.strong())
            for node, (n, e) in zip(frame.known, values, strict=True)
        }
        return replace(view, base=base, known=known)

    def _filtered(self, view: _View) -> _View:
        """The view with its mask as a filter."""
        if view.mask is None:
            return view
        base = op.Filter(view.base, view.mask, label="filter", location=view.mask.location)
        return replace(view, base=base, mask=None, complete=False)

    def _stored(self, view: _View) -> _View:
        """The view with all it has as columns of its base."""
        own_values = (*view.keys, *view.known.values(), *([] if view.mask is None else [view.mask]))
        if view.is_base and all(isinstance(e, Column) for e in own_values):
            return view
        names = list(view.columns)
        hidden: list[Named] = []

        def column(e: Expression) -> Expression:
            if isinstance(e, Column) and view.columns.get(e.name) == e:
                return e
            names.append(_fresh(names))
            hidden.append((names[-1], e))
            return Column(names[-1], e.type.strong())

        keys = tuple(column(e) for e in view.keys)
        known = {node: column(e) for node, e in view.known.items()}
        mask = None if view.mask is None else column(view.mask)
        outputs = (*view.columns.items(), *hidden)
        base = op.Project(view.base, outputs, label=self.label, location=self.location)
        own = {n: Column(n, e.type.strong()) for n, e in view.columns.items()}
        return _View(base, own, keys, known, mask, view.complete)

    def _project(self, view: _View, node: op.Project) -> _View:
        made = {n: _typed(self._over(view, e), e) for n, e in node.outputs}
        if view.mask is not None and _may_fail(made.values()):
            view = self._filtered(view)
        view = replace(view, columns=made)
        return self._stored(view) if _is_opaque(made.values()) else view

    def _filter(self, view: _View, node: op.Filter) -> _View:
        predicate = self._over(view, node.predicate)
        if view.mask is not None and _may_fail([predicate]):
            view = self._filtered(view)
        if view.mask is not None:
            predicate = call(function("bitwise_and"), view.mask, predicate)
        predicate = replace(predicate, location=node.location)
        view = replace(view, mask=predicate)
        return self._stored(view) if _is_opaque([predicate]) else view

    def _sort(self, view: _View, node: op.Sort) -> _View:
        view = self._filtered(view)
        keys = tuple(self._over(view, k) for k in node.keys)
        if _is_opaque(keys):
            _refuse("sort of a group's rows by a function that runs record by record", node)
        base = op.Sort(view.base, keys, node.descending, label=node.label, location=node.location)
        return replace(view, base=base, complete=False)

    def _distinct(self, view: _View, node: op.Distinct) -> _View:
        view = self._stored(self._filtered(view))
        names = node.columns
        if names:
            names = (*names, *(k.name for k in view.keys if isinstance(k, Column)))
        return replace(view, base=replace(node, source=view.base, columns=names, origin=None))

    def _explode(self, view: _View, node: op.Explode) -> _View:
        view = self._apart(self._filtered(view), node.names)
        base = replace(node, source=view.base, origin=None)
        own = {n: Column(n, k) for n, k in base.schema if not n.startswith(HIDDEN)}
        own = {n: own[n] for n in node.schema.names}
        return replace(view, base=base, columns=own, complete=False)

    def _apart(self, view: _View, changed: Sequence[str]) -> _View:
        """The view as columns, its keys and values apart from columns that change."""
        view = self._stored(view)
        hidden: list[Named] = []
        names = list(view.base.schema.names)

        def column(e: Expression) -> Expression:
            if isinstance(e, Column) and e.name not in changed:
                return e
            names.append(_fresh(names))
            hidden.append((names[-1], e))
            return Column(names[-1], e.type.strong())

        keys = tuple(column(e) for e in view.keys)
        known = {node: column(e) for node, e in view.known.items()}
        if not hidden:
            return view
        outputs = (*((n, Column(n, k)) for n, k in view.base.schema), *hidden)
        base = op.Project(view.base, outputs, label=self.label, location=self.location)
        return replace(view, base=base, keys=keys, known=known)

    def _expand(self, view: _View, node: op.Expand) -> _View:
        view = self._filtered(view)
        names = list(node.schema.names)
        hidden: dict[Expression, str] = {}
        for e in (*view.keys, *view.known.values()):
            if e not in hidden:
                hidden[e] = _fresh(names)
                names.append(hidden[e])
        records = tuple(
            (*((n, _typed(self._over(view, e), e)) for n, e in record),
             *((n, e) for e, n in hidden.items()))
            for record in node.records
        )  # fmt: skip
        base = op.Expand(view.base, records, label=node.label, location=node.location)
        moved = {e: Column(n, e.type.strong()) for e, n in hidden.items()}
        return _View(
            base,
            {n: Column(n, k) for n, k in node.schema},
            tuple(moved[e] for e in view.keys),
            {n: moved[e] for n, e in view.known.items()},
            None,
            view.complete,
        )

    def _groups(self, view: _View, node: rel.GroupAggregate) -> _View:
        """Groups within each group: by both keys."""
        view = self._filtered(view)
        names = list(node.schema.names)
        hidden: dict[Expression, str] = {}
        for e in (*view.keys, *view.known.values()):
            if e not in hidden:
                hidden[e] = _fresh(names)
                names.append(hidden[e])
        keys = (
            *((n, e) for e, n in hidden.items()),
            *((n, self._over(view, e)) for n, e in node.keys),
        )
        folds = tuple(
            replace(f, arguments=tuple(self._over(view, a) for a in f.arguments), origin=None)
            for f in node.folds
        )
        base = rel.GroupAggregate(
            view.base, keys, folds, label=node.label, location=node.location
        )
        moved = {e: Column(n, e.type.strong()) for e, n in hidden.items()}
        return _View(
            base,
            {n: Column(n, k) for n, k in node.schema},
            tuple(moved[e] for e in view.keys),
            {n: moved[e] for n, e in view.known.items()},
            None,
            view.complete,
        )

    def _cumulate(self, view: _View, node: rel.Cumulate) -> _View:
        view = self._stored(self._filtered(view))
        made = tuple(
            replace(
                c,
                arguments=tuple(self._over(view, a) for a in c.arguments),
                over=(*view.keys, *(self._over(view, o) for o in c.over)),
            )
            for c in node.columns
        )
        base = rel.Cumulate(view.base, made, label=node.label, location=node.location)
        own = {n: Column(n, k) for n, k in node.schema}
        return replace(view, base=base, columns=own)

    def _as_it_is(self, view: _View, node: Operator) -> _View:
        return view


_STEPS: dict[type[Operator], Any] = {
    op.Project: Lifting._project,
    op.Filter: Lifting._filter,
    op.Sort: Lifting._sort,
    op.Distinct: Lifting._distinct,
    op.Explode: Lifting._explode,
    op.Expand: Lifting._expand,
    rel.GroupAggregate: Lifting._groups,
    rel.Cumulate: Lifting._cumulate,
    op.Cache: Lifting._as_it_is,
    op.Repartition: Lifting._as_it_is,
}


def _refuse(what: str, node: Node) -> NoReturn:
    raise PlanError(
        f"{what}: no operator does this to all groups at once",
        location=node.location,
        hint=INSTEAD,
    )


def _expressions_of(node: Operator) -> Iterator[Expression]:
    """What an operator computes, in folds and running aggregates too, not what its inputs do."""
    for child in node.children:
        if isinstance(child, Expression):
            yield child
        elif not isinstance(child, Operator):
            yield from (e for e in child.children if isinstance(e, Expression))


def _only_if(mask: Expression, value: Expression) -> Expression:
    return call(choices.ONLY_IF, mask, value, location=mask.location)


def _typed(made: Expression, traced: Expression) -> Expression:
    """The expression in the type that it had when it was traced: a count is weak there."""
    wanted = traced.type.strong()
    return made if made.type.strong() == wanted else call(function("cast"), made, dtype=wanted.name)


def _may_fail(expressions: Iterable[Expression]) -> bool:
    """Whether they may raise for records that a filter below them leaves out."""
    return any(map(may_raise, expressions))


def _is_opaque(expressions: Iterable[Expression]) -> bool:
    return any(isinstance(e, Opaque) for e in within(expressions))


def _fresh(taken: Sequence[str]) -> str:
    """A hidden name that is not taken."""
    number = 0
    while f"{HIDDEN}{number}" in taken:
        number += 1
    return f"{HIDDEN}{number}"
