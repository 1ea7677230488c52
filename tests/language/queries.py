"""Random queries, each written twice: as a program of the language and as DuckDB's SQL.

A query is two texts. The language's is evaluated with the sources as `t0`, `t1`, ...; SQL's has
one more column, `ord_`, by which its records are in the order that the language defines.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

# The kinds of columns: ints, halves that add up exactly, numbers with NaN and -0.0 among them,
# numbers that are right up to rounding, texts, bools, and vectors, which are but carried along.
INT, HALF, NAN, ROUNDED, TEXT, BOOL, VECTOR = "int", "half", "nan", "rounded", "text", "bool", "vec"
_NUMBERS = (INT, HALF)
_KEYS = (INT, TEXT, NAN, HALF, BOOL)
_MOST_ROWS = 300


@dataclass(frozen=True)
class Query:
    """`columns` by name and kind, in order; `rows` are not exceeded.

    Where it is not `ordered`, there was a repartition and no sort since, and the language refuses
    a cumulative function.
    """

    program: str
    sql: str
    columns: dict[str, str]
    rows: int
    ordered: bool = True

    def of(self, *kinds: str) -> list[str]:
        """The columns of these kinds."""
        return [n for n, k in self.columns.items() if k in kinds]


def sources(seed: int) -> list[pa.Table]:
    """Small tables with nulls, duplicate keys and NaN; one is empty, one has a single record."""
    rng = np.random.default_rng(seed)
    return [_source(rng, rows) for rows in (8, 6, 7, 0, 1, 5)]


def _source(rng: np.random.Generator, rows: int) -> pa.Table:
    def some(values: Sequence[Any], kind: pa.DataType, missing: float = 0.2) -> pa.Array:
        chosen = [values[i] for i in rng.integers(len(values), size=rows)]
        holes = rng.random(rows) < missing
        return pa.array([None if h else v for v, h in zip(chosen, holes, strict=True)], kind)

    vectors = rng.integers(-4, 5, (rows, 2)).astype(float).tolist()
    return pa.table(
        {
            "k": some([0, 1, 2, 3], pa.int64()),
            "j": some([1, 2, 5], pa.int64(), 0.0),
            "v": some([-1.5, 0.0, 0.5, 2.0, 4.0], pa.float64()),
            "f": some([float("nan"), 0.0, -0.0, 1.5, -2.0], pa.float64()),
            "s": some(["a", "b", "", "ä", "ab"], pa.string()),
            "x": pa.array(vectors, pa.list_(pa.float64(), 2)),
        }
    )


_SOURCE = {"k": INT, "j": INT, "v": HALF, "f": NAN, "s": TEXT, "x": VECTOR}


class Generator:
    """Queries over the tables of `sources`, which are `t0`, `t1`, ... in SQL too."""

    def __init__(self, seed: int, tables: Sequence[pa.Table]) -> None:
        self._random = random.Random(seed)
        self._tables = tables
        self._names = 0

    def query(self, depth: int) -> Query:
        """A query of so many operators, one over the other."""
        made = self._scan()
        for _ in range(depth):
            made = self._over(made)
        return made

    def _scan(self) -> Query:
        number = self._random.choice([0, 0, 1, 1, 2, 2, 3, 4, 5])
        return Query(f"t{number}", f"t{number}", _SOURCE, len(self._tables[number]))

    def _over(self, q: Query) -> Query:
        ways: list[Callable[[Query], Query | None]] = [
            self._filter, self._compute, self._choose, self._sort, self._limit, self._slice,
            self._union, self._distinct, self._index, self._join, self._join, self._join,
            self._group, self._group, self._group_map, self._running, self._repartition,
            self._explode,
        ]  # fmt: skip
        while True:
            made = self._random.choice(ways)(q)
            if made is not None and 1 <= len(made.columns) <= 14:
                return made

    def _name(self, word: str) -> str:
        self._names += 1
        return f"{word}{self._names}"

    def _some(self, names: Sequence[str], most: int = 2) -> list[str]:
        return self._random.sample(names, min(len(names), self._random.randint(1, most)))

    # Of one table.

    def _predicate(self, q: Query) -> tuple[str, str] | None:
        tests: list[tuple[str, str]] = []
        for n in q.of(INT, HALF):
            c = self._random.choice([0, 1, 2])
            word, sql = self._random.choice([(">", ">"), ("<=", "<="), ("==", "="), ("!=", "<>")])
            tests.append((f"(r.{n} {word} {c})", f"({n} {sql} {c})"))
        tests += [(f"(r.{n} == 'a')", f"({n} = 'a')") for n in q.of(TEXT)]
        tests += [(f"so.is_null(r.{n})", f"({n} IS NULL)") for n in q.of(*_KEYS)]
        tests += [(f"r.{n}", n) for n in q.of(BOOL)]
        if not tests:
            return None
        program, sql = self._random.choice(tests)
        match self._random.randint(0, 5):
            case 0:
                return f"(~{program})", f"(NOT {sql})"
            case 1 | 2:
                word, other = self._random.choice([("&", "AND"), ("|", "OR")])
                more = self._random.choice(tests)
                return f"({program} {word} {more[0]})", f"({sql} {other} {more[1]})"
        return program, sql

    def _filter(self, q: Query) -> Query | None:
        found = self._predicate(q)
        if found is None:
            return None
        program = f"{q.program}.filter(lambda r: {found[0]})"
        return replace(q, program=program, sql=f"(SELECT * FROM {q.sql} q WHERE {found[1]})")

    def _compute(self, q: Query) -> Query | None:
        made: list[tuple[str, str, str]] = []
        for n in q.of(INT):
            c = self._random.randint(1, 3)
            made.append((f"r.{n} + {c}", f"{n} + {c}", INT))
            made.append((f"so.coalesce(r.{n}, -{c})", f"coalesce({n}, -{c})", INT))
            made += [(f"r.{n} * r.{m}", f"{n} * {m}", HALF) for m in q.of(HALF)[:1]]
        made += [(f"r.{n} * 0.5", f"{n} * 0.5", HALF) for n in q.of(HALF)]
        made += [(f"r.{n} + 1.0", f"{n} + 1.0", ROUNDED) for n in q.of(ROUNDED)]
        found = self._predicate(q)
        if found is not None:
            made.append((*found, BOOL))
            for n in q.of(HALF):
                sql = f"CASE WHEN {found[1]} THEN {n} ELSE 0.0 END"
                made.append((f"np.where({found[0]}, r.{n}, 0.0)", sql, HALF))
        if not made:
            return None
        program, sql, kind = self._random.choice(made)
        name = self._name("c")
        return replace(
            q,
            program=f"{q.program}.with_columns({name}=lambda r: {program})",
            sql=f"(SELECT {_list(q.columns)}, CAST({sql} AS {_SQL[kind]}) AS {name}, ord_"
            f" FROM {q.sql} q)",
            columns={**q.columns, name: kind},
        )

    def _choose(self, q: Query) -> Query | None:
        names = self._some(list(q.columns), len(q.columns))
        columns = {n: q.columns[n] for n in names}
        sql = f"(SELECT {_list(names)}, ord_ FROM {q.sql} q)"
        if self._random.random() < 0.3:
            old, new = names[0], self._name("n")
            renamed = {new if n == old else n: k for n, k in columns.items()}
            listed = ", ".join(f"{n} AS {new}" if n == old else n for n in names)
            return replace(
                q,
                program=f"{q.program}.select({_texts(names)}).rename({{'{old}': '{new}'}})",
                sql=f"(SELECT {listed}, ord_ FROM {q.sql} q)",
                columns=renamed,
            )
        return replace(q, program=f"{q.program}.select({_texts(names)})", sql=sql, columns=columns)

    def _sort(self, q: Query) -> Query | None:
        keys = self._some(q.of(*_KEYS)) if q.of(*_KEYS) else []
        if not keys:
            return None
        down = [self._random.random() < 0.5 for _ in keys]
        levels = []
        for n, d in zip(keys, down, strict=True):
            levels.append(f"{n} IS NULL")
            if q.columns[n] == NAN:
                levels.append(f"isnan({n})")
            levels.append(f"{n}{' DESC' if d else ''}")
        program = f"{q.program}.sort({_texts(keys)}, descending={down})"
        return replace(q, program=program, sql=_ordered(q, [*levels, "ord_"]), ordered=True)

    def _limit(self, q: Query) -> Query:
        n = self._random.randint(0, 6)
        sql = f"(SELECT * FROM {q.sql} q ORDER BY ord_ LIMIT {n})"
        return replace(q, program=f"{q.program}.limit({n})", sql=sql, rows=min(q.rows, n))

    def _slice(self, q: Query) -> Query:
        a, n = self._random.randint(0, 4), self._random.randint(0, 6)
        sql = f"(SELECT * FROM {q.sql} q ORDER BY ord_ LIMIT {n} OFFSET {a})"
        return replace(q, program=f"{q.program}.slice({a}, {n})", sql=sql, rows=min(q.rows, n))

    def _index(self, q: Query) -> Query:
        name = self._name("i")
        sql = (
            f"(SELECT row_number() OVER (ORDER BY ord_) - 1 AS {name}, {_list(q.columns)}, ord_"
            f" FROM {q.sql} q)"
        )
        program = f"{q.program}.with_row_index('{name}')"
        return replace(q, program=program, sql=sql, columns={name: INT, **q.columns})

    def _distinct(self, q: Query) -> Query | None:
        by = q.of(*_KEYS, VECTOR) if self._random.random() < 0.5 else self._keys(q)
        if not by or ((rounded := q.of(ROUNDED)) and len(by) + len(rounded) == len(q.columns)):
            return None
        whole = len(by) == len(q.columns)
        program = f"{q.program}.distinct({'' if whole else _texts(by)})"
        first = f"row_number() OVER (PARTITION BY {_list(by)} ORDER BY ord_) = 1"
        return replace(q, program=program, sql=f"(SELECT * FROM {q.sql} q QUALIFY {first})")

    def _keys(self, q: Query) -> list[str]:
        return self._some(q.of(*_KEYS)) if q.of(*_KEYS) else []

    def _repartition(self, q: Query) -> Query:
        program = f"{q.program}.repartition({self._random.randint(1, 4)})"
        return replace(q, program=program, ordered=False)

    def _explode(self, q: Query) -> Query | None:
        vectors = q.of(VECTOR)
        if not vectors or 2 * q.rows > _MOST_ROWS:
            return None
        n, name = self._random.choice(vectors), self._name("p")
        items = ", ".join(f"unnest({c}) AS {c}" if c == n else c for c in q.columns)
        unnested = f"SELECT {items}, unnest(range(len({n}))) AS {name}, ord_ FROM {q.sql} q"
        rank = f"row_number() OVER (ORDER BY ord_, {name}) AS ord_"
        columns = {c: HALF if c == n else k for c, k in q.columns.items()} | {name: INT}
        return replace(
            q,
            program=f"{q.program}.explode('{n}', index='{name}')",
            sql=f"(SELECT {_list(columns)}, {rank} FROM ({unnested}) q)",
            columns=columns,
            rows=2 * q.rows,
        )

    def _running(self, q: Query) -> Query | None:
        numbers = q.of(*_NUMBERS)
        if not numbers or not q.ordered:
            return None
        n, name = self._random.choice(numbers), self._name("r")
        over = self._random.choice([None, *q.of(INT, TEXT)])
        part = "" if over is None else f"PARTITION BY {over} "
        word, sql = self._random.choice([("cumsum", "sum"), ("cummin", "min"), ("cummax", "max")])
        window = f"OVER ({part}ORDER BY ord_ ROWS UNBOUNDED PRECEDING)"
        value = f"CASE WHEN {n} IS NULL THEN NULL ELSE {sql}({n}) {window} END"
        given = "" if over is None else f", over='{over}'"
        kind = q.columns[n]
        return replace(
            q,
            program=f"{q.program}.with_columns({name}=so.{word}('{n}'{given}))",
            sql=f"(SELECT {_list(q.columns)}, CAST({value} AS {_SQL[kind]}) AS {name}, ord_"
            f" FROM {q.sql} q)",
            columns={**q.columns, name: kind},
        )

    # Groups.

    def _group(self, q: Query) -> Query | None:
        keys = self._keys(q)
        if not keys:
            return None
        found = self._predicate(q)
        if found is not None and self._random.random() < 0.25:
            name = self._name("b")
            by = f"{name}=lambda r: {found[0]}"
            below = f"(SELECT *, CAST({found[1]} AS BOOLEAN) AS {name} FROM {q.sql} q)"
            keyed = replace(q, sql=below, columns={**q.columns, name: BOOL})
            return self._aggregated(keyed, self._aggregates(q), [name], by)
        return self._aggregated(q, self._aggregates(q), keys, _texts(keys))

    def _aggregated(
        self, q: Query, aggregates: list[tuple[str, str, str]], keys: list[str], by: str
    ) -> Query:
        made: list[tuple[str, str, str, str]] = []
        for _ in range(self._random.randint(1, 3)):
            made.append((self._name("a"), *self._random.choice(aggregates)))
        columns = {n: q.columns[n] for n in keys} | {n: k for n, _, _, k in made}
        values = ", ".join(f"CAST({s} AS {_SQL[k]}) AS {n}" for n, _, s, k in made)
        given = ", ".join(f"{n}={p}" for n, p, _, _ in made)
        return replace(
            q,
            program=f"{q.program}.group_by({by}).agg({given})",
            sql=f"(SELECT {_list(keys)}, {values}, min(ord_) AS ord_ FROM {q.sql} q"
            f" GROUP BY {_list(keys)})",
            columns=columns,
        )

    def _group_map(self, q: Query) -> Query | None:
        """Aggregates of a group's records, or of some of them, by a function of the group."""
        keys, numbers, found = self._keys(q), q.of(*_NUMBERS), self._predicate(q)
        if not keys or not numbers or found is None or self._random.random() < 0.5:  # it is dear
            return None
        n, c, t, m = self._random.choice(numbers), *map(self._name, "ctm")
        key = {k: f"key.{k}" if len(keys) > 1 else "key" for k in keys}
        given = ", ".join(f"'{k}': {e}" for k, e in key.items())
        some = f"rows.filter(lambda r: {found[0]})"
        return replace(
            q,
            program=f"{q.program}.group_by({_texts(keys)}).map(lambda key, rows: {{{given},"
            f" '{c}': {some}.count(), '{t}': {some}.sum('{n}'), '{m}': rows.sum('{n}') + 1}})",
            sql=f"(SELECT {_list(keys)}, count(*) FILTER (WHERE {found[1]}) AS {c},"
            f" CAST(coalesce(sum({n}) FILTER (WHERE {found[1]}), 0) AS {_SQL[q.columns[n]]})"
            f" AS {t}, CAST(coalesce(sum({n}), 0) + 1 AS {_SQL[q.columns[n]]}) AS {m},"
            f" min(ord_) AS ord_ FROM {q.sql} q GROUP BY {_list(keys)})",
            columns={k: q.columns[k] for k in keys} | {c: INT, t: q.columns[n], m: q.columns[n]},
        )

    def _aggregates(self, q: Query) -> list[tuple[str, str, str]]:
        made = [("so.count()", "count(*)", INT)]
        for n in (*q.of(*_KEYS), *q.of(*_NUMBERS)):
            made.append((f"so.count('{n}')", f"count({n})", INT))
        for n in q.of(INT, HALF):
            kind = q.columns[n]
            made += [
                (f"so.sum('{n}')", f"coalesce(sum({n}), 0)", kind),
                (f"so.min('{n}')", f"min({n})", kind),
                (f"so.max('{n}')", f"max({n})", kind),
                (f"so.mean('{n}')", f"coalesce(avg({n}), 'nan')", ROUNDED),
                (f"so.var('{n}')", f"coalesce(var_pop({n}), 'nan')", ROUNDED),
                (f"so.n_unique('{n}')", f"count(DISTINCT {n})", INT),
            ]
        for n in q.of(*_KEYS):
            there = f"FILTER (WHERE {n} IS NOT NULL)"
            kind = q.columns[n]
            made.append((f"so.first('{n}')", f"first({n} ORDER BY ord_) {there}", kind))
            made.append((f"so.last('{n}')", f"last({n} ORDER BY ord_) {there}", kind))
        made += [(f"so.any('{n}')", f"coalesce(bool_or({n}), false)", BOOL) for n in q.of(BOOL)]
        made += [(f"so.sum('{n}')", f"coalesce(sum({n}), 0)", ROUNDED) for n in q.of(ROUNDED)]
        return made

    # Of two tables.

    def _other(self) -> Query:
        other = self._scan()
        return self._over(other) if self._random.random() < 0.4 else other

    def _union(self, q: Query) -> Query | None:
        other = self._filter(q) if self._random.random() < 0.5 else self._scan()
        if other is None or other.columns != q.columns:
            return None
        both = " UNION ALL ".join(
            f"SELECT {_list(q.columns)}, ord_, {i} AS side_ FROM {t.sql} q"
            for i, t in enumerate((q, other))
        )
        rank = "row_number() OVER (ORDER BY side_, ord_) AS ord_"
        return replace(
            q,
            program=f"{q.program}.union({other.program})",
            sql=f"(SELECT {_list(q.columns)}, {rank} FROM ({both}) q)",
            rows=q.rows + other.rows,
            ordered=q.ordered and other.ordered,
        )

    def _join(self, q: Query) -> Query | None:
        other = self._other()
        how = self._random.choice(["inner", "left", "right", "full", "semi", "anti", "cross"])
        if q.rows * other.rows > _MOST_ROWS:
            return None
        pairs = [(a, b) for a in q.of(*_KEYS) for b in other.of(q.columns[a])]
        same = [(a, b) for a, b in pairs if a == b]
        if how == "cross":
            keys = []
        elif same and self._random.random() < 0.7:
            keys = self._random.sample(same, min(len(same), self._random.randint(1, 2)))
        elif pairs:
            keys = [self._random.choice(pairs)]
        else:
            return None
        suffix = self._name("_z")
        given = [f"how='{how}'", f"suffix='{suffix}'"]
        if keys and all(a == b for a, b in keys):
            given.insert(0, f"on={[a for a, _ in keys]}")
        elif keys:
            given[:0] = [f"left_on='{keys[0][0]}'", f"right_on='{keys[0][1]}'"]
        program = f"{q.program}.join({other.program}, {', '.join(given)})"
        return self._joined(q, other, how, keys, suffix, program)

    def _joined(
        self,
        q: Query,
        other: Query,
        how: str,
        keys: list[tuple[str, str]],
        suffix: str,
        program: str,
    ) -> Query:
        on = " AND ".join(f"a.{a} = b.{b}" for a, b in keys)
        if how in ("semi", "anti"):
            word = "EXISTS" if how == "semi" else "NOT EXISTS"
            match = f"{word} (SELECT 1 FROM {other.sql} b WHERE {on})"
            sql = f"(SELECT a.* FROM {q.sql} a WHERE {match})"
            return replace(q, program=program, sql=sql, ordered=q.ordered and other.ordered)
        own = [n for n in q.columns if how != "right" or n not in {a for a, _ in keys}]
        dropped = {b for _, b in keys} if how in ("inner", "left") else set()
        theirs = [n for n in other.columns if n not in dropped]
        columns = {n: q.columns[n] for n in own}
        listed = [f"a.{n} AS {n}" for n in own]
        for n in theirs:
            name = n + suffix if n in own else n
            columns[name] = other.columns[n]
            listed.append(f"b.{n} AS {name}")
        order = "b.ord_, a.ord_" if how == "right" else "a.ord_ NULLS LAST, b.ord_"
        joined = f"{how.upper()} JOIN {other.sql} b" + (f" ON {on}" if on else "")
        rank = f"row_number() OVER (ORDER BY {order}) AS ord_"
        return Query(
            program,
            f"(SELECT {', '.join([*listed, rank])} FROM {q.sql} a {joined})",
            columns,
            q.rows * other.rows + (q.rows + other.rows) * (how == "full"),
            q.ordered and other.ordered,
        )


_SQL = {
    INT: "BIGINT", HALF: "DOUBLE", NAN: "DOUBLE", ROUNDED: "DOUBLE", TEXT: "VARCHAR",
    BOOL: "BOOLEAN", VECTOR: "DOUBLE[]",
}  # fmt: skip


def _list(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(names)


def _texts(names: Sequence[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)


def _ordered(q: Query, keys: Sequence[str]) -> str:
    rank = f"row_number() OVER (ORDER BY {', '.join(keys)}) AS ord_"
    return f"(SELECT {_list(q.columns)}, {rank} FROM {q.sql} q)"
