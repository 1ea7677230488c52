"""A group's map means what its function means for each group's table by itself, at random."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.language.groups import assert_value, grouped, plain
from tests.quick import quick

ROWS = 40
Step = Callable[[so.Table, Any], so.Table]

STEPS: tuple[Step, ...] = (
    lambda t, key: t.filter(lambda r: r.v > 0),
    lambda t, key: t.filter(lambda r: r.n == key),
    lambda t, key: t.filter(lambda r: r.n > 90),
    lambda t, key: t.with_columns(v=lambda r: r.v * 2 + key),
    lambda t, key: t.with_columns(v=lambda r: r.v - t.mean("v")),
    lambda t, key: t.with_columns(n=lambda r: r.n + t.count()),
    lambda t, key: t.map(lambda r: {"v": r.v, "n": so.cast(r.v, "int64"), "l": r.l}),
    lambda t, key: t.sort("v"),
    lambda t, key: t.sort(lambda r: r.n, descending=True),
    lambda t, key: (
        t.select("n", "v", "l").explode("l").with_columns(l=lambda r: np.stack([r.l, 1]))
    ),
    lambda t, key: t.flat_map(
        lambda r: [{"v": r.v, "n": r.n, "l": r.l}, {"v": 0.5, "n": r.n, "l": r.l}]
    ),
    lambda t, key: t.select("v", "n", "l").distinct(),
    lambda t, key: t.group_by("n").agg(v=so.sum("v"), l=so.max("l")).select("v", "n", "l"),
)
FOLDS: tuple[Callable[[so.Table], Any], ...] = (
    lambda t: t.count(),
    lambda t: t.count("v"),
    lambda t: t.is_empty(),
    lambda t: t.sum("v"),
    lambda t: t.sum("l"),
    lambda t: t.mean("v"),
    lambda t: t.min("v"),
    lambda t: t.max(lambda r: r.n * 1.5),
    lambda t: t.any(lambda r: r.v > 1),
    lambda t: t.all(lambda r: r.v > 1),
    lambda t: t.first("v"),
    lambda t: t.last("n"),
    lambda t: t.argmax("v", "n"),
    lambda t: t.n_unique("n"),
    lambda t: t.var("v"),
    lambda t: t.quantile(0.3, "v"),
    lambda t: t.map(lambda r: r.v).reduce(lambda a, b: a + b),
    lambda t: t.map(lambda r: {"a": r.v, "b": r.n}).reduce(
        lambda x, y: {"a": x.a + y.a, "b": np.maximum(x.b, y.b)}
    ).b,
)  # fmt: skip


def program(random: Random) -> Callable[[Any, so.Table], dict[str, Any]]:
    chains = [
        (random.choices(STEPS, k=random.randrange(3)), random.choice(FOLDS))
        for _ in range(random.randrange(1, 4))
    ]

    def f(key: Any, rows: so.Table) -> dict[str, Any]:
        made = {}
        for i, (steps, fold) in enumerate(chains):
            table = rows.select("v", "n", "l")
            for step in steps:
                table = step(table, key)
            made[f"x{i}"] = fold(table)
        return made

    return f


def alone(value: Any) -> Any:
    """A Value over one group's table; null where it has none."""
    try:
        return plain(value.collect())
    except so.DataError as error:
        if "no records" not in str(error):
            raise
        return None


@pytest.mark.parametrize("part", quick(range(3), 1))
def test_it_is_the_function_of_each_groups_table(part: int) -> None:
    random = Random(part)
    numbers = np.random.default_rng(part)
    v = [None if random.random() < 0.15 else round(random.gauss(0, 2), 2) for _ in range(ROWS)]
    data = [
        {"k": random.randrange(4), "v": x, "n": random.randrange(5), "l": numbers.normal(size=2)}
        for x in v
    ]
    table = so.table(data)
    for _ in range(5):
        f = program(random)
        found = table.group_by("k").map(f).collect().to_pylist()
        groups = grouped(data, lambda r: r["k"])
        assert len(found) == len(groups)
        for own, (key, rows) in zip(found, groups, strict=True):
            # The first record of all tells the types; it is filtered out again.
            small = so.table([{**data[0], "k": -1}, *rows]).filter(lambda r: r.k >= 0)
            for name, value in f(key, small).items():
                assert_value(own[name], alone(value), 1e-9)
