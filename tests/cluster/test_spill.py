"""Blocks on disk come back as they were, or an error says what is wrong with which file."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError
from scalops.algebra.schema import Schema
from scalops.engine import spill
from scalops.engine.blocks import Block
from scalops.engine.memory import MemoryBudget
from scalops.engine.spill import SpilledBlocks, SpillFile
from scalops.engine.spill_folder import SpillError
from tests.engine.grouped import source as every_type
from tests.engine.plans import bits

SCHEMA = Schema((("k", ArrayType("int64")), ("v", ArrayType("float64", (3,)))))


def block_of(rows: int, seed: int = 0) -> Block:
    """Numbers and vectors."""
    rng = np.random.default_rng(seed)
    return Block(rows, {"k": rng.integers(0, 9, rows), "v": rng.normal(size=(rows, 3))})


def test_blocks_of_every_type_come_back() -> None:
    table: Any = every_type(50, "few", 1).plan
    names = table.source.schema.names
    blocks = [b for p in table.source.partitions() for b in table.source.read(p, names)]
    (whole,) = blocks
    file = SpillFile(table.source.schema)
    given = [whole, whole.slice(3, 20), whole.slice(7, 7), whole.slice(49, 50)]
    batches = [file.write(b) for b in given]
    assert [b.rows for b in batches] == [50, 17, 0, 1]
    assert file.bytes == sum(b.size for b in batches)
    for i in (2, 0, 3, 1, 0):
        assert bits(file.read(batches[i])) == bits(given[i])


def test_layout_in_memory_comes_back() -> None:
    block = block_of(6)
    block.columns["v"] = np.asfortranarray(block.columns["v"])
    file = SpillFile(SCHEMA)
    found = file.read(file.write(block))
    assert found.columns["v"].flags.f_contiguous
    assert bits(found) == bits(block)


def test_a_flipped_bit_is_found() -> None:
    file, block = SpillFile(SCHEMA), block_of(40)
    batch, other = file.write(block), file.write(block_of(40, 1))
    for at in np.random.default_rng(0).integers(0, sum(batch.parts) - 1, 30).tolist():
        place, left = batch.at, at
        for size in batch.parts:  # not in what fills buffers up
            if left < size:
                break
            left, place = left - size, place + -(-size // spill.ALIGNMENT) * spill.ALIGNMENT
        (byte,) = os.pread(file.descriptor, 1, place + left)
        os.pwrite(file.descriptor, bytes([byte ^ 1 << at % 8]), place + left)
        with pytest.raises(SpillError, match=r"damaged: a block of 40 records.*checksum"):
            file.read(batch)
        os.pwrite(file.descriptor, bytes([byte]), place + left)
    assert bits(file.read(batch)) == bits(block)
    assert file.read(other).rows == 40


def test_a_file_that_is_too_short_is_found() -> None:
    file = SpillFile(SCHEMA)
    batches = [file.write(block_of(100)), file.write(block_of(100, 1))]
    os.ftruncate(file.descriptor, batches[1].at + 200)
    assert file.read(batches[0]).rows == 100
    with pytest.raises(SpillError, match=r"damaged: .* it ends .* before") as caught:
        file.read(batches[1])
    assert "so.session(spill=...)" in str(caught.value)
    os.ftruncate(file.descriptor, 0)
    with pytest.raises(SpillError, match="ends"):
        file.read(batches[0])


def test_a_full_disk_says_where_and_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    file = SpillFile(SCHEMA)
    file.write(block_of(100))
    known = os.pwrite

    def full(descriptor: int, contents: Any, at: int) -> int:
        if at > 5_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return known(descriptor, contents[0][: 5_001 - at], at)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(SpillError, match=r"cannot take .* behind 5 KB: No space left") as caught:
        file.write(block_of(100))
    assert isinstance(caught.value, ExecutionError)
    assert "so.session(memory=...)" in str(caught.value)


def test_writes_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_within(fd: int, contents: Any, at: int) -> int:  # the second or third of them
        return os.pwrite(fd, b"".join(contents[:3])[:100], at)

    preadv = os.preadv
    monkeypatch.setattr(os, "pwritev", ends_within)
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: preadv(fd, [into[0][:100]], at))
    file, block = SpillFile(SCHEMA), block_of(50)
    assert bits(file.read(file.write(block))) == bits(block)


@pytest.mark.parametrize("flag", [os.O_TMPFILE, 0], ids=["without a name", "unlinked"])
def test_nothing_is_left_in_the_folder(
    flag: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", flag)  # 0: a file system that has no such files
    file = SpillFile(SCHEMA, str(tmp_path))
    file.write(block_of(5))
    assert not list(tmp_path.iterdir())
    status = os.fstat(file.descriptor)
    assert (status.st_nlink, status.st_mode & 0o777) == (0, 0o600)


def test_a_file_is_closed_with_its_last_reader() -> None:
    file = SpillFile(SCHEMA)
    descriptor, close = file.descriptor, file.close
    assert close.alive
    assert close.atexit
    del file
    gc.collect()
    assert not close.alive
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpillError, match=r"can be made in .*nowhere: there is no such folder"):
        SpillFile(SCHEMA, str(tmp_path / "nowhere"))


def test_blocks_are_spilled_where_the_budget_has_no_room() -> None:
    blocks = [block_of(10, i) for i in range(5)]
    budget = MemoryBudget(2 * blocks[0].bytes)
    kept = SpilledBlocks(budget, "exchange 1", SCHEMA)
    made = [kept.add(b) for b in blocks]
    assert [isinstance(k, Block) for k in made] == [True, True, False, False, False]
    assert budget.held == 2 * blocks[0].bytes
    assert [bits(kept.get(k)) for k in made] == [bits(b) for b in blocks]
    read = kept.drained(made)
    assert bits(next(read)) == bits(blocks[0])
    assert budget.held == blocks[0].bytes
    assert bits(list(read)) == bits(blocks[1:])
    assert budget.held == 0
    assert made == []


def test_room_is_made_before_anything_is_spilled() -> None:
    budget = MemoryBudget(1_000)
    budget.require(900, "kept tables")
    budget.spare = lambda size: ("kept tables", 900)
    kept = SpilledBlocks(budget, "exchange 1", SCHEMA)
    assert isinstance(kept.add(block_of(10)), Block)
    assert kept.file is None
