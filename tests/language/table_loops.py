"""Random loops over tables, as texts of the language.

Everything follows from one seed. Tables stay small: an environment's table is cut or grouped
before it grows. Integers are exact: they alone are keys and orders, with texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.language.loop_parts import (
    FLOAT,
    INT,
    ODD,
    ROWS,
    SOURCE,
    TEXT,
    VECTOR,
    Made,
    Scope,
    Writer,
)  # fmt: skip

_MOST = 14  # records of a table of the environment
_MOST_JOINED = 120
_HOWS = (
    "inner", "inner", "inner", "left", "left", "left", "right", "full", "semi", "anti", "cross",
)  # fmt: skip


def program(seed: int) -> str:
    """A text that defines `loop` over the tables of `sources`."""
    return Author(seed).program()


class Author(Writer):
    """Writes one program."""

    def program(self) -> str:
        tables = [Made(n, SOURCE, r) for n, r in ROWS.items()]
        scope = Scope(tables, [], [], [], [], "")
        if self.flip(3):  # a table that the loop finds ready
            self._steps(scope, 1)
        self._loop(scope, "loop", depth=0)
        return "\n".join(scope.lines) + "\n"

    # Loops.

    def _loop(self, outer: Scope, name: str, depth: int) -> dict[str, Any]:
        """Say a loop; its fields, each with its columns or the kind of its value."""
        fields: dict[str, Any] = {}
        start = []
        for field in "tu"[: self.one_of((1, 1, 2))]:
            columns = {"k": INT, "v": FLOAT}
            columns |= {n: k for n, k in (("j", INT), ("s", TEXT), ("x", VECTOR)) if self.flip(3)}
            fields[field] = columns
            of = self.one_of(outer.tables[:3] if self.flip() else outer.tables)
            start.append((field, self._fitted(outer, of, columns, carry=True).name))
        for field in self.random.sample("wnc", self.one_of((0, 1, 1, 2))):
            fields[field] = {"w": FLOAT, "n": INT, "c": VECTOR}[field]
            given = {"w": outer.floats, "n": outer.ints, "c": outer.vectors}[field]
            default = {"w": "0.5", "n": "0", "c": "np.full(4, 0.25)"}[field]
            start.append((field, self.one_of([default, *given])))
        told = ", ".join(f"{f!r}: {e}" for f, e in start)
        env, number = ("env", "i") if depth == 0 else (self.name("env"), self.name("i"))
        counted = self.flip()
        outer.say(f"@so.loop({{{told}}}, {self._condition(outer, fields)}, warn=False)")
        outer.say(f"def {name}({env}{f', {number}' if counted else ''}):")
        scope = Scope(
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
        self._steps(scope, self.one_of((1, 2, 3, 4)))
        if depth == 0 and self.flip(4):
            self._inside(scope)
        made = [
            f"{field!r}: {self._next(scope, field, kind, f'{env}[{field!r}]')}"
            for field, kind in fields.items()
        ]
        scope.say(f"return {{{', '.join(made)}}}")
        return fields

    def _condition(self, outer: Scope, fields: dict[str, Any]) -> str:
        options = [f"range({self.one_of((2, 3, 4))})"] * 5
        if self.flip(3):
            table = self.one_of(outer.tables)
            options.append(f"so.range({table.name}.count() % 3 + 1)")
        most = f"max_iterations={self.one_of((2, 3, 4))}"
        options += [
            f"lambda e: ~e['t'].is_empty(), {most}",
            f"lambda e: e['t'].filter(lambda r: r.k > 1).count() < {self.one_of((5, 9))}, {most}",
            f"lambda e: e['t'].sum('v') < {self.one_of((1, 3))} + {ODD}, {most}",
        ]
        if "w" in fields:
            options += [f"lambda e: e['w'] < 0.7 + {ODD}, {most}"] * 2
        if "n" in fields:
            options += [f"lambda e: e['n'] < {self.one_of((3, 9))}, {most}"] * 2
        made: str = self.one_of(options)
        return made

    def _inside(self, scope: Scope) -> None:
        """A loop inside the body; its results are read by what follows."""
        name = self.name("inner")
        for field, kind in self._loop(scope, name, depth=1).items():
            own = f"{name}[{field!r}]"
            if isinstance(kind, dict):
                scope.tables.append(Made(own, kind, _MOST, varies=True))
            else:
                {FLOAT: scope.floats, INT: scope.ints, VECTOR: scope.vectors}[kind].append(own)
        if self.flip():
            scope.ints.append(f"{name}.iterations")
        self._steps(scope, 1)

    def _next(self, scope: Scope, field: str, kind: Any, own: str) -> str:
        """The expression of a field's next value."""
        if isinstance(kind, dict):
            # Of what was made last of the environment, more often than not.
            varying = [t for t in scope.tables if t.varies]
            of = self.one_of(varying[-2:] if not self.flip(5) else scope.tables)
            return self._fitted(scope, of, kind).name
        if kind == FLOAT:
            return f"np.tanh({own} * 0.5 + {self.fold(scope)})"
        if kind == INT:
            count = f"{self.one_of(scope.tables).name}.count()"
            options = (f"{own} + 1", f"({own} + {count}) % 7", f"({self.int_value(scope)} + 1) % 5")
            made: str = self.one_of(options)
            return made
        return self._scattered(scope, own)

    def _scattered(self, scope: Scope, own: str) -> str:
        table = self.one_of([t for t in scope.tables if t.of(INT) and t.of(FLOAT)])
        k, v = self.one_of(table.of(INT)), self.one_of(table.of(FLOAT))
        kept = f"{table.name}.filter(lambda r: (r.{k} >= 0) & (r.{k} < 4)).distinct({k!r})"
        value = f"lambda r: np.tanh(so.coalesce(r.{v}, 0.5))"
        return f"{kept}.to_array({value}, index={k!r}, size=4, fill={own} * 0.5)"

    # Tables.

    def _steps(self, scope: Scope, count: int) -> None:
        ways: list[Callable[[Scope, Made], tuple[str, Made] | None]] = [
            self._filter, self._filter, self._compute, self._compute, self._join, self._join,
            self._join, self._group, self._group, self._union, self._distinct, self._sort,
            self._running, self._cut, self._choose, self._explode, self._lists, self._map_groups,
            self._cogroup, self._repartition,
        ]  # fmt: skip
        while count:
            if self.flip(4):
                self._along_edges(scope)
            else:
                # The environment's tables come first, what was made comes last.
                varying = [t for t in scope.tables if t.varies]
                near = [*varying[:2], *varying[-2:]] or scope.tables
                of = self.one_of(near if not self.flip(4) else scope.tables)
                found = self.one_of(ways)(scope, of)
                if found is None:
                    continue
                self._say(scope, *found)
            count -= 1

    def _say(self, scope: Scope, text: str, made: Made) -> Made:
        varying = [re.escape(t.name) for t in scope.tables if t.varies]
        varies = any(re.search(rf"{name}(?!\w)", text) for name in varying)
        made = replace(made, name=self.name("a"), varies=varies)
        scope.say(f"{made.name} = {text}")
        scope.tables.append(made)
        return made

    def _along_edges(self, scope: Scope) -> None:
        """What edges send, as ranks and messages go: added up at their ends, or reached anew."""
        edges, nodes = self.one_of(("t1", "t1", "t2")), self.one_of(("t0", "t0", "t2"))
        states = [t for t in scope.tables if t.varies and t.of(INT) and t.of(FLOAT)]
        state = self.one_of(states or scope.tables[-4:-1])
        own = f"{state.name}.select(k={state.of(INT)[0]!r}, v={state.of(FLOAT)[0]!r})"
        rows = ROWS[edges] * state.rows
        sent = Made("", SOURCE | {"v_right": FLOAT}, rows)
        one = self._say(scope, f"{edges}.join({own}, on='k')", sent)
        if self.flip(3):
            kept = f"{one.name}.filter(lambda r: {self.predicate(scope, one)})"
            one = self._say(scope, kept, one)
        value = self.value(scope)
        if self.flip(4):
            reached = f"{one.name}.select(k='j', v=lambda r: np.tanh(so.coalesce(r.v, {value})))"
            columns = {"k": INT, "v": FLOAT}
            text = f"{own}.union({reached}).distinct('k')"
            self._say(scope, text, Made("", columns, state.rows + rows))
            return
        weight = self.one_of(
            ("r.v_right", "so.coalesce(r.v, 0.5) * r.v_right", f"np.tanh(r.v_right * {value})")
        )
        fold = self.one_of(("sum", "sum", "max", "min"))
        total = f"{one.name}.group_by('j').agg(d=so.{fold}(lambda r: {weight}), n=so.count())"
        two = self._say(scope, total, Made("", {"j": INT, "d": FLOAT, "n": INT}, 6))
        made = f"v=lambda r: 0.1 + np.tanh(so.coalesce(r.d, {self.value(scope)}))"
        if self.flip(3):  # the groups themselves, as factors that are made of each other
            columns = {"k": INT, "v": FLOAT, "n": INT}
            self._say(scope, f"{two.name}.select('n', k='j', {made})", Made("", columns, 6))
            return
        ready = (
            f"{nodes}.select('k', 's', 'x').join({two.name}, left_on='k', right_on='j', how='left')"
        )
        columns = {"k": INT, "s": TEXT, "x": VECTOR, "d": FLOAT, "n": INT}
        three = self._say(scope, ready, Made("", columns, ROWS[nodes]))
        four = replace(three, columns=columns | {"v": FLOAT})
        self._say(scope, f"{three.name}.with_columns({made})", four)

    def _filter(self, scope: Scope, t: Made) -> tuple[str, Made]:
        return f"{t.name}.filter(lambda r: {self.predicate(scope, t)})", t

    def _compute(self, scope: Scope, t: Made) -> tuple[str, Made]:
        if self.flip(3):
            name = self.one_of([*t.of(INT), "m"])
            kind, text = INT, self.int_of(scope, t)
        else:
            name = self.one_of([*t.of(FLOAT), "f"])
            kind, text = FLOAT, self.float_of(scope, t)
        columns = {**t.columns, name: kind}
        return f"{t.name}.with_columns({name}=lambda r: {text})", replace(t, columns=columns)

    def _join(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        other = self.one_of(scope.tables)
        how = self.one_of(_HOWS)
        if t.rows * other.rows > 4 * _MOST_JOINED or len(t.columns) + len(other.columns) > 14:
            return None
        pairs = [(a, b) for a in t.of(INT) for b in other.of(INT)]
        same = [(a, b) for a, b in pairs if a == b]
        if how == "cross":
            keys, given = [], []
            if t.rows * other.rows > _MOST_JOINED:
                return None
        elif same and not self.flip(4):
            keys = self.random.sample(same, self.one_of((1, 1, 1, min(2, len(same)))))
            given = [f"on={[a for a, _ in keys]}"]
        elif pairs:
            keys = [self.one_of(pairs)]
            given = [f"left_on={keys[0][0]!r}, right_on={keys[0][1]!r}"]
        else:
            return None
        suffix = self.name("_z")
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

    def _aggregate(self, scope: Scope, t: Made) -> tuple[str, str]:
        options = [("so.count()", INT), ("so.count()", INT)]
        for n in t.of(FLOAT):
            options += [(f"so.{f}({n!r})", FLOAT) for f in ("sum", "sum", "min", "max", "last")]
            options.append((f"so.mean(lambda r: so.coalesce(r.{n}, 0.5))", FLOAT))
            options += [(f"so.argmax({k!r}, {n!r})", FLOAT) for k in t.of(INT)[:1]]
        for n in t.of(INT):
            options += [(f"so.{f}({n!r})", INT) for f in ("min", "max", "first", "n_unique")]
        options += [(f"so.sum(lambda r: {self.float_of(scope, t)})", FLOAT)] * 2
        options += [(f"so.sum({x!r})", VECTOR) for x in t.of(VECTOR)]
        options += [(f"so.first({s!r})", TEXT) for s in t.of(TEXT)]
        made: tuple[str, str] = self.one_of(options)
        return made

    def _group(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        if self.flip(4):
            name, by = "m", f"m=lambda r: {self.int_of(scope, t)}"
            columns = {name: INT}
        else:
            chosen = self.random.sample(keys, self.one_of((1, 1, min(2, len(keys)))))
            by = ", ".join(map(repr, chosen))
            columns = {n: t.columns[n] for n in chosen}
        told = []
        for name in self.random.sample(["d", "e", "g"], self.one_of((1, 2, 2))):
            text, kind = self._aggregate(scope, t)
            told.append(f"{name}={text}")
            columns = {**columns, name: kind}
        made = f"{t.name}.group_by({by}).agg({', '.join(told)})"
        return made, Made("", columns, t.rows, t.ordered)

    def _map_groups(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        if not t.of(INT) or not t.of(FLOAT):
            return None
        k, v = self.one_of(t.of(INT)), self.one_of(t.of(FLOAT))
        some = f"rows.filter(lambda r: {self.predicate(scope, t)})"
        text = (
            f"{t.name}.group_by({k!r}).map(lambda key, rows: {{{k!r}: key,"
            f" 'v': np.tanh(rows.sum({v!r}) + {self.value(scope)}), 'n': {some}.count()}})"
        )
        columns = {k: INT, "v": FLOAT, "n": INT}
        if k in ("v", "n"):
            return None
        return text, Made("", columns, t.rows, t.ordered)

    def _cogroup(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        other = self.one_of(scope.tables)
        if not t.of(INT) or not other.of(INT) or not other.of(FLOAT):
            return None
        k, v = self.one_of(t.of(INT)), self.one_of(other.of(FLOAT))
        own = self.one_of(other.of(INT))
        inner = ".inner()" if self.flip(3) else ""
        text = (
            f"so.cogroup({t.name}.by({k!r}){inner}, {other.name}.by({own!r})).map(lambda key, a, b:"
            f" {{'k': key, 'n': a.count(), 'v': np.tanh(b.sum({v!r}) + 0.5 * a.count())}})"
        )
        rows = t.rows + other.rows
        return text, Made("", {"k": INT, "n": INT, "v": FLOAT}, rows, ordered=False)

    def _union(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        fitting = [o for o in scope.tables if o.columns.keys() >= t.columns.keys()]
        fitting = [o for o in fitting if all(o.columns[n] == k for n, k in t.columns.items())]
        other = self.one_of(fitting)
        if t.rows + other.rows > _MOST_JOINED:
            return None
        names = ", ".join(map(repr, t.columns))
        text = f"{t.name}.union({other.name}.select({names}))"
        return text, replace(t, rows=t.rows + other.rows, ordered=t.ordered and other.ordered)

    def _distinct(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        chosen = self.random.sample(keys, self.one_of((1, min(2, len(keys)))))
        return f"{t.name}.distinct({', '.join(map(repr, chosen))})", t

    def _sort(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        keys = t.of(INT, TEXT)
        if not keys:
            return None
        chosen = self.random.sample(keys, self.one_of((1, min(2, len(keys)))))
        down = [self.flip() for _ in chosen]
        text = f"{t.name}.sort({', '.join(map(repr, chosen))}, descending={down})"
        return text, replace(t, ordered=True)

    def _running(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        if not t.ordered or not t.of(FLOAT):
            return None
        v = self.one_of(t.of(FLOAT))
        over = f", over={self.one_of(t.of(INT))!r}" if t.of(INT) and self.flip() else ""
        text = self.one_of(
            (
                f"so.cumsum(lambda r: np.tanh({self.float_of(scope, t)}){over})",
                f"so.cummax({v!r}{over})",
                f"so.cummin({v!r}{over})",
                f"so.cumprod(lambda r: np.tanh(r.{v}) + 0.25{over})",
                f"so.cumsumprod(lambda r: np.tanh(r.{v}), lambda r: 0.5{over})",
            )
        )
        columns = {**t.columns, "q": FLOAT}
        return f"{t.name}.with_columns(q={text})", replace(t, columns=columns)

    def _cut(self, scope: Scope, t: Made) -> tuple[str, Made]:
        text = self.one_of(
            (
                f"limit({self.one_of((1, 4, 7))})",
                f"slice({self.one_of((1, 2))}, 6)",
                f"limit(so.cast({self.int_value(scope)} + 2, 'int64'))",
                "sample(0.7, 3)",
                "cache()",
            )
        )
        return f"{t.name}.{text}", t

    def _choose(self, scope: Scope, t: Made) -> tuple[str, Made]:
        condition = f"{self.fold(scope)} > 0.5 + {ODD}"
        other = self.one_of(
            (f"{t.name}.limit(3)", f"{t.name}.filter(lambda r: {self.predicate(scope, t)})")
        )
        return f"so.where({condition}, {t.name}, {other})", t

    def _explode(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        if not t.of(VECTOR) or 2 * t.rows > _MOST_JOINED or "p" in t.columns:
            return None
        x = self.one_of(t.of(VECTOR))
        columns = {n: FLOAT if n == x else k for n, k in t.columns.items()} | {"p": INT}
        made = replace(t, columns=columns, rows=2 * t.rows)
        return f"{t.name}.explode({x!r}, index='p')", made

    def _lists(self, scope: Scope, t: Made) -> tuple[str, Made] | None:
        if len(t.of(INT)) < 2:
            return None
        k, j = self.random.sample(t.of(INT), 2)
        text = f"{t.name}.group_by({k!r}).agg(h=so.collect_list({j!r})).explode('h')"
        return text, replace(t, columns={k: INT, "h": INT})

    def _repartition(self, scope: Scope, t: Made) -> tuple[str, Made]:
        return f"{t.name}.repartition({self.one_of((2, 3))})", replace(t, ordered=False)

    def _fitted(self, scope: Scope, t: Made, columns: dict[str, str], carry: bool = False) -> Made:
        """A table with the columns of a field, and no more records than it may have."""
        given = []
        for name, kind in columns.items():
            same = t.columns.get(name) == kind
            if same and (carry or not self.flip(3 if kind == FLOAT else 8)):
                given.append(f"{name}={name!r}")
            elif kind == FLOAT:
                given.append(f"{name}=lambda r: {self.float_of(scope, t)}")
            elif kind == INT:
                plain = t.of(INT) and not self.flip(3)
                text = (
                    repr(self.one_of(t.of(INT))) if plain else f"lambda r: {self.int_of(scope, t)}"
                )
                given.append(f"{name}={text}")
            elif kind == TEXT:
                own = t.of(TEXT)
                given.append(f"{name}={self.one_of(own)!r}" if own else f"{name}=so.lit('z')")
            else:
                own = t.of(VECTOR)
                text = (
                    repr(self.one_of(own)) if own else "lambda r: np.ones(2) * so.coalesce(r.k, 1)"
                )
                if not own and t.columns.get("k") != INT:
                    text = "lambda r: np.array([0.5, 1.0])"
                given.append(f"{name}={text}")
        text = f"{t.name}.select({', '.join(given)})"
        if not t.ordered:
            text += ".sort('k')"
        if t.rows > _MOST:
            cut = self.one_of((f".limit({_MOST})", f".distinct('k').limit({_MOST})", ""))
            if not cut:  # the least key's records are together one
                folds = {FLOAT: "sum", INT: "max", TEXT: "first", VECTOR: "sum"}
                others = [f"{n}=so.{folds[k]}({n!r})" for n, k in columns.items() if n != "k"]
                cut = f".group_by('k').agg({', '.join(others)}).limit({_MOST})"
            text += cut
        if carry and self.flip(4):
            text += self.one_of((".slice(1)", ".limit(0)", ".sort('k', descending=True)"))
        return self._say(scope, text, Made("", columns, _MOST))
