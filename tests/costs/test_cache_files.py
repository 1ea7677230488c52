"""What becomes of a cached table that memory does not hold: a cache file, or made again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalops as so
from scalops.deciding import Decided, decide
from scalops.engine.cluster.job_settings import JobSettings
from scalops.engine.cluster.messages import decode, encode
from scalops.engine.neutral import Neutral
from scalops.engine.spill_folder import free_disk
from scalops.optimizer.costs.choice import Asked, choose
from scalops.optimizer.costs.machine import Machine, Rate
from scalops.optimizer.costs.memory import LEFT_SHARE
from scalops.optimizer.costs.plan_cost import PlanCost, plan_cost
from scalops.optimizer.costs.plan_work import PlanWork, StageWork, plan_work
from scalops.optimizer.costs.setting import Setting
from scalops.options import Options
from scalops.planning import plan
from tests.costs.programs import work_of
from tests.costs.test_replan import two_tables
from tests.engine.plans import job_of

MACHINE = Machine.of(2, 8_000_000_000)
ROWS, COLUMNS = 20_000, 16
MEMORY = 8 * ROWS * COLUMNS // 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same numbers in several formats."""
    made = tmp_path_factory.mktemp("formats")
    x = np.random.default_rng(5).normal(size=(ROWS, COLUMNS))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), COLUMNS)
    table = pa.table({"x": vectors, "y": pa.array(np.sign(x[:, 0]))})
    pa.parquet.write_table(table, made / "t.parquet", row_group_size=2_000)
    with pa.OSFile(str(made / "t.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as ipc:
        ipc.write_table(table, 2_000)
    pa.csv.write_csv(pa.table({"a": x[:, 0], "y": np.sign(x[:, 0])}), made / "t.csv")
    line = "1 " + " ".join(f"{12_000 + 99 * i}:0.{123_456 + i}" for i in range(80)) + "\n"
    (made / "t.svm").write_text(1_000 * line)
    return made


def descent(table: so.Table, size: int, iterations: int = 40) -> Any:
    """A loop over a table of vectors."""

    @so.loop(np.zeros(size), range(iterations))
    def model(w: Any) -> Any:
        return w + table.map(lambda r: r.x * (r.y - np.tanh(r.x @ w))).sum() / ROWS

    return model


def ipc(folder: Path) -> Any:
    return descent(so.read_ipc(folder / "t.arrow"), COLUMNS)


def parquet(folder: Path) -> Any:
    return descent(so.read_parquet(folder / "t.parquet"), COLUMNS)


def computed(folder: Path) -> Any:
    table = so.read_ipc(folder / "t.arrow")
    for _ in range(4):
        table = table.with_columns(x=lambda r: np.log1p(np.exp(np.tanh(r.x))))
    return descent(table, COLUMNS)


def csv(folder: Path) -> Any:
    table = so.read_csv(folder / "t.csv")
    return so.loop(0.0, range(40))(
        lambda w: w + table.map(lambda r: r.a * (r.y - np.tanh(r.a * w))).sum() / ROWS
    )


def sparse(folder: Path) -> Any:
    table = so.read_libsvm(folder / "t.svm", n_features=50_000)
    return descent(table, 50_000)


def decided(loop: Any, memory: int = MEMORY, machine: Machine = MACHINE) -> Decided:
    physical = plan(job_of(loop), jit=False)
    return decide(physical, Options(memory=memory, threads=2), machine)


@pytest.mark.parametrize(
    ("made", "memory", "words"),
    [
        (ipc, MEMORY, "read again, "),
        (parquet, MEMORY, "in a cache file, "),
        (computed, MEMORY, "in a cache file, "),
        (csv, 80_000, "in a cache file, "),
        (sparse, 200_000, "in a cache file, "),
    ],
)
def test_what_is_dearer_to_make_than_to_read_goes_to_a_file(
    made: Callable[[Path], Any], memory: int, words: str, folder: Path
) -> None:
    found = decided(made(folder), memory)
    (decision,) = found.decisions
    assert decision.about.startswith("rest of t1, ")
    assert f": {words}" in str(decision)
    assert decision.seconds <= decision.second_seconds
    assert found.neutral.filed == (frozenset((1,)) if "file" in words else frozenset())


def test_a_file_is_not_written_for_few_iterations(folder: Path) -> None:
    table = so.read_parquet(folder / "t.parquet")
    (decision,) = decided(descent(table, COLUMNS, 2)).decisions
    assert (decision.chosen, decision.second) == ("read again", "in a cache file")


def test_where_all_fits_there_is_nothing_to_tell(folder: Path) -> None:
    """The file is chosen all the same, should the table turn out larger."""
    found = decided(parquet(folder), 2 * 8 * ROWS * COLUMNS)
    assert not found.decisions
    assert found.neutral.filed == {1}
    assert decided(parquet(folder), 1 << 40).neutral == Neutral()


def choice_of(work: PlanWork, setting: Setting, machine: Machine = MACHINE) -> Any:
    return choose(work, (), machine, [setting], Asked())


@pytest.mark.parametrize("disk", [0.0, 1e5, math.inf])
def test_a_file_has_to_have_room_on_the_disk(disk: float, folder: Path) -> None:
    work = plan_work(plan(job_of(computed(folder)), jit=False))
    made = choice_of(work, Setting(2, None, float(MEMORY), disk=disk))
    assert bool(made.setting.neutral.filed) == (disk > 1e6)
    (decision,) = made.decisions
    assert decision.second == ("made again" if disk > 1e6 else "")


def test_free_disk_is_that_of_the_folder(tmp_path: Path) -> None:
    assert 0 < free_disk(str(tmp_path)) < 1e18
    assert free_disk(str(tmp_path / "none")) == 0
    if Path("/dev/shm").is_dir():
        assert free_disk("/dev/shm") == 0  # memory


def test_workers_are_told() -> None:
    settings = JobSettings(Neutral(2, filed=frozenset((3, 1))))
    begin = settings.begin(1, 0, 1, careful=False)
    assert frozenset(begin.filed) == {1, 3}
    assert decode(encode(begin)) == begin


# The costs.


def rates(**given: float) -> Machine:
    return Machine.of(2, 1 << 30, [Rate(n, v, "bytes/s", "") for n, v in given.items()])


def cost(memory: float, filed: bool, machine: Machine, loop: str = "logistic") -> PlanCost:
    neutral = Neutral(filed=frozenset((1,)) if filed else frozenset())
    return plan_cost(work_of(loop), machine, Setting(1, None, memory, neutral))


@pytest.mark.parametrize("disk", [1e7, 1e9, 1e15])
def test_reading_ahead_hides_behind_computing(disk: float) -> None:
    machine = rates(disk_read=disk, disk_write=5e8)
    size = cost(math.inf, False, machine).memory  # and more: buffers
    (cache,) = (s for s in work_of("logistic").stages.values() if s.is_cache)
    found, whole = cost(size / 2, True, machine), cost(math.inf, True, machine)
    missing = found.missing[1]
    computing = whole.loops[0].steady.map
    share = missing / cache.held_bytes
    load = max(missing / disk - share * computing, missing / machine["ipc"])
    assert found.loops[0].steady.load == pytest.approx(load)
    written = found.stages[cache.stage].first.load - whole.stages[cache.stage].first.load
    assert written == pytest.approx(missing / 5e8)
    assert found.loops[0].steady.map == pytest.approx(computing)


@pytest.mark.parametrize("filed", [False, True])
def test_seconds_over_memory_have_no_step(filed: bool) -> None:
    """From one amount of memory to the next: no more than the bytes between them take."""
    machine = rates(disk_read=1e8)
    (cache,) = (s for s in work_of("logistic").stages.values() if s.is_cache)
    made = [cost(m, filed, machine).loops[0].steady.total for m in np.linspace(0, 4e6, 60)]
    most = 4e6 / 59 * (1 / 1e8 + 1 / machine["ipc"] + _again_byte(cache, machine))
    assert all(0 <= a - b <= most * (1 + 1e-9) for a, b in pairwise(made))
    assert made[0] > made[-1] > 0


def _again_byte(cache: StageWork, machine: Machine) -> float:
    """Seconds to make a byte of a table again."""
    alone = plan_cost(PlanWork({cache.stage: cache}, (), (cache.stage,)), machine, HERE)
    return alone.once.total / cache.held_bytes


HERE = Setting(1, None, math.inf)


def test_workers_of_one_machine_share_its_disk() -> None:
    def load(cores: int | None) -> float:
        neutral = Neutral(4, (2,), filed=frozenset((1,)))
        machine = rates(disk_read=1e6, disk_write=1e6)
        made = plan_cost(work_of("logistic"), machine, Setting(1, cores, 0.0, neutral))
        return made.loops[0].steady.load

    assert load(4) == pytest.approx(4 * load(None), rel=0.05)


def _subsets(numbers: list[int]) -> Iterator[frozenset[int]]:
    every = chain.from_iterable(combinations(numbers, n) for n in range(len(numbers) + 1))
    return map(frozenset, every)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.05, 1.2), st.floats(6, 10), st.floats(6, 10), st.integers(1, 200))
def test_no_other_choice_of_files_is_better(
    part: float, read: float, write: float, iterations: int
) -> None:
    machine = rates(disk_read=10**read, disk_write=10**write)
    work = plan_work(plan(job_of(two_tables(2_000)), jit=False))
    loop = replace(work.loops[0], iterations=float(iterations))
    work = replace(work, loops=(loop,))
    caches = [s for s in work.stages.values() if s.is_cache]
    memory = part * sum(s.held_bytes for s in caches)
    made = choice_of(work, Setting(1, None, memory), machine)
    for filed in _subsets([s.makes for s in caches if s.makes is not None]):
        neutral = replace(made.setting.neutral, filed=filed)
        other = plan_cost(work, machine, replace(made.setting, neutral=neutral))
        assert made.cost.total_seconds <= other.total_seconds * (1 + 1e-9)


def test_tables_that_a_loop_cannot_do_without_go_to_files() -> None:
    work = work_of("pages")
    ample, none = (plan_cost(work, MACHINE, Setting(1, None, m)) for m in (4e9, 0.0))
    assert not ample.spilled
    assert none.loops[0].steady.load > ample.loops[0].steady.load
    state = max(none.spilled, key=lambda s: none.spilled[s])
    assert none.spilled[state] == pytest.approx(
        work.stages[state].held_bytes
    )  # each run writes it, and those that read it read it
    extra = none.total_seconds - ample.total_seconds
    assert extra >= none.spilled[state] / MACHINE["disk_write"]


# What is shown.


def test_explain_tells_where_the_rest_is(folder: Path) -> None:
    with so.session(memory=MEMORY, threads=2):
        shown = parquet(folder).explain(stage="physical")
        made = json.loads(parquet(folder).explain(stage="physical", format="json"))
    assert " of memory, " in shown
    assert " in a cache file" in shown
    lines = [made["stages"]["physical"]]
    for line in lines:
        lines.extend(line.get("children", ()))
    (figures,) = (f for line in lines if "filed" in (f := line.get("figures", {})))
    size = 8 * ROWS * (COLUMNS + 1)
    assert figures["memory"] + figures["filed"] == pytest.approx(size)
    assert figures["memory"] == pytest.approx(MEMORY * (1 - LEFT_SHARE), rel=0.01)


def test_analyze_counts_what_comes_from_the_file(folder: Path) -> None:
    with so.session(memory=MEMORY, threads=2):
        made = json.loads(computed(folder).explain(analyze=True, format="json"))
        few = computed(folder).collect()
    profile = made["analysis"]["profile"]
    (cache,) = profile["caches"]
    away = cache["partitions"] - cache["held"]
    assert cache["file_reads"] == 40 * away > 0 == cache["again"]
    assert cache["hits"] == 40 * cache["held"]
    assert cache["file_bytes"] == profile["files"]["cache 1"] <= profile["spilled_bytes"]
    assert cache["file_bytes"] >= 8 * ROWS * (COLUMNS + 1) - cache["bytes"]
    with so.session(memory="1GB", threads=1):
        assert np.array_equal(computed(folder).collect(), few)


def test_groups_of_rows_that_threads_share_are_decoded_by_each(folder: Path) -> None:
    large = folder / "large.parquet"
    if not large.exists():
        table = pyarrow.parquet.read_table(folder / "t.parquet")
        pyarrow.parquet.write_table(table, large, row_group_size=ROWS)
    works = [
        plan_work(plan(job_of(descent(so.read_parquet(path), COLUMNS)), jit=False))
        for path in (folder / "t.parquet", large)
    ]
    for threads, factor in ((1, 1), (2, 2)):
        small, wide = (
            plan_cost(work, MACHINE, Setting(threads, None, 0.0)).loops[0].steady.load
            for work in works
        )
        assert wide == pytest.approx(factor * small, rel=0.1)
