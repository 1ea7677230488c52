"""The same bits on any number of threads, in any memory, inline or not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import scalops as so
from scalops.engine import physical_plan as pp
from scalops.planning import plan as planned
from tests.engine.plans import bits, job_of, run, sinks, table_bits
from tests.quick import crossed, quick

ROWS, WIDTH = 18_000, 40
# Threads, memory, inline: the first is what all others are compared with.
WAYS = [
    *itertools.product((1, 2, 4), (None, 10_000, 2_000_000), (False,)),
    *itertools.product((4,), (None, 10_000, 400_000, 10_000_000), (True,)),
]
FEW = [(1, None, False), (4, None, False), (2, 10_000, False), (4, 1_000_000, True)]
Program = Callable[[so.Table], Any]


@cache
def arrays() -> dict[str, Any]:
    """About 6 MB: `x` is a vector, `y` a label, `k` counts, `g` is skewed."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, WIDTH))
    return {
        "x": x,
        "y": np.where(x @ rng.normal(size=WIDTH) > 0, 1.0, -1.0),
        "k": np.arange(ROWS),
        "g": rng.exponential(size=ROWS) ** 4,
    }


def gradient_descent(t: so.Table) -> Any:
    """Logistic regression."""

    @so.loop({"w": np.zeros(WIDTH), "loss": np.inf, "rate": 0.5}, range(4))
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = t.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).reduce(lambda a, b: a + b)
        loss = t.map(lambda r: np.log1p(np.exp(-margin(r)))).reduce(lambda a, b: a + b)
        step = env["rate"] * gradient / t.count()
        return {"w": env["w"] - step, "loss": loss, "rate": env["rate"] * 0.9}

    return model


def newton(t: so.Table) -> Any:
    """Newton's method: a matrix of sums and its solution."""

    @so.loop({"w": np.zeros(WIDTH)}, range(3))
    def model(env: Any) -> Any:
        p = t.with_columns(p=lambda r: 1 / (1 + np.exp(-(r.x @ env["w"]))))
        gradient = p.sum(lambda r: (r.p - (r.y + 1) / 2) * r.x)
        hessian = p.sum(lambda r: r.p * (1 - r.p) * np.outer(r.x, r.x))
        return {"w": env["w"] - np.linalg.solve(hessian + np.eye(WIDTH), gradient)}

    return model


def affine(t: so.Table) -> Any:
    """A reduce that no rule recognises and that does not commute."""
    pairs = t.map(lambda r: {"a": 1 + np.sin(r.g) / 3, "b": r.x})
    total = pairs.reduce(lambda f, g: {"a": f.a * g.a, "b": f.b * g.a + g.b})
    return [total["a"], total["b"]]


def invariant_columns(t: so.Table) -> Any:
    """A cached, computed column that the loop reads again and again."""

    @so.loop({"s": np.zeros(WIDTH)}, range(3))
    def model(env: Any) -> Any:
        scaled = t.map(lambda r: np.exp(r.x / 8) * np.tanh(r.x - env["s"]))
        return {"s": env["s"] / 2 + scaled.mean()}

    return model


def skewed_filter(t: so.Table) -> Any:
    """Most partitions keep nothing, some keep all."""
    half = t.filter(lambda r: (r.k < 300) | (r.k > ROWS - 2_000) | (r.g > 300))

    @so.loop({"m": np.zeros(WIDTH)}, range(3))
    def model(env: Any) -> Any:
        return {"m": env["m"] / 3 + half.map(lambda r: r.x * np.cos(r.g - env["m"])).mean()}

    return [model, half.sum(lambda r: r.g), half.count()]


def statistics(t: so.Table) -> Any:
    """The plain folds."""
    return [
        t.sum("x"),
        t.mean(lambda r: r.x * r.g),
        t.min(lambda r: r.x),
        t.max(lambda r: np.exp(r.x)),
        t.sum("g"),
        t.count(),
        t.any(lambda r: r.x > 4),
        t.all(lambda r: r.g >= 0),
        t.filter(lambda r: r.k < 0).mean("g"),
    ]


def table(t: so.Table) -> Any:
    """Records, not values."""
    return t.filter(lambda r: r.g > 1).map(lambda r: {"v": r.x @ r.x, "u": np.exp(r.x)[0:3]})


def first_records(t: so.Table) -> Any:
    """A limit after a filter."""
    first = t.filter(lambda r: r.g > 1).limit(4_000)
    return [first.sum(lambda r: r.x * r.g), first.select("k")]


def repartitioned(t: so.Table) -> Any:
    """Two exchanges, in a loop."""

    @so.loop({"s": np.zeros(WIDTH)}, range(2))
    def model(env: Any) -> Any:
        kept = t.repartition(13).filter(lambda r: r.x @ env["s"] <= 1)
        return {"s": env["s"] + kept.repartition(3).map(lambda r: np.sin(r.x * r.g)).mean()}

    return [model, t.repartition(5).mean(lambda r: r.g * r.x)]


PROGRAMS: list[Program] = [
    gradient_descent, newton, affine, invariant_columns, skewed_filter, statistics, table,
    first_records, repartitioned,
]  # fmt: skip


def outcome(program: Program, t: so.Table, way: tuple[int, int | None, bool]) -> Any:
    """A program's results as bytes."""
    things = program(t)
    things = things if isinstance(things, list) else [things]
    results = run(things, *way)
    is_table = [isinstance(r, list) for r in results]
    return [table_bits(r) if t else bits(r) for r, t in zip(results, is_table, strict=True)]


def assert_same_bits(program: Program, t: so.Table, ways: list[Any]) -> None:
    first = outcome(program, t, (1, None, False))
    for threads, memory, inline in ways:
        way = (threads, memory, inline)
        assert outcome(program, t, way) == first, way


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("ways", quick([WAYS[::2], WAYS[1::2]], 1), ids=["even", "odd"])
def test_bits_depend_on_nothing_but_the_data(ways: list[Any], program: Program) -> None:
    assert_same_bits(program, so.table(arrays()), ways)


def test_data_is_split_into_enough_partitions() -> None:
    t = so.table(arrays())
    source: Any = t.plan
    assert len(source.source.partitions()) >= 4
    plan = planned(job_of(gradient_descent(t)))
    assert sinks(plan, pp.CacheTable)


def padded() -> dict[str, Any]:
    """The vectors as a part of wider rows."""
    wide = np.zeros((ROWS, WIDTH + 3))
    wide[:, 2:-1] = arrays()["x"]
    return {**arrays(), "x": wide[:, 2:-1], "g": wide[:, 5] ** 2}


LAYOUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "backwards": lambda: {n: a[::-1] for n, a in arrays().items()},
    "columns": lambda: {n: np.asfortranarray(a) for n, a in arrays().items()},
    "padded": padded,
}


@pytest.mark.parametrize(("program", "layout"), crossed(PROGRAMS, LAYOUTS))
def test_bits_do_not_depend_on_memory_for_arrays_in_any_layout(
    program: Program, layout: str
) -> None:
    assert_same_bits(program, so.table(LAYOUTS[layout]()), FEW)


def test_layout_of_an_array_changes_no_bit() -> None:
    data = arrays()
    columns = {n: np.asfortranarray(a) for n, a in data.items()}
    for program in PROGRAMS:
        found = [outcome(program, so.table(d), (2, None, False)) for d in (data, columns)]
        assert found[0] == found[1]


def with_nulls() -> pa.Table:
    """The data with nulls among the weights of some partitions only."""
    data = arrays()
    missing = (data["k"] % 7 == 0) & (data["k"] > ROWS // 2)
    x = pa.FixedSizeListArray.from_arrays(pa.array(data["x"].reshape(-1)), WIDTH)
    return pa.table(
        {"x": x, "y": data["y"], "k": data["k"], "g": pa.array(data["g"], mask=missing)}
    )


@pytest.mark.parametrize(
    "program", [affine, invariant_columns, skewed_filter, statistics, first_records, repartitioned]
)
def test_nulls_in_some_partitions(program: Program) -> None:
    assert_same_bits(program, so.from_arrow(with_nulls()), FEW)


def scalars() -> pa.Table:
    """Scalar columns of about 7 MB as text: many partitions of files."""
    rng = np.random.default_rng(3)
    rows = 60_000
    return pa.table(
        {f"c{i}": rng.normal(size=rows) for i in range(6)} | {"k": np.arange(rows) % 97}
    )


def of_files(t: so.Table) -> Any:
    """A loop over assembled columns, beside plain folds and a limit."""
    wide = t.assemble(x=[f"c{i}" for i in range(6)])

    @so.loop({"w": np.zeros(6)}, range(3))
    def model(env: Any) -> Any:
        return {"w": env["w"] / 2 + wide.map(lambda r: r.x * np.exp(r.x @ env["w"] / 9)).mean()}

    rare = t.filter(lambda r: (r.k == 5) & (r.c0 > 0))
    return [model, rare.sum("c1"), rare.limit(700).select("c2"), t.max("c3")]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_give_the_same_bits(tmp_path: Path, suffix: str) -> None:
    data = scalars()
    for i in range(3):
        part = data.slice(i * 20_000, 20_000)
        if suffix == "csv":
            pa_csv.write_csv(part, tmp_path / f"{i}.csv")
        else:
            pq.write_table(part, tmp_path / f"{i}.parquet", row_group_size=4_500)
    read = so.read_csv if suffix == "csv" else so.read_parquet
    t = read(str(tmp_path / f"*.{suffix}"))
    source: Any = t.plan
    assert len(source.source.partitions()) >= 4
    assert_same_bits(of_files, t, [(2, None, False), (4, 300_000, False), (2, 3_000_000, True)])
