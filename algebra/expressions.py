"""Expressions: one language for records, values and updates.

An expression has a type with its single-record shape. Whether it stands for one value or for
one value per record follows from its leaves: a `Column` is per record, all others are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.captured import Captured as Captured
from scalops.algebra.dtypes import (
    BOOL,
    INT64,
    OBJECT,
    ArrayType,
    ObjectType,
    TupleType,
    Type,
    type_of,
)
from scalops.algebra.errors import Location, TraceError
from scalops.algebra.functions.table import Function
from scalops.algebra.tree import Node, find

if TYPE_CHECKING:
    from scalops.algebra.operators import Aggregate, Loop, Operator

# No attribute can have these names, so that a field may be called `iterations`.
ITERATIONS = "@iterations"
CONVERGED = "@converged"
_SHAPES = "shapes and types are those of one record"
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d(:\d\d){0,2}(\.\d{1,9})?)?", re.ASCII)


@dataclass(frozen=True, eq=False, repr=False)
class Expression(Node):
    """Something with a value and a type."""

    def __post_init__(self) -> None:
        self.__dict__["_type"] = self.infer()
        super().__post_init__()

    def infer(self) -> Type:
        """The type; computed once, when the node is built."""
        raise NotImplementedError

    @property
    def type(self) -> ArrayType:
        """The type of an expression that is one array (all but multi-output calls)."""
        kind = self.__dict__["_type"]
        assert isinstance(kind, ArrayType), f"{self!r} is a {kind}"
        return kind

    @property
    def any_type(self) -> Type:
        kind: Type = self.__dict__["_type"]
        return kind


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Expression):
    """A Python number (weak), a string, or a NumPy scalar or array, held read-only."""

    value: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["value"], np.ndarray):
            state["value"].setflags(write=False)
        super().__setstate__(state)

    def infer(self) -> Type:
        if isinstance(self.value, np.ndarray) and self.value.flags.writeable:
            raise ValueError("a Constant holds a read-only array; use `constant`")
        kind = type_of(self.value)
        if kind is None:
            raise TypeError(f"a {type(self.value).__name__} is no constant of a plan")
        return kind


def constant(value: object) -> Constant:
    """A constant with the value as it is now: later changes to an array do not reach it."""
    if isinstance(value, np.ndarray):
        dtype = value.dtype.newbyteorder("=")
        value = np.array(value, dtype=dtype, order="C")
        value.setflags(write=False)
    elif isinstance(value, np.generic) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    return Constant(value)


@dataclass(frozen=True, eq=False, repr=False)
class Leaf(Expression):
    """A name with a type."""

    name: str
    declared: ArrayType

    def infer(self) -> Type:
        return self.declared


@dataclass(frozen=True, eq=False, repr=False)
class Column(Leaf):
    """A column of the current record; `record` is 1 for the second argument of a reduce."""

    record: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class State(Leaf):
    """A field of the environment of the loop `loop`, in the current iteration."""

    loop: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Bound(Leaf):
    """A value that the loop `loop` computes once, before its first iteration."""

    loop: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Reduced(Leaf):
    """Inside a MapReduceUpdate's update: the result of one of its folds."""


@dataclass(frozen=True, eq=False, repr=False)
class Held(Leaf):
    """A value of an earlier run that is no constant of a plan: null, a list, a Python object.

    `key` tells it apart.
    """

    key: str = ""
    value: Any = field(default=None, compare=False)


@dataclass(frozen=True, eq=False, repr=False)
class Slot(Leaf):
    """Inside a physical plan: a driver value by number, `name` being for the reader."""

    number: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Iteration(Expression):
    """The element of the loop's range, or the iteration number from 0; weakly typed."""

    loop: int

    def infer(self) -> Type:
        return replace(INT64, weak=True)


@dataclass(frozen=True, eq=False, repr=False)
class Subquery(Expression):
    """One result of an Aggregate: a table folded to a value."""

    source: Aggregate
    name: str

    def infer(self) -> Type:
        return self.source.schema[self.name]


@dataclass(frozen=True, eq=False, repr=False)
class LoopOutput(Expression):
    """A field of a loop's final environment, or its `iterations` or `converged`."""

    loop: Loop
    name: str

    def infer(self) -> Type:
        if self.name == ITERATIONS:
            return INT64
        if self.name == CONVERGED:
            return BOOL
        return self.loop.state_types[self.name]


@dataclass(frozen=True, eq=False, repr=False)
class Call(Expression):
    """A function of the table applied to arguments, with constant parameters."""

    function: Function
    arguments: tuple[Expression, ...]
    parameters: tuple[tuple[str, Any], ...] = ()

    def infer(self) -> Type:
        if any(isinstance(a.any_type, ObjectType) for a in self.arguments):
            raise TraceError(
                f"{self.function.name} has no meaning for a Python object, such as a dict",
                location=self.location,
                hint="so.call(f, v, like=...) applies a Python function to it",
            )
        try:
            return self.function.result_type(
                *(a.any_type for a in self.arguments), **dict(self.parameters)
            )
        except (TypeError, ValueError, IndexError) as error:
            hint = _SHAPES if self._shaped(error) else self._as_time()
            raise TraceError(str(error), location=self.location, hint=hint) from None

    def _as_time(self) -> str | None:
        """How to write a constant string that stands for a time beside timestamps."""
        kinds = [a.any_type for a in self.arguments]
        if not any(isinstance(k, ArrayType) and k.name.startswith("timestamp") for k in kinds):
            return None
        texts = [a.value for a in self.arguments if isinstance(a, Constant)]
        times = (str(t) for t in texts if isinstance(t, str) and _TIME.fullmatch(t))
        return next((f'write np.datetime64("{time}")' for time in times), None)

    def _shaped(self, error: Exception) -> bool:
        """Whether shapes are what is wrong, not the kind of an argument."""
        kinds = [a.any_type for a in self.arguments]
        if not all(isinstance(k, ArrayType) and not k.is_arrow for k in kinds):
            return False
        return not isinstance(error, TypeError) or any(
            isinstance(k, ArrayType) and k.shape and not k.is_sparse for k in kinds
        )


def call(
    function: Function, *arguments: Expression, location: Location | None = None, **parameters: Any
) -> Call:
    """Build a call."""
    return Call(function, arguments, tuple(sorted(parameters.items())), location=location)


@dataclass(frozen=True, eq=False, repr=False)
class Item(Expression):
    """One of the results of a multi-output function."""

    source: Expression
    index: int

    def infer(self) -> Type:
        kind = self.source.any_type
        assert isinstance(kind, TupleType)
        return kind.items[self.index]


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(Expression):
    """A captured function applied to one record, or to several (two, in a reduce).

    `records` holds, for each positional argument, its columns as (name, expression), or a bare
    expression. `slots` are the values that the function had closed over. The result is a tuple
    of `outputs`, to be taken apart by `Item`.
    """

    function: Captured
    records: tuple[tuple[tuple[str, Expression], ...] | Expression, ...]
    slots: tuple[Expression, ...]
    outputs: tuple[ArrayType, ...]
    names: tuple[str, ...] | None = None

    def infer(self) -> Type:
        return TupleType(self.outputs)


@dataclass(frozen=True, eq=False, repr=False)
class DriverCall(Expression):
    """A captured function applied to values at the driver, once per evaluation.

    It is taken for a function of `arguments` and of `slots`, the values that it had closed
    over. The result is a tuple of `outputs`, to be taken apart by `Item`; `names` are those of
    its parts, None for one bare value. `example` holds a value of each output's type.
    """

    function: Captured
    arguments: tuple[Expression, ...]
    slots: tuple[Expression, ...]
    outputs: tuple[ArrayType, ...]
    names: tuple[str, ...] | None = None
    example: tuple[Any, ...] = field(default=(), compare=False)

    def infer(self) -> Type:
        return TupleType(self.outputs)


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Expression):
    """The records of a table, handed to a function whole: an argument of a DriverCall.

    Only in a group's `map`, where the table rests on the group's records.
    """

    source: Operator

    def infer(self) -> Type:
        return OBJECT


def columns_read(roots: Iterable[Expression]) -> frozenset[str]:
    """Names of the current record's columns that the expressions read."""
    return frozenset(c.name for c in columns(roots))


def columns(roots: Iterable[Expression]) -> list[Column]:
    """The columns that expressions read, not looking into the tables of their subqueries."""
    found = (node for node in within(roots) if isinstance(node, Column))
    return sorted(found, key=lambda c: (c.record, c.name))


def within(roots: Iterable[Expression]) -> list[Expression]:
    """Every expression below the roots once, not entering the operators that they read."""
    seen: dict[Expression, None] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack.extend(c for c in node.children if isinstance(c, Expression))
    return list(seen)


def arguments_first(root: Expression) -> list[Expression]:
    """What calls make the root of, each once, its arguments before it."""
    seen: dict[Expression, None] = {}
    stack = [root]
    while stack:
        e = stack[-1]
        waiting = [a for a in e.arguments if a not in seen] if isinstance(e, Call) else []
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        seen[e] = None
    return list(seen)


def in_record(node: Node) -> bool:
    """Traversal stays among the expressions of one record: it does not enter operators."""
    return isinstance(node, Expression)


def opaque_calls(roots: Iterable[Node]) -> list[Opaque]:
    """The opaque functions below the roots."""
    return find(roots, Opaque)
