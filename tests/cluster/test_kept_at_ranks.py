"""Tables that the user keeps, at the ranks: read again, lost, forgotten; bad records; memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.cluster.session_workers import SessionWorkers
from tests.cluster.simulation import Faults, SimulatedHub
from tests.engine.plans import bits

SESSION = importlib.import_module("scalops.session")  # so.session hides it
ROWS = 150_000  # of 2.4 MB: 8 partitions


@contextmanager
def simulated(
    workers: int = 3, settings: dict[str, Any] | None = None, **more: Any
) -> Iterator[tuple[Any, SimulatedHub]]:
    """A session whose workers are simulated, and their hub."""
    hub = SimulatedHub(settings=settings, **more)
    own = SessionWorkers(hub, not more.get("threads", False), lambda: hub.now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SESSION, "open_workers", lambda options: own)
        with so.session(workers=workers) as session:
            yield session, hub


def records() -> so.Table:
    """Random numbers by a key of 40 values."""
    rng = np.random.default_rng(0)
    return so.table({"x": rng.normal(size=ROWS), "k": rng.integers(0, 40, ROWS)})


def counted(calls: list[int]) -> Any:
    """A function that tells of its calls, each for a record."""

    def call(x: float) -> float:
        calls.append(1)
        return x * 2.0

    return so.udf(call, returns=so.float64)


def caches_of(hub: SimulatedHub) -> list[set[str]]:
    """Keys of what each worker keeps."""
    return [
        {key for c in hub._workers[n].machine._shares._caches.values() for key in c._tables}
        for n in hub.names()
    ]


def simple(table: so.Table) -> so.Table:
    return table.map(lambda r: {"y": r.x * 3.0 + 1.0, "k": r.k}).cache()


def grouped(table: so.Table) -> so.Table:
    return table.group_by("k").agg(y=so.sum("x")).cache()


def descend(table: so.Table, count: int = 6) -> Any:
    return so.loop(0.0, range(count))(lambda w: w + table.map(lambda r: r.y * w + r.y).mean())


MADE = [simple, grouped]


@pytest.mark.parametrize("made", MADE, ids=lambda m: m.__name__)
def test_a_kept_table_is_read_where_it_lies(made: Callable[[so.Table], so.Table]) -> None:
    def program() -> list[Any]:
        kept = made(records())
        return [so.collect(kept.sum("y")), so.collect(kept.count()), so.collect(kept)]

    with so.session(workers=0, processes=0):
        expected = bits(program())
    with simulated() as (session, hub):
        assert bits(program()) == expected
        assert len(session._tables._tables) == 0  # it went with the program's table
        kept = made(records())
        so.collect(kept.sum("y"))
        table = session._tables.of(kept.plan)
        assert table.is_complete
        assert table.away is not None
        assert (table.origin is None) == (made is grouped)
        assert table.parts == {}
        assert all(table.key in keys for keys in caches_of(hub)[: 3 if made is simple else 1])
