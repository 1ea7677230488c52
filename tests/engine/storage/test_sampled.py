"""A sample of a source is whole partitions of it, as they are."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import scalops as so
from scalops.engine.blocks import Block
from scalops.engine.columns import SparseColumn
from scalops.engine.kept_tables import KeptSource, KeptTable
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.sampled import sampled, spread_out

ROWS, FEWER = 200_000, 20_000


def memory() -> MemorySource:
    """Columns of every kind, in many partitions."""
    rng = np.random.default_rng(1)
    return MemorySource.of_arrays(
        {
            "id": np.arange(FEWER),
            "x": np.asfortranarray(rng.standard_normal((FEWER, 4))),
            "s": sparse.random_array((FEWER, 50), density=0.02, rng=rng, format="csr"),
            "word": pa.chunked_array([[f"w{i % 7}" for i in range(FEWER)]]),
            "maybe": pa.chunked_array([pa.array(np.arange(FEWER), mask=np.arange(FEWER) % 3 == 0)]),
        }
    )


def values(block: Block, name: str) -> Any:
    """A column's values as lists, nulls as None."""
    column = block.columns[name]
    if isinstance(column, SparseColumn):
        parts = np.split(column.values, column.indptr[1:-1])
        return [p.tolist() for p in parts]
    found = column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
    valid = block.valid.get(name)
    if valid is None:
        return found
    return [v if ok else None for v, ok in zip(found, valid, strict=True)]


def blocks(source: Any, parts: Any) -> list[dict[str, Any]]:
    """All blocks of some partitions, as plain data."""
    names = source.schema.names
    return [{n: values(b, n) for n in names} for p in parts for b in source.read(p, tuple(names))]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_memory_gives_the_blocks_of_the_chosen_partitions(share: float) -> None:
    source = memory()
    parts = source.partitions()
    found = sampled(source, share)
    assert isinstance(found, MemorySource)
    chosen = [parts[i] for i in spread_out(len(parts), share)]
    assert 0 < len(chosen) < len(parts)
    assert blocks(found, found.partitions()) == blocks(source, chosen)
    assert found.rows == sum(p.stop - p.start for p in chosen)
    assert found.columns["x"].flags.f_contiguous  # type: ignore[union-attr]
    assert repr(found) != repr(source)


def test_all_is_the_source_itself() -> None:
    source = memory()
    assert sampled(source, 1.0) is source


def test_files_are_read_by_the_same_ranges(tmp_path: Path) -> None:
    table = pa.table({"id": np.arange(ROWS), "x": np.random.default_rng(2).random(ROWS)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=10_000)
    source = so.read_parquet(str(tmp_path / "t.parquet")).plan.source  # type: ignore[attr-defined]
    parts = source.partitions()
    found = sampled(source, 0.25)
    assert found is not None
    chosen = [parts[i] for i in spread_out(len(parts), 0.25)]
    assert blocks(found, found.partitions()) == blocks(source, chosen)
    assert [p.index for p in found.partitions()] == list(range(len(chosen)))
    assert found.rows == sum(p.rows or 0 for p in chosen)
    assert found.bytes == pytest.approx(source.bytes * found.rows / ROWS, rel=0.01)
    again = pickle.loads(pickle.dumps(found))  # it travels to workers as files do
    assert blocks(again, again.partitions()) == blocks(source, chosen)
    assert repr(again) == repr(found) != repr(source)


def test_lines_of_text_say_about_how_many_they_are(tmp_path: Path) -> None:
    text = "\n".join(f"line {i:07d}" for i in range(ROWS))
    (tmp_path / "t.txt").write_text(text)
    source = so.read_text(str(tmp_path / "t.txt")).plan.source  # type: ignore[attr-defined]
    found = sampled(source, 0.5)
    assert found is not None
    assert found.rows is None
    rows = sum(b.rows for p in found.partitions() for b in found.read(p, ()))
    assert found.likely_rows == pytest.approx(rows, rel=0.05)


def test_kept_tables_give_their_partitions() -> None:
    source = memory()
    parts = {p.index: list(source.read(p, ("id",))) for p in source.partitions()}
    schema = source.schema
    table = KeptTable("key", type(schema)((("id", schema["id"]),)), len(parts), 8 * FEWER, parts)
    kept = KeptSource(table)
    found = sampled(kept, 0.4)
    assert isinstance(found, KeptSource)
    chosen = [kept.partitions()[i] for i in spread_out(len(parts), 0.4)]
    assert blocks(found, found.partitions()) == blocks(kept, chosen)
    assert found.stamp != kept.stamp
    table.lie_away([3, 4], 56)
    assert sampled(KeptSource(table), 0.4) is None


def test_partitions_are_chosen_at_equal_distances() -> None:
    for count in range(1, 40):
        for share in (0.0, 0.1, 0.5, 0.9, 1.0):
            found = spread_out(count, share)
            assert len(set(found)) == len(found) == min(count, max(1, round(share * count)))
            assert set(found) <= set(range(count))
            gaps = {b - a for a, b in pairwise(found)}
            assert not gaps or max(gaps) - min(gaps) <= 1
