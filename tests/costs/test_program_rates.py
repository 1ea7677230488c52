"""Rates of a program: what is fitted to runs whose times follow a known law is that law."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scalops.algebra.errors import ConfigError
from scalops.engine.collective import Ranks
from scalops.engine.neutral import Neutral
from scalops.optimizer.costs.curves import Measured, curve, measured
from scalops.optimizer.costs.machine import Machine, Rate
from scalops.optimizer.costs.plan_work import LoopWork, PlanWork, StageWork
from scalops.optimizer.costs.prediction import (
    fitted_overhead,
    iteration_seconds,
    makespan,
    partition_shares,
)
from scalops.optimizer.costs.program_rates import (
    LoopRates,
    LoopRun,
    ProgramRates,
    ShortRun,
    StageRates,
    fitted,
    on_threads,
)
from scalops.optimizer.costs.program_symbols import ProgramSymbols, program_symbols
from scalops.optimizer.costs.setting import Setting

MACHINE = Machine.of(2, 1 << 30)
SLOW_DISK = Machine.of(2, MACHINE.memory, [Rate("disk_read", 1e6, "bytes/s", "", "measured")])
RECORDS, PARTITIONS = 64_000.0, 64
UPDATE, FIXED, EACH, SERIAL = 1e-4, 2e-4, 1e-6, 0.25  # seconds; of one thread
COMMAND, MORE, CONTENTION, MOVED = 5e-4, 3e-3, 1.1, 2e-6
FIRST_EACH = 4e-6
SMALL = 5e-5  # the second stage


def stage_seconds(rows: float, threads: int) -> float:
    """The law of the stage: a fixed part and so much a record, by Amdahl."""
    return (FIXED + EACH * rows) * (SERIAL + (1 - SERIAL) / threads)


def worker_seconds(rows: float, workers: int, moved: float = 0.0) -> float:
    """Workers of one thread share two cores; each after the first adds as much.

    Of the records (N - 1) / N move.
    """
    work, shared = stage_seconds(rows, 1) + SMALL, min(2, workers)
    contention = CONTENTION if workers > 1 else 1.0
    moving = 2 * (workers - 1) / workers * moved * rows / shared
    return UPDATE + COMMAND + MORE * (workers - 1) + work * contention / shared + moving


def run(records: float, workers: int, threads: int, moved: float = 0.0) -> ShortRun:
    """A short run that follows the laws, of two stages: the second reads two records always."""
    small = SMALL
    stage = stage_seconds(records, threads)
    steady = worker_seconds(records, workers, moved) if workers else stage + small + UPDATE
    first = steady + FIRST_EACH * records
    ran = {1: (stage, 1), 2: (small, 2)} if not workers else {}
    loop = LoopRun((first, *[steady] * 5), (ran,) * 6)
    return ShortRun(workers, threads, records, {1: records, 2: 2.0}, {3: loop}, 0.0, 80 * records)


def of_laws(moved: float = 0.0) -> ProgramRates:
    """Rates of runs over an eighth and a quarter of the records."""
    ways = [(0, 1), (0, 2), (1, 1), (2, 1)]
    runs = [run(RECORDS * s, n, t, moved) for s in (1 / 8, 1 / 4) for n, t in ways]
    return fitted(runs, RECORDS, "numbers", PARTITIONS, {3} if moved else ())


@pytest.fixture(name="rates")
def of_folds() -> ProgramRates:
    """Rates of a loop that folds."""
    return of_laws()


def test_stages_follow_their_law_beyond_the_samples(rates: ProgramRates) -> None:
    for rows in (100.0, 5_000.0, 64_000.0, 1e7):
        for threads in (1, 2, 4):
            found = rates.stage_seconds(1, rows, threads)
            assert found is not None
            assert found.seconds == pytest.approx(stage_seconds(rows, threads))
    assert rates.stage_seconds(9, 1.0, 1) is None


def test_a_stage_of_several_runs_has_the_seconds_of_one(rates: ProgramRates) -> None:
    small = rates.loops[3].stages[1]
    found = rates.stage_seconds(2, 2.0, 1)
    assert small.runs == 2
    assert found is not None
    assert found.seconds == pytest.approx(2.5e-5)


def test_rows_of_stages_grow_with_the_sampled_table_or_stay(rates: ProgramRates) -> None:
    assert rates.rows(1e6) == pytest.approx({1: 1e6, 2: 2.0})
    assert rates.records_of({1: 1e6, 2: 2.0}) == 1e6


def test_overheads_of_workers_are_found(rates: ProgramRates) -> None:
    found = fitted_overhead(rates, rates.loops[3], MACHINE)
    assert found.contention == pytest.approx(CONTENTION)
    assert found.one.seconds == pytest.approx(COMMAND)
    assert found.more.seconds == pytest.approx(MORE)


@pytest.mark.parametrize("moved", [0.0, MOVED])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_an_iteration_on_workers_is_predicted_at_another_size(workers: int, moved: float) -> None:
    rates = of_laws(moved)
    setting = Setting(1, 2, math.inf, Neutral(workers))
    for records in (RECORDS, 4 * RECORDS):
        found = iteration_seconds(rates, rates.rows(records), setting, MACHINE)
        assert found.seconds == pytest.approx(worker_seconds(records, workers, moved), rel=1e-2)


def test_workers_of_their_own_machines_share_nothing(rates: ProgramRates) -> None:
    setting = Setting(1, None, math.inf, Neutral(4))
    found = iteration_seconds(rates, rates.rows(RECORDS), setting, MACHINE)
    work = (stage_seconds(RECORDS, 1) + SMALL) / 4
    assert found.seconds == pytest.approx(UPDATE + COMMAND + 3 * MORE + work)


def test_two_threads_of_a_worker_are_those_of_this_process(rates: ProgramRates) -> None:
    setting = Setting(2, 2, math.inf, Neutral(1))
    found = iteration_seconds(rates, rates.rows(RECORDS), setting, MACHINE)
    expected = UPDATE + COMMAND + stage_seconds(RECORDS, 2) + SMALL
    assert found.seconds == pytest.approx(expected)


def test_a_time_that_varies_much_counts_little() -> None:
    def noisy(found: ShortRun, seconds: float) -> ShortRun:
        loop = found.loops[3]
        times = (*loop.seconds[:2], seconds, 3 * seconds, 5 * seconds, 9 * seconds)
        return replace(found, loops={3: replace(loop, seconds=times)})

    ways = [(0, 1), (1, 1), (2, 1)]
    runs = [run(RECORDS * s, n, t) for s in (1 / 8, 1 / 4, 1 / 2) for n, t in ways]
    runs[-2] = noisy(runs[-2], 1.0)
    found = fitted_overhead(*_one(fitted(runs, RECORDS, "", PARTITIONS)), MACHINE)
    assert found.one.seconds == pytest.approx(COMMAND, rel=0.05)


def _one(rates: ProgramRates) -> tuple[ProgramRates, LoopRates]:
    return rates, rates.loops[3]


def test_an_iteration_in_this_process_is_its_stages_and_the_rest(rates: ProgramRates) -> None:
    setting = Setting(2, 2, math.inf)
    found = iteration_seconds(rates, rates.rows(RECORDS), setting, MACHINE, loop=3)
    assert found.seconds == pytest.approx(stage_seconds(RECORDS, 2) + 5e-5 + UPDATE)


def test_without_runs_on_workers_the_machine_says_what_they_cost() -> None:
    rates = fitted([run(RECORDS * s, 0, 1) for s in (1 / 8, 1 / 4)], RECORDS, "", PARTITIONS)
    setting = Setting(1, 2, math.inf, Neutral(2))
    found = iteration_seconds(rates, rates.rows(RECORDS), setting, MACHINE)
    work = stage_seconds(RECORDS, 1) + 5e-5
    expected = UPDATE + work / 2 + MACHINE["command"] + MACHINE["message"]
    assert found.seconds == pytest.approx(expected)


def test_symbols_are_those_of_the_laws(rates: ProgramRates) -> None:
    stages = {
        1: StageWork(1, RECORDS, 8 * RECORDS, "memory", (), partial_bytes=1e6),
        2: StageWork(2, 2, 16, "stored", ()),
    }
    loop = LoopWork(3, 20.0, True, (1, 2), environment_bytes=1e6)
    work = PlanWork(stages, _loops(loop), ())
    setting = Setting(1, None, 80.0 * 32_000)
    made = program_symbols(rates, work, SLOW_DISK, setting)
    s = made.symbols
    assert (s.records, s.iterations) == (RECORDS, 20.0)
    assert s.map == pytest.approx((stage_seconds(RECORDS, 1) + 5e-5) / RECORDS)
    assert s.load == pytest.approx(FIRST_EACH)
    assert s.cache == pytest.approx(32_000)
    passed = 1e6 / MACHINE["link"] + 1e6 / MACHINE["add"] + MACHINE["message"]
    assert s.aggregate == pytest.approx(passed)
    assert s.broadcast == pytest.approx(1e6 / MACHINE["link"] + MACHINE["message"])
    assert s.level == pytest.approx(MORE - s.aggregate - s.broadcast, rel=1e-3)
    assert set(made.spreads) == {"map", "load", "aggregate", "broadcast", "level"}


@pytest.mark.parametrize(
    ("records", "unsure"),
    [(RECORDS / 8, set()), (RECORDS, set()), (100.0, {"map", "load"}), (1e9, {"map", "load"})],
)
def test_beyond_the_samples_nothing_is_measured(records: float, unsure: set[str]) -> None:
    assert symbols_of(of_laws(), records).unsure == unsure


def test_what_cannot_be_told_apart_from_nothing_is_not_measured() -> None:
    def loaded_anyhow(found: ShortRun) -> ShortRun:
        loop = found.loops[3]
        steady = loop.seconds[-1]
        return replace(found, loops={3: replace(loop, seconds=(steady,) * 6)})

    runs = [loaded_anyhow(run(RECORDS * s, 0, 1)) for s in (1 / 8, 1 / 4)]
    made = symbols_of(fitted(runs, RECORDS, "", PARTITIONS))
    assert made.symbols.load == 0
    assert "load" not in made.spreads
    assert made.unsure == {"load", "level"}  # on workers nothing was run


def symbols_of(
    rates: ProgramRates, records: float | None = None, machine: Machine = MACHINE
) -> ProgramSymbols:
    """The symbols of the loop, of little partial results."""
    stages = {n: StageWork(n, RECORDS, 8.0, "memory", ()) for n in (1, 2)}
    work = PlanWork(stages, _loops(LoopWork(3, 20.0, True, (1, 2))), ())
    return program_symbols(rates, work, machine, Setting(1, None, 1e9), records=records)


def loading(seconds: float, off: float = 0.0) -> ProgramRates:
    """Rates of a loop whose caches take so long; later iterations vary by a part `off`."""
    runs = []
    for size in (RECORDS / 8, RECORDS / 4):
        found = run(size, 0, 1)
        steady = found.loops[3].seconds[-1]
        times = tuple(steady * (1 + part * off) for part in (0, 0, -2, -1, 0, 1, 2))
        loop = LoopRun(times, found.loops[3].stages[:1] * len(times))
        runs.append(replace(found, loops={3: loop}, load_seconds=seconds))
    return fitted(runs, RECORDS, "numbers", PARTITIONS)


def test_a_file_that_is_decoded_whole_for_each_sample_is_no_load_of_nothing() -> None:
    made = symbols_of(loading(0.1), machine=SLOW_DISK)  # as of Parquet with one group of rows
    assert made.symbols.load == pytest.approx(0.1 / (RECORDS / 4))
    assert made.spreads["load"] == pytest.approx(0.5)
    assert "load" not in symbols_of(loading(0.1), RECORDS / 4, SLOW_DISK).unsure


def test_what_a_cache_file_gives_sooner_is_not_loaded_again() -> None:
    made = symbols_of(loading(0.1))
    read = 1 / MACHINE["disk_read"] + 1 / MACHINE["ipc"]
    written = 1 / MACHINE["disk_write"] / 20  # iterations
    assert made.symbols.load == pytest.approx(80 * (read + written))
    assert made.by_rates["load"] == ("disk_read", "ipc", "disk_write")
    assert made.notes["load"].startswith("D: from a cache file")


def test_a_load_within_noise_is_a_bound() -> None:
    made = symbols_of(loading(0.0, off=0.1), RECORDS / 4)
    noise = 2 * 0.1 * (stage_seconds(RECORDS / 4, 1) + SMALL + UPDATE)
    assert made.symbols.load == pytest.approx(noise / (RECORDS / 4))
    assert "load" in made.unsure
    assert made.notes["load"].startswith("D: at most.")


def test_what_is_in_memory_is_loaded_as_from_a_file() -> None:
    made = symbols_of(replace(loading(0.0), in_memory=True))
    assert made.symbols.load == pytest.approx(80 * (1 / MACHINE["disk_read"] + 1 / MACHINE["ipc"]))
    assert made.by_rates["load"] == ("disk_read", "ipc")


def test_a_slope_in_noise_is_not_gone_along() -> None:
    rates = loading(0.1)
    flat = curve([(8e3, Measured(0.1, 0.1)), (16e3, Measured(0.1001, 0.1))])
    assert flat is not None
    stage = StageRates(1, 1.0, {1: flat})
    noisy = replace(rates, loops={3: replace(rates.loops[3], stages=(stage,))})
    assert symbols_of(noisy, 1e9).symbols.map == pytest.approx(0.1001 / 16e3)


def test_no_symbols_without_rates() -> None:
    with pytest.raises(ConfigError, match="no loop"):
        program_symbols(
            ProgramRates(reason="no loop"),
            PlanWork({}, (), ()),
            MACHINE,
            Setting(1, None, math.inf),
        )


def _loops(only: LoopWork) -> tuple[LoopWork, ...]:
    """Loops by index, the last of which is this one."""
    others = [LoopWork(i, 1.0, True, ()) for i in range(only.index)]
    return (*others, only)


# Curves.


def test_a_curve_passes_through_what_was_measured_and_goes_on_straight() -> None:
    found = curve([(10.0, Measured(3.0, 0.1)), (20.0, Measured(4.0, 0.1))])
    assert found is not None
    assert [found.at(x).seconds for x in (0, 10, 15, 20, 30)] == [2.0, 3.0, 3.5, 4.0, 5.0]
    assert found.slope(30).seconds == pytest.approx(0.1)
    # Beyond the points both errors count: of what takes no rows (2 x 0.3 and 1 x 0.4) one half.
    off = math.hypot(1.5 * 0.4, 0.5 * math.hypot(2 * 0.3, 0.4))
    assert found.at(30).spread == pytest.approx(off / 5)


def test_what_falls_out_of_the_cache_goes_on_in_proportion() -> None:
    # Of 40 rows all are in the cache, of 80 none is: 1 and 2 seconds each.
    found = curve([(20.0, Measured(20.0)), (40.0, Measured(40.0)), (80.0, Measured(160.0))])
    assert found is not None
    assert [found.at(x).seconds for x in (10, 40, 60, 320)] == [10.0, 40.0, 100.0, 640.0]
    assert found.slope(320).seconds == 2.0


def test_few_rows_take_no_less_than_in_proportion() -> None:
    # The line through both would be at 0 seconds for 5 rows.
    found = curve([(10.0, Measured(1.0, 0.1)), (20.0, Measured(3.0, 0.1))])
    assert found is not None
    assert [found.at(x).seconds for x in (0, 1, 5, 10, 15)] == [0.0, 0.1, 0.5, 1.0, 2.0]
    assert found.at(1).spread == 0.1


def test_a_disturbed_small_sample_takes_no_longer_than_a_large_one() -> None:
    found = curve([(10.0, Measured(9.0)), (20.0, Measured(2.0)), (40.0, Measured(4.0))])
    assert found is not None
    assert [found.at(x).seconds for x in (10, 20, 40, 80)] == [2.0, 2.0, 4.0, 6.0]


def test_one_size_alone_is_in_proportion() -> None:
    found = curve([(10.0, Measured(1.0)), (10.0, Measured(3.0))])
    assert found is not None
    assert found.at(40.0).seconds == 8.0
    assert curve([]) is None


def test_spread_is_half_between_the_quartiles() -> None:
    assert measured([4.0, 1.0, 3.0, 5.0, 2.0]) == Measured(3.0, 1 / 3)


def test_threads_beyond_the_measured_follow_amdahl() -> None:
    one, two = curve([(1.0, Measured(1.0))]), curve([(1.0, Measured(0.625))])
    assert one is not None
    assert two is not None
    found = on_threads({1: one, 2: two}, 1.0, 8)
    assert found is not None
    assert found.seconds == pytest.approx(0.25 + 0.75 / 8)


# Who has how much.


@pytest.mark.parametrize("partitions", [1, 2, 5, 25, 64, 1000])
def test_shares_are_those_of_the_engine(partitions: int) -> None:
    for workers in (1, 2, 3, 4, 7, 12):
        ranks = Ranks(0, workers)
        bounds = [ranks.range_of(r, partitions) for r in range(workers)]
        assert partition_shares(workers, partitions) == tuple(
            (b - a) / partitions for a, b in bounds
        )


@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.3), (0.5, 0.2, 0.2, 0.1), (1.0,), (0.5, 0.0, 0.5)])
@pytest.mark.parametrize(("threads", "cores"), [(1, 2), (2, 2), (1, 8), (2, 3)])
def test_makespan_is_that_of_small_steps(
    shares: tuple[float, ...], threads: int, cores: int
) -> None:
    left, now, step = list(shares), 0.0, 1e-3
    while any(x > 1e-9 for x in left):
        busy = [i for i, x in enumerate(left) if x > 1e-9]
        for i in busy:
            left[i] -= step * min(threads, cores / len(busy))
        now += step
    assert makespan(shares, threads, cores) == pytest.approx(now, abs=4e-3)
