"""Tables of the driver's that are sent to the ranks: piece by piece, ahead of being read."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.errors import ExecutionError
from scalops.engine import blocks
from scalops.engine.cluster import remote_source, source_server
from scalops.engine.cluster.messages import Partitions, Wanted
from scalops.engine.cluster.remote_source import PartitionStore
from scalops.engine.collective import Piece
from tests.cluster.simulation import Faults, SimulatedHub
from tests.cluster.test_kept_at_ranks import simulated
from tests.engine.plans import bits

ROWS = 1_200_000  # in about 20 partitions of a block each


def records() -> so.Table:
    rng = np.random.default_rng(1)
    return so.table({"x": rng.normal(size=ROWS), "k": rng.integers(0, 9, ROWS)})


def results(table: so.Table) -> Any:
    """Passes over a table, those of a loop among them."""
    loop = so.loop(0.0, range(3))(lambda w: w + table.map(lambda r: np.tanh(r.x * w + 1)).mean())
    found = so.collect(table.sum("x"), loop, table.group_by("k").agg(x=so.sum("x")))
    return bits(list(found))


@pytest.fixture(scope="module")
def expected() -> Any:
    with so.session(workers=0, processes=0):
        return results(records())


class Heard:
    """What the driver has sent and been asked for."""

    def __init__(self, hub: SimulatedHub) -> None:
        self.sizes: list[int] = []
        self.pieces: list[tuple[int, int, int]] = []  # source, partition, first block
        self._send = hub.channels.send
        hub.channels.send = self._noted  # type: ignore[method-assign]

    def _noted(self, peer: str, body: Any, buffers: Any = ()) -> None:
        if isinstance(body, Partitions):
            self.sizes.append(sum(b.nbytes for b in buffers))
            self.pieces.append((body.source, body.partition, body.piece[0]))
        self._send(peer, body, buffers)


def test_each_partition_comes_once_if_it_stays(expected: Any) -> None:
    with simulated(threads=True) as (_, hub):
        heard = Heard(hub)
        assert results(records()) == expected
    assert len(heard.pieces) == len(set(heard.pieces)) > 10


@pytest.mark.parametrize("seed", [1, 2])
def test_frames_and_workers_that_are_lost_do_not_show(seed: int, expected: Any) -> None:
    faults = Faults(lost=0.03, doubled=0.03, late=0.03)
    with simulated(threads=True, seed=seed, faults=faults) as (_, hub):
        at = iter((40 + 17 * seed, 150 + 31 * seed, 1 << 30))
        following = [next(at)]

        def blow(hub: SimulatedHub) -> None:
            if hub.steps >= following[0] and hub.names():
                hub.kill(hub.names()[-1])
                following[0] = next(at)

        hub.on_step = blow
        assert results(records()) == expected
        assert hub.deaths == 2


def test_large_partitions_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_PARTITIONS", 4)
    monkeypatch.setattr(source_server, "PIECE_BYTES", 1 << 21)
    wide = so.table({"x": np.random.default_rng(2).normal(size=(20_000, 50))})

    def moved(w: Any) -> Any:
        return w + wide.map(lambda r: r.x * (r.x @ w + 1)).mean()

    with so.session(workers=0, processes=0):
        alone = bits(so.collect(so.loop(np.zeros(50), range(2))(moved)))
    faults = Faults(lost=0.03, doubled=0.03, late=0.03)
    with simulated(threads=True, faults=faults) as (_, hub):
        heard = Heard(hub)
        assert bits(so.collect(so.loop(np.zeros(50), range(2))(moved))) == alone
    assert max(heard.sizes) <= 1 << 21
    assert len({p[:2] for p in heard.pieces}) == 3
    assert len(set(heard.pieces)) == len(heard.pieces) == 5


def test_without_room_a_table_is_sent_again() -> None:
    def sums(table: so.Table) -> Any:
        return bits([so.collect(table.sum(lambda r, i=i: r.x * i)) for i in range(3)])

    with so.session(workers=0, processes=0):
        expected = sums(records())
    with simulated(threads=True, settings={"memory": 2 << 20}) as (_, hub):
        heard = Heard(hub)
        assert sums(records()) == expected
        again = len(heard.pieces) - len(set(heard.pieces))
        assert 0 < again < 2 * len(set(heard.pieces))  # what had room was not sent again
        for name in hub.names():
            assert 1 << 20 < hub._workers[name].machine._shares.held()[0] <= 2 << 20


def test_what_was_sent_makes_room_for_what_is_made() -> None:
    with simulated(threads=True, workers=1, settings={"memory": 2 << 20}):
        grouped = records().group_by("k").agg(x=so.sum("x"))
        other = records().sum(lambda r: r.x * r.k)
        so.collect(other, grouped)  # the first pass fills the memory


def test_partitions_are_asked_for_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    own = simulated(workers=2, threads=True)
    with own as (_, hub):
        before = hub.channels.arrived

        def arrived(peer: str, frames: Any, now: float) -> Any:
            found = before(peer, frames, now)
            asked.extend(m.body.partitions for m in found if isinstance(m.body, Wanted))
            return found

        hub.channels.arrived = arrived  # type: ignore[method-assign]
        so.collect(records().sum("x"))
    every = sorted(p for some in asked for p in some)
    assert every == list(range(len(every)))
    assert {some[0] for some in asked if len(some) > 1}  # the first brings others with it
    most = remote_source.AHEAD_BYTES // (65_536 * 8)
    assert max(map(len, asked)) <= most + 1


# The store by itself.


def piece(first: int, blocks: int, is_last: bool) -> Piece:
    return Piece([first, [f"block {first + i}" for i in range(blocks)], is_last], [])


def test_pieces_are_asked_for_one_after_the_other() -> None:
    asked: list[tuple[int, tuple[int, ...], int]] = []
    store = PartitionStore(lambda *wanted: asked.append(wanted))
    found: list[list[Piece]] = []
    reader = threading.Thread(target=lambda: found.append(store.get(3, 5, [6, 7])))
    reader.start()
    while not asked:
        pass
    store.arrived(3, 6, piece(0, 1, True))
    store.arrived(3, 5, piece(0, 2, False))
    store.arrived(3, 5, piece(0, 2, False))  # again, of an earlier question
    store.arrived(3, 5, piece(2, 1, True))
    reader.join()
    assert asked == [(3, (5, 6, 7), 0), (3, (5,), 2)]
    assert [b for p in found[0] for b in p.header] == ["block 0", "block 1", "block 2"]
    assert [p.header for p in store.get(3, 6, [7])] == [["block 0"]]  # it was there
    assert len(asked) == 2


def test_what_is_not_read_next_makes_room() -> None:
    asked: list[tuple[int, ...]] = []

    def ask(source: int, partitions: tuple[int, ...], first: int) -> None:
        asked.append(partitions)
        for partition in partitions:
            store.arrived(source, partition, piece(0, 1, True))

    store = PartitionStore(ask)
    store.get(0, 0, [1, 2])
    store.get(1, 0, [1])
    store.get(0, 8, [9])
    assert asked == [(0, 1, 2), (0, 1), (8, 9)]
    assert sorted(store._coming) == [(0, 9), (1, 1)]
    store.arrived(0, 1, piece(0, 1, True))  # dropped: nobody expects it
    assert sorted(store._coming) == [(0, 9), (1, 1)]


def test_a_store_goes_on_after_it_was_cancelled() -> None:
    store = PartitionStore(lambda *asked: store.fail(ExecutionError("cancelled")))
    with pytest.raises(ExecutionError, match="cancelled"):
        store.get(0, 0, [1])
    store.go_on()
    store._ask = lambda source, partitions, first: store.arrived(0, 0, piece(0, 1, True))
    assert [p.header for p in store.get(0, 0)] == [["block 0"]]
