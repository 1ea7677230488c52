"""Tables: lazy, ordered records; each method adds one logical operator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import SchemaError, TraceError, UserFunctionError, user_location
from scalops.algebra.expressions import Call, Column, Expression, Subquery, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.capture import function_name
from scalops.lazy import Lazy
from scalops.not_yet import refuse
from scalops.rows import Associative, RowFunction, known_combiner, trace_rows
from scalops.structured import StructuredValue
from scalops.table_refusals import FOLD_FIRST, NoRecords, require_parameters
from scalops.tracing import refuse_to_run
from scalops.value import Value, expression_of

if TYPE_CHECKING:
    import pyarrow as pa

RowLike = Callable[..., Any] | str


class Table(NoRecords, Lazy):
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
        kept = [(name, self._column(name, "select")) for name in columns]
        return self._project("select", kept, new)

    def with_columns(self, **new: Any) -> Table:
        """All columns, some replaced or added; new columns read the old record."""
        kept = [(n, Column(n, k)) for n, k in self.schema if n not in new]
        order = [*self.columns, *(n for n in new if n not in self.schema)]
        table = self._project("with_columns", kept, new)
        return table if table.columns == order else table._reordered(order)

    def drop(self, *columns: str) -> Table:
        """Without these columns."""
        for name in columns:
            self._column(name, "drop")
        kept = [(n, Column(n, k)) for n, k in self.schema if n not in columns]
        return self._project("drop", kept, {})

    def rename(self, names: Mapping[str, str]) -> Table:
        """Columns under other names: `{old: new}`."""
        if not isinstance(names, Mapping) or not all(isinstance(n, str) for n in names.values()):
            raise SchemaError(
                f"rename takes a dict of names to names, not {names!r}",
                location=user_location(),
                hint='write rename({"old": "new"})',
            )
        for name in names:
            self._column(name, "rename")
        kept = [(names.get(n, n), Column(n, k)) for n, k in self.schema]
        return self._project("rename", kept, {})

    def assemble(self, **vectors: Sequence[str]) -> Table:
        """Numeric columns to vector columns, which replace them; numbers become float64.

        A null among them is a DataError when the plan runs.
        """
        location = user_location()
        used: set[str] = set()
        made: list[Named] = []
        for name, columns in vectors.items():
            if isinstance(columns, str) or not columns:
                raise SchemaError(
                    f"assemble needs a list of columns for {name!r}", location=location
                )
            parts = [self._column(c, "assemble") for c in columns]
            used.update(columns)
            made.append((name, call(function("assemble"), *parts, location=location)))
        kept: list[Named] = [(n, Column(n, k)) for n, k in self.schema if n not in used]
        return Table(op.Project(self.plan, (*kept, *made), label="assemble", location=location))

    def limit(self, n: int) -> Table:
        """The first `n` records."""
        return Table(
            op.Limit(self.plan, _count(n, "limit", 0), label="limit", location=user_location())
        )

    def repartition(self, n: int) -> Table:
        """The same records in `n` partitions."""
        count = _count(n, "repartition", 1)
        return Table(
            op.Repartition(self.plan, count, label="repartition", location=user_location())
        )

    # Records to a value.

    def reduce(self, f: Callable[..., Any]) -> Any:
        """Combine all records by an associative `f`, in table order.

        `f` takes two records (or bare values) and returns one; `operator.add`, `np.maximum`,
        `max` and the like are known. No records is a DataError when the plan runs.
        """
        return self._wrap(_reduce_folds(self.plan, f))

    def sum(self, f: RowLike | None = None) -> Any:
        """Sum; over no records 0 of the known shape."""
        return self._fold("sum", f)

    def mean(self, f: RowLike | None = None) -> Any:
        """Mean; over no records NaN."""
        return self._fold("mean", f)

    def min(self, f: RowLike | None = None) -> Any:
        """Least value, elementwise for arrays; no records is a DataError."""
        return self._fold("minimum", f)

    def max(self, f: RowLike | None = None) -> Any:
        """Greatest value, elementwise for arrays; no records is a DataError."""
        return self._fold("maximum", f)

    def any(self, f: RowLike | None = None) -> Any:
        """Whether it holds for some record; False over no records."""
        return self._fold("any", f)

    def all(self, f: RowLike | None = None) -> Any:
        """Whether it holds for every record; True over no records."""
        return self._fold("all", f)

    def count(self, f: RowLike | None = None) -> Any:
        """The number of records; of non-nulls, where a column or function is given."""
        if f is not None:
            return self._fold("count", f)
        location = user_location()
        fold = Fold("count", "count", (), location=location)
        return self._wrap((self.plan, (fold,), None))

    def is_empty(self) -> Any:
        """Whether there is no record."""
        location = user_location()
        fold = Fold("is_empty", "is_empty", (), location=location)
        return self._wrap((self.plan, (fold,), None))

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
        return self.collect().__arrow_c_stream__(requested_schema)

    # Building.

    def _column(self, name: object, what: str, hint: str | None = None) -> Column:
        if not isinstance(name, str) or name not in self.schema:
            near = get_close_matches(str(name), self.columns, n=1)
            hints = [f"did you mean {near[0]!r}?"] if near and isinstance(name, str) else []
            if isinstance(name, (list, tuple)):
                hints = [f"pass names one by one: {what}(*names)"]
            elif callable(name):
                name, hints = function_name(name), [f"name it: {what}(name=lambda r: ...)"]
            elif hint is not None:
                hints.append(hint)
            raise SchemaError(
                f"{what} reads {name!r}; the table has {self.columns}",
                location=user_location(),
                hint="; ".join(hints) or None,
            )
        return Column(name, self.schema[name])

    def _row_function(self, f: RowLike, what: str) -> RowFunction:
        if isinstance(f, str):
            no_name = what == "filter" or not f.isidentifier()
            column = self._column(f, what, f"write {what}(lambda r: ...)" if no_name else None)
            return RowFunction(None, (column,), (self.schema,), None, (), user_location())
        return self._trace(f, what)

    def _trace(self, f: Callable[..., Any], what: str) -> RowFunction:
        require_parameters(f, 1, what, "one, the record")
        return trace_rows(f, (self.plan,), what)

    def _project(self, label: str, kept: Sequence[Named], new: Mapping[str, Any]) -> Table:
        outputs: list[Named] = list(kept)
        origins = []
        for name, value in new.items():
            expression: Expression
            if isinstance(value, str):
                expression = self._column(value, label, f"so.lit({value!r}) is the constant string")
            elif callable(value) and not isinstance(value, Value):
                made = self._trace(value, f"{label}({name}=...)")
                if made.names is not None:
                    raise TraceError(
                        f"{label}({name}=...) returns the columns {list(made.names)};"
                        " expected one value",
                        location=made.location,
                    )
                expression = made.outputs[0]
                origins.append(made)
            else:
                expression = expression_of(value, f"{label}({name}=...)")
            outputs.append((name, expression))
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

    def _reordered(self, order: Sequence[str]) -> Table:
        plan = self.plan
        assert isinstance(plan, op.Project)
        named = dict(plan.outputs)
        outputs = tuple((n, named[n]) for n in order)
        return Table(
            op.Project(
                plan.source, outputs, label=plan.label, origin=plan.origin, location=plan.location
            )
        )

    def _fold(self, kind: str, f: RowLike | None) -> Any:
        location = user_location()
        what = {"minimum": "min", "maximum": "max"}.get(kind, kind)
        if f is None:
            if not self.schema.bare and len(self.schema) != 1:
                raise SchemaError(
                    f"{what}() needs a column or a function; the table has {self.columns}",
                    location=location,
                )
            source, names = self.plan, (self.schema.names if not self.schema.bare else None)
            names = None
            columns = [Column(n, k) for n, k in self.schema]
        elif isinstance(f, str):
            source, names, columns = self.plan, None, [self._column(f, what)]
        else:
            made = self._trace(f, what)
            project = op.Project(self.plan, made.named, label="map", origin=made, location=location)
            source, names = project, made.names
            columns = [Column(n, k) for n, k in project.schema]
        folds = tuple(
            Fold(what if names is None else c.name, kind, (c,), location=location) for c in columns
        )
        return self._wrap((source, folds, names))

    def _wrap(self, made: tuple[Operator, tuple[Fold, ...], tuple[str, ...] | None]) -> Any:
        source, folds, names = made
        aggregate = op.Aggregate(source, folds, location=user_location())
        values = [Value(Subquery(aggregate, f.name, location=f.location)) for f in folds]
        if names is None:
            return values[0]
        return StructuredValue(dict(zip(names, values, strict=True)))


def _count(n: Any, what: str, least: int) -> int:
    if isinstance(n, Value):
        refuse(f"{what} with a Value as its number")
    try:
        count = n.__index__() if not isinstance(n, bool) else None
    except AttributeError:
        count = None
    if count is None or count < least:
        raise SchemaError(
            f"{what} needs an int of at least {least}, not {n!r}", location=user_location()
        )
    return int(count)


def _reduce_folds(
    source: Operator, f: Callable[..., Any]
) -> tuple[Operator, tuple[Fold, ...], tuple[str, ...] | None]:
    """The folds of `reduce(f)`: recognised ones by field, else one fold by the user's function."""
    location = user_location()
    schema = source.schema
    names = None if schema.bare else schema.names
    assumed = isinstance(f, Associative)
    combine = f.function if isinstance(f, Associative) else f
    known = known_combiner(combine)
    if known is not None:
        folds = tuple(
            Fold(n if names else "reduce", known, (Column(n, k),), location=location)
            for n, k in schema
        )
        return source, folds, names
    require_parameters(combine, 2, "reduce", "two, both records")
    for _ in range(3):
        made = _traced_pair(combine, source)
        made = replace(made, assumed_associative=assumed)
        if made.names != names:
            raise TraceError(
                f"reduce's function returns {_listed(made.names)};"
                f" it takes and must return {_listed(names)}",
                location=made.location,
                hint="combine two records into one of the same columns",
            )
        widened = _widened(source, made, location)
        if widened is source:
            break
        source = widened
    arguments = tuple(Column(n, k) for n, k in source.schema)
    kinds = [_recognised(e, c.name) for e, c in zip(made.outputs, arguments, strict=True)]
    if all(k is not None for k in kinds):
        folds = tuple(
            Fold(c.name if names else "reduce", k or "", (c,), origin=made, location=location)
            for k, c in zip(kinds, arguments, strict=True)
        )
    else:
        folds = tuple(
            Fold(
                c.name if names else "reduce", "reduce", arguments, made.outputs,
                tuple(a.name for a in arguments), i, origin=made, location=location,
            )
            for i, c in enumerate(arguments)
        )  # fmt: skip
    return source, folds, names


def _traced_pair(combine: Callable[..., Any], source: Operator) -> RowFunction:
    try:
        return trace_rows(combine, (source, source), "reduce")
    except UserFunctionError as error:
        if isinstance(error.__cause__, TypeError) and "'Record'" in str(error.__cause__):
            error.hint = (
                "records have no operators: map to one column first, or combine by field:"
                ' lambda a, b: {"x": a.x + b.x, ...}'
            )
        raise


def _listed(names: tuple[str, ...] | None) -> str:
    return "one bare value" if names is None else f"the columns {list(names)}"


def _widened(source: Operator, made: RowFunction, location: Any) -> Operator:
    """The source with columns in the types that the function gives, so that it can repeat."""
    outputs: list[Named] = []
    changed = False
    for (name, kind), result in zip(source.schema, made.outputs, strict=True):
        wanted: ArrayType = result.type.strong()
        if wanted.shape != kind.shape:
            raise TraceError(
                f"reduce's function turns {name!r} from {kind} into {wanted}",
                location=made.location,
                hint="a reduce keeps the shape",
            )
        expression: Expression = Column(name, kind)
        if wanted.name != kind.name:
            expression = call(function("cast"), expression, dtype=wanted.name)
            changed = True
        outputs.append((name, expression))
    if not changed:
        return source
    return op.Project(source, tuple(outputs), source.schema.bare, label="cast", location=location)


_RECOGNISED = {
    "add", "multiply", "minimum", "maximum", "logical_and", "logical_or",
    "bitwise_and", "bitwise_or",
}  # fmt: skip


def _recognised(expression: Expression, name: str) -> str | None:
    """The fold of `a.name ∘ b.name` for a well-known ∘."""
    if isinstance(expression, Call) and expression.function.name in _RECOGNISED:
        match expression.arguments:
            case (Column(name=a, record=0), Column(name=b, record=1)) if a == b == name:
                return expression.function.name
            case (Column(name=a, record=1), Column(name=b, record=0)) if a == b == name:
                # Swapped operands: only where the operation commutes may order be given up.
                return expression.function.name
    return None
