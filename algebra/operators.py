"""Logical operators: immutable, with a schema, valid by construction.

A plan is a `Job` of tables and expressions; an expression reads a table through `Subquery`,
which folds it, and a loop through `LoopOutput`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from scalops.algebra.dtypes import INT64, ArrayType, ListType
from scalops.algebra.errors import SchemaError
from scalops.algebra.expressions import Captured, Constant, Expression, columns_read
from scalops.algebra.folds import Fold
from scalops.algebra.schema import Schema
from scalops.algebra.tree import Node

Named = tuple[str, Expression]


class Source(Protocol):
    """Where records come from: described here, read by the engine.

    `repr` names the data as they are now and takes part in a plan's structure; `title` is for
    readers; `rows` is exact where metadata tell it, `likely_rows` an estimate. What is
    `in_memory` costs nothing to read again. `may_hold_null` is False only where no column holds
    one. `stamp` depends on the contents alone, so that it is the same in another process.
    """

    @property
    def schema(self) -> Schema: ...
    @property
    def title(self) -> str: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def likely_rows(self) -> float: ...
    @property
    def bytes(self) -> int: ...
    @property
    def in_memory(self) -> bool: ...
    @property
    def may_hold_null(self) -> bool: ...
    @property
    def stamp(self) -> str: ...


@dataclass(frozen=True, eq=False, repr=False)
class Operator(Node):
    """A table: something with a schema and an order of records.

    `label` is the word the user wrote ("map", "select"), `origin` the row functions behind its
    expressions; neither takes part in its structure.
    """

    label: str = field(default="", compare=False, kw_only=True)
    origin: Any = field(default=None, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.schema  # while its inputs have theirs: asked later, it may be a long way down

    @property
    def schema(self) -> Schema:
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[Operator, ...]:
        """The tables it reads record by record (not those its expressions fold)."""
        return tuple(c for c in self.children if isinstance(c, Operator))


def require_columns(node: Operator, expressions: Iterable[Expression], schema: Schema) -> None:
    """Raise SchemaError unless the input has every column that is read."""
    missing = sorted(columns_read(expressions) - set(schema.names))
    if missing:
        raise SchemaError(
            f"{type(node).__name__} reads {missing}; its input has {list(schema.names)}",
            location=node.location,
        )


def require_names(node: Operator, names: tuple[str, ...]) -> None:
    """Raise SchemaError where a column would be there twice."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SchemaError(
            f"{type(node).__name__} would give the columns {twice} twice", location=node.location
        )


def _require_no_objects(node: Operator, outputs: Iterable[Named]) -> None:
    found = [name for name, e in outputs if e.type.is_object]
    if found:
        raise SchemaError(
            f"a Python object, such as a dict, is no column: {found}",
            location=node.location,
            hint="so.call(f, v, like=...) makes a number of it; an opaque function reads it whole",
        )


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Operator):
    """Read a source; only `columns`, where given, in that order."""

    source: Source
    columns: tuple[str, ...] | None = None

    @cached_property
    def schema(self) -> Schema:
        full = self.source.schema
        if self.columns is None:
            return full
        return Schema(tuple((name, full[name]) for name in self.columns), full.bare)


@dataclass(frozen=True, eq=False, repr=False)
class Project(Operator):
    """One new record per record: `map`, `select`, `with_columns`, `drop`, `rename`, `assemble`."""

    source: Operator
    outputs: tuple[Named, ...]
    bare: bool = False

    def check(self) -> None:
        require_columns(self, (e for _, e in self.outputs), self.source.schema)
        require_names(self, tuple(name for name, _ in self.outputs))
        _require_no_objects(self, self.outputs)

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.outputs), self.bare)


@dataclass(frozen=True, eq=False, repr=False)
class Filter(Operator):
    """Keep the records for which `predicate` is true; null drops, as false does."""

    source: Operator
    predicate: Expression
    indexed: bool = False  # set by the optimizer: the same rows in each iteration around

    def check(self) -> None:
        require_columns(self, (self.predicate,), self.source.schema)
        kind = self.predicate.type
        if kind.name != "bool" or kind.shape:
            raise SchemaError(
                f"filter needs true or false for each record; its function gives {kind}",
                location=self.location,
                hint="compare with something, or use .all() or .any() on an array",
            )

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Limit(Operator):
    """The first `count` records."""

    source: Operator
    count: int

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Slice(Operator):
    """The records from number `start` on, `length` of them or, without one, all that follow.

    Both are integers that read no column. Beyond the end there are fewer records; a negative
    number is a DataError when the plan runs.
    """

    source: Operator
    start: Expression
    length: Expression | None = None

    def check(self) -> None:
        for e in (self.start, self.length):
            if e is not None and (e.type.shape or e.type.numpy.kind not in "iu"):
                raise SchemaError(
                    f"{self.label or 'slice'} needs an integer, not a value of type {e.type}",
                    location=self.location,
                    hint='convert it: so.cast(v, "int64")',
                )

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Union(Operator):
    """The records of all `sources`, one table after the other; all of one schema."""

    sources: tuple[Operator, ...]

    def check(self) -> None:
        first, *others = self.sources
        for other in others:
            if other.schema != first.schema:
                raise SchemaError(
                    f"Union of ({first.schema}) and ({other.schema})", location=self.location
                )

    @cached_property
    def schema(self) -> Schema:
        return self.sources[0].schema


@dataclass(frozen=True, eq=False, repr=False)
class Distinct(Operator):
    """The first of equal records; nulls are equal, NaNs are, and 0.0 and -0.0 are.

    With `columns` those are equal that are so in these columns.
    """

    source: Operator
    columns: tuple[str, ...] = ()

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Sort(Operator):
    """The records by `keys`, the first one deciding most; equal ones keep their order.

    In either direction NaN comes after the numbers and null after NaN.
    """

    source: Operator
    keys: tuple[Expression, ...]
    descending: tuple[bool, ...]

    def check(self) -> None:
        require_columns(self, self.keys, self.source.schema)
        for key in self.keys:
            if key.type.shape or key.type.is_list:
                raise SchemaError(
                    f"sort needs one value for each record as its key; it got {key.type}",
                    location=self.location,
                    hint="sort by a number, a string or a time: sort(lambda r: ...)",
                )

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class WithRowIndex(Operator):
    """The records with their number, from 0 on, as the first column."""

    source: Operator
    name: str

    def check(self) -> None:
        require_names(self, (self.name, *self.source.schema.names))

    @cached_property
    def schema(self) -> Schema:
        return Schema(((self.name, INT64), *self.source.schema.fields))


@dataclass(frozen=True, eq=False, repr=False)
class Explode(Operator):
    """One record for each item of the lists or vectors in `names`; the other columns repeat.

    The lists of one record go together and have one length. No record for an empty list and
    for null; of a sparse vector the stored elements. `index` names a column of the items'
    positions (of a sparse vector: of their indices), which comes last.
    """

    source: Operator
    names: tuple[str, ...]
    index: str | None = None

    def check(self) -> None:
        for name in self.names:
            kind = self.source.schema[name]
            if not (kind.is_list or kind.shape):
                raise SchemaError(
                    f"explode needs a list or a vector; {name!r} is {kind}", location=self.location
                )
        require_names(self, self.schema.names)

    @cached_property
    def schema(self) -> Schema:
        source = self.source.schema
        made = tuple((n, item_type(k) if n in self.names else k) for n, k in source)
        if self.index is None:
            return Schema(made, source.bare)
        return Schema((*made, (self.index, INT64)))


def item_type(kind: ArrayType) -> ArrayType:
    """The type of one item of a list, of one element or row of an array."""
    if isinstance(kind, ListType):
        return kind.item
    return ArrayType(kind.name, kind.shape[1:])


@dataclass(frozen=True, eq=False, repr=False)
class Expand(Operator):
    """As many new records for each record as there are `records`, in their order."""

    source: Operator
    records: tuple[tuple[Named, ...], ...]
    bare: bool = False

    def check(self) -> None:
        for record in self.records:
            require_columns(self, (e for _, e in record), self.source.schema)
            _require_no_objects(self, record)

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((n, e.type.strong()) for n, e in self.records[0]), self.bare)


@dataclass(frozen=True, eq=False, repr=False)
class MapBatches(Operator):
    """A captured function from a batch of records, as a pyarrow.Table, to new ones.

    `slots` are the values that it had closed over.
    """

    source: Operator
    function: Captured
    slots: tuple[Expression, ...]
    declared: Schema

    @property
    def schema(self) -> Schema:
        return self.declared


@dataclass(frozen=True, eq=False, repr=False)
class Repartition(Operator):
    """The same records in `count` partitions of contiguous, near-equal ranges."""

    source: Operator
    count: int

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Cache(Operator):
    """Hold the records in memory as far as the budget reaches; compute the rest again.

    With a `key` the user asked for it, and the session keeps them by that name for later plans:
    no rule changes what such a cache holds.
    """

    source: Operator
    key: str = ""

    @cached_property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Aggregate(Operator):
    """Fold a table to one record: each fold reads columns and gives one named value."""

    source: Operator
    folds: tuple[Fold, ...]

    def check(self) -> None:
        for fold in self.folds:
            require_columns(self, fold.arguments, self.source.schema)
        require_names(self, tuple(f.name for f in self.folds))

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((f.name, f.type) for f in self.folds))


@dataclass(frozen=True, eq=False, repr=False)
class Update(Operator):
    """The body of a loop: the next environment; `computed` columns must not become NaN."""

    update: tuple[Named, ...]
    tables: tuple[tuple[str, Operator], ...] = ()
    computed: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.update))


@dataclass(frozen=True, eq=False, repr=False)
class MapReduceUpdate(Operator):
    """A loop's whole body as one pass: named columns over `source`, folds over them, the update.

    Each column of `map` may read the source's and those before it. In `update` a fold's result
    is `Reduced(name)`.
    """

    source: Operator
    map: tuple[Named, ...]
    reduce: tuple[Fold, ...]
    update: tuple[Named, ...]

    @cached_property
    def mapped(self) -> Schema:
        """The source's columns and the mapped ones."""
        own = tuple((name, e.type.strong()) for name, e in self.map)
        return Schema((*self.source.schema.fields, *own))

    def check(self) -> None:
        fields = self.source.schema.fields
        for name, e in self.map:
            require_columns(self, (e,), Schema(fields))
            fields = (*fields, (name, e.type.strong()))
        require_names(self, self.mapped.names)
        for fold in self.reduce:
            require_columns(self, fold.arguments, self.mapped)

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.update))


@dataclass(frozen=True, eq=False, repr=False)
class Range(Node):
    """The elements a `range` loop goes through; bounds are integers that read no column.

    They are evaluated when the loop starts.
    """

    start: Expression
    stop: Expression
    step: Expression

    @property
    def bounds(self) -> tuple[Expression, Expression, Expression]:
        return (self.start, self.stop, self.step)

    @cached_property
    def known(self) -> range | None:
        """The elements, where the plan knows them before it runs."""
        numbers = [e.value for e in self.bounds if isinstance(e, Constant)]
        return range(*map(int, numbers)) if len(numbers) == 3 and int(numbers[2]) else None


@dataclass(frozen=True, eq=False, repr=False)
class Loop(Operator):
    """Repeat `body` while `condition` holds, or over `range`.

    `token` names the loop within a plan: the body's `State`, `Bound` and `Iteration` leaves
    carry it. `start` and `tables` give the state's first values and tables, `bindings` what is
    computed once before the first iteration. The condition is tested before each iteration.
    """

    token: int
    start: tuple[Named, ...]
    body: Update | MapReduceUpdate
    condition: Expression | None
    range: Range | None = None
    max_iterations: int | None = None
    allow_nonfinite: bool = False
    warn: bool = True
    bindings: tuple[Named, ...] = ()
    types: tuple[ArrayType, ...] = ()
    tables: tuple[tuple[str, Operator], ...] = ()
    name: str | None = field(default=None, compare=False)

    @cached_property
    def state_types(self) -> dict[str, ArrayType]:
        """Types of the environment's fields."""
        return {name: t for (name, _), t in zip(self.start, self.types, strict=True)}

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple(self.state_types.items()))


@dataclass(frozen=True, eq=False, repr=False)
class Job(Operator):
    """The root of a plan: the tables and values asked for together."""

    outputs: tuple[Node, ...]

    @property
    def schema(self) -> Schema:
        return Schema(())
