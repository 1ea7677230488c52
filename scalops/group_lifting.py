"""A group's map, traced for one group, as operators over all groups at once.

Folds of a group's records become folds of a GroupAggregate, a filter below them a mask on their
arguments. What is no mask is done to the whole table, with the keys beside its columns; groups
that vanish by it come back by a left join, with the values of folds over no records. A fold that
reads another fold of its group gets it as a column, by joining it to the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import OBJECT
from scalops.algebra.errors import PlanError
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
)
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.algebra.functions import choices
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node, walk
from scalops.group_rows import (
    STEPS,
    GroupRecords,
    View,
    expressions_of,
    fresh_name,
    may_fail,
    refused,
    typed,
)

# Folds whose result null arguments change, so that a mask is no filter to them.
_SEE_NULLS = ("first_record", "last_record", "to_array")


@dataclass(frozen=True)
class Root:
    """Where a group's records come from: a table, and the keys as expressions over it.

    It has the columns of the records and, maybe, hidden ones.
    """

    source: Operator
    keys: tuple[Expression, ...]


_Part = tuple[Operator, tuple[Expression, ...], bool]  # what views that are folded together share


@dataclass(frozen=True)
class _Frame:
    """One record per group: keys and values of the groups as expressions over `plan`."""

    plan: Operator
    keys: tuple[Expression, ...]
    known: Mapping[Node, Expression]


@dataclass
class Lifting(GroupRecords):
    """What a group's function gave, as a table of one record per group.

    `roots` has the tables behind each GroupRows, by its token; `everyone` a table of all keys,
    where no one table has all of them. `keys` are names and types of the keys.
    """

    roots: Mapping[int, Root]
    everyone: Operator | None
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
            (n, typed(self.rewritten(e, {}, frame.keys, frame.known), e)) for n, e in outputs
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
        parts: dict[_Part, tuple[View, dict[Fold, str]]] = {}
        places: dict[Node, tuple[_Part, Fold]] = {}
        names = list(self.keys.names)
        for atom in atoms:
            view, fold = self._fold(atom.source, atom.name)
            part = (view.base, view.keys, view.complete)
            _, folds = parts.setdefault(part, (view, {}))
            fold = replace(fold, name="")
            if fold not in folds:
                wanted = hints.get(atom)
                folds[fold] = wanted if wanted and wanted not in names else fresh_name(names)
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
        view = View(root.source, {}, root.keys, {}, None, True)
        return self._grouped(view, [])

    def _grouped(self, view: View, folds: Sequence[Fold]) -> Operator:
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
                e = self.rewritten(argument, {}, frame.keys, frame.known)
                taken.append(fresh_name(taken))
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
            taken.append(fresh_name(taken))
            outputs.append((taken[-1], e))
            moved[e] = Column(taken[-1], e.type.strong())
        plan = op.Project(frame.plan, tuple(outputs), label=self.label, location=self.location)
        keys = tuple(moved[k] for k in frame.keys)
        known = {node: moved[e] for node, e in frame.known.items()}
        return _Frame(plan, keys, known), tuple(n for n in plan.schema.names if n not in read)

    def _handed(self, table: Operator) -> tuple[Operator, tuple[Expression, ...]]:
        """A table to be handed to a function, of the group's records, and its keys."""
        view = self.filtered(self._view(table, ()))
        if not view.is_base:
            view = self.stored(view)
        return view.base, view.keys

    # Folds.

    def _fold(self, aggregate: op.Aggregate, name: str) -> tuple[View, Fold]:
        """One fold of a group's records as a fold over all groups' records."""
        fold = next(f for f in aggregate.folds if f.name == name)
        inner = [c for c in fold.children if c not in fold.arguments and c in self._inner]
        if inner:
            refused(f"the function of {fold.word} reads the key or values of its group", fold)
        view = self._view(aggregate.source, fold.arguments)
        arguments = [self.over(view, a) for a in fold.arguments]
        own = isinstance(fold, (Transition, OpaqueAggregate)) or fold.kind in _SEE_NULLS
        if view.mask is not None and (own or may_fail(arguments)):
            view = self.filtered(view)
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

    def _view(self, table: Operator, more: Sequence[Expression]) -> View:
        """The records of a table that rests on the group's; `more` is read of them."""
        chain: list[Operator] = []
        node = table
        while not isinstance(node, rel.GroupRows):
            if node not in self._inner:
                refused("it folds a table that is not the group's, by what the group has", node)
            if type(node) not in STEPS:
                refused(f"{node.label or type(node).__name__.lower()} of a group's rows", node)
            chain.append(node)
            node = node.source  # type: ignore[attr-defined]
        if node.token not in self.roots:
            refused("it folds the rows of another group", table)
        read = [e for n in chain for e in expressions_of(n)]
        root = self.roots[node.token]
        own = {n: Column(n, k) for n, k in node.schema}
        view = View(root.source, own, root.keys, {}, None, self.everyone is None)
        atoms = self._atoms((*read, *more))
        if atoms:
            view = self._with_values(view, atoms)
        for n in reversed(chain):
            view = STEPS[type(n)](self, view, n)
        return view

    def _with_values(self, view: View, atoms: Sequence[Expression]) -> View:
        """The records with values of their groups beside them."""
        frame = self._frame(atoms)
        names = list(view.base.schema.names)
        keys: list[Named] = []
        for e in frame.keys:
            names.append(fresh_name(names))
            keys.append((names[-1], e))
        values: list[Named] = []
        for e in frame.known.values():
            names.append(fresh_name(names))
            values.append((names[-1], e))
        right = op.Project(frame.plan, (*keys, *values), label=self.label, location=self.location)
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


def _only_if(mask: Expression, value: Expression) -> Expression:
    return call(choices.ONLY_IF, mask, value, location=mask.location)
