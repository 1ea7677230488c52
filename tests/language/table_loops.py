"""Random loops over tables, as texts of the language.

Everything follows from one seed. Numbers stay finite (what is multiplied passes through tanh),
tables stay small (an environment's table is cut or grouped before it grows), and comparisons of
computed numbers avoid ties that rounding could break, so that any two right ways agree closely.
Integers are exact: they alone are keys and orders.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so

INT, FLOAT, TEXT, VECTOR = "int", "float", "text", "vector"
_MOST = 14  # records of a table of the environment
_MOST_JOINED = 120
_ODD = "0.0411523"  # no expression of the data gives this number
_HOWS = ("inner", "inner", "inner", "left", "left", "left", "right", "full", "semi", "anti", "cross")


@dataclass(frozen=True)
class Made:
    """A table of the program under its name there; `rows` are not exceeded.

    It `varies` where it is made of a table of the environment.
    """

    name: str
    columns: dict[str, str]
    rows: int
    ordered: bool = True
    varies: bool = False

    def of(self, *kinds: str) -> list[str]:
        """The columns of these kinds."""
        return [n for n, k in self.columns.items() if k in kinds]


@dataclass
class _Scope:
    """What a body can read: tables, values that are floats, ints and vectors of four."""

    tables: list[Made]
    floats: list[str]
    ints: list[str]
    vectors: list[str]
    lines: list[str]
    indent: str

    def say(self, line: str) -> None:
        self.lines.append(self.indent + line)


def sources(seed: int) -> dict[str, so.Table]:
    """Small tables `t0`, ...: keys that are unique, that repeat, that are null, none at all."""
    rng = np.random.default_rng(seed)

    def source(rows: int, keys: Any, missing: float) -> so.Table:
        holes = rng.random((3, rows)) < missing
        return so.from_arrow(
            pa.table(
                {
                    "k": pa.array(keys, pa.int64(), mask=holes[0]),
                    "j": pa.array(rng.integers(0, 6, rows), pa.int64()),
                    "v": pa.array(rng.integers(-8, 9, rows) / 8, pa.float64(), mask=holes[1]),
                    "s": pa.array(rng.choice(["a", "b", "ü", ""], rows), mask=holes[2]),
                    "x": pa.array(rng.normal(size=(rows, 2)).tolist(), pa.list_(pa.float64(), 2)),
                }
            )
        )

    return {
        "t0": source(6, rng.permutation(6), 0.0),
        "t1": source(13, rng.integers(0, 6, 13), 0.0),
        "t2": source(8, rng.integers(-1, 5, 8), 0.25),
        "t3": source(int(seed % 2), np.zeros(seed % 2, np.int64), 0.0),
    }


_SOURCE = {"k": INT, "j": INT, "v": FLOAT, "s": TEXT, "x": VECTOR}
_ROWS = {"t0": 6, "t1": 13, "t2": 8, "t3": 1}


def program(seed: int) -> str:
    """A text that defines `loop` over the tables of `sources`."""
    return Author(seed).program()


class Author:
    """Writes one program."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = 0

    def program(self) -> str:
        tables = [Made(n, _SOURCE, r) for n, r in _ROWS.items()]
        scope = _Scope(tables, [], [], [], [], "")
        if self._flip(3):  # a table that the loop finds ready
            self._steps(scope, 1)
        self._loop(scope, "loop", depth=0)
        return "\n".join(scope.lines) + "\n"

    # Choices.

    def _flip(self, one_in: int = 2) -> bool:
        return self._random.randrange(one_in) == 0

    def _one_of(self, options: Sequence[Any]) -> Any:
        return options[self._random.randrange(len(options))]

    def _name(self, word: str) -> str:
        self._names += 1
        return f"{word}{self._names}"

    # Loops.

    def _loop(self, outer: _Scope, name: str, depth: int) -> dict[str, Any]:
        """Say a loop; its fields, each with its columns or the kind of its value."""
        fields: dict[str, Any] = {}
        start = []
        for field in "tu"[: self._one_of((1, 1, 2))]:
            columns = {"k": INT, "v": FLOAT}
            columns |= {n: k for n, k in (("j", INT), ("s", TEXT), ("x", VECTOR)) if self._flip(3)}
            fields[field] = columns
            of = self._one_of(outer.tables[:3] if self._flip() else outer.tables)
            start.append((field, self._fitted(outer, of, columns, carry=True).name))
        for field in self._random.sample("wnc", self._one_of((0, 1, 1, 2))):
            fields[field] = {"w": FLOAT, "n": INT, "c": VECTOR}[field]
            given = {"w": outer.floats, "n": outer.ints, "c": outer.vectors}[field]
            default = {"w": "0.5", "n": "0", "c": "np.full(4, 0.25)"}[field]
            start.append((field, self._one_of([default, *given])))
        told = ", ".join(f"{f!r}: {e}" for f, e in start)
        env, number = ("env", "i") if depth == 0 else (self._name("env"), self._name("i"))
        counted = self._flip()
        outer.say(f"@so.loop({{{told}}}, {self._condition(outer, fields)}, warn=False)")
        outer.say(f"def {name}({env}{f', {number}' if counted else ''}):")
        scope = _Scope(
            [*outer.tables], [*outer.floats], [*outer.ints], [*outer.vectors], outer.lines,
            outer.indent + "    ",
        )  # fmt: skip
        state: list[Made] = []
        for field, kind in fields.items():
            own = f"{env}[{field!r}]"
            if isinstance(kind, dict):
                state.append(Made(own, kind, _MOST, varies=True))
            else:
                {FLOAT: scope.floats, INT: scope.ints, VECTOR: scope.vectors}[kind].append(own)
        scope.tables = [*state, *state, *scope.tables]
        if counted:
            scope.ints.append(number)
        self._steps(scope, self._one_of((1, 2, 3, 4)))
        if depth == 0 and self._flip(4):
            self._inside(scope)
        made = [
            f"{field!r}: {self._next(scope, field, kind, f'{env}[{field!r}]')}"
            for field, kind in fields.items()
        ]
        scope.say(f"return {{{', '.join(made)}}}")
        return fields

    def _condition(self, outer: _Scope, fields: dict[str, Any]) -> str:
        options = [f"range({self._one_of((1, 2, 3, 4))})"] * 4
        if self._flip(3):
            table = self._one_of(outer.tables)
            options.append(f"so.range({table.name}.count() % 4)")
        most = f"max_iterations={self._one_of((1, 3, 4))}"
        options += [
            f"lambda e: ~e['t'].is_empty(), {most}",
            f"lambda e: e['t'].filter(lambda r: r.k > 1).count() < {self._one_of((2, 5))}, {most}",
            f"lambda e: e['t'].sum('v') < {self._one_of((0, 1))} + {_ODD}, {most}",
        ]
        if "w" in fields:
            options += [f"lambda e: e['w'] < 0.7 + {_ODD}, {most}"] * 2
        if "n" in fields:
            options += [f"lambda e: e['n'] < {self._one_of((3, 9))}, {most}"] * 2
        made: str = self._one_of(options)
        return made

    def _inside(self, scope: _Scope) -> None:
        """A loop inside the body; its results are read by what follows."""
        name = self._name("inner")
        for field, kind in self._loop(scope, name, depth=1).items():
            own = f"{name}[{field!r}]"
            if isinstance(kind, dict):
                scope.tables.append(Made(own, kind, _MOST, varies=True))
            else:
                {FLOAT: scope.floats, INT: scope.ints, VECTOR: scope.vectors}[kind].append(own)
        if self._flip():
            scope.ints.append(f"{name}.iterations")
        self._steps(scope, 1)

    def _next(self, scope: _Scope, field: str, kind: Any, own: str) -> str:
        """The expression of a field's next value."""
        if isinstance(kind, dict):
            # Of what was made last of the environment, more often than not.
            varying = [t for t in scope.tables if t.varies]
            of = self._one_of(varying[-2:] if not self._flip(5) else scope.tables)
            return self._fitted(scope, of, kind).name
        if kind == FLOAT:
            return f"np.tanh({own} * 0.5 + {self._fold(scope)})"
        if kind == INT:
            table = self._one_of(scope.tables)
            whole = self._int_value(scope)
            return self._one_of(
                (f"{own} + 1", f"({own} + {table.name}.count()) % 7", f"({whole} + 1) % 5")
            )  # type: ignore[no-any-return]
        return self._scattered(scope, own)

    def _scattered(self, scope: _Scope, own: str) -> str:
        table = self._one_of([t for t in scope.tables if t.of(INT) and t.of(FLOAT)])
        k, v = self._one_of(table.of(INT)), self._one_of(table.of(FLOAT))
        kept = f"{table.name}.filter(lambda r: (r.{k} >= 0) & (r.{k} < 4)).distinct({k!r})"
        value = f"lambda r: np.tanh(so.coalesce(r.{v}, 0.5))"
        return f"{kept}.to_array({value}, index={k!r}, size=4, fill={own} * 0.5)"

    # Values.

    def _value(self, scope: _Scope) -> str:
        """A float that no record has part in."""
        options = [*scope.floats, *(f"np.tanh({n} * 0.25)" for n in scope.ints), "0.25"]
        options += [f"{c}[{self._one_of((0, 3))}]" for c in scope.vectors]
        made: str = self._one_of(options)
        return made

    def _int_value(self, scope: _Scope) -> str:
        made: str = self._one_of([*scope.ints, *scope.ints, "2"])
        return made

    def _fold(self, scope: _Scope) -> str:
        """A float that reads all records of a table."""
        table = self._one_of(scope.tables[-4:] if self._flip() else scope.tables)
        name, value = table.name, self._value(scope)
        options = [
            f"{name}.count() * 0.1",
            f"np.where({name}.is_empty(), 0.5, {value})",
            f"{name}.sum(lambda r: {self._float(scope, table)})",
            f"{name}.filter(lambda r: {self._predicate(scope, table)}).count() / 3",
        ]
        for v in table.of(FLOAT):
            options += [f"{name}.sum({v!r})", f"{name}.sum({v!r}) / (1 + {name}.count())"]
        options += [f"np.sum({name}.sum({x!r}))" for x in table.of(VECTOR)]
        made: str = self._one_of(options)
        return made

    # Functions of a record.

    def _float(self, scope: _Scope, table: Made) -> str:
        """A float of every record, or null."""
        leaves = [f"r.{n}" for n in table.of(FLOAT)] * 3
        leaves += [f"r.{n} * 0.25" for n in table.of(INT)]
        leaves += [f"r.{n}[1]" for n in table.of(VECTOR)]
        leaves += [f"r.{n}.str.length() * 0.5" for n in table.of(TEXT)]
        a = self._one_of(leaves or ["so.lit(0.75)"])
        b = self._one_of([*leaves, self._value(scope), self._value(scope)])
        options = [
            a,
            f"np.tanh({a} + {b})",
            f"np.tanh({a} * {b})",
            f"so.coalesce({a}, {self._value(scope)})",
            f"np.maximum({a}, {b} - 0.5)",
            f"so.coalesce({a}, 0.0) + 0.5 * so.coalesce({b}, 1.0)",
            f"{a} / (2.0 + np.abs({b}))",
            f"np.where({self._predicate(scope, table)}, {a}, 0.5)",
        ]
        options += [f"{c}[so.coalesce(r.{k}, 0) % 4] + {a}" for c in scope.vectors
                    for k in table.of(INT)[:1]]  # fmt: skip
        made: str = self._one_of(options)
        return made

    def _int(self, scope: _Scope, table: Made) -> str:
        """An int of every record, or null."""
        columns = table.of(INT)
        if not columns:
            return "so.lit(1)"
        a, b = self._one_of(columns), self._one_of(columns)
        options = [
            f"r.{a}", f"r.{a} + 1", f"r.{a} % 3", f"(r.{a} + r.{b}) % 5", f"5 - r.{a}",
            f"so.coalesce(r.{a}, 3)", f"so.coalesce(r.{a}, r.{b})", f"np.minimum(r.{a}, r.{b})",
            f"(r.{a} + {self._int_value(scope)}) % 6",
            f"np.where({self._predicate(scope, table)}, r.{a}, 2)",
        ]  # fmt: skip
        made: str = self._one_of(options)
        return made

    def _predicate(self, scope: _Scope, table: Made) -> str:
        """A bool of every record, or null."""
        options = []
        for k in table.of(INT):
            c = self._one_of((0, 1, 2, 3))
            options += [f"r.{k} {self._one_of(('>', '<=', '!=', '=='))} {c}", f"r.{k} > 0"]
            options += [f"r.{k} != {n}" for n in scope.ints]
        for v in table.of(FLOAT):
            options += [f"r.{v} < {_ODD}", f"r.{v} > {self._value(scope)} - 0.5 - {_ODD}"]
            options.append(f"so.is_null(r.{v})")
        options += [f"r.{s} != 'b'" for s in table.of(TEXT)]
        if not options:
            return f"so.lit({self._value(scope)}) < 0.6 + {_ODD}"
        one, two = self._one_of(options), self._one_of(options)
        return self._one_of((one, one, f"({one}) & ({two})", f"({one}) | ~({two})"))  # type: ignore[no-any-return]

    # Tables.

    def _steps(self, scope: _Scope, count: int) -> None:
        ways: list[Callable[[_Scope, Made], tuple[str, Made] | None]] = [
            self._filter, self._filter, self._compute, self._compute, self._join, self._join,
            self._join, self._group, self._group, self._union, self._distinct, self._sort,
            self._running, self._cut, self._choose, self._explode, self._lists, self._map_groups,
            self._cogroup, self._repartition,
        ]  # fmt: skip
        while count:
            if self._flip(5):
                self._propagate(scope)
            else:
                # The environment's tables come first, what was made comes last.
                varying = [t for t in scope.tables if t.varies]
                near = [*varying[:2], *varying[-2:]] or scope.tables
                of = self._one_of(near if not self._flip(4) else scope.tables)
                found = self._one_of(ways)(scope, of)
                if found is None:
                    continue
                self._say(scope, *found)
            count -= 1

    def _say(self, scope: _Scope, text: str, made: Made) -> Made:
        varying = [re.escape(t.name) for t in scope.tables if t.varies]
        varies = any(re.search(rf"{name}(?!\w)", text) for name in varying)
        made = replace(made, name=self._name("a"), varies=varies)
        scope.say(f"{made.name} = {text}")
        scope.tables.append(made)
        return made

    def _propagate(self, scope: _Scope) -> None:
        """Along edges and added up at their ends, as ranks and messages go."""
        edges, nodes = self._one_of(("t1", "t2")), self._one_of(("t0", "t0", "t2"))
        state = self._one_of([t for t in scope.tables[:3] if {"k", "v"} <= t.columns.keys()])
        weight = self._one_of(("r.v_right", f"so.coalesce(r.v, 0.5) * r.v_right", f"np.tanh(r.v_right * {self._value(scope)})"))
        fold = self._one_of(("sum", "sum", "max", "min"))
        sent = f"{edges}.join({state.name}.select('k', 'v'), on='k')"
        columns = _SOURCE | {"v_right": FLOAT}
        one = self._say(scope, sent, Made("", columns, _ROWS[edges] * _MOST))
        if self._flip(3):
            kept = f"{one.name}.filter(lambda r: {self._predicate(scope, Made('', _SOURCE, 0))})"
            one = self._say(scope, kept, one)
        total = f"{one.name}.group_by('j').agg(d=so.{fold}(lambda r: {weight}), n=so.count())"
        two = self._say(scope, total, Made("", {"j": INT, "d": FLOAT, "n": INT}, 6))
        back = f"{nodes}.select('k', 's', 'x').join({two.name}, left_on='k', right_on='j', how='left')"
        own = {"k": INT, "s": TEXT, "x": VECTOR, "d": FLOAT, "n": INT}
        three = self._say(scope, back, Made("", own, _ROWS[nodes]))
        v = f"lambda r: 0.1 + np.tanh(so.coalesce(r.d, {self._value(scope)}))"
        made = f"{three.name}.with_columns(v={v})"
        self._say(scope, made, replace(three, columns=own | {"v": FLOAT}))

    def _filter(self, scope: _Scope, t: Made) -> tuple[str, Made]:
        return f"{t.name}.filter(lambda r: {self._predicate(scope, t)})", t

    def _compute(self, scope: _Scope, t: Made) -> tuple[str, Made]:
        if self._flip(3):
            name = self._one_of([*t.of(INT), "m"])
            kind, text = INT, self._int(scope, t)
        else:
            name = self._one_of([*t.of(FLOAT), "f"])
            kind, text = FLOAT, self._float(scope, t)
        columns = {**t.columns, name: kind}
        return f"{t.name}.with_columns({name}=lambda r: {text})", replace(t, columns=columns)

    def _join(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        other = self._one_of(scope.tables)
        how = self._one_of(_HOWS)
        if t.rows * other.rows > 4 * _MOST_JOINED or len(t.columns) + len(other.columns) > 14:
            return None
        pairs = [(a, b) for a in t.of(INT) for b in other.of(INT)]
        same = [(a, b) for a, b in pairs if a == b]
        if how == "cross":
            keys, given = [], []
            if t.rows * other.rows > _MOST_JOINED:
                return None
        elif same and not self._flip(4):
            keys = self._random.sample(same, self._one_of((1, 1, 1, min(2, len(same)))))
            given = [f"on={[a for a, _ in keys]}"]
        elif pairs:
            keys = [self._one_of(pairs)]
            given = [f"left_on={keys[0][0]!r}, right_on={keys[0][1]!r}"]
        else:
            return None
        suffix = self._name("_z")
        text = f"{t.name}.join({other.name}, {', '.join([*given, f'how={how!r}'])}"
        ordered = t.ordered and other.ordered
        if how in ("semi", "anti"):
            return f"{text})", replace(t, ordered=ordered)
        own = [n for n in t.columns if how != "right" or n not in {a for a, _ in keys}]
        dropped = {b for _, b in keys} if how in ("inner", "left") else set()
        columns = {n: t.columns[n] for n in own}
        for n in other.columns:
            if n not in dropped:
                columns[n + suffix if n in own else n] = other.columns[n]
        rows = t.rows * max(1, other.rows) + (other.rows if how in ("right", "full") else 0)
        return f"{text}, suffix={suffix!r})", Made("", columns, rows, ordered)

    def _aggregate(self, scope: _Scope, t: Made) -> tuple[str, str]:
        options = [("so.count()", INT), ("so.count()", INT)]
        for n in t.of(FLOAT):
            options += [(f"so.{f}({n!r})", FLOAT) for f in ("sum", "sum", "min", "max", "last")]
            options.append((f"so.mean(lambda r: so.coalesce(r.{n}, 0.5))", FLOAT))
            options += [(f"so.argmax({k!r}, {n!r})", FLOAT) for k in t.of(INT)[:1]]
        for n in t.of(INT):
            options += [(f"so.{f}({n!r})", INT) for f in ("min", "max", "first", "n_unique")]
        options += [(f"so.sum(lambda r: {self._float(scope, t)})", FLOAT)] * 2
        options += [(f"so.sum({x!r})", VECTOR) for x in t.of(VECTOR)]
        options += [(f"so.first({s!r})", TEXT) for s in t.of(TEXT)]
        made: tuple[str, str] = self._one_of(options)
        return made

    def _group(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        if self._flip(4):
            name, by = "m", f"m=lambda r: {self._int(scope, t)}"
            columns = {name: INT}
        else:
            chosen = self._random.sample(keys, self._one_of((1, 1, min(2, len(keys)))))
            by = ", ".join(map(repr, chosen))
            columns = {n: t.columns[n] for n in chosen}
        told = []
        for name in self._random.sample(["d", "e", "g"], self._one_of((1, 2, 2))):
            text, kind = self._aggregate(scope, t)
            told.append(f"{name}={text}")
            columns = {**columns, name: kind}
        made = f"{t.name}.group_by({by}).agg({', '.join(told)})"
        return made, Made("", columns, t.rows, t.ordered)

    def _map_groups(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        if not t.of(INT) or not t.of(FLOAT):
            return None
        k, v = self._one_of(t.of(INT)), self._one_of(t.of(FLOAT))
        some = f"rows.filter(lambda r: {self._predicate(scope, t)})"
        text = (
            f"{t.name}.group_by({k!r}).map(lambda key, rows: {{{k!r}: key,"
            f" 'v': np.tanh(rows.sum({v!r}) + {self._value(scope)}), 'n': {some}.count()}})"
        )
        columns = {k: INT, "v": FLOAT, "n": INT}
        if k in ("v", "n"):
            return None
        return text, Made("", columns, t.rows, t.ordered)

    def _cogroup(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        other = self._one_of(scope.tables)
        if not t.of(INT) or not other.of(INT) or not other.of(FLOAT):
            return None
        k, l, v = self._one_of(t.of(INT)), self._one_of(other.of(INT)), self._one_of(other.of(FLOAT))
        inner = ".inner()" if self._flip(3) else ""
        text = (
            f"so.cogroup({t.name}.by({k!r}){inner}, {other.name}.by({l!r})).map(lambda key, a, b:"
            f" {{'k': key, 'n': a.count(), 'v': np.tanh(b.sum({v!r}) + 0.5 * a.count())}})"
        )
        rows = t.rows + other.rows
        return text, Made("", {"k": INT, "n": INT, "v": FLOAT}, rows, ordered=False)

    def _union(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        fitting = [o for o in scope.tables if o.columns.keys() >= t.columns.keys()]
        fitting = [o for o in fitting if all(o.columns[n] == k for n, k in t.columns.items())]
        other = self._one_of(fitting)
        if t.rows + other.rows > _MOST_JOINED:
            return None
        names = ", ".join(map(repr, t.columns))
        text = f"{t.name}.union({other.name}.select({names}))"
        return text, replace(t, rows=t.rows + other.rows, ordered=t.ordered and other.ordered)

    def _distinct(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        chosen = self._random.sample(keys, self._one_of((1, min(2, len(keys)))))
        return f"{t.name}.distinct({', '.join(map(repr, chosen))})", t

    def _sort(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        chosen = self._random.sample(keys, self._one_of((1, min(2, len(keys)))))
        down = [self._flip() for _ in chosen]
        text = f"{t.name}.sort({', '.join(map(repr, chosen))}, descending={down})"
        return text, replace(t, ordered=True)

    def _running(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        if not t.ordered or not t.of(FLOAT):
            return None
        v = self._one_of(t.of(FLOAT))
        over = f", over={self._one_of(t.of(INT))!r}" if t.of(INT) and self._flip() else ""
        text = self._one_of(
            (
                f"so.cumsum(lambda r: np.tanh({self._float(scope, t)}){over})",
                f"so.cummax({v!r}{over})",
                f"so.cummin({v!r}{over})",
                f"so.cumprod(lambda r: np.tanh(r.{v}) + 0.25{over})",
                f"so.cumsumprod(lambda r: np.tanh(r.{v}), lambda r: 0.5{over})",
            )
        )
        columns = {**t.columns, "q": FLOAT}
        return f"{t.name}.with_columns(q={text})", replace(t, columns=columns)

    def _cut(self, scope: _Scope, t: Made) -> tuple[str, Made]:
        text = self._one_of(
            (
                f"limit({self._one_of((1, 4, 7))})",
                f"slice({self._one_of((1, 2))}, 6)",
                f"limit(so.cast({self._int_value(scope)} + 2, 'int64'))",
                "sample(0.7, 3)",
                "cache()",
            )
        )
        return f"{t.name}.{text}", t

    def _choose(self, scope: _Scope, t: Made) -> tuple[str, Made]:
        condition = f"{self._fold(scope)} > 0.5 + {_ODD}"
        other = self._one_of((f"{t.name}.limit(3)", f"{t.name}.filter(lambda r: {self._predicate(scope, t)})"))
        return f"so.where({condition}, {t.name}, {other})", t

    def _explode(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        if not t.of(VECTOR) or 2 * t.rows > _MOST_JOINED or "p" in t.columns:
            return None
        x = self._one_of(t.of(VECTOR))
        columns = {n: FLOAT if n == x else k for n, k in t.columns.items()} | {"p": INT}
        made = replace(t, columns=columns, rows=2 * t.rows)
        return f"{t.name}.explode({x!r}, index='p')", made

    def _lists(self, scope: _Scope, t: Made) -> tuple[str, Made] | None:
        if len(t.of(INT)) < 2:
            return None
        k, j = self._random.sample(t.of(INT), 2)
        text = f"{t.name}.group_by({k!r}).agg(h=so.collect_list({j!r})).explode('h')"
        return text, replace(t, columns={k: INT, "h": INT})

    def _repartition(self, scope: _Scope, t: Made) -> tuple[str, Made]:
        return f"{t.name}.repartition({self._one_of((2, 3))})", replace(t, ordered=False)

    def _fitted(
        self, scope: _Scope, t: Made, columns: dict[str, str], carry: bool = False
    ) -> Made:
        """A table with the columns of a field, and no more records than it may have."""
        given = []
        for name, kind in columns.items():
            same = t.columns.get(name) == kind
            if same and (carry or not self._flip(3 if kind == FLOAT else 8)):
                given.append(f"{name}={name!r}")
            elif kind == FLOAT:
                given.append(f"{name}=lambda r: {self._float(scope, t)}")
            elif kind == INT:
                plain = t.of(INT) and not self._flip(3)
                text = repr(self._one_of(t.of(INT))) if plain else f"lambda r: {self._int(scope, t)}"
                given.append(f"{name}={text}")
            elif kind == TEXT:
                own = t.of(TEXT)
                given.append(f"{name}={self._one_of(own)!r}" if own else f"{name}=so.lit('z')")
            else:
                own = t.of(VECTOR)
                text = repr(self._one_of(own)) if own else "lambda r: np.ones(2) * so.coalesce(r.k, 1)"
                if not own and t.columns.get("k") != INT:
                    text = "lambda r: np.array([0.5, 1.0])"
                given.append(f"{name}={text}")
        text = f"{t.name}.select({', '.join(given)})"
        if not t.ordered:
            text += ".sort('k')"
        if t.rows > _MOST:
            cut = self._one_of((f".limit({_MOST})", f".distinct('k').limit({_MOST})", ""))
            if not cut:  # the least key's records are together one
                folds = {FLOAT: "sum", INT: "max", TEXT: "first", VECTOR: "sum"}
                others = [f"{n}=so.{folds[k]}({n!r})" for n, k in columns.items() if n != "k"]
                cut = f".group_by('k').agg({', '.join(others)}).limit({_MOST})"
            text += cut
        if carry and self._flip(4):
            text += self._one_of((".slice(1)", ".limit(0)", ".sort('k', descending=True)"))
        return self._say(scope, text, Made("", columns, _MOST))
