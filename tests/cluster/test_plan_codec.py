"""Plans and their tables arrive at the ranks as they were; what has changed is refused."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

import scalops as so
from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra.dtypes import FLOAT64
from scalops.algebra.errors import DataError, ExecutionError, PlanError
from scalops.algebra.tree import find
from scalops.engine import physical_display
from scalops.engine import physical_plan as pp
from scalops.engine.blocks import Block
from scalops.engine.cluster import file_sources, plan_codec, shared_tables
from scalops.engine.cluster.file_sources import bad_records_of, note_bad_records
from scalops.engine.cluster.plan_codec import decode_plan, encode_plan, plan_digest
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore, RemoteSource, tables_gone
from scalops.engine.cluster.shared_tables import SharedTables
from scalops.engine.cluster.source_server import SourceServer, plan_tables
from scalops.engine.cluster.versions import own_versions
from scalops.engine.collective import Piece, Ranks
from scalops.engine.kept_tables import KeptSource, KeptTable
from scalops.engine.memory import MemoryBudget
from scalops.engine.pipelines.base import contiguous
from scalops.engine.storage import MemorySource, read_csv
from scalops.explain import _node
from scalops.planning import plan as planned
from scalops.results import take_leaves
from tests.cluster.test_block_codec import bits
from tests.engine.plans import calc
from tests.programs.test_shared_programs import PROGRAMS, load

ROWS = 700
SHARED = Path(__file__).parents[3] / "shared" / "programs"


def plan_of(wanted: Any) -> pp.PhysicalPlan:
    """The plan of what a program returns."""
    return planned(op.Job(tuple(_node(leaf) for leaf in take_leaves(wanted, "explain"))))


def no_driver(source: int, partitions: tuple[int, ...], first: int) -> None:
    """For plans whose tables are mapped."""
    raise AssertionError(f"partitions {partitions} of {source} are asked for")


def decoded(data: bytes, ask: Callable[..., None] = no_driver) -> pp.PhysicalPlan:
    """The plan as a rank has it."""
    return decode_plan(data, PartitionStore(ask), RankCaches()).plan


def shown(plan: pp.PhysicalPlan) -> str:
    """What explain shows of a plan, and its fingerprints."""
    return f"{physical_display.display(plan).to_text()}\n{plan_digest(plan)} {plan.fingerprint}"


# Plans.


def odd(r: Any) -> float:
    """Needs truth values, so it cannot be traced."""
    return 1.0 if len(r.s) % 2 else float(r.x @ r.x)


def several() -> Any:
    """A loop, a function that is called as it is, groups."""
    x = np.random.default_rng(4).normal(size=(ROWS, 3))
    t = so.table({"x": x, "s": [f"n{i % 5}" for i in range(ROWS)]})
    centre = np.arange(3.0)
    points = t.map(lambda r: {"x": r.x - centre, "y": r.x.sum()})

    @so.loop(np.zeros(3), range(3))
    def descend(w: Any) -> Any:
        return w - 0.1 * points.sum(lambda r: (r.x @ w - r.y) * r.x) / ROWS

    opaque = t.map(so.udf(odd, returns=so.float64)).sum()
    return [descend, opaque, t.group_by("s").agg(n=so.count())]


SUBPROCESS = """
import json, sys
from scalops.engine.cluster import plan_codec
from scalops.engine.cluster.rank_caches import RankCaches
from scalops.engine.cluster.remote_source import PartitionStore
from scalops.engine import physical_display
plan_codec.with_keys = lambda plan: plan
found = []
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    plan = plan_codec.decode_plan(data, PartitionStore(print), RankCaches()).plan
    text = physical_display.display(plan).to_text()
    found.append(f"{text}\\n{plan_codec.plan_digest(plan)} {plan.fingerprint}")
print(json.dumps(found))
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the programs leave files open
def test_plans_are_the_same_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.environ.get("SCALOPS_TEST_PROGRAMS", SHARED))
    monkeypatch.syspath_prepend(folder)
    programs = [folder / f"{name}.py" for name in PROGRAMS]
    wanted = [load(path).main() for path in programs if path.exists()]
    expected, paths = [], []
    for i, own in enumerate([several(), *wanted]):
        plan = plan_of(own)
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(encode_plan(plan, plan_tables(plan)))
        expected.append(shown(plan))
    command = [sys.executable, "-c", SUBPROCESS, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_lines_of_equal_nodes_and_what_is_shared_stay() -> None:
    t = so.table({"x": np.arange(9.0)})
    first = t.sum(lambda r: r.x * 2)
    second = t.sum(lambda r: r.x * 2)
    plan = plan_of([first, second])
    found = decoded(encode_plan(plan, plan_tables(plan)))
    nodes, before = find(found.stages, pp.Sink), find(plan.stages, pp.Sink)
    assert [n.location for n in nodes] == [n.location for n in before]
    scans = find(found.stages, pp.TableScan)
    assert len({id(s.source) for s in scans}) == 1


def test_a_deep_plan_is_sent() -> None:
    value: ex.Expression = ex.Slot("x", FLOAT64, number=0)
    for i in range(1500):
        value = calc("add", value, float(i))
    plan = replace(scan_plan(SOURCES["one"]), program=(pp.Evaluate(((1, value),)),))
    assert plan_digest(decoded(encode_plan(plan, plan_tables(plan), {}))) == plan_digest(plan)


def test_what_cannot_be_pickled_is_named() -> None:
    t = so.table({"x": np.arange(9.0)})
    plan = plan_of(t.sum("x"))
    odd_one = replace(plan, slots=((threading.Lock(), plan.slots[0][1]),))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"cannot be sent to the workers.*lock"):
        encode_plan(odd_one, plan_tables(plan))


def test_a_plan_of_other_versions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(so.table({"x": np.arange(9.0)}).sum("x"))
    own = own_versions()
    monkeypatch.setattr(plan_codec, "own_versions", lambda: {**own, "numpy": "1.0"})
    data = encode_plan(plan, plan_tables(plan))
    monkeypatch.undo()
    with pytest.raises(ExecutionError, match=r"numpy 1\.0 on the driver"):
        decoded(data)


def test_another_plan_than_was_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(so.table({"x": np.arange(9.0)}).sum("x"))
    monkeypatch.setattr(plan_codec, "plan_digest", lambda plan: "another")
    data = encode_plan(plan, plan_tables(plan))
    monkeypatch.undo()
    with pytest.raises(ExecutionError, match="not the one that was sent"):
        decoded(data)


# Tables in the driver's memory.


def memory_sources() -> dict[str, MemorySource]:
    """Columns of every kind and layout."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 6))
    times = np.datetime64("2020-01-01", "us") + np.arange(ROWS)
    times[3] = np.datetime64("NaT")
    texts = pa.chunked_array([[f"é{i}", None] for i in range(ROWS // 2)])
    numbers = pa.chunked_array([np.arange(400.0), np.arange(0.0), np.arange(300.0)])
    nulls = pa.array(rng.normal(size=ROWS), mask=rng.random(ROWS) < 0.3)
    arrays = {
        "c": x, "columns first": np.asfortranarray(x), "apart": x[:, ::2], "back": x[::-1, 0],
        "b": x[:, 0] > 0, "i": np.arange(ROWS, dtype="int8"), "t": times,
        "odd": x.ravel()[1 : ROWS + 1],
    }  # fmt: skip
    arrow = {
        "s": texts, "n": numbers, "z": nulls, "d": pa.array(["a", "b"] * 350).dictionary_encode(),
        "l": pa.array([[0.5] * (i % 3) for i in range(ROWS)]), "bn": pa.array([True, None] * 350),
    }  # fmt: skip
    matrix = scipy.sparse.random(ROWS, 40, 0.1, "csr", rng=rng)
    return {
        "arrays": MemorySource.of_arrays(arrays, "arrays"),
        "arrow": MemorySource.of_arrow(pa.table(arrow), "arrow"),
        "sparse": MemorySource.of_arrays({"x": matrix, "y": np.ones(ROWS)}),
        "nothing": MemorySource.of_arrow(pa.table(arrow).slice(0, 0)),
        "one": MemorySource.of_arrow(pa.table(arrow).slice(5, 1)),
    }


SOURCES = memory_sources()


def kept_source() -> KeptSource:
    """Blocks of strings, arrays and nulls in three partitions, one of them empty."""
    source = SOURCES["arrow"]
    (only,) = source.read(source.partitions()[0], source.schema.names)
    parts = {0: [only.slice(0, 64), only.slice(64, 70)], 1: [], 2: [only.slice(100, 700)]}
    return KeptSource(KeptTable("key", source.schema, 3, 4321, parts))


def scan_plan(source: Any, columns: tuple[str, ...] | None = None) -> pp.PhysicalPlan:
    """A plan that reads these columns of a source."""
    names = source.schema.names if columns is None else columns
    stage = pp.Stage(0, pp.TableScan(source, names), pp.Gather())
    return pp.PhysicalPlan((stage,), (), (), (pp.Output("table", 0),), (), "")


def arrived(
    plan: pp.PhysicalPlan, way: str, caches: RankCaches | None = None
) -> tuple[RemoteSource, list[int]]:
    """The plan's source at a rank of this machine or another; which partitions it asked for."""
    shared = SharedTables()
    tables = plan_tables(plan)
    server = SourceServer(tables, shared)
    asked: list[int] = []

    def ask(number: int, partitions: tuple[int, ...], first: int) -> None:
        asked.extend(partitions)
        for partition in partitions:
            store.arrived(number, partition, server.answer(number, partition, first))

    store = PartitionStore(ask)
    placed = server.place() if way == "mapped" else {}
    data = encode_plan(plan, tables, placed)
    found = decode_plan(data, store, caches or RankCaches()).plan
    (scan,) = find(found.stages, pp.TableScan)
    return scan.source, asked


def blocks_of(source: Any, columns: tuple[str, ...]) -> Any:
    """A source's blocks as pipelines get them."""
    parts = source.partitions()
    return [[bits(contiguous(b)) for b in source.read(p, columns)] for p in parts]


@pytest.mark.parametrize("way", ["mapped", "sent"])
@pytest.mark.parametrize("name", [*SOURCES, "kept"])
def test_blocks_are_those_that_the_driver_has(name: str, way: str) -> None:
    source = kept_source() if name == "kept" else SOURCES[name]
    found, asked = arrived(scan_plan(source), way)
    for attribute in ("title", "stamp", "schema", "bytes", "rows", "likely_rows", "in_memory",
                      "may_hold_null"):  # fmt: skip
        assert getattr(found, attribute) == getattr(source, attribute), attribute
    assert found.partitions() == source.partitions()
    assert repr(found) == repr(source)
    names = source.schema.names
    assert blocks_of(found, names) == blocks_of(source, names)
    assert blocks_of(found, names[1:2]) == blocks_of(source, names[1:2])
    assert blocks_of(found, ()) == blocks_of(source, ())
    assert bool(asked) == found.may_wait == (way == "sent")


@pytest.mark.parametrize("name", SOURCES)
def test_mapped_columns_lie_as_in_the_driver(name: str) -> None:
    source = SOURCES[name]
    found, _ = arrived(scan_plan(source), "mapped")
    for column in source.schema.names:
        here, there = source.whole(column), found.whole(column)
        assert bits(here) == bits(there), column
        fresh = column == "t"  # without NaT: made for whoever asks
        if here is not None and isinstance(here[0], np.ndarray) and not fresh:
            assert there is not None
            assert here[0].ctypes.data % 64 == there[0].ctypes.data % 64
    assert set(found.columns) == set(source.schema.names)
    assert not any(c.flags.writeable for c in found.columns.values() if isinstance(c, np.ndarray))


def test_only_columns_that_are_read_are_told_and_sent() -> None:
    source = SOURCES["arrays"]
    for way in ("mapped", "sent"):
        found, _ = arrived(scan_plan(source, ("i", "c")), way)
        assert found.facts.columns == ("c", "i")
        assert blocks_of(found, ("i", "c")) == blocks_of(source, ("i", "c"))


def test_a_table_is_put_into_shared_memory_once_and_as_long_as_it_lives() -> None:
    shared = SharedTables()
    source = MemorySource.of_arrays({"x": np.arange(1000.0), "y": np.arange(1000)})
    first = shared.place(source, ("x",))
    assert shared.place(source, ("x",)) is first
    assert 8000 <= shared.bytes < 8200
    both = shared.place(source, ("y",))
    assert set(both.columns or ()) == {"x", "y"}
    assert shared.place(source, ("x",)) is both
    memory = both.mapped()
    descriptor = f"/proc/self/fd/{both.file}"
    assert "scalops" in os.readlink(descriptor)
    del source
    gc.collect()
    assert shared.bytes == 0
    assert not os.path.exists(descriptor) or "scalops" not in os.readlink(descriptor)
    assert len(memory) == both.size  # who has mapped it keeps it


def test_plans_over_one_kept_table_share_its_copy() -> None:
    shared, table = SharedTables(), kept_source().table
    first = shared.place(KeptSource(table), ("s",))
    assert shared.place(KeptSource(table), ("s",)) is first


@pytest.mark.parametrize("wrong", ["machine", "token", "file", "size"])
def test_memory_that_is_not_the_drivers_is_not_read(wrong: str) -> None:
    source = SOURCES["arrays"]
    shared = SharedTables()
    good = shared.place(source, source.schema.names)
    other = {
        "machine": replace(good, machine="another"),
        "token": replace(good, token=b"x" * 16),
        "file": replace(good, file=1 << 20),
        "size": replace(good, size=good.size + 1),
    }
    plan = scan_plan(source)
    tables = plan_tables(plan)
    store = PartitionStore(lambda n, p, first: None)
    data = encode_plan(plan, tables, {0: other[wrong]})
    with pytest.raises(ExecutionError, match="cannot map the driver's memory"):
        decode_plan(data, store, RankCaches())


def test_a_table_too_large_for_a_copy_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(source: Any, wanted: Any) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(shared_tables, "_require_memory", no_memory)
    source = SOURCES["sparse"]
    found, asked = arrived(scan_plan(source), "mapped")
    assert blocks_of(found, ("x",)) == blocks_of(source, ("x",))
    assert asked == [0]


@pytest.mark.parametrize(
    ("limit", "asked_for"),
    # Where there is no room, the one without records is kept nevertheless.
    [(None, [0, 1, 2]), (0, [0, 1, 2, 0, 2])],
)
def test_partitions_that_were_sent_stay_if_there_is_room(
    limit: int | None, asked_for: list[int]
) -> None:
    source, caches = kept_source(), RankCaches()
    caches.begin(scan_plan(source), MemoryBudget(limit))
    found, asked = arrived(scan_plan(source), "sent", caches)
    first, second = blocks_of(found, ("s",)), blocks_of(found, ("s",))
    assert first == second == blocks_of(source, ("s",))
    assert asked == asked_for


def test_threads_that_wait_for_one_partition_ask_once() -> None:
    asked: list[int] = []
    store = PartitionStore(lambda source, partitions, first: asked.extend(partitions))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(store.get(0, 7))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while (coming := store._coming.get((0, 7))) is None or coming.readers < 4:
        pass
    store.arrived(0, 3, Piece([0, ["nobody's"], True], []))
    store.arrived(0, 7, Piece([0, ["blocks"], True], []))
    for thread in threads:
        thread.join()
    assert [[p.header for p in pieces] for pieces in found] == [[["blocks"]]] * 4
    assert asked == [7]
    assert not store._coming


def test_a_store_that_fails_wakes_those_who_wait() -> None:
    store = PartitionStore(lambda *asked: store.fail(ExecutionError("cancelled")))
    for _ in range(2):
        with pytest.raises(ExecutionError, match="cancelled"):
            store.get(0, 0)


def test_nobody_is_told_of_partitions_that_there_are_not() -> None:
    server = SourceServer(plan_tables(scan_plan(SOURCES["one"])), SharedTables())
    for source, partition in ((1, 0), (0, 1), (0, -1)):
        with pytest.raises(ExecutionError, match="no partition"):
            server.answer(source, partition)


def test_a_partition_with_too_few_records_is_refused() -> None:
    source = SOURCES["sparse"]
    plan = scan_plan(source)
    short = Piece([0, [], True], [])
    store = PartitionStore(lambda number, asked, first: store.arrived(number, asked[0], short))
    decoded_plan = decode_plan(encode_plan(plan, plan_tables(plan)), store, RankCaches()).plan
    (scan,) = find(decoded_plan.stages, pp.TableScan)
    with pytest.raises(ExecutionError, match="with 0 records; expected 700"):
        list(scan.source.read(scan.source.partitions()[0], ("x",)))


# Tables that lie at the ranks.


def test_a_kept_table_at_the_ranks_has_the_facts_of_one_that_is_here() -> None:
    here = kept_source()
    table = KeptTable("key", here.schema)
    assert not table.is_complete
    table.lie_away([70, 0, 600], 4321)
    assert table.is_complete
    away = KeptSource(table)
    assert away.partitions() == here.partitions()
    assert (away.bytes, away.rows, away.likely_rows, away.stamp, repr(away)) == (
        here.bytes, here.rows, here.likely_rows, here.stamp, repr(here),
    )  # fmt: skip
    assert plan_digest(scan_plan(away)) == plan_digest(scan_plan(here))
    plan = scan_plan(away)
    caches = RankCaches()
    data = encode_plan(
        plan, plan_tables(plan), SourceServer(plan_tables(plan), SharedTables()).place()
    )
    there = decode_plan(data, PartitionStore(no_driver), caches)
    ranks = Ranks(1, 2)
    assert tables_gone(there.tables, caches, ranks) == ("key",)
    first, last = ranks.range_of(1, 3)
    for partition in range(first, last):
        blocks = here.table.parts[partition]
        caches.keep("key", here.schema, partition, blocks, 1.0)
    assert tables_gone(there.tables, caches, ranks) == ()
    (scan,) = find(there.plan.stages, pp.TableScan)
    own = scan.source.partitions()[first]
    expected = [bits(b) for b in here.read(own, ("s", "n"))]
    assert [bits(b) for b in scan.source.read(own, ("s", "n"))] == expected
    with pytest.raises(ExecutionError, match="not at its rank any more"):
        scan.source.read(scan.source.partitions()[0], ("s",))
    table.clear()
    assert not table.is_complete


# Files.


def test_files_must_be_those_of_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n3,4\n")
    source = read_csv(path, columns=["y"])
    plan = scan_plan(source)
    data = encode_plan(plan, plan_tables(plan))
    assert not plan_tables(plan)
    found = decoded(data)
    assert plan_digest(found) == plan_digest(plan)
    (scan,) = find(found.stages, pp.TableScan)
    assert blocks_of(scan.source, ("y",)) == blocks_of(source, ("y",))
    times = os.stat(path)
    path.write_text("x,y\n1,2\n3,4\n5,6\n")
    with pytest.raises(DataError, match=r"on \S+: .*a\.csv changed after.*every host"):
        decoded(data)
    path.write_text("x,y\n1,2\n3,5\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    file_sources._inspected.cache_clear()
    with pytest.raises(DataError, match=r"holds other records"):
        decoded(data)
    path.unlink()
    with pytest.raises(DataError, match=r"on \S+: .*a\.csv is gone"):
        decoded(data)


def test_bad_records_are_counted_where_the_table_was_made(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x\n1\nb\n3\nc\n")
    source = read_csv(path, column_types={"x": "int64"}, on_error="skip")
    plan = scan_plan(source)
    found = decoded(encode_plan(plan, plan_tables(plan)))
    (scan,) = find(found.stages, pp.TableScan)
    blocks_of(scan.source, ("x",))
    items = json.loads(json.dumps(bad_records_of(found)))
    for _ in range(2):  # a chunk that two ranks have read counts once
        note_bad_records(plan, items)
    text = source.bad_records()
    assert text is not None
    assert text.startswith("2 records were skipped")
    assert bad_records_of(found) == [[]]
    for nonsense in ([], [[["x"]]], [[[0, 0, 1, [[0, 0]]]]]):
        with pytest.raises(ExecutionError, match="bad records"):
            note_bad_records(plan, nonsense)


def test_blocks_of_a_mapped_table_can_be_used_when_the_plan_is_gone() -> None:
    source = SOURCES["arrays"]
    found, _ = arrived(scan_plan(source), "mapped")
    (block,) = found.read(found.partitions()[0], ("c", "odd"))
    assert isinstance(block, Block)
    del found
    gc.collect()
    (expected,) = source.read(source.partitions()[0], ("c", "odd"))
    assert bits(block) == bits(expected)
