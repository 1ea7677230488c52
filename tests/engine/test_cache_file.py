"""Cached tables that memory has no room for: a part of them lies in a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.dtypes import FLOAT64, INT64, ArrayType, SparseType
from scalops.algebra.schema import Schema
from scalops.engine import storage
from scalops.engine.blocks import Block
from scalops.engine.cached_table import CachedTable
from scalops.engine.columns import SparseColumn
from scalops.engine.memory import MemoryBudget
from scalops.engine.neutral import Neutral
from scalops.engine.pipelines.base import Pipeline
from scalops.engine.spill_folder import SpillError

SCHEMA = Schema(
    (
        ("k", INT64),
        ("x", FLOAT64.with_shape(3)),
        ("s", ArrayType("string")),
        ("v", SparseType("float64", (50,))),
    )
)
PARTITIONS, ROWS = 6, 500


class Made(Pipeline):
    """Partitions of random blocks, always the same ones; counts how often each was made."""

    def __init__(self) -> None:
        super().__init__(SCHEMA)
        self.made = [0] * PARTITIONS

    def partitions(self) -> int:
        return PARTITIONS

    @property
    def source_bytes(self) -> int:
        return 1 << 20

    def home(self, partition: int) -> int:
        return 0

    def blocks(self, partition: int, worker: int) -> Iterator[Block]:
        self.made[partition] += 1
        rng = np.random.default_rng(partition)
        for _ in range(2):
            yield random_block(rng)


def random_block(rng: np.random.Generator) -> Block:
    lengths = rng.integers(0, 4, ROWS)
    indices = np.concatenate([np.sort(rng.choice(50, n, replace=False)) for n in lengths])
    columns = {
        "k": rng.integers(0, 100, ROWS),
        "x": np.asfortranarray(rng.normal(size=(ROWS, 3))),
        "s": pa.array([None if n == 0 else "ab" * n for n in lengths]),
        "v": SparseColumn(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            indices.astype(np.int32),
            rng.normal(size=len(indices)),
            50,
        ),
    }
    return Block(ROWS, columns, {"k": rng.random(ROWS) < 0.9})


def bits(blocks: Iterator[Block]) -> list[object]:
    """All that a numeric decision may look at: values, masks, order in memory."""
    found: list[object] = []
    for block in blocks:
        v = block.columns["v"]
        x = block.columns["x"]
        found += [
            block.rows,
            block.columns["k"].tobytes(),
            (x.tobytes("A"), x.strides),
            block.columns["s"].to_pylist(),
            (v.indptr.tobytes(), v.indices.tobytes(), v.values.tobytes()),
            block.valid["k"].tobytes(),
        ]
    return found


def table(limit: int | None, neutral: Neutral) -> tuple[CachedTable, Made, MemoryBudget]:
    made, budget = Made(), MemoryBudget(limit)
    cached = CachedTable(made, budget, "cache 1", None, neutral=neutral, number=1)
    for partition in cached.missing():
        cached.fill(partition % 2, partition)
    return cached, made, budget


def whole_bytes() -> int:
    cached, _, budget = table(None, Neutral())
    assert cached.stays()
    return budget.held


FILED = Neutral(filed=frozenset({1}))


@pytest.mark.parametrize("share", [0.0, 0.4, 2.0])
def test_what_memory_does_not_hold_is_made_once_and_read_from_the_file(share: float) -> None:
    expected, _, _ = table(None, Neutral())
    cached, made, budget = table(int(share * whole_bytes()), FILED)
    for _ in range(3):
        for partition in range(PARTITIONS):
            assert bits(cached.blocks(partition, 0)) == bits(expected.blocks(partition, 0))
    assert made.made == [1] * PARTITIONS
    assert cached.all_made()
    assert cached.stays() == (share > 1)
    assert (budget.spilled > 0) == (share < 1)
    assert cached.file_bytes == budget.spilled


def test_without_a_file_partitions_are_made_again() -> None:
    cached, made, _ = table(0, Neutral())
    for _ in range(2):
        for partition in range(PARTITIONS):
            list(cached.blocks(partition, 0))
    assert made.made == [3] * PARTITIONS
    assert not cached.all_made()


def test_blocks_of_a_file_that_are_kept_stay_what_they_are() -> None:
    cached, _, _ = table(0, FILED)
    expected, _, _ = table(None, Neutral())
    kept = [b for p in range(PARTITIONS) for b in cached.blocks(p, 0)]
    assert bits(iter(kept)) == [
        bit for p in range(PARTITIONS) for bit in bits(expected.blocks(p, 0))
    ]
    identities = [b.identity for b in kept]
    assert len(set(identities)) == len(kept)
    again = [b.identity for p in range(PARTITIONS) for b in cached.blocks(p, 1)]
    assert again == identities


def test_parts_move_between_memory_and_file() -> None:
    cached, made, budget = table(None, Neutral(filed=frozenset({1})))
    whole = budget.held
    for most in (whole // 2, 0, whole // 3, whole):
        cached.keep_within(most)
        assert budget.held <= most
        for partition in cached.missing():
            cached.fill(0, partition)
        assert budget.held <= most
        assert (
            sum(len(bits(cached.blocks(p, 0))) for p in range(PARTITIONS)) == 6 * PARTITIONS
        )  # a block each
    assert cached.stays()
    assert made.made == [1] * PARTITIONS


def test_a_full_disk_makes_the_plan_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    expected, _, _ = table(None, Neutral())
    with pytest.warns(RuntimeWarning, match="made again in each iteration.*No space left"):
        cached, made, _ = table(0, FILED)
    for partition in range(PARTITIONS):
        assert bits(cached.blocks(partition, 0)) == bits(expected.blocks(partition, 0))
    assert max(made.made) <= 2 + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached.keep_within(0)


def test_a_damaged_file_is_found() -> None:
    cached, _, _ = table(0, FILED)
    filed = cached._filed[2]
    batch, _ = filed.batches[0]
    descriptor, place = filed.file.descriptor, batch.at + batch.size // 2
    os.pwrite(descriptor, bytes([os.pread(descriptor, 1, place)[0] ^ 1]), place)
    with pytest.raises(SpillError, match="damaged"):
        list(cached.blocks(2, 0))


def test_two_partitions_of_one_thread_do_not_lie_in_each_other() -> None:
    cached, _, _ = table(0, FILED)
    for filed in cached._filed.values():
        places = [(b.at, b.at + b.size) for b, _ in filed.batches]
        assert all(end <= start for (_, end), (start, _) in pairwise(places))


def test_every_other_pass_over_what_is_on_disk_begins_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.arange(200_000 * 8.0).reshape(-1, 8)
    so.table({"x": x}).write_ipc(tmp_path / "x.ipc")
    read: list[int] = []
    blocks = CachedTable.blocks

    def noted(self: CachedTable, partition: int, worker: int) -> Iterator[Block]:
        read.append(partition)
        return blocks(self, partition, worker)

    monkeypatch.setattr(CachedTable, "blocks", noted)
    t = so.read_ipc(tmp_path / "x.ipc")

    @so.loop(np.zeros(8), range(3))
    def total(w: Any, i: Any) -> Any:
        return w + t.map(lambda r: r.x * (1 + w[0] * 0)).sum(lambda r: r)

    sums, directions = [], []
    for memory in ("1GB", "1MB"):
        read.clear()
        with so.session(memory=memory, threads=1, jit=False):
            sums.append(total.collect())
        directions.append([int(np.sign(own[-1] - own[0])) for own in np.reshape(read, (3, -1))])
    assert directions == [[1, 1, 1], [1, -1, 1]]
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_array_equal(sums[0], 3 * x.sum(0))


def test_a_row_group_is_not_decoded_for_each_of_its_partitions(tmp_path: Path) -> None:
    table = so.table({"x": np.arange(10.0)})
    table.write_parquet(tmp_path / "x.parquet")
    table.write_ipc(tmp_path / "x.ipc")
    table.write_ipc(tmp_path / "z.ipc", compression="zstd")
    found = [storage.reader_of(f)(f).any_order for f in sorted(map(str, tmp_path.iterdir()))]
    assert found == [True, False, False]
