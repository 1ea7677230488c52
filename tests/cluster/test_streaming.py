"""A table that is handed over block by block is the one that is collected, on any ranks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.blocks import Block
from scalops.engine.cluster import sent_blocks
from scalops.engine.cluster.sent_blocks import windows
from scalops.engine.driver import Driver
from scalops.planning import plan as planned
from tests.cluster.lockstep import LockstepBackend
from tests.cluster.simulated import Blows, simulated_sessions
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import Backend, bits, job_of
from tests.quick import quick


def test_windows_are_consecutive_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_blocks, "WINDOW_BYTES", 10)
    sizes = {3: [4, 4, 4, 4], 0: [1], 5: [], 7: [30, 1]}
    assert list(windows(sizes)) == [
        ((0, 0), (3, 3)), ((3, 3), (7, 1)), ((7, 1), (7, 2)),
    ]  # fmt: skip
    assert list(windows({})) == []


def table() -> so.Table:
    rng = np.random.default_rng(4)
    data = {"k": rng.integers(0, 9, 3_000), "x": rng.normal(size=(3_000, 3))}
    return so.table(data).repartition(23).filter(lambda r: r.x[0] > -1).sort("k")


@pytest.mark.parametrize("memory", [None, 1_000])
def test_ranks_give_the_blocks_of_the_only_one(memory: int | None) -> None:
    plan = planned(job_of(table()))
    found: list[list[Block]] = [[], []]
    ranks = LockstepBackend(3, memory=memory)
    Driver(plan, Backend(2, None, False), begin=lambda: found[0].extend).run()
    assert Driver(plan, ranks, begin=lambda: found[1].extend).run() == [None]
    assert bits(found[0]) == bits(found[1])
    assert sum(b.rows for b in found[0]) > 2_000
    assert [b.held for b in ranks.budgets] == [0] * 3


def digests(path: Path) -> dict[str, str]:
    """The files that the table makes in a folder."""
    table().write_parquet(path, partition_by="k", max_rows_per_file=100)
    files = path.rglob("*.parquet")
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("kills", quick([[], [140], [60, 170], [100, 150, 200], "all"], 2))
def test_workers_write_the_same_bytes(
    kills: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_blocks, "WINDOW_BYTES", 5_000)
    expected = digests(tmp_path / "alone")
    assert len(expected) > 9
    hub = SimulatedHub()
    blows = Blows(3, all_at=[150]) if kills == "all" else Blows(3, at=kills)
    hub.on_step = blows
    with simulated_sessions(lambda: hub), so.session(workers=3):
        assert digests(tmp_path / "workers") == expected
    assert len(blows.dealt) == len(blows.at) + len(blows.all_at)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "workers"]
