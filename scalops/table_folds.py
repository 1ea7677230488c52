"""The folds of tables: all records become one value, or a structure of values."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.errors import Location, SchemaError, user_location
from scalops.algebra.expressions import Column, Subquery, call
from scalops.algebra.folds import FOLDS, Fold
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import HIDDEN, Schema
from scalops.reducing import Folds, reduce_folds
from scalops.rows import RowFunction
from scalops.structured import StructuredValue
from scalops.value import Value

if TYPE_CHECKING:
    from scalops.table import RowLike

_BY = HIDDEN + "by"


class TableFolds:
    """A base of Table: what makes a value of its records.

    `f` is a column's name or a function of the record; without it the table has one column. A
    function that returns a structure gives a structure. Nulls are skipped.
    """

    __slots__ = ()
    if TYPE_CHECKING:
        plan: Operator

        @property
        def schema(self) -> Schema: ...
        @property
        def columns(self) -> list[str]: ...
        def _column(self, name: object, what: str, hint: str | None = None) -> Column: ...
        def _fields(self, name: object, what: str) -> list[Named]: ...
        def _row_function(self, f: RowLike, what: str) -> RowFunction: ...
        def _trace(self, f: Callable[..., Any], what: str) -> RowFunction: ...

    def reduce(self, f: Callable[..., Any]) -> Any:
        """Combine all records by an associative `f`, in table order.

        `f` takes two records (or bare values) and returns one; `operator.add`, `np.maximum`,
        `max` and the like are known. No records is a DataError when the plan runs.
        """
        return value_of(reduce_folds(self.plan, f))

    def aggregate(self, zero: Any, add: Any = None, merge: Any = None) -> Any:
        """`aggregate(zero, add, merge)`, or `aggregate(A())` with a class from so.Aggregate.

        `add(state, record)` and `merge(a, b)` give a state. The first state of each run of
        records is `zero`, which merging must leave without effect; `merge` is associative. Over
        no records the result is that of `zero`.
        """
        from scalops.aggregates import aggregate

        return aggregate(self.plan, zero, add, merge)

    def sum(self, f: RowLike | None = None) -> Any:
        """Sum; over no records 0 of the known shape."""
        return self._fold("sum", f)

    def mean(self, f: RowLike | None = None) -> Any:
        """Mean; over no records NaN."""
        return self._fold("mean", f)

    def var(self, f: RowLike | None = None, ddof: float = 0) -> Any:
        """Variance, as np.var; elementwise for arrays; over no records NaN."""
        return self._fold("var", f, ddof=ddof_of(ddof, "var"))

    def std(self, f: RowLike | None = None, ddof: float = 0) -> Any:
        """Standard deviation, as np.std; elementwise for arrays; over no records NaN."""
        return self._fold("std", f, ddof=ddof_of(ddof, "std"))

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

    def n_unique(self, f: RowLike | None = None) -> Any:
        """How many values differ; NaN is one value, 0.0 and -0.0 are one, null is none.

        A vector is one value.
        """
        return self._fold("n_unique", f)

    def quantile(self, q: Any, f: RowLike | None = None) -> Any:
        """The quantile `q`, from 0 to 1, between neighbours as np.quantile; a list gives a vector.

        Elementwise for arrays. All values are held until the end. NaN among them gives NaN, and
        so do no records.
        """
        level, location = level_of(q), user_location()
        source, columns, names = self._folded(f, "quantile", location)
        if any(c.type.numpy.kind == "i" for c in columns if not c.type.is_list):
            # np.quantile takes differences in the numbers' own type: of int8, 127 - -128 is -1.
            source, columns = _in_floats(source, columns, location)
        return self._made_of("quantile", source, columns, names, location, q=level)

    def first(self, f: RowLike | None = None) -> Any:
        """The first record, or the first value that is not null; no records is a DataError.

        Without `f` the record, as a structure, its nulls as they are.
        """
        return self._end("first", f)

    def last(self, f: RowLike | None = None) -> Any:
        """The last record, or the last value that is not null; no records is a DataError."""
        return self._end("last", f)

    def argmax(self, by: RowLike, value: RowLike | None = None) -> Any:
        """`value`, else the record, where `by` is greatest; ties to the first.

        NaN counts as greatest, as in np.argmax; a null in `by` is skipped. No records is a
        DataError.
        """
        return self._best("argmax", by, value)

    def argmin(self, by: RowLike, value: RowLike | None = None) -> Any:
        """`value`, else the record, where `by` is least; ties to the first.

        NaN counts as least, as in np.argmin; a null in `by` is skipped. No records is a DataError.
        """
        return self._best("argmin", by, value)

    def count(self, f: RowLike | None = None) -> Any:
        """The number of records; of non-nulls, where a column or function is given."""
        if f is not None:
            return self._fold("count", f)
        location = user_location()
        return value_of((self.plan, (Fold("count", "count", (), location=location),), None))

    def is_empty(self) -> Any:
        """Whether there is no record."""
        location = user_location()
        return value_of((self.plan, (Fold("is_empty", "is_empty", (), location=location),), None))

    # Building.

    def _fold(self, kind: str, f: RowLike | None, **parameters: Any) -> Any:
        location = user_location()
        what = FOLDS[kind].word or kind
        source, columns, names = self._folded(f, what, location)
        return self._made_of(kind, source, columns, names, location, **parameters)

    @staticmethod
    def _made_of(
        kind: str,
        source: Operator,
        columns: list[Column],
        names: tuple[str, ...] | None,
        location: Location | None,
        **parameters: Any,
    ) -> Any:
        what = FOLDS[kind].word or kind
        given = tuple(sorted(parameters.items()))
        folds = tuple(
            Fold(n, kind, (c,), parameters=given, location=location)
            for n, c in _named(what, columns, names)
        )
        return value_of((source, folds, names))

    def _folded(
        self, f: RowLike | None, what: str, location: Location | None
    ) -> tuple[Operator, list[Column], tuple[str, ...] | None]:
        """The table that is folded, its columns that are, and names where they are several."""
        if f is None:
            if len(self.schema) != 1:
                raise SchemaError(
                    f"{what}() needs a column or a function; the table has {self.columns}",
                    location=location,
                    hint=f"{what}({'q, ' if what == 'quantile' else ''}f) takes what map(f) does:"
                    " a function that returns a tuple or dict gives one Value per part",
                )
            return self.plan, [Column(n, k) for n, k in self.schema], None
        if isinstance(f, str):
            made = self._row_function(f, what)
            return self.plan, [c for c in made.outputs if isinstance(c, Column)], made.names
        made = self._trace(f, what)
        project = op.Project(self.plan, made.named, label="map", origin=made, location=location)
        return project, [Column(n, k) for n, k in project.schema], made.names

    def _end(self, kind: str, f: RowLike | None) -> Any:
        if f is None and not self.schema.bare:
            columns = [Column(n, k) for n, k in self.schema]
            return _record(self.plan, f"{kind}_record", columns, columns, self.schema.names)
        source, columns, names = self._folded(f, kind, user_location())
        if names is not None:
            return _record(source, f"{kind}_record", columns, columns, names)
        fold = Fold(kind, kind, tuple(columns), location=user_location())
        return value_of((source, (fold,), None))

    def _best(self, kind: str, by: RowLike, value: RowLike | None) -> Any:
        location = user_location()
        outputs: list[Named] = []
        origins = []
        if isinstance(by, str):
            outputs.append((_BY, self._column(by, kind)))
        else:
            made = self._trace(by, kind)
            if made.names is not None:
                raise SchemaError(
                    f"{kind} goes by one value for each record; its function returns the columns"
                    f" {list(made.names)}",
                    location=made.location,
                )
            outputs.append((_BY, made.outputs[0]))
            origins.append(made)
        names: tuple[str, ...] | None
        if value is None:
            names = None if self.schema.bare else self.schema.names
            outputs += [(n, Column(n, k)) for n, k in self.schema]
        elif isinstance(value, str):
            names = self._row_function(value, kind).names
            outputs += self._fields(value, kind)
        else:
            made = self._trace(value, kind)
            names = made.names
            outputs += made.named
            origins.append(made)
        source = op.Project(
            self.plan, tuple(outputs), label="map", origin=tuple(origins), location=location
        )
        columns = [Column(n, k) for n, k in source.schema]
        return _record(source, kind, columns, columns[1:], names)


def _named(
    what: str, columns: list[Column], names: tuple[str, ...] | None
) -> list[tuple[str, Column]]:
    return [(what if names is None else c.name, c) for c in columns]


def _record(
    source: Operator,
    kind: str,
    arguments: list[Column],
    values: list[Column],
    names: tuple[str, ...] | None,
) -> Any:
    """A record chosen by one computation over `arguments`; its parts are the `values`."""
    location = user_location()
    folds = tuple(
        Fold(n, kind, tuple(arguments), output=i, location=location)
        for i, (n, _) in enumerate(_named(kind, values, names))
    )
    return value_of((source, folds, names))


def value_of(made: Folds) -> Any:
    """The Value of one fold, or the structure of several."""
    source, folds, names = made
    aggregate = op.Aggregate(source, folds, location=user_location())
    values = [Value(Subquery(aggregate, f.name, location=f.location)) for f in folds]
    if names is None:
        return values[0]
    return StructuredValue(dict(zip(names, values, strict=True)))


def ddof_of(ddof: Any, what: str) -> float:
    if isinstance(ddof, bool) or not isinstance(ddof, Real) or not np.isfinite(float(ddof)):
        raise SchemaError(
            f"{what} divides by the number of values less ddof, which is {ddof!r};"
            " expected a number",
            location=user_location(),
            hint=f'write {what}("column", ddof=1)',
        )
    given = float(ddof)
    return int(given) if given.is_integer() else given


def _in_floats(
    source: Operator, columns: list[Column], location: Location | None
) -> tuple[Operator, list[Column]]:
    """The columns with integers as float64, and the table that has them."""
    outputs = tuple(
        (c.name, call(function("cast"), c, dtype="float64") if c.type.numpy.kind == "i" else c)
        for c in columns
    )
    project = op.Project(source, outputs, label="quantile", location=location)
    return project, [Column(n, k) for n, k in project.schema]


def level_of(q: Any) -> float | tuple[float, ...]:
    """One quantile, or several."""
    if isinstance(q, str) or callable(q):
        raise SchemaError(
            f"quantile's first argument is the level q; it got {q!r}",
            location=user_location(),
            hint='write quantile(0.5, "column")',
        )
    try:
        levels = np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError):
        levels = np.full(1, np.nan)
    if levels.ndim > 1 or not levels.size or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise SchemaError(
            f"quantile needs a number from 0 to 1, or a list of such; it got {q!r}",
            location=user_location(),
        )
    return float(levels) if levels.ndim == 0 else tuple(levels.tolist())
