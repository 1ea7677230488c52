"""Groups of a table's records by keys: aggregates, maps and functions of each group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.dtypes import OBJECT
from scalops.algebra.errors import Location, PlanError, SchemaError, TraceError, user_location
from scalops.algebra.expressions import Column, Expression, Opaque, within
from scalops.algebra.folds import Fold
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import FIELD, HIDDEN, Schema
from scalops.capture import capture_opaque, function_name
from scalops.group_aggregates import GroupFold, described, made_of, values_of
from scalops.group_lifting import Lifting, Root
from scalops.group_maps import tokens, trace_group
from scalops.lazy import name_methods
from scalops.rows import RowFunction, Udf
from scalops.table_operators import declared_schema
from scalops.value import Value

if TYPE_CHECKING:
    from scalops.table import RowLike, Table

_MAKES = "groups are no table: agg(...), map(...) or apply(f, schema) makes one"
_OTHER_WORDS = {
    **dict.fromkeys(("aggregate", "reduce", "summarise", "summarize"), "agg(total=so.sum(...))"),
    **dict.fromkeys(("size", "len"), "count()"),
    **dict.fromkeys(("transform", "flat_map"), "map(lambda key, rows: ...) and join"),
    **dict.fromkeys(("applyInPandas", "map_groups"), "apply(f, schema)"),
    **dict.fromkeys(("nunique",), 'n_unique("column")'),
    **dict.fromkeys(("agg_list", "list"), 'collect_list("column")'),
    **dict.fromkeys(("head", "tail", "nth"), 'first("column"), or apply(f, schema)'),
    "filter": "agg(...), and filter its table",
    "median": 'quantile(0.5, "column")',
}


class NoMethod(PlanError, AttributeError):
    """Something that groups have not: `hasattr` is to say so too."""


@dataclass(frozen=True)
class Keys:
    """The keys of groups, over the columns of a table, and the row functions behind them."""

    named: tuple[Named, ...]
    origins: tuple[RowFunction, ...]

    @property
    def schema(self) -> Schema:
        """Names and types of the keys."""
        return Schema(tuple((n, e.type.strong()) for n, e in self.named))


def keys_of(table: Table, keys: Sequence[Any], named: dict[str, Any], what: str) -> Keys:
    """Keys given as columns' names, functions, or functions by name. Raises SchemaError."""
    location = user_location()
    found: list[Named] = []
    origins: list[RowFunction] = []
    for key in keys:
        if not isinstance(key, str) and not _is_function(key):
            hint = f"pass keys one by one: {what}(*names)" if isinstance(key, (list, tuple)) else (
                f'write {what}("column") or {what}(lambda r: ...)'
            )  # fmt: skip
            raise SchemaError(
                f"{what}'s key is {key!r}; expected a column's name or a function of a record",
                location=location,
                hint=hint,
            )
        if isinstance(key, str):
            found += _key(table, key, key, what, origins)
        else:
            parts, values, more = values_of(table, key, what)
            found += zip(parts or ("key",), values, strict=True)
            origins += more
    for name, key in named.items():
        if not isinstance(key, str) and not _is_function(key):
            raise SchemaError(
                f"{what}({name}=...) is a {type(key).__name__}; expected a function of a record"
                " or a column's name",
                location=location,
            )
        found += _key(table, name, key, what, origins)
    names = [n for n, _ in found]
    if not found:
        raise SchemaError(
            f"{what} needs a key; the table has {table.columns}",
            location=location,
            hint='all records fold without one: t.sum("v")',
        )
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SchemaError(
            f"{what} would give the key columns {twice} twice",
            location=location,
            hint=f"name the functions: {what}(a=lambda r: ..., b=lambda r: ...)",
        )
    return Keys(tuple(found), tuple(origins))


def _is_function(key: Any) -> bool:
    return callable(key) and not isinstance(key, (Value, GroupFold))


def _key(
    table: Table, name: str, key: RowLike, what: str, origins: list[RowFunction]
) -> list[Named]:
    names, values, more = values_of(table, key, what)
    origins += more
    if names is None:
        return [(name, values[0])]
    return [(name + FIELD + n, e) for n, e in zip(names, values, strict=True)]


def apart(source: Operator, expressions: Sequence[Expression], origins: Sequence[RowFunction],
          location: Location | None) -> tuple[Operator, tuple[Expression, ...]]:  # fmt: skip
    """The table with what opaque functions give as hidden columns; the expressions over it.

    An aggregate reads columns and traced expressions of them.
    """
    opaque = [e for e in expressions if any(isinstance(i, Opaque) for i in within([e]))]
    if not opaque:
        return source, tuple(expressions)
    names: dict[Expression, str] = {}
    for e in opaque:
        if e not in names:
            taken = {*source.schema.names, *names.values()}
            numbers = (f"{HIDDEN}{i}" for i in itertools.count())
            names[e] = next(n for n in numbers if n not in taken)
    kept = tuple((n, Column(n, k)) for n, k in source.schema)
    plan = op.Project(
        source, (*kept, *((n, e) for e, n in names.items())), label="map",
        origin=tuple(origins), location=location,
    )  # fmt: skip
    read = tuple(Column(names[e], e.type.strong()) if e in names else e for e in expressions)
    return plan, read


class Groups:
    """The groups of a table: `agg`, `map` and `apply` make a table of them.

    Groups come by first appearance of their keys; null is one key, NaN is. A group's records
    keep the table's order.
    """

    __slots__ = ("_keys", "_location", "_table")
    __hash__ = None  # type: ignore[assignment]
    _value_hint = _MAKES
    _capture_refusal = "it reads groups, which have no records before the plan runs"

    def __init__(self, table: Table, keys: Keys) -> None:
        self._table, self._keys, self._location = table, keys, user_location()

    def __repr__(self) -> str:
        keys = ", ".join(self._keys.schema.columns)
        return f"Groups(by {keys}, of ({self._table.schema}))"

    def agg(self, *unnamed: Any, **aggregates: GroupFold) -> Table:
        """One record per group: the keys, then an aggregate for each name.

        `t.group_by("k").agg(total=so.sum("v"), n=so.count())`. SchemaError for one without a name.
        """
        location = user_location()
        if unnamed:
            first = unnamed[0]
            aggregate = isinstance(first, GroupFold)
            raise SchemaError(
                "agg takes an aggregate for each name; it got"
                f" {first if aggregate else _shown(first)} without one",
                location=location,
                hint=f"name the new column: agg(name={first if aggregate else 'so.sum(...)'})",
            )
        if not aggregates:
            raise SchemaError(
                "agg needs an aggregate for each new column",
                location=location,
                hint="write agg(total=so.sum(...)); the keys alone: select(...).distinct()",
            )
        folds: list[Fold] = []
        origins = list(self._keys.origins)
        keys = self._keys.schema.columns
        for name, wanted in aggregates.items():
            if not isinstance(wanted, GroupFold):
                raise SchemaError(
                    f"agg({name}=...) is {_shown(wanted)}; expected an aggregate",
                    location=location,
                    hint=f'write agg({name}=so.sum("v")), or so.mean, so.count, so.max, ...',
                )
            if name in keys:
                raise SchemaError(
                    f"agg({name}=...) has the name of a key; the keys are {list(keys)}",
                    location=location,
                    hint="give the aggregate another name",
                )
            made = made_of(self._table, wanted)
            folds += made.called(name)
            origins += made.origins
        return self._aggregated(folds, origins, "agg")

    def _aggregated(self, folds: list[Fold], origins: list[RowFunction], label: str) -> Table:
        location = user_location()
        given = [a for f in folds for a in f.arguments]
        keys = [e for _, e in self._keys.named]
        source, read = apart(self._table.plan, [*keys, *given], origins, location)
        arguments = iter(read[len(keys) :])
        folds = [replace(f, arguments=tuple(next(arguments) for _ in f.arguments)) for f in folds]
        named = tuple((n, e) for (n, _), e in zip(self._keys.named, read, strict=False))
        plan = rel.GroupAggregate(
            source, named, tuple(folds), label=label, origin=tuple(origins), location=location
        )
        return self._table._made(plan)

    def _word(self, word: str, f: RowLike | None, *before: Any, **parameters: Any) -> Table:
        """One aggregate, its column named as the one that it reads."""
        given = (*before, f) if before else (f,)
        made = made_of(self._table, described(word, *given, **parameters))
        keys = self._keys.schema.columns
        if made.names is not None and not isinstance(f, str):
            folds = [replace(o, name=n) for n, o in zip(made.names, made.folds, strict=True)]
        else:
            folds = list(made.called(f if isinstance(f, str) and word != "count" else word))
        clash = [f.name for f in folds if f.name.split(FIELD)[0] in keys]
        if clash:
            raise SchemaError(
                f"{word} would give the column {clash[0]!r}, which is a key",
                location=user_location(),
                hint=f"name it: agg(x=so.{word}(...))",
            )
        return self._aggregated(folds, [*self._keys.origins, *made.origins], word)

    def count(self, column: RowLike | None = None) -> Table:
        """The number of each group's records, as `count`; of what is not null in a column."""
        return self._word("count", column)

    def sum(self, column: RowLike | None = None) -> Table:
        """The sum in each group, under the column's name."""
        return self._word("sum", column)

    def mean(self, column: RowLike | None = None) -> Table:
        """The mean in each group, under the column's name."""
        return self._word("mean", column)

    def min(self, column: RowLike | None = None) -> Table:
        """The least value in each group, under the column's name."""
        return self._word("min", column)

    def max(self, column: RowLike | None = None) -> Table:
        """The greatest value in each group, under the column's name."""
        return self._word("max", column)

    def any(self, column: RowLike | None = None) -> Table:
        """Whether it holds for some record of each group."""
        return self._word("any", column)

    def all(self, column: RowLike | None = None) -> Table:
        """Whether it holds for every record of each group."""
        return self._word("all", column)

    def first(self, column: RowLike | None = None) -> Table:
        """The first value in each group that is not null."""
        return self._word("first", self._named(column, "first"))

    def last(self, column: RowLike | None = None) -> Table:
        """The last value in each group that is not null."""
        return self._word("last", self._named(column, "last"))

    def var(self, column: RowLike | None = None, ddof: float = 0) -> Table:
        """The variance in each group, as np.var."""
        return self._word("var", column, ddof=ddof)

    def std(self, column: RowLike | None = None, ddof: float = 0) -> Table:
        """The standard deviation in each group, as np.std."""
        return self._word("std", column, ddof=ddof)

    def n_unique(self, column: RowLike | None = None) -> Table:
        """How many values differ in each group; null is none."""
        return self._word("n_unique", column)

    def quantile(self, q: Any, column: RowLike | None = None) -> Table:
        """The quantile `q` in each group, as np.quantile."""
        return self._word("quantile", column, q)

    def argmin(self, by: RowLike, value: RowLike | None = None) -> Table:
        """`value` in each group where `by` is least; ties to the first."""
        return self._word("argmin", self._named(value, "argmin"), by)

    def argmax(self, by: RowLike, value: RowLike | None = None) -> Table:
        """`value` in each group where `by` is greatest; ties to the first."""
        return self._word("argmax", self._named(value, "argmax"), by)

    def collect_list(self, column: RowLike | None = None) -> Table:
        """What is not null in each group as a list, in table order."""
        return self._word("collect_list", column)

    def _named(self, column: RowLike | None, word: str) -> RowLike | None:
        if column is None and not self._table.schema.bare:
            # The whole record has the keys' columns in it.
            raise SchemaError(
                f"{word} of groups needs a column or a function",
                location=user_location(),
                hint=f"the whole record, as one column: agg(record=so.{word}(...))",
            )
        return column

    def map(self, f: Callable[..., Any]) -> Table:
        """One record per group: what `f(key, rows)` gives.

        `key` is the bare key, of several a record; `rows` a table of the group's records, to be
        mapped, filtered and folded. The function is traced, and done to all groups at once.
        """
        location = user_location()
        token = next(tokens)
        lifting = Lifting(
            token,
            self._keys.schema,
            "map",
            location,
            {token: self._root(location)},
            None,
        )
        rows = self._table._made(rel.GroupRows(self._table.plan, token))
        return self._table._made(trace_group(f, [rows], lifting, self._keys.origins, "map"))

    def apply(self, f: Callable[[Any], Any], schema: Any) -> Table:
        """What `f` makes of each group: from a pyarrow.Table to a pyarrow.Table of `schema`.

        It gets the table's columns and those of computed keys, in table order, and is called
        for the groups in their order.
        """
        location = user_location()
        inner = f.function if isinstance(f, Udf) else f
        if not callable(inner):
            raise TraceError(
                f"apply needs a function of a pyarrow.Table, not a {type(f).__name__}",
                location=location,
            )
        declared = declared_schema(schema, "apply")
        captured, slots = capture_opaque(inner, "takes a pyarrow.Table", None)
        root = self._root(location)
        named = tuple(zip((n for n, _ in self._keys.named), root.keys, strict=True))
        groups = rel.GroupAggregate(root.source, named, (), label="apply", location=location)
        own = self._table.schema
        computed = [(n, e) for n, e in named if n not in own]
        source, keys = root.source, root.keys
        if computed or source.schema.names != own.names:
            kept = tuple((n, Column(n, k)) for n, k in own)
            hidden = [(HIDDEN + n, e) for n, e in named if n in own]
            source = op.Project(
                source, (*kept, *computed, *hidden), label="apply", location=location
            )
            names = [n if n not in own else HIDDEN + n for n, _ in named]
            keys = tuple(Column(n, source.schema[n]) for n in names)
        plan = rel.GroupApply(
            groups,
            (source,),
            tuple(Column(n, k) for n, k in self._keys.schema),
            (keys,),
            captured,
            (rel.RowsArgument("rows", OBJECT, 0),),
            slots,
            declared,
            label="apply",
            location=location,
        )
        return self._table._made(plan)

    def _root(self, location: Location | None) -> Root:
        expressions = [e for _, e in self._keys.named]
        source, keys = apart(self._table.plan, expressions, self._keys.origins, location)
        return Root(source, keys)

    # What groups are not.

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        methods = [m for m in dir(type(self)) if not m.startswith("_")]
        of_tables = hasattr(type(self._table), name)
        near = [] if of_tables else get_close_matches(name, methods, n=1)
        raise NoMethod(
            f"groups have no {name!r}",
            location=user_location(),
            hint=f"use {_OTHER_WORDS[name]}"
            if name in _OTHER_WORDS
            else f"did you mean {near[0]!r}?"
            if near
            else _MAKES,
        )

    def _no_table(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(_MAKES)

    __iter__ = __len__ = __getitem__ = __bool__ = __array__ = __array_ufunc__ = _no_table


def _shown(wanted: Any) -> str:
    if callable(wanted):
        return f"the function {function_name(wanted)}"
    return f"a Value ({wanted.type})" if isinstance(wanted, Value) else repr(wanted)


name_methods("Groups", Groups)
