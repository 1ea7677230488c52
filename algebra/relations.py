"""Logical operators that relate records: joins, groups, running aggregates, tables in loops."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import SchemaError, TraceError
from scalops.algebra.expressions import Expression, Leaf
from scalops.algebra.folds import Fold
from scalops.algebra.functions.linear import promoted
from scalops.algebra.operators import Loop, Named, Operator, require_columns, require_names
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node

JoinKind = Literal["inner", "left", "right", "full", "semi", "anti", "cross"]
LEFT, RIGHT = 0, 1


@dataclass(frozen=True, eq=False, repr=False)
class Join(Operator):
    """Records of both sides side by side where the keys are equal.

    `outputs` are (name, side, column of that side); `semi` and `anti` have columns of the left
    side alone. Null equals nothing, unless `nulls_equal`; NaN equals NaN, 0.0 equals -0.0. In
    left order, matches in right order; a right join the other way round; of a full one the
    unmatched right records come last. Columns of the side without a match are null.

    `indexed` (set by the optimizer): the keys are the same in each iteration of the loop around,
    so that positions are computed when the keys are first seen, and only then.
    """

    left: Operator
    right: Operator
    left_keys: tuple[Expression, ...]
    right_keys: tuple[Expression, ...]
    kind: JoinKind
    outputs: tuple[tuple[str, int, str], ...]
    nulls_equal: bool = False
    indexed: bool = False

    def check(self) -> None:
        require_columns(self, self.left_keys, self.left.schema)
        require_columns(self, self.right_keys, self.right.schema)
        require_names(self, tuple(name for name, _, _ in self.outputs))
        if (not self.left_keys) != (self.kind == "cross"):
            raise SchemaError(f"a {self.kind} join with no key", location=self.location)
        kinds = zip(self.left_keys, self.right_keys, strict=True)
        for a, b in kinds:
            if a.type.strong() != b.type.strong():
                raise SchemaError(
                    f"the keys of a join are {a.type} and {b.type}",
                    location=self.location,
                    hint='convert one: so.cast(r.k, "int64")',
                )

    @property
    def sides(self) -> tuple[Operator, Operator]:
        return (self.left, self.right)

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((n, self.sides[s].schema[c]) for n, s, c in self.outputs))


@dataclass(frozen=True, eq=False, repr=False)
class GroupAggregate(Operator):
    """One record per group: the keys, then the folds over the group's records in table order.

    Groups come by first appearance. Nulls are one key, NaNs are, 0.0 and -0.0 are. A fold that
    has no value over a group (all null, say) is null there.

    `indexed` (set by the optimizer): the keys are the same in each iteration of the loop around,
    so that groups are found when the keys are first seen, and only then.
    """

    source: Operator
    keys: tuple[Named, ...]
    folds: tuple[Fold, ...]
    indexed: bool = False

    def check(self) -> None:
        require_columns(self, (e for _, e in self.keys), self.source.schema)
        for fold in self.folds:
            require_columns(self, fold.arguments, self.source.schema)
        require_names(self, (*(n for n, _ in self.keys), *(f.name for f in self.folds)))

    @cached_property
    def schema(self) -> Schema:
        keys = tuple((n, e.type.strong()) for n, e in self.keys)
        return Schema((*keys, *((f.name, f.type.strong()) for f in self.folds)))


@dataclass(frozen=True, eq=False, repr=False)
class GroupRows(Operator):
    """The records of one group of `source`: what a group's `map` is traced with.

    It stands in no plan that runs: such a map is lifted to operators over all groups at once.
    """

    source: Operator
    token: int

    @property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class GroupKey(Leaf):
    """A key of the group `token`, in a group's `map`; lifted to a column."""

    token: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class GroupApply(Operator):
    """A captured function called once per record of `groups`, in their order.

    Of table i it gets, as a pyarrow.Table in table order, the records whose `keys[i]` equal the
    group's `group_keys` (nulls are equal). `arguments` are `Rows(i)` leaves, columns of `groups`,
    and values that read no record; `slots` are what the function had closed over. With `single`
    it returns the values of one record of `declared`, else a pyarrow.Table of that schema, of
    any number of records. `kept` columns of `groups` stand before a single record's. Columns of
    a table whose names begin with "@" are there for its keys: the function does not get them.
    """

    groups: Operator
    sources: tuple[Operator, ...]
    group_keys: tuple[Expression, ...]
    keys: tuple[tuple[Expression, ...], ...]
    function: Captured
    arguments: tuple[Expression, ...]
    slots: tuple[Expression, ...]
    declared: Schema
    single: bool = False
    kept: tuple[str, ...] = ()

    def check(self) -> None:
        require_columns(self, self.group_keys, self.groups.schema)
        require_columns(self, self.arguments, self.groups.schema)
        for source, keys in zip(self.sources, self.keys, strict=True):
            require_columns(self, keys, source.schema)
            for a, b in zip(self.group_keys, keys, strict=True):
                if a.type.strong() != b.type.strong():
                    raise SchemaError(
                        f"the keys of groups and of their records are {a.type} and {b.type}",
                        location=self.location,
                    )
        for name, kind in self.declared if self.single else ():
            if not (kind.is_plain or kind.is_string):
                raise SchemaError(
                    f"{self.function.name} is declared to give {kind} as {name!r}; expected"
                    " numbers, bools, times, strings or arrays",
                    location=self.location,
                )

    @cached_property
    def schema(self) -> Schema:
        kept = tuple((n, self.groups.schema[n]) for n in self.kept)
        return Schema((*kept, *self.declared.fields), self.declared.bare and not kept)


@dataclass(frozen=True, eq=False, repr=False)
class RowsArgument(Leaf):
    """In a GroupApply's arguments: the group's records of table `number`."""

    number: int = 0


def _running_type(kind: str, types: list[ArrayType]) -> ArrayType:
    first = types[0]
    if not all(t.is_numeric and not t.is_sparse for t in types):
        raise TypeError(f"it has no meaning for {', '.join(map(str, types))}")
    if kind == "cumsumprod":
        if types[0].shape != types[1].shape:
            raise TypeError(f"its two columns are {types[0]} and {types[1]}")
        name = promoted(first, types[1])
        return ArrayType(name if name.startswith("float") else "float64", first.shape)
    if kind in ("cumsum", "cumprod") and first.numpy.kind in "biu":
        # As np.cumsum: small integers and bools are added up as 64-bit integers.
        return ArrayType("uint64" if first.numpy.kind == "u" else "int64", first.shape)
    return first.strong()


@dataclass(frozen=True, eq=False, repr=False)
class Running(Node):
    """`name` = an aggregate over the records up to each one, in table order.

    `kind` is cumsum, cummin, cummax, cumprod, or cumsumprod of two arguments: z = a + b z', z'
    that of the record before, 0 before the first. `over` restarts it for each value of these
    expressions. With `reverse` it runs from the last record to the first. Where an argument is
    null the result is null, and the record is passed over.
    """

    name: str
    kind: str
    arguments: tuple[Expression, ...]
    over: tuple[Expression, ...] = ()
    reverse: bool = False

    def check(self) -> None:
        try:
            kind = _running_type(self.kind, [a.type for a in self.arguments])
        except TypeError as error:
            raise TraceError(f"{self.kind}: {error}", location=self.location) from None
        self.__dict__["_type"] = kind

    @property
    def type(self) -> ArrayType:
        kind: ArrayType = self.__dict__["_type"]
        return kind


@dataclass(frozen=True, eq=False, repr=False)
class Cumulate(Operator):
    """The records with running aggregates as new columns, after the others."""

    source: Operator
    columns: tuple[Running, ...]

    def check(self) -> None:
        for column in self.columns:
            require_columns(self, (*column.arguments, *column.over), self.source.schema)
        require_names(self, self.schema.names)

    @cached_property
    def schema(self) -> Schema:
        return Schema((*self.source.schema.fields, *((c.name, c.type) for c in self.columns)))


# Tables in the environment of a loop.


@dataclass(frozen=True, eq=False, repr=False)
class StateTable(Operator):
    """A table in the environment of the loop `loop`, in the current iteration."""

    name: str
    declared: Schema
    loop: int

    @property
    def schema(self) -> Schema:
        return self.declared


@dataclass(frozen=True, eq=False, repr=False)
class LoopTable(Operator):
    """A table in a loop's final environment."""

    loop: Loop
    name: str

    @cached_property
    def schema(self) -> Schema:
        return dict(self.loop.tables)[self.name].schema
