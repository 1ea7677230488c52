"""Tables that the user keeps, at the ranks: read again, lost, forgotten; bad records; memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.errors import OutOfMemoryError
from scalops.algebra.operators import Cache
from scalops.engine import memory
from scalops.engine.cluster import job_shares, verbs
from scalops.engine.cluster.session_workers import SessionWorkers
from tests.cluster.simulated import exactly
from tests.cluster.simulation import SimulatedHub
from tests.engine.plans import bits

SESSION = importlib.import_module("scalops.session")  # so.session hides it
ROWS = 140_000  # in 3 partitions


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


def caches_of(hub: SimulatedHub) -> list[set[str]]:
    """Keys of what each worker keeps."""
    return [
        {key for c in hub._workers[n].machine._shares._caches.values() for key in c._tables}
        for n in hub.names()
    ]


def key_of(kept: so.Table) -> str:
    """Under which key a table is kept."""
    assert isinstance(kept.plan, Cache)
    return kept.plan.key


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


def test_only_one_that_stands_alone_is_made_again_of_its_source() -> None:
    with simulated() as (session, _):
        first = simple(records())
        second = first.map(lambda r: {"z": r.y * r.k}).cache()
        third = first.join(grouped(records()), on="k").map(lambda r: {"z": r.y * r.k}).cache()
        for kept in (first, second, third):
            so.collect(kept.count())
        origins = [session._tables.of(t.plan).origin for t in (first, second, third)]
        assert [o is not None for o in origins] == [True, True, False]
        so.collect(second.count())
        assert session._tables.of(second.plan).origin is origins[1]


@pytest.mark.parametrize("made", MADE, ids=lambda m: m.__name__)
@pytest.mark.parametrize("at", [0, 1, 4])
def test_ranks_that_are_lost_do_not_show(made: Callable[[so.Table], so.Table], at: int) -> None:
    def program(heard: Callable[[int], None], trouble: Callable[[], None]) -> Any:
        kept = made(records())
        count = so.collect(kept.count())
        trouble()
        loop = descend(kept)
        found = loop.run(on_iteration=lambda number, env: heard(number))
        return bits([count, found.env, so.collect(kept.sum("y"))])

    with so.session(workers=0, processes=0):
        expected = program(lambda number: None, lambda: None)
    heard: list[int] = []
    with simulated() as (session, hub):

        def trouble() -> None:
            hub.on_step = blow

        def blow(hub: SimulatedHub) -> None:
            if len(heard) == at and not hub.deaths:
                hub.kill(hub.names()[0])

        assert program(heard.append, trouble) == expected
        assert hub.deaths == 1
        assert heard == list(range(6))
        # Three jobs; the loop is begun again where what is lost cannot be made again alone.
        assert session.workers()._coordinator.job == (3 if made is simple else 4)


def test_who_is_lost_between_jobs_leaves_the_others_their_tables() -> None:
    with simulated() as (_, hub):
        kept = simple(records())
        so.collect(kept.sum("y"))
        hub.kill(hub.names()[0])
        before = {n: hub._workers[n].machine._shares._caches for n in hub.names()}
        so.collect(kept.mean(lambda r: r.y * r.y))
        after = {n: hub._workers[n].machine._shares._caches for n in hub.names()}
        assert len(after) == 3
        for name, caches in before.items():
            assert list(after[name]) == list(caches)


@pytest.mark.parametrize("made", MADE, ids=lambda m: m.__name__)
def test_another_number_of_ranks(made: Callable[[so.Table], so.Table]) -> None:
    with simulated() as (session, _):
        kept = made(records())
        expected = bits(so.collect(kept.sum("y")))
        for ranks in (2, 5, 1):
            session.options = replace(session.options, workers=ranks)
            assert bits(so.collect(kept.sum(lambda r: r.y * 1.0))) == expected, ranks
            assert session._tables.of(kept.plan).is_complete


# What is forgotten.


def test_what_is_forgotten_goes_at_the_ranks() -> None:
    with simulated() as (session, hub):
        kept, other = simple(records()), records().map(lambda r: {"y": r.x - 1.0}).cache()
        so.collect(kept.count() + other.count())
        keys = {key_of(kept), key_of(other)}
        assert all(keys <= found for found in caches_of(hub))
        session.forget(kept)
        hub.pump(0.1)
        assert all(keys & found == {key_of(other)} for found in caches_of(hub))
        assert bits(so.collect(kept.sum("y"))) == bits(so.collect(kept.sum("y")))
        del other
        so.collect(kept.sum(lambda r: r.y * 2.0))
        assert all(keys & found == {key_of(kept)} for found in caches_of(hub))


def test_a_table_is_forgotten_while_a_loop_reads_it() -> None:
    with simulated() as (session, hub):
        kept = grouped(records())
        so.collect(kept.count())
        key = key_of(kept)
        loop = descend(kept)
        expected = bits(loop.run().env)
        found = loop.run(on_iteration=lambda number, env: session.forget(kept))
        assert bits(found.env) == expected
        so.collect(records().count())
        assert not any(key in keys for keys in caches_of(hub))


def test_a_callback_runs_plans_of_its_own() -> None:
    def program() -> Any:
        kept, other = simple(records()), records()
        so.collect(kept.count())
        found: list[Any] = []

        def call(number: int, env: Any) -> None:
            found.append(so.collect(kept.sum(lambda r: r.y * number)))
            found.append(so.collect(other.sum(lambda r: r.x * number)))

        env = descend(kept, 3).run(on_iteration=call).env
        return bits([*found, env, so.collect(kept.sum("y"))])

    with so.session(workers=0, processes=0):
        expected = program()
    with simulated() as (session, _):
        assert program() == expected
        assert session.workers()._coordinator.job == 3


# Bad records.


def lenient(path: Path) -> Any:
    """Sums and counts."""
    table = so.read_csv(path, column_types={"y": "int64"}, on_error="skip")
    return so.collect(table.sum(lambda r: r.x * r.y), table.filter(lambda r: r.y > 5).count())


def lenient_repartition(path: Path) -> Any:
    """Stages that nobody waits for: they go out together with others."""
    table = so.read_csv(path, column_types={"y": "int64"}, on_error="skip").repartition(5)
    grouped = table.group_by("y").agg(n=so.count(), s=so.sum("x")).sort("y")
    return so.collect(grouped, table.sort("x", descending=True).limit(3))


def lenient_fold(path: Path) -> Any:
    """The same, and none comes after the command that they go out with."""
    table = so.read_csv(path, column_types={"y": "int64"}, on_error="skip").repartition(3)
    return [so.collect(table.sum(lambda r: r.x * r.y))]


@pytest.mark.parametrize("program", [lenient, lenient_repartition, lenient_fold])
def test_bad_records_are_reported_as_in_one_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, program: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{i},{i % 7}" if i % 9_001 else f"{i},bad{i}" for i in range(1, 60_000)]
    path.write_text("x,y\n" + "\n".join(lines))

    def said() -> tuple[list[str], Any]:
        caplog.clear()
        found = program(path)
        return [r.getMessage().partition(":")[2] for r in caplog.records], exactly(found)

    with so.session(workers=0, processes=0):
        expected = said()
    assert "6 records were skipped" in expected[0][0]
    with simulated():
        assert said() == expected


# Memory.


def test_a_lack_of_memory_names_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LEAST_WORKING", 1_000)  # less than a step to sort takes
    with simulated(settings={"memory": 15_000}), pytest.raises(OutOfMemoryError) as caught:
        so.collect(records().sort("x").sum("k"))
    assert "the budget of rank" in str(caught.value)
    assert "shared out among the workers" in str(caught.value)


def test_an_allocation_that_fails_names_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(share: Any, command: Any, given: Any) -> Any:
        yield from ()
        raise MemoryError("Unable to allocate 9 PiB")

    monkeypatch.setattr(verbs, "run", greedy)
    with simulated(), pytest.raises(OutOfMemoryError, match=r"rank \d .*9 PiB"):
        so.collect(records().sum("x"))


def test_ranks_of_one_worker_have_its_memory_together() -> None:
    with simulated(settings={"memory": 1_700_000}, most_workers=1) as (session, hub):
        session.options = replace(session.options, workers=3)
        kept = simple(records())
        expected = bits(so.collect(kept.sum("y")))
        (name,) = hub.names()
        shares = hub._workers[name].machine._shares
        assert 0 < shares.held()[0] <= 1_700_000
        assert not session._tables.of(kept.plan).is_complete
        assert bits(so.collect(kept.sum(lambda r: r.y * 1.0))) == expected


def test_without_a_limit_it_is_part_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_shares, "usable_memory", lambda: 9 << 20)
    with simulated(settings={"workers": 3}) as (_, hub):
        kept = simple(records())
        for held in (0, 1):
            so.collect(kept.sum(lambda r, held=held: r.y * held))
            limits = [hub._workers[n].machine._shares._limit for n in hub.names()]
            assert min(limits) >= 3 << 20
            assert (max(limits) > 3 << 20) == held  # what is kept is not free any more
