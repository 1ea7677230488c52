"""Streams of Arrow batches as tables: small ones in memory, others in a spill file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import parquet as pq

import scalops as so
from scalops import arrow_out
from scalops.engine.storage import MemorySource, arrow_streams
from scalops.engine.storage.spooled_source import SpooledSource
from tests.quick import quick

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")
ROWS = 30_000


@pytest.fixture
def spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small, streams go to a file."""
    monkeypatch.setattr(arrow_streams, "MOST_IN_MEMORY", 0)


def stream(table: pa.Table, rows: int = 1_000) -> pa.RecordBatchReader:
    """A reader that can be read once, whose batches are made while it is read."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(max_chunksize=rows):
            yield pa.record_batch([pa.concat_arrays([c, c[:0]]) for c in batch], batch.schema)

    return pa.RecordBatchReader.from_batches(table.schema, batches())


def numbers() -> pa.Table:
    rng = np.random.default_rng(0)
    flat = rng.random(ROWS * 4)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), 4)
    return pa.table({"y": rng.random(ROWS), "k": rng.integers(0, 9, ROWS), "x": vectors})


def kinds() -> pa.Table:
    """Columns of every kind, with nulls where they may be."""
    rows = 50
    return pa.table(
        {
            "i": pa.array([None if i % 7 == 0 else i for i in range(rows)], pa.int32()),
            "b": pa.array([i % 3 == 0 for i in range(rows)]),
            "s": pa.array([None if i % 5 == 0 else f"text {i}" for i in range(rows)]),
            "d": pa.array([f"d{i % 3}" for i in range(rows)]).dictionary_encode(),
            "w": pa.array([f"view {i}" for i in range(rows)], pa.string_view()),
            "l": pa.array([None if i % 9 == 0 else list(range(i % 4)) for i in range(rows)]),
            "t": pa.array([datetime.datetime(2020, 1, 1)] * rows, pa.timestamp("us")),
            "r": pa.array([{"a": i, "b": {"c": f"c{i}"}} for i in range(rows)]),
        }
    )


def source(table: so.Table) -> Any:
    return table.plan.source  # type: ignore[attr-defined]


def layout(table: so.Table) -> list[list[int]]:
    """The rows of each block of each partition."""
    found = source(table)
    return [[b.rows for b in found.read(p, ("y",))] for p in found.partitions()]


def test_small_streams_stay_in_memory_without_a_copy() -> None:
    batches = numbers().to_batches(max_chunksize=10_000)
    table = so.from_arrow(pa.RecordBatchReader.from_batches(batches[0].schema, batches))
    assert isinstance(source(table), MemorySource)
    chunks = source(table).columns["y"].chunks
    assert [c.buffers()[1].address for c in chunks] == [
        b.column("y").buffers()[1].address for b in batches
    ]


def test_large_streams_go_to_a_file_and_are_read_again_by_loops() -> None:
    rows = 400_000
    x = np.arange(6.0 * rows)
    wide = pa.table({"y": x[:rows], "x": pa.FixedSizeListArray.from_arrays(pa.array(x), 6)})
    table = so.from_arrow(stream(wide, 50_000))
    assert isinstance(source(table), SpooledSource)
    assert source(table).bytes > arrow_streams.MOST_IN_MEMORY

    @so.loop(np.zeros(6), range(3))
    def total(env: Any) -> Any:
        return env + table.sum(lambda r: r.x + 0 * env)

    np.testing.assert_allclose(so.collect(total), 3 * x.reshape(-1, 6).sum(0))


@pytest.mark.parametrize("batch_rows", [700, 65_536])
def test_blocks_are_those_of_the_same_records_in_memory(spooled: None, batch_rows: int) -> None:
    table, held = so.from_arrow(stream(numbers(), batch_rows)), so.from_arrow(numbers())
    assert isinstance(source(table), SpooledSource)
    assert layout(table) == layout(held)
    assert source(table).partitions() == source(held).partitions()
    assert table.collect().combine_chunks() == held.collect().combine_chunks()


@pytest.mark.parametrize("options", quick([{"memory": "20KB"}, {"threads": 1}, {"workers": 2}], 2))
def test_the_same_bits_in_any_memory_and_on_workers(spooled: None, options: Any) -> None:
    def job(table: so.Table) -> dict[str, Any]:
        sums = table.group_by("k").agg(s=so.sum(lambda r: r.y), n=so.count())
        return {"dot": table.sum(lambda r: r.y * r.x), "sums": sums.sort("k")}

    table = so.from_arrow(stream(numbers()))
    expected = so.collect(job(table))
    with so.session(**options):
        found = so.collect(job(table))
    np.testing.assert_array_equal(found["dot"], expected["dot"])
    assert found["sums"].equals(expected["sums"])
    frame = numbers()
    dot = frame["y"].to_numpy() @ np.asarray(frame["x"].combine_chunks().flatten()).reshape(-1, 4)
    np.testing.assert_allclose(found["dot"], dot)


def test_every_kind_of_column_comes_back(spooled: None) -> None:
    table = so.from_arrow(stream(kinds(), 20))
    assert isinstance(source(table), SpooledSource)
    assert source(table).may_hold_null
    assert str(table.schema) == str(so.from_arrow(kinds()).schema)
    assert table.collect().to_pydict() == kinds().to_pydict()
    assert table.select("s", "i").filter(lambda r: r.i > 40).collect().to_pydict() == {
        "s": [None if i % 5 == 0 else f"text {i}" for i in range(41, 50) if i % 7],
        "i": [i for i in range(41, 50) if i % 7],
    }


def test_sparse_vectors_come_back(spooled: None) -> None:
    made = so.table({"v": ["a b", "", "b c c"]}).map(
        lambda r: {"x": so.hashed_counts(r.v.str.split(" "), 16)}
    )
    arrow = made.collect()
    table = so.from_arrow(stream(arrow))
    assert str(table.schema) == "x: sparse[16]"
    assert table.collect() == arrow


def test_no_records(spooled: None) -> None:
    table = so.from_arrow(stream(numbers().slice(0, 0)))
    assert table.count().collect() == 0


def test_duckdb_results_stream(spooled: None) -> None:
    table = so.from_arrow(duckdb.sql("select i::double y, i % 7 k from range(100000) r(i)"))
    assert isinstance(source(table), SpooledSource)
    assert source(table).rows == 100_000
    assert table.sum("y").collect() == 99_999 * 50_000


def test_datasets_and_scanners(spooled: None, tmp_path: Path) -> None:
    pq.write_table(numbers(), tmp_path / "a.parquet", row_group_size=7_000)
    files = ds.dataset(tmp_path)
    for data in (files, files.scanner(columns=["y"]), files.scanner().to_reader()):
        table = so.from_arrow(data)
        assert table.sum("y").collect() == pytest.approx(numbers()["y"].to_numpy().sum())
    few = so.from_arrow(files.scanner(filter=ds.field("k") < 2))
    assert few.count().collect() == np.count_nonzero(numbers()["k"].to_numpy() < 2)
    held = so.from_arrow(ds.dataset(numbers()))
    assert held.collect().combine_chunks() == numbers().combine_chunks()


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_a_producer_that_fails_is_a_data_error_at_the_line(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_streams, "MOST_IN_MEMORY", most)
    batch = pa.record_batch({"a": [1, 2]})

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch
        yield batch
        raise RuntimeError("the server is gone")

    reader = pa.RecordBatchReader.from_batches(batch.schema, batches())
    with pytest.raises(so.DataError, match=r"after 2 batches: .*the server is gone") as error:
        so.from_arrow(reader)
    assert error.value.location is not None
    assert error.value.location.file.endswith(Path(__file__).name)


class Producer:
    """Speaks Arrow's C stream, of which pyarrow keeps the text of errors alone."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.reader = reader

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader.__arrow_c_stream__(requested_schema)


class Frame(Producer):
    """The same, of which nothing is made while it is read."""

    def __dataframe__(self) -> None: ...


@pytest.mark.parametrize("form", [lambda reader: reader, Producer, Frame])
@pytest.mark.parametrize(
    "ending", [KeyboardInterrupt(), SystemExit(3), SystemExit("over"), SystemExit()], ids=repr
)
def test_what_ends_a_program_is_no_data_error(form: Any, ending: BaseException) -> None:
    batch = pa.record_batch({"a": [1, 2]})

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch
        raise ending

    with pytest.raises(type(ending)) as error:
        so.from_arrow(form(pa.RecordBatchReader.from_batches(batch.schema, batches())))
    assert getattr(error.value, "code", None) == getattr(ending, "code", None)


def test_types_are_refused_before_anything_is_read() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        raise AssertionError("read")
        yield

    reader = pa.RecordBatchReader.from_batches(pa.schema([("d", pa.decimal128(5))]), batches())
    with pytest.raises(so.SchemaError, match="column 'd' has the Arrow type decimal"):
        so.from_arrow(reader)


def test_a_spill_folder_that_is_gone_is_named(spooled: None, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with so.session(spill=str(folder)):
        folder.rmdir()
        with pytest.raises(so.ScalopsError, match=f"no spill file can be made in {folder}"):
            so.from_arrow(stream(numbers()))


def addresses(column: Any) -> list[int]:
    """Where the numbers of a source's column lie."""
    if isinstance(column, np.ndarray):
        return [int(column.__array_interface__["data"][0])]
    return [chunk.buffers()[1].address + 8 * chunk.offset for chunk in column.chunks]


@pytest.mark.parametrize("form", ["arrow", "chunks", "batch", "polars", "pandas"])
def test_numbers_in_memory_are_not_copied(form: str) -> None:
    values = np.arange(1_000.0)
    arrow = pa.table({"v": values})
    makers: dict[str, Any] = {
        "arrow": lambda: arrow,
        "chunks": lambda: pa.concat_tables([arrow, arrow.slice(10)]),
        "batch": lambda: arrow.to_batches()[0],
        "polars": lambda: pl.from_arrow(arrow),
        "pandas": lambda: pandas.DataFrame({"v": values}),
    }
    data = makers[form]()
    expected = [values.__array_interface__["data"][0]]
    if form == "chunks":
        expected.append(expected[0] + 80)
    if form in ("polars", "pandas"):
        expected = [data["v"].to_numpy().__array_interface__["data"][0]]
    assert addresses(source(so.from_arrow(data)).columns["v"]) == expected


# Out.


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The plans that are run for streams."""
    found: list[int] = []
    original = arrow_out.batches_of

    def counted(table: so.Table) -> pa.RecordBatchReader:
        found.append(1)
        return original(table)

    monkeypatch.setattr(arrow_out, "batches_of", counted)
    return found


def kept() -> so.Table:
    """A table that has to be computed."""
    return so.from_arrow(numbers()).filter(lambda r: r.k > 2)


READERS: dict[str, Any] = {
    "polars": lambda t: pl.DataFrame(t).to_arrow(),
    "duckdb": lambda t: duckdb.sql("select * from t").to_arrow_table(),
    "pandas": lambda t: pa.Table.from_pandas(pandas.DataFrame.from_arrow(t.drop("x"))),
    "pyarrow": pa.table,
    "reader": lambda t: pa.RecordBatchReader.from_stream(t).read_all(),
}


@pytest.mark.parametrize("name", READERS)
def test_whoever_reads_arrow_streams_reads_tables_and_runs_them_once(
    name: str, runs: list[int]
) -> None:
    found = READERS[name](kept())
    mask = numbers()["k"].to_numpy() > 2
    assert runs == [1]
    np.testing.assert_array_equal(found["y"].to_numpy(), numbers()["y"].to_numpy()[mask])
    np.testing.assert_array_equal(found["k"].to_numpy(), numbers()["k"].to_numpy()[mask])


def test_a_schema_runs_nothing(runs: list[int]) -> None:
    assert pa.schema(kept()) == numbers().schema
    assert not runs


def test_batches_share_memory_with_the_arrays_of_the_table() -> None:
    values = np.arange(1_000.0)
    table = so.table({"v": values, "x": values.reshape(500, 2).repeat(2, 0)})
    batch = pa.RecordBatchReader.from_stream(table).read_next_batch()
    assert batch.column("v").buffers()[1].address == values.__array_interface__["data"][0]


@pytest.mark.parametrize("data", [numbers, kinds])
def test_a_stream_in_little_memory_waits_in_a_file(data: Any) -> None:
    table = so.from_arrow(data()).filter(lambda r: r[data().column_names[0]] > 0.1)
    expected = table.collect()
    with so.session(memory="20KB"):
        reader = pa.RecordBatchReader.from_stream(table)
        first = reader.read_next_batch()
        assert table.count().collect() == expected.num_rows  # nobody waits for the rest
        rest = list(reader)
    assert pa.Table.from_batches([first, *rest]).combine_chunks() == expected.combine_chunks()


def test_errors_of_the_plan_are_raised_where_the_stream_is_asked_for() -> None:
    table = so.table({"a": [1, 2]}).map(so.udf(lambda r: 1 // (r.a - 1), returns=so.int64))
    with pytest.raises(so.UserFunctionError, match="ZeroDivisionError") as error:
        pa.table(table)
    assert error.value.location is not None
    assert error.value.location.file.endswith(Path(__file__).name)
