"""Descriptions of aggregates over a group's records: `so.sum("v")`, `so.count()` and the like.

They say what `agg` is to compute; by themselves they compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra.errors import Location, SchemaError, TraceError, user_location
from scalops.algebra.expressions import Column, Expression, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.schema import FIELD
from scalops.rows import RowFunction
from scalops.table_folds import ddof_of, level_of

if TYPE_CHECKING:
    from scalops.table import RowLike, Table

_ONLY_IN_AGG = 'it belongs in agg: t.group_by("k").agg(total=so.sum("v"))'
_NUMPY = {  # what a user of NumPy may have meant
    "minimum": "np.minimum(a, b), or v.min()",
    "maximum": "np.maximum(a, b), or v.max()",
    "count": "t.count()",
    **{k: f"np.{k}(v)" for k in ("sum", "mean", "any", "all", "var", "std", "argmin", "argmax")},
}
# What is one record of values, chosen together.
_CHOICES = {"first": "first_record", "last": "last_record", "argmin": "argmin", "argmax": "argmax"}


class GroupFold:
    """One aggregate of `agg`: the fold `kind`, of a column or of what a function gives.

    `by` is what argmin and argmax go by. `word` is what the user wrote. It is no dataclass,
    which a row function could return as a record.
    """

    __slots__ = ("by", "kind", "location", "of", "parameters", "word")
    _value_hint = _ONLY_IN_AGG
    _capture_refusal = f"it keeps an aggregate of groups; {_ONLY_IN_AGG}"

    def __init__(
        self,
        word: str,
        kind: str,
        of: RowLike | None,
        by: RowLike | None,
        parameters: tuple[tuple[str, Any], ...],
        location: Location | None,
    ) -> None:
        self.word, self.kind, self.of, self.by = word, kind, of, by
        self.parameters, self.location = parameters, location

    def __repr__(self) -> str:
        given = [a for a in (self.by, self.of) if a is not None]
        return f"so.{self.word}({', '.join(repr(a) if isinstance(a, str) else 'f' for a in given)})"

    def _misused(self, *_: Any, **__: Any) -> NoReturn:
        raise TraceError(
            f"so.{self.word}(...) is no value: it describes an aggregate of a group's records",
            location=user_location(),
            hint=f"{_ONLY_IN_AGG}; several are combined after it, by with_columns",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _misused
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __matmul__ = _misused
    __mod__ = __rmod__ = __pow__ = __rpow__ = __and__ = __rand__ = __or__ = __ror__ = _misused
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = __invert__ = _misused
    __float__ = __int__ = __index__ = __bool__ = __getitem__ = __call__ = _misused
    __array__ = __array_ufunc__ = __array_function__ = collect = explain = _misused

    def __iter__(self) -> Iterator[Any]:
        self._misused()


def _described(word: str, kind: str, of: Any, by: Any = None, **parameters: Any) -> GroupFold:
    location = user_location()
    for given in (of, by):
        if not (given is None or isinstance(given, str) or _is_function(given)):
            instead = _NUMPY.get(kind)
            hint = f"{_ONLY_IN_AGG}{f'; of an array: {instead}' if instead else ''}"
            if isinstance(given, (list, tuple)) and {*map(type, given)} == {str}:
                fields = ", ".join(f"{n!r}: r[{n!r}]" for n in given)
                hint = f"for several columns give a record: lambda r: {{{fields}}}"
            raise TraceError(
                f"so.{word} takes a column's name or a function of a record, not a"
                f" {type(given).__name__}",
                location=location,
                hint=hint,
            )
    return GroupFold(word, kind, of, by, tuple(sorted(parameters.items())), location)


def _is_function(given: Any) -> bool:
    from scalops.value import Value

    return callable(given) and not isinstance(given, (Value, GroupFold))


def sum(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the sum; 0 where all are null."""
    return _described("sum", "sum", column)


def mean(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the mean; NaN where all are null."""
    return _described("mean", "mean", column)


def min(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the least, elementwise for arrays; null where all are null."""
    return _described("min", "minimum", column)


def max(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the greatest, elementwise for arrays; null where all are null."""
    return _described("max", "maximum", column)


def count(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the number of records, or of what is not null in a column."""
    return _described("count", "count", column)


def any(column: RowLike | None = None) -> GroupFold:
    """In `agg`: whether it holds for some record."""
    return _described("any", "any", column)


def all(column: RowLike | None = None) -> GroupFold:
    """In `agg`: whether it holds for every record."""
    return _described("all", "all", column)


def first(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the first that is not null; without a column the first record."""
    return _described("first", "first", column)


def last(column: RowLike | None = None) -> GroupFold:
    """In `agg`: the last that is not null; without a column the last record."""
    return _described("last", "last", column)


def var(column: RowLike | None = None, ddof: float = 0) -> GroupFold:
    """In `agg`: the variance, as np.var."""
    return _described("var", "var", column, ddof=ddof_of(ddof, "var"))


def std(column: RowLike | None = None, ddof: float = 0) -> GroupFold:
    """In `agg`: the standard deviation, as np.std."""
    return _described("std", "std", column, ddof=ddof_of(ddof, "std"))


def n_unique(column: RowLike | None = None) -> GroupFold:
    """In `agg`: how many values differ; null is none."""
    return _described("n_unique", "n_unique", column)


def quantile(q: Any, column: RowLike | None = None) -> GroupFold:
    """In `agg`: the quantile `q`, between neighbours as np.quantile; a list gives a vector."""
    return _described("quantile", "quantile", column, q=level_of(q))


def argmin(by: RowLike, value: RowLike | None = None) -> GroupFold:
    """In `agg`: `value`, else the record, where `by` is least; ties to the first."""
    return _described("argmin", "argmin", value, by)


def argmax(by: RowLike, value: RowLike | None = None) -> GroupFold:
    """In `agg`: `value`, else the record, where `by` is greatest; ties to the first."""
    return _described("argmax", "argmax", value, by)


def collect_list(column: RowLike | None = None) -> GroupFold:
    """In `agg`: a list of what is not null, in table order."""
    return _described("collect_list", "collect_list", column)


# As folds.


@dataclass(frozen=True)
class Made:
    """The folds of one aggregate, and the row functions behind their arguments.

    `names` are those of its parts; None for one value.
    """

    names: tuple[str, ...] | None
    folds: tuple[Fold, ...]
    origins: tuple[RowFunction, ...]

    def called(self, name: str) -> tuple[Fold, ...]:
        """The folds as the column `name`: of several parts, a column of records."""
        if self.names is None:
            return (replace(self.folds[0], name=name),)
        pairs = zip(self.names, self.folds, strict=True)
        return tuple(replace(f, name=name + FIELD + n) for n, f in pairs)


def made_of(table: Table, wanted: GroupFold) -> Made:
    """The folds that a description stands for, over the columns of a table."""
    kind = wanted.kind
    if wanted.word == "count" and wanted.of is None:
        return Made(None, (_fold(wanted, ()),), ())
    names, values, origins = _values(table, wanted)
    if kind in ("argmin", "argmax"):
        by, more = _one_value(table, wanted)
        return Made(names, _chosen(wanted, kind, (by, *values), len(values)), (*origins, *more))
    if kind in _CHOICES and (names is not None or wanted.of is None):
        return Made(names, _chosen(wanted, _CHOICES[kind], values, len(values)), origins)
    if kind == "quantile":
        # np.quantile takes differences in the numbers' own type: of int8, 127 - -128 is -1.
        values = tuple(
            call(function("cast"), v, dtype="float64")
            if not v.type.is_list and v.type.numpy.kind == "i"
            else v
            for v in values
        )
    return Made(names, tuple(_fold(wanted, (v,)) for v in values), origins)


def _fold(wanted: GroupFold, arguments: tuple[Expression, ...]) -> Fold:
    return Fold(
        wanted.word, wanted.kind, arguments, parameters=wanted.parameters, location=wanted.location
    )


def _chosen(
    wanted: GroupFold, kind: str, arguments: tuple[Expression, ...], count: int
) -> tuple[Fold, ...]:
    return tuple(
        Fold(wanted.word, kind, arguments, output=i, location=wanted.location) for i in range(count)
    )


Values = tuple[tuple[str, ...] | None, tuple[Expression, ...], tuple[RowFunction, ...]]


def _values(table: Table, wanted: GroupFold) -> Values:
    """What is folded: names where it is a structure, and expressions."""
    schema, of = table.schema, wanted.of
    if of is None:
        if schema.bare:
            return None, (Column("value", schema["value"]),), ()
        if wanted.kind in _CHOICES:
            return schema.names, tuple(Column(n, k) for n, k in schema), ()
        raise SchemaError(
            f"so.{wanted.word}() needs a column or a function; the table has {table.columns}",
            location=wanted.location,
            hint=f'write so.{wanted.word}("column")',
        )
    return values_of(table, of, f"so.{wanted.word}")


def values_of(table: Table, of: RowLike, what: str) -> Values:
    """What a column's name or a function stands for: names of a structure, and expressions."""
    made = table._row_function(of, what)
    return made.names, made.outputs, () if isinstance(of, str) else (made,)


def _one_value(table: Table, wanted: GroupFold) -> tuple[Expression, tuple[RowFunction, ...]]:
    assert wanted.by is not None
    names, values, origins = values_of(table, wanted.by, f"so.{wanted.word}")
    if names is not None:
        raise SchemaError(
            f"so.{wanted.word} goes by one value for each record, not by the columns {list(names)}",
            location=wanted.location,
        )
    return values[0], origins


def described(word: str, *given: Any, **parameters: Any) -> GroupFold:
    """The description that `so.<word>(...)` makes."""
    maker: Callable[..., GroupFold] = globals()[word]
    return maker(*given, **parameters)
