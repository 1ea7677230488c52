"""Rows of Arrow files are read by ranges: what pyarrow reads, in memory of the blocks' own."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scalops.algebra.errors import DataError
from scalops.engine.block_memory import KEPT_BYTES, BlockMemory
from scalops.engine.blocks import Block
from scalops.engine.output_memory import is_own
from scalops.engine.storage import FileSource, Partition, block_to_batch, ipc_cursor, read_ipc
from scalops.engine.storage.ipc_columns import BatchReader
from scalops.engine.storage.ipc_layout import Layout, layout_of
from scalops.engine.storage.read_ahead import RangeReader
from tests.engine.storage.reading import to_table
from tests.quick import repeated

Write = Callable[..., Path]
Rng = np.random.Generator


def numbers(rng: Rng, rows: int, kind: Any, nulls: bool) -> pa.Array:
    values = rng.integers(0, 100, rows).astype(kind)
    return pa.array(values, mask=rng.random(rows) < 0.2 if nulls else None)


def texts(rng: Rng, rows: int, nulls: bool) -> list[str | None]:
    lost = rng.random(rows) < 0.2 * nulls
    return [None if lost[i] else "é" * int(rng.integers(0, 5)) for i in range(rows)]


def lists(rng: Rng, rows: int, nulls: bool, item: Callable[[int], pa.Array]) -> pa.Array:
    ends = np.cumsum([0, *rng.integers(0, 4, rows)]).astype(np.int32)
    mask = pa.array(rng.random(rows) < 0.2) if nulls else None
    return pa.ListArray.from_arrays(pa.array(ends), item(int(ends[-1])), mask=mask)


def vectors(rng: Rng, rows: int, size: int) -> pa.Array:
    flat = pa.array(rng.random(rows * size))
    return pa.FixedSizeListArray.from_arrays(flat, size)


def tensors(rng: Rng, rows: int, permutation: list[int] | None) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.float64(), (2, 3), permutation=permutation)
    return pa.ExtensionArray.from_storage(kind, vectors(rng, rows, 6))


MAKERS: dict[str, Callable[[Rng, int, bool], Any]] = {
    "f8": lambda rng, rows, nulls: numbers(rng, rows, "f8", nulls),
    "f2": lambda rng, rows, nulls: numbers(rng, rows, "f2", nulls),
    "i1": lambda rng, rows, nulls: numbers(rng, rows, "i1", nulls),
    "u4": lambda rng, rows, nulls: numbers(rng, rows, "u4", nulls),
    "bool": lambda rng, rows, nulls: numbers(rng, rows, "?", nulls),
    "time": lambda rng, rows, nulls: numbers(rng, rows, "M8[ms]", nulls),
    "span": lambda rng, rows, nulls: numbers(rng, rows, "m8[s]", nulls),
    "string": lambda rng, rows, nulls: pa.array(texts(rng, rows, nulls), pa.string()),
    "large": lambda rng, rows, nulls: pa.array(texts(rng, rows, nulls), pa.large_string()),
    "dictionary": lambda rng, rows, nulls: pa.array(
        texts(rng, rows, nulls), pa.string()
    ).dictionary_encode(),
    "vector": lambda rng, rows, nulls: vectors(rng, rows, 3),
    "matrix": lambda rng, rows, nulls: pa.FixedSizeListArray.from_arrays(
        vectors(rng, 2 * rows, 3), 2
    ),
    "bools": lambda rng, rows, nulls: pa.FixedSizeListArray.from_arrays(
        numbers(rng, 3 * rows, "?", False), 3
    ),
    "tensor": lambda rng, rows, nulls: tensors(rng, rows, None),
    "list": lambda rng, rows, nulls: lists(
        rng, rows, nulls, lambda n: numbers(rng, n, "i8", nulls)
    ),
    "lists": lambda rng, rows, nulls: lists(
        rng, rows, nulls, lambda n: lists(rng, n, nulls, lambda m: pa.array(texts(rng, m, True)))
    ),
    "list_view": lambda rng, rows, nulls: pa.ListViewArray.from_arrays(
        pa.array(np.arange(rows, dtype=np.int32)[::-1]),
        pa.array(np.ones(rows, np.int32)),
        numbers(rng, rows, "i8", False),
    ),
    "record": lambda rng, rows, nulls: pa.StructArray.from_arrays(
        [numbers(rng, rows, "i8", nulls), vectors(rng, rows, 2), pa.array(texts(rng, rows, nulls))],
        ["a", "b", "c"],
        mask=None,
    ),
}


def table_of(rng: Rng, rows: int) -> pa.Table:
    """Some of the columns, in any order, with nulls or without."""
    kinds = rng.permutation(list(MAKERS))[: int(rng.integers(1, 7))]
    return pa.table({k: MAKERS[str(k)](rng, rows, bool(rng.integers(2))) for k in kinds})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, batches: list[pa.RecordBatch], compression: str | None = None) -> Path:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(tmp_path / name, batches[0].schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return tmp_path / name

    return file


def cut(rng: Rng, table: pa.Table) -> list[pa.RecordBatch]:
    """Batches of any length, also of none."""
    rows = len(table)
    bounds = sorted({0, rows, *rng.integers(0, rows + 1, int(rng.integers(0, 5))).tolist()})
    parts = [table.slice(a, b - a) for a, b in pairwise(bounds)]
    parts.insert(int(rng.integers(len(parts) + 1)), table.slice(0, 0))
    return [part.combine_chunks().to_batches()[0] if len(part) else empty(part) for part in parts]


def empty(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in table.columns], schema=table.schema
    )


def rows_of(source: FileSource, start: int, stop: int, step: int) -> list[Block]:
    blocks = source.contents.read(Partition(0, start, stop), source.schema.names, step)
    return list(blocks)


@repeated(40)
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_any_rows_of_any_columns_are_those_of_arrow(
    write: Write, run: int, codec: str | None
) -> None:
    for seed in range(12):
        rng = np.random.default_rng([run, seed])
        table = table_of(rng, int(rng.integers(0, 60)))
        source = read_ipc(write(f"{seed}.arrow", cut(rng, table), codec))
        start, stop = sorted(int(n) for n in rng.integers(0, len(table) + 1, 2))
        blocks = rows_of(source, start, stop, int(rng.integers(1, 30)))
        found: list[Any] = []
        for block in blocks:
            found += block_to_batch(block, source.schema).to_pylist()
        expected = table.slice(start, stop - start).to_pylist()
        assert repr(flattened(found)) == repr(flattened(expected)), table.schema


def flattened(records: list[Any]) -> list[Any]:
    """With matrices as the numbers in them: Arrow has two types for these."""
    shaped = {"matrix", "tensor"}
    return [{k: np.ravel(v).tolist() if k in shaped else v for k, v in r.items()} for r in records]


def test_tensor_with_exchanged_axes_lies_in_order(write: Write) -> None:
    column = tensors(np.random.default_rng(0), 50, [1, 0])
    source = read_ipc(write("a.arrow", pa.table({"t": column}).to_batches(20)))
    expected = np.concatenate([column.slice(i, 1).to_numpy_ndarray() for i in range(50)])
    for step in (7, 50):
        found = [b.columns["t"] for b in rows_of(source, 0, 50, step)]
        assert all(array.flags.c_contiguous for array in found)
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_few_columns_read_little(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    fill = RangeReader.fill

    def counted(self: RangeReader, into: Any, at: int, following: int = 0) -> None:
        read.append(len(into))
        fill(self, into, at, following)

    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.random(20_000) for i in range(20)}
    columns["y"] = rng.integers(0, 2, 20_000).astype(np.int8)
    source = read_ipc(write("a.arrow", pa.table(columns).to_batches()))
    monkeypatch.setattr(RangeReader, "fill", counted)
    found = [b for p in source.partitions() for b in source.read(p, ("y",))]
    np.testing.assert_array_equal(np.concatenate([b.columns["y"] for b in found]), columns["y"])
    assert sum(read) < 30_000


def test_kept_blocks_stay_and_others_give_their_memory_back(write: Write) -> None:
    rows, width = 12_000, 100
    values = np.arange(float(rows * width)).reshape(rows, width)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
    source = read_ipc(write("a.arrow", pa.table({"v": column}).to_batches(5_000)))
    blocks = [b for p in source.partitions() for b in source.read(p, ("v",))]
    found = [b.columns["v"] for b in blocks]
    np.testing.assert_array_equal(np.concatenate(found), values)
    assert all(map(is_own, found))
    places = set()
    del blocks, found
    for partition in source.partitions():
        for block in source.read(partition, ("v",)):
            places.add(block.columns["v"].ctypes.data)
            del block
    assert len(places) <= 3


def test_memory_is_given_again_only_when_nothing_shows_it() -> None:
    memory = BlockMemory()
    first = memory.take(1 << 20)
    view = first[8:16].view(np.float64)
    place = first.ctypes.data
    del first
    other = memory.take(1 << 20)
    assert other.ctypes.data != place
    shown = pa.py_buffer(view)
    del view
    assert memory.take(1 << 20).ctypes.data != place
    del shown
    given = {memory.take(1 << 20).ctypes.data for _ in range(3)}
    assert place in given or len(given) == 1
    held = [memory.take(1 << 20) for _ in range(2 * KEPT_BYTES >> 20)]
    assert len({a.ctypes.data for a in held}) == len(held)
    assert all(a.ctypes.data % 64 == 0 for a in held)


def blocks_of(source: FileSource) -> Iterator[Block]:
    for partition in source.partitions():
        yield from source.read(partition, source.schema.names)


def mixed(rng: Rng, rows: int) -> pa.Table:
    return pa.table(
        {
            "v": vectors(rng, rows, 20),
            "n": numbers(rng, rows, "i8", True),
            "s": pa.array(texts(rng, rows, True)),
            "d": pa.array(texts(rng, rows, True)).dictionary_encode(),
        }
    )


@pytest.mark.parametrize("codec", [None, "lz4"])
def test_file_cut_while_it_is_read_is_an_error_not_the_end(write: Write, codec: str | None) -> None:
    """In this process: a signal would end it."""
    rng = np.random.default_rng(0)
    table = mixed(rng, 20_000)
    path = write("a.arrow", table.to_batches(3_000), codec)
    data = path.read_bytes()
    for cut_at in rng.integers(0, len(data), 6).tolist():
        path.write_bytes(data)
        source = read_ipc(path)
        following = blocks_of(source)
        next(following)
        with open(path, "r+b") as stream:
            stream.truncate(cut_at)
        with pytest.raises(DataError, match=r"a\.arrow"):
            list(following)


@pytest.mark.parametrize(
    "change", ["written to", "replaced", "gone", "another footer", "the same again"]
)
def test_file_changed_between_two_partitions_is_told_of(write: Write, change: str) -> None:
    table = mixed(np.random.default_rng(0), 20_000)
    path = write("a.arrow", table.to_batches(3_000))
    source = read_ipc(path)
    following = blocks_of(source)
    first = next(following)
    status, data = path.stat(), path.read_bytes()
    if change == "written to":
        with open(path, "r+b") as stream:
            stream.seek(5_000)
            stream.write(b"\xff" * 100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "replaced":
        path.unlink()
        write("a.arrow", table.to_batches(7_000))
    elif change == "gone":
        path.unlink()
    else:
        path.unlink()
        path.write_bytes(data if change == "the same again" else data[:-10] + b"\0" * 4 + data[-6:])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    if change == "the same again":
        assert first.rows + sum(b.rows for b in following) == 20_000
    else:
        with pytest.raises(DataError, match=r"a\.arrow"):
            list(following)


def test_changed_footer_alone_is_told_of(write: Write) -> None:
    """Neither size nor time tells: two batches have changed their lengths."""
    table = pa.table({"x": np.arange(6_000)})
    path = write("a.arrow", [*table.slice(0, 2_000).to_batches(), *table.slice(2_000).to_batches()])
    source, status = read_ipc(path), path.stat()
    write("a.arrow", [*table.slice(0, 4_000).to_batches(), *table.slice(4_000).to_batches()])
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="its footer is another"):
        to_table(source)


def test_damaged_offsets_and_headers_are_ours_to_tell(write: Write) -> None:
    """What Arrow would refuse to read must not be read past its end."""
    rng = np.random.default_rng(0)
    table = mixed(rng, 50)
    path = write("a.arrow", table.to_batches(20))
    data = path.read_bytes()
    for place in rng.integers(0, len(data), 60).tolist():
        damaged = bytearray(data)
        damaged[place : place + 8] = b"\xff" * 8
        path.write_bytes(damaged[: len(data)])
        with suppress(DataError):
            list(blocks_of(read_ipc(path)))


def test_batch_of_another_length_than_its_header_told_is_an_error(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_ipc(write("a.arrow", pa.table({"x": np.arange(100)}).to_batches()))

    def other(header: bytes, at: int, size: int) -> Layout:
        layout = layout_of(header, at, size)
        return replace(layout, rows=layout.rows + 1)

    monkeypatch.setattr(ipc_cursor, "layout_of", other)
    with pytest.raises(DataError, match="has not the 100 rows of its header"):
        to_table(source)


def test_one_long_batch_is_read_in_parts(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it is in memory than its blocks need."""
    rows = 100_000
    taken: list[int] = []
    array = BatchReader.array

    def counted(self: BatchReader, place: Any, first: int, last: int) -> Any:
        taken.append(last - first)
        return array(self, place, first, last)

    monkeypatch.setattr(BatchReader, "array", counted)
    table = pa.table({"s": [f"text {i}" for i in range(rows)]})
    source = read_ipc(write("a.arrow", table.to_batches()))
    assert to_table(source).equals(table.combine_chunks())
    assert max(taken) < rows
