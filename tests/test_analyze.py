"""EXPLAIN ANALYZE: what is counted agrees with counting by hand, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import scalops as so
from scalops.algebra.errors import ConfigError
from scalops.algebra.figures import figure_lines
from scalops.analyzing import Figure
from scalops.engine import meter as metering
from scalops.engine.cluster.job_settings import JobSettings
from scalops.engine.driver import Driver
from scalops.engine.memory import MemoryBudget
from scalops.engine.meter import Measured, Meter
from scalops.engine.neutral import Neutral
from scalops.engine.profiling import MOST_KEPT, PARTS, PlanProfile, Series
from scalops.engine.recording import ProfileRecorder
from scalops.planning import plan as planned
from tests.cluster.simulated import Simulation
from tests.engine.plans import bits, job_of

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "explain.schema.json").read_text(encoding="utf-8"))
ROWS, KEPT, ITERATIONS = 60_000, 45_000, 4
DATA = np.random.default_rng(5).normal(size=(ROWS, 3))
SIGN = np.where(np.arange(ROWS) % 4 == 3, 0.0, 1.0)  # a quarter is filtered out


def fitted(memory: str | None = None) -> Any:
    """A loop over a filtered table with a computed column, which it caches."""
    raw = so.table({"x": DATA, "y": SIGN})
    kept = raw.filter(lambda r: r.y > 0.5).select(x=lambda r: np.tanh(r.x))

    @so.loop({"w": np.zeros(3)}, range(ITERATIONS))
    def loop(env: Any) -> Any:
        step = kept.map(lambda r: np.exp(-(r.x @ env["w"])) * r.x).sum()
        return {"w": env["w"] + step / ROWS}

    return loop


def analysis(thing: Any, **options: Any) -> dict[str, Any]:
    with so.session(**options):
        made: dict[str, Any] = json.loads(thing.explain(analyze=True, format="json"))
    jsonschema.validate(made, SCHEMA)
    return made


def delivered(made: dict[str, Any]) -> list[tuple[float, float]]:
    """Records and bytes of the measured operators but sinks, stage by stage."""
    stages = made["analysis"]["profile"]["stages"]
    own = [o for s in stages for o in s["operators"][:-1] if o["measured"]]
    return [(o["rows"], o["bytes"]) for o in own]


def test_operators_deliver_what_counting_by_hand_gives() -> None:
    made = analysis(fitted(), threads=2)
    wide, narrow = 4 * 8, 3 * 8  # bytes of a record before and after select
    assert delivered(made) == [
        (ROWS, ROWS * wide),  # scan
        (KEPT, KEPT * wide),  # filter
        (KEPT, KEPT * narrow),  # select
        (KEPT, KEPT * narrow),  # the cache, in each run of the fold
    ]
    (loop,) = made["analysis"]["profile"]["loops"]
    assert loop["iterations"] == len(loop["timeline"]) == ITERATIONS
    assert [s["runs"] for s in made["analysis"]["profile"]["stages"]] == [1, ITERATIONS]


def test_parts_are_all_of_the_time() -> None:
    profile = analysis(fitted())["analysis"]["profile"]
    assert sum(profile["parts"].values()) == pytest.approx(profile["total_seconds"])
    for stage in profile["stages"]:
        assert sum(stage["first"].values()) == pytest.approx(stage["seconds"]["first"])
    for loop in profile["loops"]:
        assert sum(loop["parts"].values()) == pytest.approx(loop["seconds"]["total"])
    assert profile["stages"][0]["first"]["load"] > 0  # the cache is filled
    assert profile["stages"][1]["first"]["map"] > 0


def test_partitions_that_do_not_fit_are_counted_as_made_again() -> None:
    profile = analysis(fitted(), memory="1MB", threads=1)["analysis"]["profile"]
    (cache,) = profile["caches"]
    again = cache["partitions"] - cache["held"]
    assert again > 0 < cache["held"]
    assert (cache["hits"], cache["again"]) == (cache["held"] * ITERATIONS, again * ITERATIONS)
    # What is made again runs the operators below the cache, for that is loading.
    assert profile["stages"][1]["steady"]["load"] > 0
    assert profile["peak_bytes"] <= 1_000_000


def test_measuring_changes_no_bit_and_keeps_the_result() -> None:
    with so.session():
        expected = fitted().collect()["w"]
    with so.session() as session:
        loop = fitted()
        loop.explain(analyze=True)
        assert session._results[loop.loop_plan].state["w"].tobytes() == expected.tobytes()
        assert loop.collect()["w"].tobytes() == expected.tobytes()
        kept = session._results[loop.loop_plan]
        loop.explain(analyze=True)  # is run again
        assert session._results[loop.loop_plan] is not kept


def test_loops_that_share_a_pass_have_one_time() -> None:
    base = so.table({"x": DATA[:, 0]})

    def mean(rate: float) -> Any:
        @so.loop({"m": 0.0}, range(3))
        def loop(env: Any) -> Any:
            return {"m": env["m"] + rate * base.map(lambda r: r.x - env["m"]).mean()}

        return loop

    with so.session():
        made = json.loads(so.explain(mean(0.1), mean(0.2), analyze=True, format="json"))
    profile = made["analysis"]["profile"]
    together = [s["together"] for s in profile["stages"] if s["together"]]
    assert len(together) == 2
    assert sum(profile["parts"].values()) == pytest.approx(profile["total_seconds"])


def of_ranks(size: int, table: Any = None) -> tuple[Any, PlanProfile]:
    """The loop, or a table, on a simulated cluster."""
    recorder = ProfileRecorder()
    physical = planned(job_of(_Looped(fitted()) if table is None else table))
    with Simulation(size) as cluster:
        settings = JobSettings(Neutral(size, (2,)))
        backend = cluster.workers.backend(settings, recorder=recorder)
        results = Driver(physical, backend, recorder=recorder).run()
    return results, recorder.profile()


class _Looped:
    def __init__(self, loop: Any) -> None:
        self.plan = loop.loop_plan


def test_ranks_count_together_what_one_process_counts() -> None:
    (alone,), one = of_ranks(1)
    (outcome,), profile = of_ranks(3)
    assert bits(outcome) == bits(alone)
    assert [
        (s.stage, s.runs, [(o.number, o.rows, o.bytes) for o in s.operators])
        for s in profile.stages.values()
    ] == [
        (s.stage, s.runs, [(o.number, o.rows, o.bytes) for o in s.operators])
        for s in one.stages.values()
    ]
    assert profile.workers == 3
    assert profile.moved.to_workers > 0 < profile.moved.to_driver
    (loop,) = profile.loops
    assert loop.iterations == ITERATIONS
    assert sum(profile.parts.values()) == pytest.approx(profile.total_seconds)


@pytest.mark.parametrize("groups", [5, ROWS])
def test_a_first_look_at_records_does_not_count(groups: int) -> None:
    """How records are grouped depends on the first ones, which are read again."""
    raw = so.table({"x": DATA, "y": SIGN, "k": np.arange(ROWS) % groups})
    kept = raw.filter(lambda r: r.y > 0.5)
    found = min(groups, KEPT)

    def grouped(table: so.Table) -> Any:
        return table.group_by("k").agg(s=so.sum("y"))

    made = analysis(grouped(kept.cache()), threads=2)
    assert [rows for rows, _ in delivered(made)] == [ROWS, KEPT, KEPT, KEPT, found]
    (cache,) = made["analysis"]["profile"]["caches"]
    assert cache["hits"] == cache["partitions"] > 1
    _, profile = of_ranks(3, grouped(kept))
    rows = [o.rows for s in profile.stages.values() for o in s.operators[:-1]]
    assert rows == [ROWS, KEPT, KEPT, found]


@pytest.mark.long
def test_processes_count_their_part_of_a_pass() -> None:
    made = analysis(fitted(), processes=1, folds="processes")
    assert delivered(made)[-1] == (KEPT, KEPT * 24)


# The meter.


class _Clock:
    """Time that passes where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_operator_has_its_own_seconds_without_what_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock()
    monkeypatch.setattr(metering, "perf_counter", clock)
    meter = Meter()

    def below() -> Iterator[int]:
        for i in range(3):
            clock.now += 1.0
            yield i

    def above(source: Iterator[int]) -> Iterator[int]:
        for item in source:
            clock.now += 0.25
            yield item

    for _ in meter.steps((7, 1), above(meter.steps((7, 0), below()))):
        clock.now += 100.0  # whoever reads them
    found = meter.taken().stages[7].operators
    assert (found[0].seconds, found[1].seconds) == (3.0, 0.75)
    assert not meter.taken().stages


def test_what_ranks_measured_survives_the_message() -> None:
    own = Measured({}, {3: [2, 4, 1]}, 5, 9, owners={"cache 1": 8}, files={"sort 2": 5})
    own.stage(4).operators[1] = metering.Tally(0.5, 10, 80, 2)
    own.stage(4).lanes, own.stage(4).seconds = 2, 0.75
    assert Measured.of_data(own.to_data()).to_data() == own.to_data()


def test_a_budget_knows_the_most_that_was_held() -> None:
    budget = MemoryBudget(100)
    assert budget.reserve(60, "a")
    assert budget.reserve(30, "b")
    assert not budget.reserve(20, "c")
    budget.release("a")
    assert budget.reserve(50, "b")
    assert (budget.peak, budget.peaks()) == (90, {"a": 60, "b": 80})


# Series and figures.


def test_a_series_keeps_sums_of_all_and_quartiles_of_later_ones() -> None:
    numbers = np.random.default_rng(1).exponential(size=501)
    series = Series()
    for number in numbers:
        series.add(float(number))
    found, later = series.spread(), numbers[1:]
    low, median, high = np.quantile(later, [0.25, 0.5, 0.75])
    assert (found.count, found.first) == (501, numbers[0])
    assert (found.low, found.median, found.high) == pytest.approx((low, median, high))
    assert found.slowest_at == 1 + int(np.argmax(later))
    assert found.total == pytest.approx(numbers.sum())


def test_a_long_series_takes_no_more_memory() -> None:
    series = Series()
    for number in range(5 * MOST_KEPT):
        series.add(float(number))
    found = series.spread()
    assert len(series._kept) <= MOST_KEPT
    assert found.count == 5 * MOST_KEPT
    assert found.median == pytest.approx(2.5 * MOST_KEPT, rel=0.01)
    assert found.total == sum(range(5 * MOST_KEPT))


def test_what_is_off_by_more_than_two_is_marked() -> None:
    assert not Figure("rows", 100.0, 200.0, "exact").is_off
    assert Figure("rows", 100.0, 201.0, "exact").is_off
    assert Figure("rows", 0.0, 3.0, "exact").off == 3.0
    assert Figure("rows", None, 3.0, "exact").off is None
    assert Figure("memory", 0.0, 5e5, "estimated").off == 1.0
    assert Figure("memory", 0.0, 2.0**22, "estimated").off == 4.0


def test_all_that_is_off_is_told_on_the_line() -> None:
    figures: dict[str, float | str] = {"actual_total_seconds": 0.4, "off": 5.0, "off_in": "memory"}
    (line,) = figure_lines({**figures, "off_too": "2.7x in seconds of all"})
    assert line == ("actual", "400 ms in all; off 5x in memory, 2.7x in seconds of all")
    ((_, cost),) = figure_lines({"total_seconds": 0.1, "memory": 0.0, "provenance": "measured"})
    assert cost == "100 ms in all; no copies in memory (measured)"
    # Clocks are no finer.
    assert not Figure("seconds", 1e-9, 9e-6, "assumed").is_off


# What users see.


def test_the_text_has_both_sides_and_fits_the_line() -> None:
    with so.session():
        text = fitted().explain(analyze=True)
    assert max(map(len, text.splitlines())) <= 100
    assert f"{KEPT:_} rows, 1.08 MB" in text
    for part in PARTS:
        assert part in text
    assert "-- iterations\nloop 1 loop: 4, the first " in text
    assert text.count("· estimate") >= 5 <= text.count("· actual")


def test_without_costs_there_is_what_happened_alone() -> None:
    with so.session():
        text = fitted().explain(analyze=True, costs=False)
    assert "· actual" in text
    assert "estimate" not in text


def test_another_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage is 'optimized', and analyze=True measures"):
        fitted().explain(stage="optimized", analyze=True)


def test_errors_are_those_of_collect() -> None:
    def broken(record: Any) -> float:
        if record.x > 4998.5:
            raise ValueError("this record")
        return 1.0

    table = so.table({"x": np.arange(5000.0)}).map(broken)
    with so.session(), pytest.raises(so.UserFunctionError, match="this record"):
        table.sum().explain(analyze=True)


def test_a_table_that_a_stage_reads_twice_is_counted_at_each_place() -> None:
    t = so.table({"a": np.arange(1000.0), "b": np.arange(1000.0)}).filter(lambda r: r.a >= 0)
    kept = t.select(x="a").union(t.select(x="b"))
    loop = so.loop(0.0, range(3))(lambda s: s + kept.map(lambda r: r.x * s).sum())
    lines = json.loads(loop.explain(analyze=True, format="json"))["stages"]["physical"]
    stack, found = [lines], []
    while stack:
        line = stack.pop()
        stack.extend(line.get("children", ()))
        if line["title"].startswith(("StoredTable", "TableScan")):
            found.append(line["figures"]["actual_rows"])
    assert found
    assert {n for n in found if n > 1000} <= {2000.0}
    assert 1000.0 in found
