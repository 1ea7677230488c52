"""How many records there will be: sampled where a source is in memory, and said how it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scalops as so
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.tree import find
from scalops.optimizer.cardinality import Estimates, estimate, small_enough_to_broadcast
from scalops.optimizer.cost import BROADCAST_BYTES, Estimate

N = 20_000
RNG = np.random.default_rng(5)
T = so.table(
    {
        "id": np.arange(N),
        "k": RNG.integers(0, 50, N),
        "y": RNG.random(N),
        "s": RNG.integers(0, 3, N).astype(str).astype(object),
    }
)
KEYS = so.table({"k": np.arange(10), "name": np.arange(10.0)})
NULLS = so.from_arrow(pa.table({"v": [1.0, None, 3.0, None], "b": [True, None, False, True]}))


@pytest.mark.parametrize(
    ("table", "rows", "off"),
    [
        (T.filter(lambda r: r.y < 0.3), 0.3 * N, 0.05),
        (T.filter(lambda r: (r.y < 0.3) & (r.k < 25)), 0.15 * N, 0.05),
        (T.filter(lambda r: (r.y < 0.3) & (r.y < 0.2)), 0.2 * N, 0.05),  # not independent
        (T.filter(lambda r: (r.y < 0.3) | (r.y > 0.9)), 0.4 * N, 0.05),
        (T.filter(lambda r: r.y * 2 + 1 < 1.6), 0.3 * N, 0.05),
        (T.filter(lambda r: r.s == "1"), N / 3, 0.05),
        (T.select(z=lambda r: r.y).sort("z").filter(lambda r: r.z < 0.3), 0.3 * N, 0.05),
        (T.filter(lambda r: r.y < 0), N / 2000, 0.001),  # what was not seen is rare
        (T.sample(0.5, 1).filter(lambda r: r.y < 0.3), 0.15 * N, 0.05),
        (T.distinct("k"), 50, 0.001),
        (T.distinct("id"), N, 0.001),
        (T.distinct("k", "s"), 150, 0.01),
        (T.group_by("k").agg(n=so.count()), 50, 0.001),
        (T.group_by(j=lambda r: r.k % 7).agg(n=so.count()), 7, 0.001),
        (T.limit(40).group_by("k").agg(n=so.count()), 28, 0.001),  # of 50, at 40 draws
        (T.group_by("k").agg(n=so.count()).join(KEYS, on="k"), 10, 0.001),
        (T.join(KEYS, on="k"), N / 5, 0.01),
        (T.join(KEYS, on="k", how="left"), N, 0.001),
        (T.join(KEYS, on="k", how="semi"), N / 5, 0.01),
        (T.join(KEYS, on="k", how="anti"), N * 4 / 5, 0.01),
        (T.filter(lambda r: r.id < 10).join(T, on="id", suffix="_2"), 10, 0.001),
    ],
)
def test_rows_from_a_sample(table: so.Table, rows: float, off: float) -> None:
    found = estimate(table.plan)
    assert found.provenance == "estimated"
    assert found.rows == pytest.approx(rows, abs=off * N)
    assert found.bytes == pytest.approx(found.rows * table.schema.bytes_per_row)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (NULLS.filter(lambda r: r.v > 0), 2),
        (NULLS.filter(lambda r: (r.v > 5) | r.b), 2),  # true wins over null
        (NULLS.filter(lambda r: so.is_null(r.v)), 2),
        (NULLS.filter(lambda r: ~r.b), 1),
        (NULLS.distinct("v"), 3),
        (NULLS.distinct("b"), 3),
    ],
)
def test_small_tables_are_looked_at_whole(table: so.Table, rows: float) -> None:
    assert estimate(table.plan).rows == pytest.approx(rows)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (T.filter(lambda r: r.s.str.length() > 1), N / 2),
        (T.filter(lambda r: r.y < so.lit(2.0) * T.mean("y")), N / 2),
        (T.filter(so.udf(lambda r: r.y > 0, returns=so.bool_)), N / 2),
        (T.group_by(j=lambda r: r.s.str.length()).agg(n=so.count()), N / 2),
        (T.map_batches(lambda b: b, T.schema).distinct("k"), N / 2),
        (T.join(KEYS, left_on=lambda r: so.hash(r.k, 9), right_on="k"), N),
    ],
)
def test_what_no_sample_tells_is_assumed(table: so.Table, rows: float) -> None:
    found = estimate(table.plan)
    assert found.provenance == "assumed"
    assert found.rows == pytest.approx(rows, rel=2)


def test_cross_joins_and_groups_over_nothing() -> None:
    assert estimate(KEYS.join(KEYS, how="cross").plan).rows == 100
    assert estimate(KEYS.join(KEYS, how="cross").plan).provenance == "exact"
    nothing = so.empty({"k": so.int64})
    assert estimate(nothing.group_by("k").agg(n=so.count()).plan).rows == 0
    assert estimate(nothing.join(KEYS, on="k").plan).rows == 0
    assert estimate(nothing.filter(lambda r: r.k > 1).plan).rows == 0


def test_a_table_of_the_environment_is_assumed_to_stay_as_large_as_its_start() -> None:
    @so.loop({"t": KEYS}, range(2))
    def model(env: Any) -> Any:
        return {"t": env["t"].join(T.distinct("k").select("k"), on="k")}

    made = Estimates(model.loop_plan)
    (state,) = find((model.loop_plan,), rel.StateTable)
    assert (made.of(state).rows, made.of(state).provenance) == (10, "assumed")
    assert estimate(model["t"].plan) == Estimate(10, 160, "assumed")
    (join,) = find((model.loop_plan,), rel.Join)
    assert made.of(join).provenance == "assumed"


def test_parquet_tells_rows_and_the_range_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    y = np.linspace(0.0, 10.0, 1000)
    pq.write_table(pa.table({"k": np.arange(1000) % 20, "y": y, "s": ["a"] * 1000}), path,
                   row_group_size=300)  # fmt: skip
    table = so.read_parquet(path)
    assert estimate(table.plan) == Estimate(1000, 1000 * table.schema.bytes_per_row, "exact")
    quarter = estimate(table.filter(lambda r: r.y < 2.5).plan)
    assert quarter.rows == pytest.approx(250)
    assert quarter.provenance == "estimated"
    assert estimate(table.filter(lambda r: so.lit(2.5) < r.y).plan).rows == pytest.approx(750)
    assert estimate(table.filter(lambda r: r.y > 11).plan).rows == 0
    groups = estimate(table.group_by("k").agg(n=so.count()).plan)
    assert (groups.rows, groups.provenance) == (20, "estimated")
    assert estimate(table.filter(lambda r: r.s == "a").plan).provenance == "assumed"
    assert estimate(table.distinct("s").plan).provenance == "assumed"


def test_the_same_sample_each_time() -> None:
    source = T.plan.source  # type: ignore[attr-defined]
    first, second = (source.sample(1000, ("id", "y")) for _ in range(2))
    assert len(first["id"][0]) == 1000
    np.testing.assert_array_equal(first["id"][0], second["id"][0])
    np.testing.assert_array_equal(first["y"][0], source.columns["y"][first["id"][0]])
    assert source.sample(10, ()) == {}


def test_what_is_broadcast() -> None:
    assert small_enough_to_broadcast(estimate(KEYS.plan))
    assert not small_enough_to_broadcast(Estimate(1e9, BROADCAST_BYTES.value + 1, "exact"))


def test_explain_shows_the_rows_of_joins_and_groups_as_estimates() -> None:
    shown = T.join(KEYS, on="k").group_by("k").agg(n=so.count()).explain()
    assert "· rows  50 (estimated)" in shown
    assert shown.count("(estimated)") == 2


def test_explain_reads_no_pass() -> None:
    class Untouched:
        """A source that cannot be read."""

        schema, title, rows, likely_rows = T.schema, "untouched", N, float(N)
        bytes, in_memory, may_hold_null, stamp = 1, True, False, "untouched"

        def __repr__(self) -> str:
            return "Untouched"

    table = so.Table(op.Scan(Untouched()))
    assert "(assumed)" in table.filter(lambda r: r.y > 0).group_by("k").agg(n=so.count()).explain()
