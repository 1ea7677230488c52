"""Logical operators: immutable, with a schema, valid by construction.

A plan is a `Job` of tables and expressions; an expression reads a table through `Subquery`,
which folds it, and a loop through `LoopOutput`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import SchemaError
from scalops.algebra.expressions import Expression, columns_read
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


def _require_names(node: Operator, names: tuple[str, ...]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SchemaError(
            f"{type(node).__name__} would give the columns {twice} twice", location=node.location
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
        _require_names(self, tuple(name for name, _ in self.outputs))

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.outputs), self.bare)


@dataclass(frozen=True, eq=False, repr=False)
class Filter(Operator):
    """Keep the records for which `predicate` is true; null drops, as false does."""

    source: Operator
    predicate: Expression

    def check(self) -> None:
        require_columns(self, (self.predicate,), self.source.schema)
        kind = self.predicate.type
        if kind.name != "bool" or kind.shape:
            raise SchemaError(
                f"filter needs true or false for each record; its function gives {kind}",
                location=self.location,
                hint="compare with something, or use .all() or .any() on an array",
            )

    @property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Limit(Operator):
    """The first `count` records."""

    source: Operator
    count: int

    @property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Repartition(Operator):
    """The same records in `count` partitions of contiguous, near-equal ranges."""

    source: Operator
    count: int

    @property
    def schema(self) -> Schema:
        return self.source.schema


@dataclass(frozen=True, eq=False, repr=False)
class Cache(Operator):
    """Hold the records in memory as far as the budget reaches; compute the rest again."""

    source: Operator

    @property
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
        _require_names(self, tuple(f.name for f in self.folds))

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((f.name, f.type) for f in self.folds))


@dataclass(frozen=True, eq=False, repr=False)
class Update(Operator):
    """The body of a loop: the next environment, one expression per field."""

    update: tuple[Named, ...]

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.update))


@dataclass(frozen=True, eq=False, repr=False)
class MapReduceUpdate(Operator):
    """A loop's whole body as one pass: named columns over `source`, folds over them, the update.

    In `update` a fold's result is `Reduced(name)`.
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
        require_columns(self, (e for _, e in self.map), self.source.schema)
        _require_names(self, self.mapped.names)
        for fold in self.reduce:
            require_columns(self, fold.arguments, self.mapped)

    @cached_property
    def schema(self) -> Schema:
        return Schema(tuple((name, e.type.strong()) for name, e in self.update))


@dataclass(frozen=True)
class Range:
    """The elements a `range` loop goes through."""

    start: int
    stop: int
    step: int

    def __len__(self) -> int:
        return len(range(self.start, self.stop, self.step))


@dataclass(frozen=True, eq=False, repr=False)
class Loop(Operator):
    """Repeat `body` while `condition` holds, or over `range`.

    `token` names the loop within a plan: the body's `State`, `Bound` and `Iteration` leaves
    carry it. `start` gives the state's first value, `bindings` what is computed once before
    the first iteration. The condition is tested before each iteration.
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
