"""What random loops over tables are written of: sources, names, values, functions of a record.

Numbers stay finite (what is multiplied passes through tanh), and comparisons of computed numbers
avoid ties that rounding could break, so that any two right ways agree closely.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so

INT, FLOAT, TEXT, VECTOR = "int", "float", "text", "vector"
ODD = "0.0411523"  # no expression of the data gives this number


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
class Scope:
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


SOURCE = {"k": INT, "j": INT, "v": FLOAT, "s": TEXT, "x": VECTOR}
ROWS = {"t0": 6, "t1": 13, "t2": 8, "t3": 1}


class Writer:
    """Chooses, and writes values and functions of a record."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._names = 0

    # Choices.

    def flip(self, one_in: int = 2) -> bool:
        return self.random.randrange(one_in) == 0

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.random.randrange(len(options))]

    def name(self, word: str) -> str:
        self._names += 1
        return f"{word}{self._names}"

    # Values.

    def value(self, scope: Scope) -> str:
        """A float that no record has part in."""
        options = [*scope.floats, *(f"np.tanh({n} * 0.25)" for n in scope.ints), "0.25"]
        options += [f"{c}[{self.one_of((0, 3))}]" for c in scope.vectors]
        made: str = self.one_of(options)
        return made

    def int_value(self, scope: Scope) -> str:
        made: str = self.one_of([*scope.ints, *scope.ints, "2"])
        return made

    def fold(self, scope: Scope) -> str:
        """A float that reads all records of a table."""
        table = self.one_of(scope.tables[-4:] if self.flip() else scope.tables)
        name, value = table.name, self.value(scope)
        options = [
            f"{name}.count() * 0.1",
            f"np.where({name}.is_empty(), 0.5, {value})",
            f"{name}.sum(lambda r: {self.float_of(scope, table)})",
            f"{name}.filter(lambda r: {self.predicate(scope, table)}).count() / 3",
        ]
        for v in table.of(FLOAT):
            options += [f"{name}.sum({v!r})", f"{name}.sum({v!r}) / (1 + {name}.count())"]
        options += [f"np.sum({name}.sum({x!r}))" for x in table.of(VECTOR)]
        made: str = self.one_of(options)
        return made

    # Functions of a record.

    def float_of(self, scope: Scope, table: Made) -> str:
        """A float of every record, or null."""
        leaves = [f"r.{n}" for n in table.of(FLOAT)] * 3
        leaves += [f"r.{n} * 0.25" for n in table.of(INT)]
        leaves += [f"r.{n}[1]" for n in table.of(VECTOR)]
        leaves += [f"r.{n}.str.length() * 0.5" for n in table.of(TEXT)]
        a = self.one_of(leaves or ["so.lit(0.75)"])
        b = self.one_of([*leaves, self.value(scope), self.value(scope)])
        options = [
            a,
            f"np.tanh({a} + {b})",
            f"np.tanh({a} * {b})",
            f"so.coalesce({a}, {self.value(scope)})",
            f"np.maximum({a}, {b} - 0.5)",
            f"so.coalesce({a}, 0.0) + 0.5 * so.coalesce({b}, 1.0)",
            f"{a} / (2.0 + np.abs({b}))",
            f"np.where({self.predicate(scope, table)}, {a}, 0.5)",
        ]
        options += [f"{c}[so.coalesce(r.{k}, 0) % 4] + {a}" for c in scope.vectors
                    for k in table.of(INT)[:1]]  # fmt: skip
        made: str = self.one_of(options)
        return made

    def int_of(self, scope: Scope, table: Made) -> str:
        """An int of every record, or null."""
        columns = table.of(INT)
        if not columns:
            return "so.lit(1)"
        a, b = self.one_of(columns), self.one_of(columns)
        options = [
            f"r.{a}", f"r.{a} + 1", f"r.{a} % 3", f"(r.{a} + r.{b}) % 5", f"5 - r.{a}",
            f"so.coalesce(r.{a}, 3)", f"so.coalesce(r.{a}, r.{b})", f"np.minimum(r.{a}, r.{b})",
            f"(r.{a} + {self.int_value(scope)}) % 6",
            f"np.where({self.predicate(scope, table)}, r.{a}, 2)",
        ]  # fmt: skip
        made: str = self.one_of(options)
        return made

    def predicate(self, scope: Scope, table: Made) -> str:
        """A bool of every record, or null."""
        options = []
        for k in table.of(INT):
            c = self.one_of((0, 1, 2, 3))
            options += [f"r.{k} {self.one_of(('>', '<=', '!=', '=='))} {c}", f"r.{k} > 0"]
            options += [f"r.{k} != {n}" for n in scope.ints]
        for v in table.of(FLOAT):
            options += [f"r.{v} < {ODD}", f"r.{v} > {self.value(scope)} - 0.5 - {ODD}"]
            options.append(f"so.is_null(r.{v})")
        options += [f"r.{s} != 'b'" for s in table.of(TEXT)]
        if not options:
            return f"so.lit({self.value(scope)}) < 0.6 + {ODD}"
        one, two = self.one_of(options), self.one_of(options)
        return self.one_of((one, one, f"({one}) & ({two})", f"({one}) | ~({two})"))  # type: ignore[no-any-return]
