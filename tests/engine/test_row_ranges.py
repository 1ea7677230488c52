"""Slices read the records that they give: partitions and blocks elsewhere are not touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.operators import Scan
from scalops.engine import reduction
from scalops.engine.blocks import Block
from scalops.engine.pipelines import base as pipelines
from scalops.engine.pipelines.counts import Counts
from tests.engine.plans import bits, run
from tests.engine.sources import WatchedSource

ROWS, WIDTH, BATCH = 40_000, 20, 300


def watched(partitions: int = 6, blocks: int = 4) -> tuple[so.Table, WatchedSource]:
    source = WatchedSource(partitions, blocks)
    return so.Table(Scan(source)), source


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For each range of records asked for: blocks that were looked at, records that were given."""
    found: list[tuple[int, int]] = []
    cut = pipelines.cut

    def counting(blocks: Iterator[Block], start: int, stop: int) -> Iterator[Block]:
        looked = 0

        def seen() -> Iterator[Block]:
            nonlocal looked
            for block in blocks:
                looked += 1
                yield block

        given = 0
        for block in cut(seen(), start, stop):
            given += block.rows
            yield block
        found.append((looked, given))

    monkeypatch.setattr(pipelines, "cut", counting)
    return found


def test_counts_find_the_partitions_of_a_range() -> None:
    counts = Counts([10, 0, 5, 5])
    assert list(counts.partitions(0, 1)) == [0]
    assert 2 in counts.partitions(9, 11)
    assert list(counts.partitions(15, 16)) == [3]
    assert list(counts.partitions(20, 30)) == []
    assert list(counts.partitions(3, 3)) == []
    assert list(Counts([]).partitions(0, 5)) == []


def test_a_slice_reads_the_partitions_that_it_meets() -> None:
    table, source = watched()
    size = source.block_rows * 4
    start = 2 * size + source.block_rows + 5
    found = run([table.slice(start, source.block_rows).sum("k")])[0]
    assert found == sum(range(start, start + source.block_rows))
    assert source.reads == {2: 3}  # two blocks behind the first, none after


def test_records_are_counted_from_metadata() -> None:
    table, source = watched()
    run([table.with_row_index().slice(0, 1)])
    assert source.reads == {0: 1}


def test_a_slice_in_a_loop_counts_a_filtered_table_once() -> None:
    table, source = watched(4, 2)
    odd = table.filter(lambda r: r.k % 2 == 1)

    @so.loop({"s": 0.0}, range(4))
    def model(env: Any, i: Any) -> Any:
        return {"s": env["s"] + odd.slice(i * 10, 10).sum("k")}

    (outcome,) = run([model])
    assert outcome.state["s"] == sum(range(1, 80, 2))
    assert set(source.reads.values()) == {2}  # once, into the cache, which is counted too


def test_mini_batches_take_their_own_blocks_from_the_cache(
    passed: list[tuple[int, int]],
) -> None:
    table, source = watched(8, 4)
    shuffled = table.shuffle(3)
    batches = source.rows // source.block_rows

    @so.loop({"s": 0.0}, range(batches))
    def model(env: Any, i: Any) -> Any:
        return {"s": env["s"] + shuffled.slice(i * BATCH, BATCH).sum("k")}

    run([model])
    assert set(source.reads.values()) == {4}
    given = [rows for _, rows in passed]
    assert sum(given) == batches * BATCH  # no record that is not wanted
    # A range lies in at most two partitions; in each one, blocks behind it are not looked at.
    assert len(passed) <= 2 * batches
    assert max(looked for looked, _ in passed) <= 4


def test_the_leaves_of_a_slice_are_those_of_its_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    count = reduction.leaf_count

    def counting(partitions: int, source_bytes: int, partial_bytes: int) -> int:
        seen.append(partitions)
        return count(partitions, source_bytes, partial_bytes)

    monkeypatch.setattr("scalops.engine.passes.leaf_count", counting)
    table, source = watched(16, 1)
    run([table.slice(source.block_rows * 3, 10).sum("k")])
    assert seen == [1]


def test_numbers_are_those_of_the_records_in_a_slice() -> None:
    table, _ = watched(3, 2)
    numbered = table.filter(lambda r: r.k % 3 == 0).with_row_index("n").slice(700, 40)
    blocks = run([numbered.map(lambda r: r.n * 3 - r.k)])[0]
    assert sum(b.rows for b in blocks) == 40
    assert not np.concatenate([b.columns["value"] for b in blocks]).any()


def test_the_side_that_where_does_not_choose_is_not_read() -> None:
    (a, read), (b, unread) = watched(2, 2), watched(3, 1)
    total = so.where(
        so.table({"c": [1]}).count() > 0, a.sort("k", descending=True), b.sort("k").slice(1)
    ).sum("k")
    assert run([total])[0] == sum(range(read.rows))
    assert set(read.reads.values()) == {2}
    assert unread.reads == {}


# Mini-batch gradient descent.


def problem() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, WIDTH))
    return {"x": x, "y": x @ rng.normal(size=WIDTH) + rng.normal(size=ROWS)}


def sgd(xy: so.Table, seed: int, steps: int) -> Any:
    """A step for each batch of a shuffled table."""
    shuffled = xy.shuffle(seed)

    @so.loop({"w": np.zeros(WIDTH)}, range(steps))
    def model(env: Any, i: Any) -> Any:
        batch = shuffled.slice(i * BATCH, BATCH)
        gradient = batch.mean(lambda r: (r.x @ env["w"] - r.y) * r.x)
        return {"w": env["w"] - 0.1 * gradient}

    return model


def test_mini_batch_descent_is_numpys() -> None:
    data, steps = problem(), ROWS // BATCH + 3  # the last batches are short, then empty
    steps = ROWS // BATCH + 1
    order = so.table({"i": np.arange(ROWS)}).shuffle(7).collect()["i"].to_numpy()
    w = np.zeros(WIDTH)
    for i in range(steps):
        own = order[i * BATCH : (i + 1) * BATCH]
        x, y = data["x"][own], data["y"][own]
        w = w - 0.1 * ((x @ w - y)[:, None] * x).mean(axis=0)
    found = run([sgd(so.table(data), 7, steps)])[0].state["w"]
    np.testing.assert_allclose(found, w, rtol=1e-10)


def test_mini_batch_descent_gives_the_same_bits_everywhere() -> None:
    table = so.table(problem())
    ways = [(1, None, False), (2, None, False), (2, 30_000_000, False), (2, None, True)]
    found = [
        bits(run([sgd(table, 7, 12)], threads=t, memory=m, inline=i)[0].state) for t, m, i in ways
    ]
    assert all(f == found[0] for f in found)


def test_slices_give_the_same_bits_without_memory_to_hold_them() -> None:
    table = so.table(problem()).filter(lambda r: r.y > 0)

    @so.loop({"w": np.zeros(WIDTH)}, range(6))
    def model(env: Any, i: Any) -> Any:
        batch = table.slice(i * 1000 + 7, 1000)
        return {"w": env["w"] - 0.1 * batch.mean(lambda r: (r.x @ env["w"] - r.y) * r.x)}

    ways = [(1, None), (2, None), (2, 10_000), (1, 2_000_000)]
    found = [bits(run([model], threads=t, memory=m)[0].state) for t, m in ways]
    assert all(f == found[0] for f in found)
