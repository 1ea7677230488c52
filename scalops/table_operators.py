"""The operators of tables that give, order, choose or multiply records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.dtypes import INT64, ArrayType
from scalops.algebra.errors import SchemaError, TraceError, user_location
from scalops.algebra.expressions import Column, Expression, call, constant
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.algebra.schema import Schema
from scalops.capture import capture_opaque
from scalops.flat_rows import flat_rows
from scalops.rows import RowFunction, Udf
from scalops.value import Value, expression_of, is_record_symbol

if TYPE_CHECKING:
    import pyarrow as pa

    from scalops.table import RowLike, Table

_ROW = "@row"


# A partition costs some time and memory of its own, records or none.
MOST_PARTITIONS = 2**16


class TableOperators:
    """A base of Table: operators that change which records there are, and in which order."""

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

    def _made(self, plan: Operator) -> Table:
        return type(self)(plan)  # type: ignore[call-arg, return-value]

    # Parts of a table.

    def limit(self, n: Any) -> Table:
        """The first `n` records; `n` is an int or a Value."""
        location = user_location()
        if isinstance(n, Value):
            length = _integer(n, "limit")
            return self._made(
                op.Slice(self.plan, constant(0), length, label="limit", location=location)
            )
        count = count_of(n, "limit", 0)
        return self._made(op.Limit(self.plan, count, label="limit", location=location))

    def slice(self, start: Any, length: Any = None) -> Table:
        """`length` records from number `start` on, or all that follow; ints or Values.

        Beyond the end there are fewer records. A negative number is an error, of a Value a
        DataError when the plan runs.
        """
        first = _integer(start, "slice")
        many = None if length is None else _integer(length, "slice")
        return self._made(op.Slice(self.plan, first, many, label="slice", location=user_location()))

    def distinct(self, *columns: str) -> Table:
        """The first of equal records; nulls are one value, NaNs are, 0.0 and -0.0 are.

        Given columns, records are equal that are so in these.
        """
        fields = (field for name in columns for field, _ in self._fields(name, "distinct"))
        return self._made(
            op.Distinct(
                self.plan, tuple(dict.fromkeys(fields)), label="distinct", location=user_location()
            )
        )

    def sample(self, fraction: float, seed: Any) -> Table:
        """Each record with the probability `fraction`, by the seed and its number alone."""
        share = _share(fraction, "sample")
        return self._drawn("sample", seed, 0.0, share if share < 1 else None)

    def random_split(self, weights: Iterable[float], seed: Any) -> list[Table]:
        """Tables that share out the records at random, in the proportion of the weights.

        Each record is in exactly one of them, by the seed and its number alone.
        """
        location = user_location()
        try:
            given = [float(w) for w in weights]
        except (TypeError, ValueError):
            given = []
        if not given or not all(0 <= w < np.inf for w in given) or sum(given) <= 0:
            raise SchemaError(
                f"random_split needs a list of shares that are not negative, not {weights!r}",
                location=location,
                hint="write random_split([0.8, 0.2], seed)",
            )
        ends = np.cumsum(given)
        bounds = [0.0, *(ends / ends[-1]).tolist()]
        last = max(i for i, w in enumerate(given) if w > 0)  # no number is 1 or more
        return [
            self._drawn("random_split", seed, low, high if i < last else None)
            for i, (low, high) in enumerate(pairwise(bounds))
        ]

    def _drawn(self, label: str, seed: Any, low: float, high: float | None) -> Table:
        """The records whose random number is in low..high, or in low..1."""
        numbered = self._numbered(label)
        row = Column(numbered.schema.names[0], INT64)
        number = call(function("random_uniform"), _integer(seed, label), row)
        kept: Expression = call(function("greater_equal"), number, constant(low))
        if high is not None:
            below = call(function("less"), number, constant(high))
            kept = call(function("bitwise_and"), kept, below) if low > 0 else below
        # Where types are found from a few records, all of them are taken: see the interpreter.
        drawn = op.Filter(numbered, kept, label="sample", location=numbered.location)
        return self._without_number(drawn, label)

    # Order.

    def sort(self, *keys: RowLike, descending: bool | Sequence[bool] = False) -> Table:
        """The records by keys, column names or functions of a record; stable.

        A table of bare values is sorted by them where no key is given. In either direction NaN
        comes last of the numbers, and null after it.
        """
        location = user_location()
        if not keys:
            if not self.schema.bare:
                raise SchemaError(
                    f"sort needs a key; the table has {self.columns}",
                    location=location,
                    hint='write sort("k") or sort(lambda r: ...)',
                )
            keys = ("value",)
        made = [self._key(k) for k in keys]
        down = _directions(descending, len(keys))
        return self._made(
            op.Sort(
                self.plan,
                tuple(m.outputs[0] for m in made),
                down,
                label="sort",
                origin=tuple(made),
                location=location,
            )
        )

    def _key(self, key: RowLike) -> RowFunction:
        if isinstance(key, (list, tuple)):
            raise SchemaError(
                f"sort's key is {key!r}",
                location=user_location(),
                hint="pass keys one by one: sort(*names)",
            )
        made = self._row_function(key, "sort")
        if made.names is not None:
            raise TraceError(
                f"sort's function returns the columns {list(made.names)}; expected one value",
                location=made.location,
                hint="give several keys: sort(lambda r: r.a, lambda r: r.b)",
            )
        return made

    def shuffle(self, seed: Any) -> Table:
        """The records in a random order, by the seed and their number alone."""
        numbered = self._numbered("shuffle")
        row = Column(numbered.schema.names[0], INT64)
        bits = call(function("random_bits"), _integer(seed, "shuffle"), row)
        mixed = op.Sort(numbered, (bits,), (False,), label="shuffle", location=numbered.location)
        return self._without_number(mixed, "shuffle")

    def with_row_index(self, name: str = "index") -> Table:
        """The records with their number from 0 on as the first column, int64."""
        location = user_location()
        if not isinstance(name, str) or name in self.columns:
            raise SchemaError(
                f"with_row_index would add the column {name!r}; the table has {self.columns}",
                location=location,
                hint="pass another name",
            )
        return self._made(
            op.WithRowIndex(self.plan, name, label="with_row_index", location=location)
        )

    def _numbered(self, label: str) -> Operator:
        name = _ROW
        while name in self.schema:
            name += "_"
        return op.WithRowIndex(self.plan, name, label=label, location=user_location())

    def _without_number(self, plan: Operator, label: str) -> Table:
        kept = tuple((n, Column(n, k)) for n, k in self.schema)
        return self._made(
            op.Project(plan, kept, self.schema.bare, label=label, location=plan.location)
        )

    def repartition(self, n: int) -> Table:
        """The same records in `n` partitions."""
        count = count_of(n, "repartition", 1)
        if count > MOST_PARTITIONS:
            raise SchemaError(
                f"repartition needs at most {MOST_PARTITIONS} partitions, not {count}",
                location=user_location(),
            )
        return self._made(
            op.Repartition(self.plan, count, label="repartition", location=user_location())
        )

    # Several tables.

    def union(self, other: Table) -> Table:
        """The records of this table, then those of another with the same columns.

        Columns go together by name, in this table's order; numeric types widen as NumPy's do.
        """
        location = user_location()
        if not isinstance(other, TableOperators):
            raise SchemaError(
                f"union takes a Table, not a {type(other).__name__}", location=location
            )
        kinds = _common_schema(self.schema, other.schema, "union")
        parts = [_cast(plan, kinds) for plan in (self.plan, other.plan)]
        return self._made(op.Union(tuple(parts), label="union", location=location))

    # Records of records.

    def explode(self, column: str, index: str | None = None) -> Table:
        """One record for each item of a list or vector column, which becomes the item.

        The other columns repeat. No record for an empty list and for null; of a sparse vector
        the stored elements. `index` names a further column: the item's position, or the sparse
        element's index, int64.
        """
        location = user_location()
        kind = self._column(column, "explode").type
        if not (kind.is_list or kind.shape):
            raise SchemaError(
                f"explode needs a column of lists or vectors; {column!r} is {kind}",
                location=location,
            )
        if index is not None and (not isinstance(index, str) or index in self.columns):
            raise SchemaError(
                f"explode would add the column {index!r}; the table has {self.columns}",
                location=location,
                hint="pass another name as index=",
            )
        return self._made(
            op.Explode(self.plan, (column,), index, label="explode", location=location)
        )

    def flat_map(self, f: Callable[..., Any]) -> Table:
        """Any number of records for each: `f` returns a list of them, or a list expression.

        One that cannot be traced may return any iterable of records, one by one.
        """
        return self._made(flat_rows(f, self.plan))

    def map_batches(self, f: Callable[[pa.Table], Any], schema: Any) -> Table:
        """A function of batches: from a pyarrow.Table of records to a table of new ones.

        It is called once per block of the table, whose bounds depend on the data alone, and
        returns anything with `__arrow_c_stream__`, of the columns and types in `schema`.
        """
        location = user_location()
        inner = f.function if isinstance(f, Udf) else f
        if not callable(inner):
            raise TraceError(
                f"map_batches needs a function of a pyarrow.Table, not a {type(f).__name__}",
                location=location,
            )
        declared = declared_schema(schema)
        captured, slots = capture_opaque(inner, "takes a pyarrow.Table", None)
        return self._made(
            op.MapBatches(
                self.plan, captured, slots, declared, label="map_batches", location=location
            )
        )

    # Keeping.

    def cache(self) -> Table:
        """The same records, kept by the session once they are computed, for later plans.

        As far as its memory reaches: what does not fit is computed again. `forget()` drops them.
        """
        if isinstance(self.plan, op.Cache):
            return self._made(self.plan)
        key = self.plan.digest.hex()
        return self._made(op.Cache(self.plan, key, label="cache", location=user_location()))

    def forget(self) -> None:
        """Drop the records that the session keeps of a table made by `cache()`."""
        from scalops.session import current_session

        current_session().forget(self)


def count_of(n: Any, what: str, least: int) -> int:
    """An int of at least `least`; else SchemaError."""
    try:
        count = n.__index__() if not isinstance(n, (bool, Value)) else None
    except (AttributeError, TypeError):
        count = None
    if count is None or count < least:
        raise SchemaError(
            f"{what} needs an int of at least {least}, not {n!r}", location=user_location()
        )
    return int(count)


def _integer(value: Any, what: str) -> Expression:
    """A start, a length or a seed: an int or a Value of one."""
    if not isinstance(value, Value):
        if what in ("slice", "limit"):
            return constant(count_of(value, what, 0))
        try:
            if isinstance(value, bool):
                raise TypeError
            return constant(int(value.__index__()))
        except (AttributeError, TypeError):
            return _no_integer(value, what)
    if is_record_symbol(value):
        raise TraceError(
            f"{what} reads the record of a row function",
            location=user_location(),
            hint="it takes one number for the whole table",
        )
    kind = value.expression.type
    if kind.shape or kind.numpy.kind not in "iu":
        raise SchemaError(
            f"{what} needs an integer, not a value of type {kind}",
            location=user_location(),
            hint='convert it: so.cast(v, "int64")',
        )
    return value.expression


def _no_integer(value: Any, what: str) -> NoReturn:
    raise SchemaError(
        f"the seed of {what} is {value!r}; expected an int or a Value of one",
        location=user_location(),
    )


def _share(fraction: Any, what: str) -> float:
    try:
        share = float(fraction) if not isinstance(fraction, Value) else np.nan
    except (TypeError, ValueError):
        share = np.nan
    if not 0 <= share <= 1:
        raise SchemaError(
            f"{what} needs a fraction from 0 to 1, not {fraction!r}", location=user_location()
        )
    return share


def _directions(descending: Any, count: int) -> tuple[bool, ...]:
    if isinstance(descending, (bool, np.bool_)):
        return (bool(descending),) * count
    given = list(descending) if isinstance(descending, (list, tuple)) else []
    if len(given) != count or not all(isinstance(d, (bool, np.bool_)) for d in given):
        raise SchemaError(
            f"sort has {count} key{'s' if count != 1 else ''} and descending={descending!r};"
            " expected a bool, or a list of one for each key",
            location=user_location(),
        )
    return tuple(map(bool, given))


def _common_schema(left: Schema, right: Schema, what: str, widen: bool = True) -> Schema:
    """The left table's columns in types that hold both tables' values; SchemaError if none does."""
    location = user_location()
    if left.bare != right.bare:
        raise SchemaError(
            f"{what} of a table of bare values and one of columns: ({left}) and ({right})",
            location=location,
            hint='give the bare values a name: map(lambda v: {"x": v})',
        )
    missing = [n for n in left.names if n not in right]
    extra = [n for n in right.names if n not in left]
    if missing or extra:
        parts = [f"the second has no {missing}"] if missing else []
        parts += [f"the first has no {extra}"] if extra else []
        raise SchemaError(
            f"{what} goes by column names, and {', '.join(parts)}",
            location=location,
            hint="select(), rename() or with_columns() make them the same",
        )
    fields = []
    for name, kind in left:
        both = _widened(kind, right[name]) if widen or kind == right[name] else None
        if both is None:
            raise SchemaError(
                f"{what}: the column {name!r} is {kind} in the first table and {right[name]} in"
                " the second",
                location=location,
                hint='convert one: so.cast(r.x, "float64")' if widen else "they have one schema",
            )
        fields.append((name, both))
    return Schema(tuple(fields), left.bare)


def _widened(a: ArrayType, b: ArrayType) -> ArrayType | None:
    if a == b:
        return a
    plain = a.is_plain and b.is_plain and a.is_numeric and b.is_numeric
    if not plain or a.shape != b.shape:
        return None
    return ArrayType(np.result_type(a.numpy, b.numpy).name, a.shape)


def _cast(plan: Operator, wanted: Schema) -> Operator:
    """The table with these columns in these types; the table itself where it has them."""
    if plan.schema == wanted:
        return plan
    outputs: list[Named] = []
    for name, kind in wanted:
        own: Expression = Column(name, plan.schema[name])
        outputs.append(
            (name, own if own.type == kind else call(function("cast"), own, dtype=kind.name))
        )
    return op.Project(plan, tuple(outputs), wanted.bare, label="union", location=user_location())


def choose_table(condition: Any, x: Any, y: Any) -> Any:
    """`so.where` of two tables: the records of x where the one condition holds, else of y."""
    location = user_location()
    if not (isinstance(x, TableOperators) and isinstance(y, TableOperators)):
        raise TraceError(
            f"so.where chooses between a {type(x).__name__} and a {type(y).__name__}",
            location=location,
            hint="both are Tables of one schema, or neither is",
        )
    kinds = _common_schema(x.schema, y.schema, "so.where", widen=False)
    holds = expression_of(condition, "so.where's condition")
    if isinstance(condition, Value) and is_record_symbol(condition):
        raise TraceError(
            "so.where chooses a whole table, and its condition reads a record",
            location=location,
            hint="its condition is one Value; filter() chooses record by record",
        )
    if holds.type.name != "bool" or holds.type.shape:
        raise SchemaError(
            f"so.where needs one true or false to choose a table, not a {holds.type}",
            location=location,
        )
    fails = call(function("logical_not"), holds)
    chosen = [
        op.Filter(_cast(t.plan, kinds), c, label="where", location=location)
        for t, c in ((x, holds), (y, fails))
    ]
    return x._made(op.Union(tuple(chosen), label="where", location=location))


def declared_schema(schema: Any, what: str = "map_batches") -> Schema:
    """A schema from a dict of names to types (ours or Arrow's), a pyarrow.Schema, or a Schema."""
    import pyarrow as pa

    from scalops.engine.storage.arrow import schema_from_arrow
    from scalops.engine.storage.arrow_records import flat_schema
    from scalops.written_types import EXPECTED, readable, written_type

    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, pa.Schema):
        return schema_from_arrow(flat_schema(schema, "the declared schema"), "the declared schema")
    found: dict[str, ArrayType] = {}
    if isinstance(schema, Mapping):
        for name, kind in schema.items():
            own = written_type(kind)
            if own is None:
                raise SchemaError(
                    f"{what} declares the column {name!r} as {readable(kind)}",
                    location=user_location(),
                    hint=EXPECTED,
                )
            if isinstance(name, str):
                found[name] = own
    if not found or len(found) != len(schema):
        raise SchemaError(
            f"{what} declares its columns as {readable(schema)}",
            location=user_location(),
            hint='write {"name": so.float64, ...}, or give a pyarrow.Schema',
        )
    return Schema(tuple(found.items()))
