"""Tables: lazy, ordered records; each method adds one logical operator."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import SchemaError, TraceError, UserFunctionError, user_location
from scalops.algebra.expressions import Call, Column, Expression, Subquery, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.capture import function_location, function_name
from scalops.not_yet import refuse, refuse_method
from scalops.rows import Associative, RowFunction, Udf, known_combiner, trace_rows
from scalops.structured import StructuredValue
from scalops.tracing import current, refuse_to_run
from scalops.value import Value, expression_of

if TYPE_CHECKING:
    import pyarrow as pa

RowLike = Callable[..., Any] | str

_FOLD_FIRST = 'fold it first: t.sum("x")'

# What others call it, and how it is done here.
_OTHER_WORDS = {
    **dict.fromkeys(("head", "take", "iloc", "loc"), "limit(n)"),
    "tail": "collect(), and the end of its result",
    **dict.fromkeys(("show", "display", "describe"), "limit(n).collect(), or explain()"),
    **dict.fromkeys(("persist", "unpersist"), "no word for it: what a loop reads again is cached"),
    **dict.fromkeys(("groupby", "groupBy"), "group_by, which is not yet built"),
    "agg": 'sum("x"), mean("x") and the like, or reduce(f)',
    **dict.fromkeys(("merge",), "join, which is not yet built"),
    **dict.fromkeys(("sort_values", "orderBy", "order_by"), "sort, which is not yet built"),
    **dict.fromkeys(("apply", "transform", "foreach"), "map(lambda r: ...)"),
    **dict.fromkeys(("where", "query"), "filter(lambda r: ...)"),
    **dict.fromkeys(("assign", "withColumn", "with_column"), "with_columns(name=lambda r: ...)"),
    "withColumnRenamed": 'rename({"old": "new"})',
    **dict.fromkeys(("shape", "size", "height", "num_rows"), "count() and columns"),
    **dict.fromkeys(("dtypes", "printSchema"), "schema"),
    **dict.fromkeys(("to_numpy", "values", "to_dict", "to_list", "to_arrow"), "collect()"),
    **dict.fromkeys(("compute", "execute", "run", "toPandas"), "collect() or to_pandas()"),
    **dict.fromkeys(("fillna", "fill_null"), "np.where(r.v == r.v, r.v, 0.0) in with_columns"),
    "dropna": "filter(lambda r: r.v == r.v)",
}


class Table:
    """Many records, lazily: nothing runs until `collect()`."""

    __slots__ = ("__weakref__", "plan")
    __hash__ = None  # type: ignore[assignment]
    _capture_refusal = "it reads a Table, which has no records before the plan runs"
    _value_hint = _FOLD_FIRST

    def __init__(self, plan: Operator) -> None:
        self.plan = plan

    # Description.

    @property
    def schema(self) -> Schema:
        """Column names and types."""
        return self.plan.schema

    @property
    def columns(self) -> list[str]:
        """Column names."""
        return list(self.plan.schema.names)

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

        refuse_to_run("the records of a table", f"collect() runs nothing here: {_FOLD_FIRST}")
        return collect(self)

    def explain(
        self,
        stage: str = "optimized",
        format: str = "text",
        trace: bool = False,
        analyze: bool = False,
    ) -> str:
        """The plan that would compute it."""
        from scalops.explain import explain

        return explain(self, stage, format, trace, analyze)

    def to_pandas(self) -> Any:
        """Run the plan; a pandas.DataFrame."""
        return self.collect().to_pandas()

    def to_polars(self) -> Any:
        """Run the plan; a polars.DataFrame."""
        polars: Any = importlib.import_module("polars")
        return polars.from_arrow(self.collect())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.collect().__arrow_c_stream__(requested_schema)

    # What a table is not.

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        refuse_method("Table", name)
        if name not in self.schema:
            if name in _OTHER_WORDS:
                raise AttributeError(f"a Table has no {name!r}; use {_OTHER_WORDS[name]}")
            methods = [m for m in dir(Table) if not m.startswith("_")]
            near = get_close_matches(name, [*methods, *self.columns], n=1)
            raise AttributeError(
                f"a Table has neither a method nor a column {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        raise TypeError(_no_values(f"t.{name}", f'select("{name}")'))

    def __getitem__(self, key: Any) -> NoReturn:
        instead = f"select({key!r})"
        if isinstance(key, slice):
            instead = "limit(n) for the first records, or collect()[a:b]"
        elif isinstance(key, int):
            instead = "limit(n) for the first records, or collect()"
        elif isinstance(key, (list, tuple)):
            instead = "select(*names)"
        elif isinstance(key, Value) or callable(key):
            instead = "filter(lambda r: ...)"
        shown = "a:b" if isinstance(key, slice) else repr(key)
        raise TypeError(_no_values(f"t[{shown}]", instead))

    def __len__(self) -> int:
        raise TypeError(_no_values("len(t)", "count()"))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(_no_values("for r in t", "collect()"))

    def __bool__(self) -> bool:
        raise TypeError(_no_values("bool(t)", "is_empty()"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        _used_as_value("np.asarray(t)", "collect()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> NoReturn:
        _used_as_value(f"np.{ufunc.__name__} of t", "map(lambda r: ...)")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        _used_as_value(f"np.{func.__name__} of t", "map(lambda r: ...), or a fold such as sum()")

    def _no_operator(self, *_: Any) -> NoReturn:
        _used_as_value("an operator on t", 'map(lambda r: ...), or a fold such as sum("x")')

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _no_operator
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _no_operator
    __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _no_operator
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __rand__ = __or__ = __ror__ = _no_operator
    __neg__ = __abs__ = __invert__ = _no_operator

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (Value, int, float, str)):
            self._no_operator()
        return self is other

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
        _require_parameters(f, 1, what, "one, the record")
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


def _require_parameters(f: Any, count: int, what: str, expected: str) -> None:
    """TraceError where a row function cannot be called with so many records."""
    function = f.function if isinstance(f, (Udf, Associative)) else f
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, or no function at all: calling it tells
        return
    try:
        signature.bind(*[None] * count)
    except TypeError:
        raise TraceError(
            f"{what}'s function has the parameters {signature}; it takes {expected}",
            location=function_location(function),
        ) from None


def _used_as_value(asked: str, instead: str) -> NoReturn:
    trace = current()
    if trace is None:
        raise TypeError(_no_values(asked, instead))
    what = trace.what if trace.kind == "loop" else f"the function of {trace.what}"
    trace.error = trace.error or TraceError(
        f"{what} uses a Table as a value", location=user_location(), hint=_FOLD_FIRST
    )
    raise trace.error


def _no_values(asked: str, instead: str) -> str:
    return f"{asked}: a Table is lazy and holds no records; use {instead}"


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
    _require_parameters(combine, 2, "reduce", "two, both records")
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
