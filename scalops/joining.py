"""Joins: records of two tables side by side, and of several as columns of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, SchemaError, user_location
from scalops.algebra.expressions import Column, Expression, call, columns, in_record
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.relations import LEFT, RIGHT, JoinKind
from scalops.algebra.schema import FIELD, HIDDEN, Schema
from scalops.algebra.tree import Node, substitute
from scalops.branches import Branch, KeyFunction
from scalops.grouping import apart, keys_of
from scalops.lazy import name_methods
from scalops.rows import RowFunction
from scalops.value import Value

if TYPE_CHECKING:
    from scalops.table import RowLike, Table

MOST_BRANCHES = 8
_KINDS: tuple[JoinKind, ...] = get_args(JoinKind)
_OTHER_WORDS = {"outer": "full", "full_outer": "full", "left_outer": "left", "leftsemi": "semi",
                "right_outer": "right", "left_semi": "semi", "left_anti": "anti",
                "outer_coalesce": "full"}  # fmt: skip


class TableJoins:
    """A base of Table: what relates its records to those of others."""

    __slots__ = ()
    if TYPE_CHECKING:
        plan: Operator

        @property
        def schema(self) -> Schema: ...

    def join(
        self,
        other: Table,
        on: RowLike | Sequence[str] | None = None,
        left_on: RowLike | Sequence[RowLike] | None = None,
        right_on: RowLike | Sequence[RowLike] | None = None,
        how: str = "inner",
        suffix: str = "_right",
    ) -> Table:
        """This table's records beside those of another with equal keys.

        `how` is inner, left, right, full, semi (records with a match), anti (those without) or
        cross (all pairs, no key). `on` names the keys of both, `left_on` and `right_on` those of
        each; functions of a record are keys too. The result has one column for a pair of named
        keys, this table's (of a right join the other's); both where it is full and where a key
        is a function. A column of the other's whose name is taken gets the suffix. Null equals
        nothing; NaN equals NaN. In this table's order (of a right join the other's), matches in
        the other's; of a full join the other's unmatched records come last.
        """
        location = user_location()
        kind = _kind(how, location)
        left: Table = self  # type: ignore[assignment]
        right = _other(other, location)
        if not isinstance(suffix, str):
            raise SchemaError(f"join's suffix is {suffix!r}; expected a string", location=location)
        given = _given(left, right, on, left_on, right_on, kind, location)
        words = ("left_on", "right_on") if on is None else ("on", "on")
        keys = [
            _side_keys(table, own, word, location)
            for table, own, word in zip((left, right), given, words, strict=True)
        ]
        _require_pairs(keys, location)
        expressions = [[e for _, e in k.named] for k in keys]
        typed = common_types(expressions, _named_sides(keys), "join", location)
        sides = [
            apart(t.plan, e, k.functions, location)
            for t, e, k in zip((left, right), typed, keys, strict=True)
        ]
        outputs = _outputs(left.schema, right.schema, keys, kind, suffix, location)
        origins = tuple(
            KeyFunction(t.plan, f)
            for t, k in zip((left, right), keys, strict=True)
            for f in k.functions
        )
        plan: Operator = rel.Join(
            sides[0][0], sides[1][0], sides[0][1], sides[1][1], kind, outputs,
            label="join", origin=origins, location=location,
        )  # fmt: skip
        if kind in ("semi", "anti") and left.schema.bare:
            plan = op.Project(plan, _own(plan.schema), bare=True, label="join", location=location)
        return left._made(plan)

    def by(self, *keys: RowLike, **named: RowLike) -> Branch:
        """This table by key, for `so.join` and `so.cogroup` with other tables by theirs."""
        table: Table = self  # type: ignore[assignment]
        found = keys_of(table, keys, named, "by")
        return Branch(
            table,
            tuple(e for _, e in found.named),
            tuple(n for n, _ in found.named),
            location=user_location(),
            origins=found.origins,
        )


@dataclass(frozen=True)
class _Keys:
    """The keys of one side, and those of its columns that they are, where none is a function."""

    named: tuple[Named, ...]
    functions: tuple[RowFunction, ...]
    columns: tuple[str, ...]


def _kind(how: Any, location: Location | None) -> JoinKind:
    for kind in _KINDS:
        if how == kind:
            return kind
    word = _OTHER_WORDS.get(how) if isinstance(how, str) else None
    near = [word] if word else get_close_matches(str(how), _KINDS, n=1)
    raise SchemaError(
        f"join's how is {how!r}; expected one of {', '.join(_KINDS)}",
        location=location,
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _other(other: Any, location: Location | None) -> Table:
    from scalops.table import Table

    if isinstance(other, Table):
        return other
    hint = None
    if hasattr(other, "__arrow_c_stream__") or type(other).__module__.startswith("pandas"):
        hint = "make it one: so.from_arrow(other)"
    elif isinstance(other, (dict, list)):
        hint = "make it one: so.table(other)"
    elif isinstance(other, Branch):
        hint = "tables by key go together: so.join(a.by(...), b.by(...))"
    elif isinstance(other, str):
        hint = 'the other table comes first: a.join(b, on="k")'
    package = type(other).__module__.partition(".")[0]
    shown = type(other).__name__
    if package not in ("builtins", "scalops"):
        shown = f"{package} {shown}"
    raise SchemaError(f"join takes a Table, not a {shown}", location=location, hint=hint)


def _given(
    left: Table,
    right: Table,
    on: Any,
    left_on: Any,
    right_on: Any,
    kind: str,
    location: Location | None,
) -> tuple[list[Any], list[Any]]:
    """The keys as given, of each side."""
    words = [
        w for w, v in (("on", on), ("left_on", left_on), ("right_on", right_on)) if v is not None
    ]
    if kind == "cross":
        if words:
            raise SchemaError(
                f"a cross join has no keys, and {words[0]}= is given",
                location=location,
                hint='leave it out, or join with how="inner"',
            )
        return [], []
    if on is not None:
        if len(words) > 1:
            raise SchemaError(
                f"join has both on= and {words[1]}=",
                location=location,
                hint="on= is for keys of the same name; else give left_on= and right_on=",
            )
        return _list(on, "on", location), _list(on, "on", location)
    if not words and left.schema.bare and right.schema.bare:
        return ["value"], ["value"]
    if len(words) < 2:
        found = f"has {words[0]}= alone" if words else "has no key"
        raise SchemaError(
            f"join {found}; the tables have {left.columns} and {right.columns}",
            location=location,
            hint='give on="k", or left_on="a" and right_on="b"; all pairs are how="cross"',
        )
    return _list(left_on, "left_on", location), _list(right_on, "right_on", location)


def _list(keys: Any, word: str, location: Location | None) -> list[Any]:
    found = list(keys) if isinstance(keys, (list, tuple)) else [keys]
    for key in found:
        if not isinstance(key, str) and (not callable(key) or isinstance(key, Value)):
            raise SchemaError(
                f"join's {word} is {keys!r}; expected a column's name, a function of a record, or"
                " a list of these",
                location=location,
            )
    if not found:
        raise SchemaError(f"join's {word} is an empty list", location=location)
    return found


def _side_keys(table: Table, given: Sequence[Any], word: str, location: Location | None) -> _Keys:
    named: list[Named] = []
    functions: list[RowFunction] = []
    used: list[str] = []
    for key in given:
        if isinstance(key, str):
            named += table._fields(key, f"join's {word}")
            used.append(key)
            continue
        made = table._trace(key, f"join's {word}")
        functions.append(made)
        named += zip(made.names or ("",), made.outputs, strict=True)
    for name, e in named:
        shown = f"the key {name!r} of a join" if name else "the key that a function gives"
        _require_key(shown, e.type, location)
    return _Keys(tuple(named), tuple(functions), tuple(used) if not functions else ())


def _require_key(shown: str, kind: ArrayType, location: Location | None) -> None:
    if kind.is_list or kind.is_sparse or kind.shape or kind.is_object:
        raise SchemaError(
            f"{shown} is {kind}; expected one number, string, bool or time",
            location=location,
            hint="explode() gives a record for each item; several elements are several keys:"
            " lambda r: (r.x[0], r.x[1])",
        )


def _require_pairs(keys: Sequence[_Keys], location: Location | None) -> None:
    left, right = keys
    if len(left.named) != len(right.named):
        shown = [", ".join(n or "a function's" for n, _ in k.named) for k in (left, right)]
        raise SchemaError(
            f"join has {len(left.named)} keys on the left ({shown[0]}) and {len(right.named)} on"
            f" the right ({shown[1]})",
            location=location,
            hint="give as many on each side, in the same order",
        )
    for (a, _), (b, _) in zip(left.named, right.named, strict=True):
        fields = [n.partition(FIELD)[2] for n in (a, b)]
        if any(fields) and fields[0] != fields[1]:
            raise SchemaError(
                f"join's keys hold records of different fields: {a!r} and {b!r}",
                location=location,
                hint="take the fields one by one as keys: left_on=lambda p: (p.a.x, p.a.y)",
            )


def _named_sides(keys: Sequence[_Keys]) -> list[list[str]]:
    return [
        [f"{n!r} of the {side} table" if n else f"a key of the {side} table" for n, _ in k.named]
        for k, side in zip(keys, ("left", "right"), strict=True)
    ]


def common_types(
    sides: Sequence[Sequence[Expression]],
    names: Sequence[Sequence[str]],
    what: str,
    location: Location | None,
) -> list[list[Expression]]:
    """The keys of all sides in types that hold the keys of each; SchemaError if none does."""
    made: list[list[Expression]] = [[] for _ in sides]
    for group, shown in zip(zip(*sides, strict=True), zip(*names, strict=True), strict=True):
        kind = group[0].type.strong()
        for e, name in zip(group[1:], shown[1:], strict=True):
            both = _widened(kind, e.type.strong())
            if both is None:
                raise SchemaError(
                    f"{what}: {shown[0]} is {group[0].type.strong()} and {name} is"
                    f" {e.type.strong()}, which are not compared",
                    location=location,
                    hint=_cast_hint(group[0], e),
                )
            kind = both
        for keys, e in zip(made, group, strict=True):
            own = e.type.strong()
            keys.append(e if own == kind else call(function("cast"), e, dtype=kind.name))
    return made


def _widened(a: ArrayType, b: ArrayType) -> ArrayType | None:
    """The integer type that holds both, or the float type; None for types of two families."""
    if a == b:
        return a
    kinds = a.numpy.kind, b.numpy.kind
    if a.is_arrow or b.is_arrow or not (set(kinds) <= set("iu") or set(kinds) == {"f"}):
        return None
    both = np.result_type(a.numpy, b.numpy)
    return None if both.kind == "f" and kinds != ("f", "f") else ArrayType(both.name)


def _cast_hint(a: Expression, b: Expression) -> str:
    """How one of two keys of different types is converted: to the type that holds more."""
    order = ("string", "float", "int", "uint", "bool", "timestamp", "duration")
    ranks = [
        next((i for i, n in enumerate(order) if e.type.name.startswith(n)), len(order))
        for e in (a, b)
    ]
    wanted, other = (a, b) if ranks[0] <= ranks[1] else (b, a)
    name = other.name if isinstance(other, Column) and other.name.isidentifier() else "k"
    to = wanted.type.name
    return f'convert one before: with_columns({name}=lambda r: so.cast(r.{name}, "{to}"))'


def _outputs(
    left: Schema,
    right: Schema,
    keys: Sequence[_Keys],
    kind: JoinKind,
    suffix: str,
    location: Location | None,
) -> tuple[tuple[str, int, str], ...]:
    """Columns of the result: names, and the side and column that they are."""
    dropped = {LEFT: set[str](), RIGHT: set[str]()}
    if kind != "full" and not any(k.functions for k in keys):
        side = LEFT if kind == "right" else RIGHT
        dropped[side] = set(keys[side].columns)
    first = [c for c in left.columns if c not in dropped[LEFT]]
    outputs = [(n, LEFT, n) for c in first for n in left.fields_of(c)]
    if kind in ("semi", "anti"):
        return tuple(outputs)
    taken = set(first)
    others = [c for c in right.columns if c not in dropped[RIGHT]]
    for column in others:
        name = column + suffix if column in first else column
        if name in taken or (name != column and name in others):
            raise SchemaError(
                f"join would give the column {name!r} twice; the tables have"
                f" {list(left.columns)} and {list(right.columns)}",
                location=location,
                hint=f"pass another suffix than {suffix!r}, or rename() one before",
            )
        taken.add(name)
        outputs += [(name + n[len(column) :], RIGHT, n) for n in right.fields_of(column)]
    return tuple(outputs)


def _own(schema: Schema) -> tuple[Named, ...]:
    return tuple((n, Column(n, k)) for n, k in schema)


# Several tables.


def join(*branches: Branch) -> Table:
    """Records of 2 to 8 tables with equal keys: columns `_0`, `_1`, ... hold those of each.

    `so.join(books.by("author"), authors.by("name"))`. In the first table's order, then the
    second's, and so on. Null equals nothing; NaN equals NaN.
    """
    location = user_location()
    require_branches(branches, "so.join", location)
    for i, branch in enumerate(branches):
        for name, e in zip(branch.names, branch.keys, strict=True):
            _require_key(f"the key {name!r} of branch {i}", e.type, location)
    named = [[f"the key {n!r} of branch {i}" for n in b.names] for i, b in enumerate(branches)]
    typed = common_types([b.keys for b in branches], named, "so.join", location)
    first, *others = branches
    plan, keys = apart(first.table.plan, typed[0], first.origins, location)
    names = {n: _place(n, 0, first.table.schema) for n in plan.schema.names}
    origins = key_functions(first)
    for i, branch in enumerate(others, 1):
        right, right_keys = apart(branch.table.plan, typed[i], branch.origins, location)
        if i == len(others):  # no key is read after it
            names = {n: made for n, made in names.items() if not made.startswith(HIDDEN)}
        own = branch.table.schema
        outputs = [(made, LEFT, n) for n, made in names.items()]
        outputs += [(_place(n, i, own), RIGHT, n) for n in own.names]
        plan = rel.Join(
            plan, right, keys, right_keys, "inner", tuple(outputs),
            label="join", origin=(*origins, *key_functions(branch)), location=location,
        )  # fmt: skip
        if i == 1:
            placed: dict[Node, Node] = {
                c: Column(names[c.name], c.type) for c in columns(keys) if c.name in names
            }
            keys = tuple(substitute(k, placed, in_record) for k in keys)
        names, origins = {n: n for n in plan.schema.names}, ()
    return first.table._made(plan)


def _place(name: str, number: int, schema: Schema) -> str:
    """What a column of branch `number` is called beside the others'."""
    if name not in schema:
        return name  # a hidden one
    return f"_{number}" if schema.bare else f"_{number}{FIELD}{name}"


def key_functions(branch: Branch) -> tuple[KeyFunction, ...]:
    """The row functions behind a branch's keys."""
    return tuple(KeyFunction(branch.table.plan, f) for f in branch.origins)


def require_branches(branches: Sequence[Any], what: str, location: Location | None) -> None:
    """Raise SchemaError unless there are 2 to 8 branches, with as many keys each."""
    from scalops.table import Table

    if not 2 <= len(branches) <= MOST_BRANCHES:
        listed = len(branches) == 1 and isinstance(branches[0], (list, tuple))
        raise SchemaError(
            f"{what} takes 2 to {MOST_BRANCHES} branches; it got {len(branches)}",
            location=location,
            hint=f"pass them one by one: {what}(*branches)"
            if listed
            else "a first few of them can be joined before"
            if branches
            else f'write {what}(a.by("k"), b.by("k"))',
        )
    for i, branch in enumerate(branches):
        if not isinstance(branch, Branch):
            hint = f'write {what}(a.by("k"), b.by("k"))'
            if isinstance(branch, Table):
                found = f"a Table, without its keys; it has the columns {branch.columns}"
            else:
                found = f"a {type(branch).__name__}"
            raise SchemaError(f"branch {i} of {what} is {found}", location=location, hint=hint)
    first = branches[0]
    for i, branch in enumerate(branches):
        if len(branch.keys) != len(first.keys):
            raise SchemaError(
                f"{what}: branch 0 has the keys {list(first.names)} and branch {i}"
                f" {list(branch.names)}",
                location=location,
                hint="give each branch as many keys, in the same order",
            )


name_methods("Table", TableJoins)
