"""Random programs in the language, for comparing two ways of running the same one.

Everything follows from one `random.Random`: a seeded one, or Hypothesis's `st.randoms()`, which
shrinks. Numbers stay small (states pass through tanh), comparisons avoid ties that rounding
could break, and every loop runs at least once, so that any two right ways agree closely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so

Row = Callable[[Any], Any]
DIMENSION = 3


def random_table(random: Random, rows: int | None = None, special: bool | None = None) -> so.Table:
    """A few records of every type, with nulls; `special` brings NaN and infinity in."""
    n = random.choice((0, 1, 2, 3, 4, 6)) if rows is None else rows
    odd = random.randrange(4) == 0 if special is None else special

    def number() -> float:
        if odd and random.randrange(6) == 0:
            return random.choice((math.nan, math.inf, -math.inf))
        return random.randrange(-12, 13) / 4

    def maybe(value: Any) -> Any:
        return None if random.randrange(5) == 0 else value

    vectors = pa.array([number() for _ in range(n * DIMENSION)], pa.float64())
    small = [random.choice((-128, -3, -1, 0, 1, 2, 5, 100)) for _ in range(n)]
    return so.from_arrow(
        pa.table(
            {
                "f": pa.array([maybe(number()) for _ in range(n)], pa.float64()),
                "i": pa.array([maybe(random.randrange(-4, 5)) for _ in range(n)], pa.int64()),
                "k": pa.array(small, pa.int8()),
                "b": pa.array([maybe(random.randrange(2) == 1) for _ in range(n)], pa.bool_()),
                "g": pa.array([random.randrange(-8, 9) / 4 for _ in range(n)], pa.float32()),
                "x": pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
            }
        )
    )


def random_program(random: Random) -> tuple[Any, ...]:
    """Tables, values and loops to be collected together."""
    return _Author(random).program()


class _Author:
    """Writes programs. Every choice is made when a function is written, none when it is called."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._tables = [random_table(random) for _ in range(random.choice((1, 1, 2)))]

    def program(self) -> tuple[Any, ...]:
        values: list[Any] = []
        if self._flip(3):
            # Read by records that may not be there to ask for it: it must not raise.
            made = self._fold(self._chain(values), values, small=False, may_raise=False)
            values.append(np.tanh(made))
        wanted: list[Any] = []
        for _ in range(self._one_of(1, 1, 2)):
            kind = self._one_of("table", "value", "loop", "loop", "loop")
            if kind == "table":
                wanted.append(self._chain(values))
            elif kind == "value":
                wanted.append(self._fold(self._chain(values), values, small=False))
            else:
                loop = self._loop(values, depth=0)
                wanted.append(loop)
                values.append(loop["s"])
        return tuple(wanted)

    # Choices.

    def _flip(self, one_in: int = 2) -> bool:
        return self._random.randrange(one_in) == 0

    def _one_of(self, *options: Any) -> Any:
        return options[self._random.randrange(len(options))]

    # Tables.

    def _chain(self, values: Sequence[Any], source: so.Table | None = None) -> so.Table:
        table = self._one_of(*self._tables) if source is None else source
        for _ in range(self._one_of(0, 1, 2, 3)):
            table = self._step(table, values)
        return table

    def _step(self, table: so.Table, values: Sequence[Any]) -> so.Table:
        kind = self._one_of("filter", "filter", "with", "map", "select", "limit", "repartition",
                            "plain", "order", "part", "more", "more")  # fmt: skip
        match kind:
            case "order":
                return self._ordered(table, values)
            case "part":
                return self._part(table, values)
            case "more":
                return self._more(table, values)
            case "plain" if floats := [n for n, k in table.schema if k == so.float64]:
                threshold = self._one_of(0.3, *(v for v in values if not v.shape))
                return table.map(_plain(_reader(table, floats[0]), threshold))
            case "filter":
                return table.filter(self._condition(table, values))
            case "with":
                return table.with_columns(**{self._one_of("f", "h"): self._scalar(table, values)})
            case "map":
                first, second = self._scalar(table, values), self._vector(table, values)
                if self._flip(4):
                    return table.map(self._vector(table, values))
                return table.map(lambda r: {"f": first(r), "x": second(r)})
            case "select" if len(table.columns) > 1 and not table.schema.bare:
                kept = [n for n in table.columns if self._flip()]
                return table.select(*(kept or table.columns[:1]))
            case "limit":
                return table.limit(self._one_of(0, 1, 2, 5))
            case _:
                return table.repartition(self._one_of(1, 2))

    def _ordered(self, table: so.Table, values: Sequence[Any]) -> so.Table:
        kind = self._one_of("sort", "sort", "shuffle", "index")
        if kind == "shuffle":
            return table.shuffle(self._one_of(1, *_whole(values)))
        if kind == "index" and "n" not in table.columns:
            return table.with_row_index("n")
        plain = [n for n, k in table.schema if not k.shape and k.numpy.kind in "bi"]
        keys: list[Any] = [self._one_of(*plain)] if plain and not table.schema.bare else []
        if not keys or self._flip():  # of exact numbers: no rounding decides an order
            read = _exact_key(table)
            keys.append(lambda r: read(r))
        return table.sort(*keys, descending=[self._flip() for _ in keys])

    def _part(self, table: so.Table, values: Sequence[Any]) -> so.Table:
        start = self._one_of(0, 1, 2, *_whole(values))
        match self._one_of("slice", "slice", "limit", "sample", "split", "distinct", "gate"):
            case "slice":
                return table.slice(start, self._one_of(None, 1, 3, *_whole(values)))
            case "limit":
                return table.limit(start)
            case "sample":
                return table.sample(0.6, start)
            case "split":
                return self._one_of(*table.random_split([2, 1], 5))  # type: ignore[no-any-return]
            case "distinct":
                return table.distinct()
            case _:
                scalars = [v for v in values if not v.shape]
                condition = self._one_of(True, *(v > 0.123456789 / 3 for v in scalars))
                return table.filter(_fixed(condition))

    def _more(self, table: so.Table, values: Sequence[Any]) -> so.Table:
        arrays = [n for n, k in table.schema if k.shape]
        match self._one_of("union", "union", "explode", "flat", "where", "cache"):
            case "union":
                other = self._one_of(table, table.limit(2), table.filter(
                    self._condition(table, values)))  # fmt: skip
                return table.union(other)
            case "explode" if arrays:
                return table.explode(arrays[0], self._one_of(None, "j"))
            case "flat":
                f, g = self._scalar(table, values), self._scalar(table, values)
                if self._flip():
                    return table.flat_map(lambda r: [f(r), g(r)])
                return table.flat_map(lambda r: [{"f": f(r), "h": 1}, {"f": g(r), "h": 2.5}])
            case "where":
                scalars = [v for v in values if not v.shape]
                condition = self._one_of(True, *(v > 0.123456789 / 3 for v in scalars))
                return so.where(condition, table, table.limit(1))  # type: ignore[no-any-return]
            case _:
                return table.cache()

    # Functions of a record.

    def _scalar(self, table: so.Table, values: Sequence[Any], depth: int = 2) -> Row:
        """A float64 of every record."""
        if depth == 0 or self._flip(4):
            return self._leaf(table, values)
        a = self._scalar(table, values, depth - 1)
        if self._flip(3):
            f = self._one_of(np.tanh, np.abs, np.negative, _log, _root, _decay)
            return lambda r: f(a(r))
        if self._flip(4):
            p = self._condition(table, values, depth - 1)
            if self._flip():
                return lambda r: np.where(p(r), 1, -1) * a(r)
            c = self._one_of(lambda r: -1, lambda r: 0.5, self._leaf(table, values))
            return lambda r: np.where(p(r), a(r), c(r))
        b = self._scalar(table, values, depth - 1)
        g = self._one_of(np.add, np.subtract, np.multiply, np.multiply, _divide, np.maximum)
        return lambda r: g(a(r), b(r))

    def _leaf(self, table: so.Table, values: Sequence[Any]) -> Row:
        options: list[Row] = []
        for name, kind in table.schema:
            read = _reader(table, name)
            if kind.shape:
                j = self._random.randrange(DIMENSION)
                options += [_item(read, j), _dot(read, np.arange(1.0, 1.0 + DIMENSION))]
                options += [_dot(read, v) for v in values if v.shape]
            elif kind.name == "int8":
                options.append(_wide(_times(read, read)))
            elif kind.name == "float64":
                options += [read, read]
            else:
                options.append(_wide(read))
        options += [_fixed(v) for v in values if not v.shape]
        options.append(_fixed(self._one_of(2, -1, 0.25, np.float64(1.5))))
        made: Row = self._one_of(*options)
        return made

    def _condition(self, table: so.Table, values: Sequence[Any], depth: int = 1) -> Row:
        a = self._scalar(table, values, depth)
        # No expression of the data gives this number: rounding decides no comparison.
        bound = self._one_of(-1, 0, 0, 1) + 0.123456789 / 3
        bools = [n for n, k in table.schema if k.name == "bool"]
        if bools and self._flip(3):
            b = _reader(table, bools[0])
            return self._one_of(b, lambda r: ~b(r), lambda r: b(r) | (a(r) > bound))  # type: ignore[no-any-return]
        if self._flip(4):
            c = self._condition(table, values, depth)
            return lambda r: (a(r) > bound) & c(r)
        return self._one_of(lambda r: a(r) > bound, lambda r: a(r) < bound)  # type: ignore[no-any-return]

    def _vector(self, table: so.Table, values: Sequence[Any]) -> Row:
        """A float64 vector of every record."""
        columns = [n for n, k in table.schema if k.shape == (DIMENSION,)]
        scalar = self._scalar(table, values, 1)
        if not columns:
            return lambda r: scalar(r) * np.arange(1.0, 1.0 + DIMENSION)
        read = _reader(table, columns[0])
        other = self._scalar(table, values, 1)
        kind = self._one_of(0, 1, 2, 3, 4)
        return (
            lambda r: read(r),
            lambda r: scalar(r) * read(r),
            lambda r: -other(r) * read(r) * scalar(r),
            lambda r: read(r) * scalar(r) / (1.5 + np.abs(other(r))),
            lambda r: np.tanh(read(r)) - scalar(r),
        )[kind]

    # Values.

    def _fold(
        self, table: so.Table, values: Sequence[Any], small: bool = True, may_raise: bool = True
    ) -> Any:
        """A float64 scalar, or a vector where `small` is false."""
        f = self._scalar(table, values)
        kind = self._one_of("sum", "sum", "vector", "vector", "mean", "count", "where", "variance",
                            "outer", "reduce", "max")  # fmt: skip
        match kind:
            case "vector":
                made = table.map(self._vector(table, values))
                total = (
                    made.reduce(lambda a, b: a + b) if may_raise and self._flip(4) else made.sum()
                )
                return total if not small else np.sum(total)
            case "mean":
                return table.mean(f)
            case "count":
                return table.filter(self._condition(table, values)).count() / 2.0
            case "where":
                return table.filter(self._condition(table, values)).sum(f)
            case "variance":
                center = table.mean(f)
                return table.sum(lambda r: (f(r) - center) ** 2) / (1.0 + table.count())
            case "outer":
                u, v = self._vector(table, values), self._vector(table, values)
                return np.sum(table.sum(lambda r: f(r) * np.outer(u(r), v(r))))
            case "reduce" if may_raise and self._flip():
                return table.map(f).reduce(lambda a, b: a + b)
            case "max" if may_raise and self._flip():
                return table.max(f)
            case _:
                return table.sum(f)

    # Loops.

    def _loop(self, outer: Sequence[Any], depth: int) -> Any:
        times = self._one_of(1, 2, 3)
        folds = self._one_of(0, 1, 1, 2, 2, 3)
        start = {"w": np.full(DIMENSION, 0.25), "s": 0.5, "n": 0}
        scalars = [v for v in outer if not v.shape]
        if scalars and self._flip():
            start["s"] = self._one_of(*scalars)
        script: list[Callable[[Any, Sequence[Any]], tuple[Any, Any]]] = []
        for _ in range(folds):
            script.append(self._statement(outer))
        nested = self._loop_inside(outer) if depth == 0 and self._flip(3) else None
        with_number = self._flip()

        def body(env: Any, i: Any) -> Any:
            w, s = env["w"], env["s"]
            values = [*outer, env["s"], env["w"], *([i * 1.0] if with_number else [])]
            for statement in script:
                scalar, vector = statement(env, values)
                s = s * 0.5 + np.tanh(scalar)
                w = w * 0.5 - 0.1 * np.tanh(vector)
            if nested is not None:
                s = s + nested(values)
            return {"w": w, "s": s, "n": env["n"] + 1}

        if self._flip(3):
            condition = self._loop_condition(times)
            return so.loop(start, condition, max_iterations=4, allow_nonfinite=True)(body)
        return so.loop(start, range(times), allow_nonfinite=True)(body)

    def _loop_condition(self, times: int) -> Any:
        if self._flip(3):
            table = self._tables[0]
            return lambda env: (env["n"] < times) & (table.count() + env["n"] >= 0)
        return lambda env: env["n"] < times

    def _statement(self, outer: Sequence[Any]) -> Any:
        """One or two folds, written anew whenever the body is traced, from the same choices."""
        seed = self._random.randrange(1 << 30)

        def statement(env: Any, values: Sequence[Any]) -> tuple[Any, Any]:
            writer = _Author.__new__(_Author)
            writer._random, writer._tables = Random(seed), self._tables
            # Some tables are derived before the loop's values come in.
            table = writer._chain(outer if writer._flip() else values)
            scalar = writer._fold(table, values)
            vector: Any = np.zeros(DIMENSION)
            if writer._flip():
                vector = table.map(writer._vector(table, values)).sum()
            return scalar, vector

        return statement

    def _loop_inside(self, outer: Sequence[Any]) -> Any:
        seed = self._random.randrange(1 << 30)

        def inside(values: Sequence[Any]) -> Any:
            writer = _Author.__new__(_Author)
            writer._random, writer._tables = Random(seed), self._tables
            return writer._loop(values if writer._flip(3) else outer, depth=1)["s"]

        return inside


def _reader(table: so.Table, name: str) -> Row:
    return (lambda r: r) if table.schema.bare else (lambda r: r[name])


def _whole(values: Sequence[Any]) -> list[Any]:
    """Small integers that only the run knows."""
    return [so.cast(np.abs(v) * 2.0, "int64") for v in values if not v.shape]


def _exact_key(table: so.Table) -> Row:
    """Many records have one key, and no rounding decides which."""
    floats = [n for n, k in table.schema if k == so.float64]
    if not floats:
        return lambda r: so.lit(1)
    read = _reader(table, floats[0])
    return lambda r: read(r) > 0.123456789 / 3


def _item(read: Row, j: int) -> Row:
    return lambda r: read(r)[j]


def _dot(read: Row, v: Any) -> Row:
    return lambda r: read(r) @ v


def _wide(read: Row) -> Row:
    return lambda r: so.cast(read(r), "float64")


def _times(a: Row, b: Row) -> Row:
    return lambda r: a(r) * b(r)


def _fixed(value: Any) -> Row:
    return lambda r: value


def _plain(read: Row, threshold: Any) -> Any:
    """A function that needs a truth value, and so runs record by record."""

    def by_size(r: Any) -> Any:
        v = read(r)
        if v is None:
            return {"f": 0.5, "h": None}
        return {"f": v / 2 if v > threshold else -1.0, "h": v}

    return so.udf(by_size, returns={"f": so.float64, "h": so.float64})


def _log(v: Any) -> Any:
    return np.log1p(np.abs(v))


def _root(v: Any) -> Any:
    return np.sqrt(np.abs(v))


def _decay(v: Any) -> Any:
    return np.exp(-np.abs(v))


def _divide(a: Any, b: Any) -> Any:
    return a / (1.5 + np.abs(b))
