"""Tables: lazy, ordered records; each method adds one logical operator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.errors import SchemaError, TraceError, user_location
from scalops.algebra.expressions import Column, Expression, call
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import FIELD, Schema
from scalops.capture import function_name
from scalops.joining import TableJoins
from scalops.lazy import Lazy, name_methods
from scalops.rows import RowFunction, trace_rows
from scalops.running import RunningAggregate, with_running
from scalops.sinks import TableWriters
from scalops.table_folds import TableFolds
from scalops.table_groups import TableGroups
from scalops.table_operators import TableOperators
from scalops.table_refusals import FOLD_FIRST, NoRecords, require_parameters
from scalops.tracing import refuse_to_run
from scalops.value import Value, expression_of

if TYPE_CHECKING:
    import pyarrow as pa

RowLike = Callable[..., Any] | str


class Table(TableOperators, TableFolds, TableGroups, TableJoins, TableWriters, NoRecords, Lazy):
    """Many records, lazily: nothing runs until `collect()`."""

    __slots__ = ("__weakref__", "plan")

    def __init__(self, plan: Operator) -> None:
        self.plan = plan

    # Description.

    @property
    def schema(self) -> Schema:
        """Column names and types."""
        return self.plan.schema

    def __repr__(self) -> str:
        return f"Table({self.plan.schema})"

    # Records to records.

    def map(self, f: RowLike) -> Table:
        """One new record per record.

        `f` returns a scalar or array expression (a bare value), a tuple (columns `_0`, `_1`,
        ...), or a dict, NamedTuple or dataclass (named columns).
        """
        made = self._row_function(f, "map")
        bare = made.names is None
        return Table(
            op.Project(
                self.plan, made.named, bare, label="map", origin=made, location=user_location()
            )
        )

    def filter(self, p: RowLike) -> Table:
        """The records for which `p` is true; null drops."""
        made = self._row_function(p, "filter")
        if made.names is not None:
            raise TraceError(
                f"filter's function returns the columns {list(made.names)}; expected true or false",
                location=made.location,
            )
        return Table(
            op.Filter(
                self.plan,
                made.outputs[0],
                label="filter",
                origin=made,
                location=user_location(),
            )
        )

    def select(self, *columns: str, **new: Any) -> Table:
        """The named columns, and new ones; new columns read the old record."""
        kept = [field for name in columns for field in self._fields(name, "select")]
        return self._project("select", kept, new)

    def with_columns(self, **new: Any) -> Table:
        """All columns, some replaced or added; new columns read the old record."""
        own = self.columns
        kept = [(n, Column(n, k)) for n, k in self.schema if n.split(FIELD)[0] not in new]
        order = [*own, *(n for n in new if n not in own)]
        table = self._project("with_columns", kept, new)
        return table if table.columns == order else table._reordered(order)

    def drop(self, *columns: str) -> Table:
        """Without these columns."""
        dropped = {n for name in columns for n, _ in self._fields(name, "drop")}
        kept = [(n, Column(n, k)) for n, k in self.schema if n not in dropped]
        return self._project("drop", kept, {})

    def rename(self, names: Mapping[str, str]) -> Table:
        """Columns under other names: `{old: new}`."""
        if not isinstance(names, Mapping) or not all(isinstance(n, str) for n in names.values()):
            raise SchemaError(
                f"rename takes a dict of names to names, not {names!r}",
                location=user_location(),
                hint='write rename({"old": "new"})',
            )
        renamed = {
            field: new + field[len(name) :]
            for name, new in names.items()
            for field, _ in self._fields(name, "rename")
        }
        kept = [(renamed.get(n, n), Column(n, k)) for n, k in self.schema]
        self._require_apart([n for n, _ in kept], "rename")
        return self._project("rename", kept, {})

    def assemble(self, **vectors: Sequence[str]) -> Table:
        """Numeric columns to vector columns, which replace them; numbers become float64.

        A null among them is a DataError when the plan runs.
        """
        location = user_location()
        used: set[str] = set()
        made: list[Named] = []
        for name, columns in vectors.items():
            if not isinstance(columns, (list, tuple)) or not columns:
                raise SchemaError(
                    f"assemble needs a list of columns for {name!r}", location=location
                )
            parts = [self._column(c, "assemble") for c in columns]
            used.update(columns)
            made.append((name, call(function("assemble"), *parts, location=location)))
        kept: list[Named] = [(n, Column(n, k)) for n, k in self.schema if n not in used]
        return Table(op.Project(self.plan, (*kept, *made), label="assemble", location=location))

    # Running.

    def collect(self) -> pa.Table:
        """Run the plan; a pyarrow.Table."""
        from scalops.session import collect

        refuse_to_run("the records of a table", f"collect() runs nothing here: {FOLD_FIRST}")
        return collect(self)

    def to_pandas(self) -> Any:
        """Run the plan; a pandas.DataFrame."""
        return self.collect().to_pandas()

    def to_polars(self) -> Any:
        """Run the plan; a polars.DataFrame."""
        polars: Any = importlib.import_module("polars")
        return polars.from_arrow(self.collect())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        from scalops.arrow_out import batches_of

        return batches_of(self).__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        from scalops.engine.storage import schema_to_arrow

        return schema_to_arrow(self.schema).__arrow_c_schema__()

    # Building.

    def _column(self, name: object, what: str, hint: str | None = None) -> Column:
        if not isinstance(name, str) or name not in self.schema:
            near = get_close_matches(str(name), self.columns, n=1)
            hints = [f"did you mean {near[0]!r}?"] if near and isinstance(name, str) else []
            if isinstance(name, str) and self.schema.holds_records(name):
                fields = [n[len(name) + len(FIELD) :] for n in self.schema.fields_of(name)]
                raise SchemaError(
                    f"{what} needs one value for each record; {name!r} holds records of {fields}",
                    location=user_location(),
                    hint="read a field of it by a function, where it takes one: lambda p:"
                    f" p[{name!r}][{fields[0]!r}]",
                )
            if isinstance(name, (list, tuple)):
                hints = [f"pass names one by one: {what}(*names)"]
            elif callable(name):
                named = f"name it: {what}(name=lambda r: ...)"
                if what == "distinct":
                    named = "make it a column first: with_columns(name=lambda r: ...)"
                name, hints = function_name(name), [named]
            elif hint is not None:
                hints.append(hint)
            raise SchemaError(
                f"{what} reads {name!r}; the table has {self.columns}",
                location=user_location(),
                hint="; ".join(hints) or None,
            )
        return Column(name, self.schema[name])

    def _fields(self, name: object, what: str) -> list[Named]:
        """The columns that a column of the user's stands for: its fields, if it holds records."""
        fields = self.schema.fields_of(name) if isinstance(name, str) else ()
        if not fields:
            return [(str(name), self._column(name, what))]
        return [(n, Column(n, self.schema[n])) for n in fields]

    def _row_function(self, f: RowLike, what: str) -> RowFunction:
        if isinstance(f, str) and self.schema.holds_records(f):
            fields = self._fields(f, what)
            inner = tuple(n[len(f) + len(FIELD) :] for n, _ in fields)
            read = tuple(e for _, e in fields)
            return RowFunction(inner, read, (self.schema,), None, (), user_location())
        if isinstance(f, str):
            no_name = what == "filter" or not f.isidentifier()
            column = self._column(f, what, f"write {what}(lambda r: ...)" if no_name else None)
            return RowFunction(None, (column,), (self.schema,), None, (), user_location())
        return self._trace(f, what)

    def _trace(self, f: Callable[..., Any], what: str) -> RowFunction:
        require_parameters(f, 1, what, "one, the record")
        return trace_rows(f, (self.plan,), what)

    def _project(self, label: str, kept: Sequence[Named], new: Mapping[str, Any]) -> Table:
        if any(isinstance(v, RunningAggregate) for v in new.values()):
            return with_running(self, label, kept, new)
        outputs: list[Named] = list(kept)
        origins = []
        for name, value in new.items():
            expression: Expression
            if isinstance(value, str) and self.schema.holds_records(value):
                fields = self._fields(value, label)
                outputs += [(name + n[len(value) :], e) for n, e in fields]
                continue
            if isinstance(value, str):
                expression = self._column(value, label, f"so.lit({value!r}) is the constant string")
            elif callable(value) and not isinstance(value, Value):
                made = self._trace(value, f"{label}({name}=...)")
                origins.append(made)
                if made.names == tuple(f"_{i}" for i in range(len(made.outputs))):
                    raise TraceError(
                        f"{label}({name}=...) returns the columns {list(made.names)};"
                        " expected one value",
                        location=made.location,
                        hint="np.stack makes an array of them, a dict a record",
                    )
                if made.names is not None:
                    pairs = zip(made.names, made.outputs, strict=True)
                    outputs += [(name + FIELD + n, e) for n, e in pairs]
                    continue
                expression = made.outputs[0]
            else:
                _require_one_value(value, f"{label}({name}=...)")
                expression = expression_of(value, f"{label}({name}=...)")
                if expression.type.is_string and expression.type.shape:
                    raise SchemaError(
                        f"{label}({name}=...) is an array of strings; a column holds one string,"
                        " or numbers, for each record",
                        location=user_location(),
                    )
            outputs.append((name, expression))
        self._require_apart([n for n, _ in outputs], label)
        if not outputs:
            raise SchemaError(
                f"{label} would leave no column; the table has {self.columns}",
                location=user_location(),
            )
        return Table(
            op.Project(
                self.plan,
                tuple(outputs),
                label=label,
                origin=tuple(origins),
                location=user_location(),
            )
        )

    def _require_apart(self, names: Sequence[str], what: str) -> None:
        """SchemaError where a column would be there twice, one of them as records."""
        if not any(FIELD in n for n in names):
            return  # the operator itself says so
        columns = [c for c, _ in groupby(n.split(FIELD)[0] for n in names)]
        twice = sorted(
            {c for c in columns if columns.count(c) > 1}
            | {n.split(FIELD)[0] for n in names if names.count(n) > 1}
        )
        if twice:
            raise SchemaError(
                f"{what} would give the columns {twice} twice; the table has {self.columns}",
                location=user_location(),
            )

    def _reordered(self, order: Sequence[str]) -> Table:
        plan = self.plan
        assert isinstance(plan, op.Project)
        named = dict(plan.outputs)
        outputs = tuple((n, named[n]) for c in order for n in plan.schema.fields_of(c))
        return Table(
            op.Project(
                plan.source, outputs, label=plan.label, origin=plan.origin, location=plan.location
            )
        )


def _require_one_value(value: Any, what: str) -> None:
    """SchemaError for plain items, which look like a column and would be every record's vector."""
    if isinstance(value, (list, tuple)):
        found = f"a {type(value).__name__} of {len(value)} items"
    elif isinstance(value, np.ndarray) and value.shape:
        found = f"an array of shape {value.shape}"
    else:
        return
    raise SchemaError(
        f"{what} is {found}, not one value per record",
        location=user_location(),
        hint="put it into so.table, or write so.lit(array) for the same vector in every record",
    )


name_methods(
    "Table", TableOperators, TableFolds, TableGroups, TableJoins, TableWriters, NoRecords, Table
)
