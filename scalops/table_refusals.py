"""What a table is not: records, an array, a number. What was wanted, in this language's words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NoReturn

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.schema import Schema
from scalops.capture import function_location
from scalops.rows import Associative, Udf
from scalops.tracing import current
from scalops.value import Value

FOLD_FIRST = 'fold it first: t.sum("x")'
# What others call it, and how it is done here.
_OTHER_WORDS = {
    **dict.fromkeys(("head", "take", "iloc", "loc"), "limit(n)"),
    "tail": "slice(t.count() - n)",
    **dict.fromkeys(("show", "display", "describe"), "limit(n).collect(), or explain()"),
    **dict.fromkeys(("persist", "unpersist"), "cache(), and forget()"),
    **dict.fromkeys(("groupby", "groupBy"), "group_by(*keys)"),
    "agg": 'group_by("k").agg(...), or of all records sum("x"), mean("x"), ...',
    "merge": 'join(other, on="k")',
    **dict.fromkeys(("sort_values", "orderBy", "order_by"), "sort(*keys, descending=False)"),
    **dict.fromkeys(("apply", "transform", "foreach"), "map(lambda r: ...)"),
    **dict.fromkeys(("where", "query"), "filter(lambda r: ...)"),
    **dict.fromkeys(("assign", "withColumn", "with_column"), "with_columns(name=lambda r: ...)"),
    "withColumnRenamed": 'rename({"old": "new"})',
    **dict.fromkeys(("shape", "size", "height", "num_rows"), "count() and columns"),
    **dict.fromkeys(("dtypes", "printSchema"), "schema"),
    **dict.fromkeys(("to_numpy", "values", "to_dict", "to_list", "to_arrow"), "collect()"),
    **dict.fromkeys(("compute", "execute", "run", "toPandas"), "collect() or to_pandas()"),
    **dict.fromkeys(("fillna", "fill_null"), "with_columns(v=lambda r: so.coalesce(r.v, 0.0))"),
    "dropna": "filter(lambda r: ~so.is_null(r.v))",
    **{
        f"cum{word}": f'with_columns(c=so.cum{word}("v")), after a sort'
        for word in ("sum", "min", "max", "prod")
    },
    **dict.fromkeys(
        ("shift", "diff", "pct_change"),
        "with_row_index(), and a join with the same table whose index is one more",
    ),
    "drop_duplicates": "distinct(*columns)",
    "value_counts": 'group_by("k").count().sort("count", descending=True)',
    **dict.fromkeys(("nlargest", "nsmallest", "top_k"), "sort(*keys, descending=True).limit(n)"),
    **dict.fromkeys(("concat", "vstack", "append"), "union(other)"),
}


class NoRecords:
    """A base of Table that answers what only records in memory could."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _capture_refusal = "it reads a Table, which has no records before the plan runs"
    _value_hint = FOLD_FIRST

    @property
    def schema(self) -> Schema:
        """Column names and types."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Column names; a column that holds records is one."""
        return list(self.schema.columns)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") and not name[1:].isdigit():
            raise AttributeError(name)
        if name not in self.columns:
            if name in _OTHER_WORDS:
                raise AttributeError(f"a Table has no {name!r}; use {_OTHER_WORDS[name]}")
            methods = [m for m in dir(type(self)) if not m.startswith("_")]
            near = get_close_matches(name, [*methods, *self.columns], n=1)
            raise AttributeError(
                f"a Table has neither a method nor a column {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        raise TypeError(_no_values(f"t.{name}", f'select("{name}")'))

    def __getitem__(self, key: Any) -> NoReturn:
        instead = f"select({key!r})"
        if isinstance(key, slice):
            instead = "slice(start, length), or limit(n) for the first records"
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


def require_parameters(f: Any, count: int, what: str, expected: str) -> None:
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
        f"{what} uses a Table as a value", location=user_location(), hint=FOLD_FIRST
    )
    raise trace.error


def _no_values(asked: str, instead: str) -> str:
    return f"{asked}: a Table is lazy and holds no records; use {instead}"
