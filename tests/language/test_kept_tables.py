"""`cache()`: the session keeps a table's records for later plans."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.operators import Scan
from scalops.session import current_session
from tests.engine.sources import WatchedSource


class FileLike(WatchedSource):
    """A source whose records are dear."""

    in_memory = False


def watched() -> tuple[so.Table, FileLike]:
    source = FileLike(4, 2)
    return so.Table(Scan(source)), source


def reads(source: FileLike) -> int:
    """Blocks read since the last time."""
    found = sum(source.reads.values())
    source.reads.clear()
    return found


def squares(t: so.Table) -> so.Table:
    """Something to keep: a filter thins the blocks out, so bounds matter."""
    return t.filter(lambda r: r.k % 3 > 0).map(lambda r: {"s": r.x @ r.x, "k": r.k})


@pytest.fixture(autouse=True)
def _own_session() -> Any:
    with so.session(threads=2) as session:
        yield session


def test_a_second_collect_reads_nothing() -> None:
    table, source = watched()
    kept = squares(table).cache()
    first = kept.sum("s").collect()
    assert reads(source) > 0
    assert kept.max("k").collect() == 16_382
    again = kept.map(lambda r: r.s + 0.0).sum().collect()
    assert kept.filter(lambda r: r.k < 10).count().collect() == 6
    assert reads(source) == 0
    assert first == again


def test_bits_are_the_same_kept_or_not() -> None:
    table, source = watched()
    kept = squares(table).cache()

    def model(t: so.Table) -> Any:
        @so.loop({"w": 0.0}, range(3))
        def made(env: Any) -> Any:
            return {"w": env["w"] + t.mean(lambda r: np.sin(r.s * 1e-3 + env["w"]))}

        return made

    first = so.collect(kept.sum("s"), kept.filter(lambda r: r.k > 9).mean("s"), model(kept))
    assert reads(source) > 0
    second = so.collect(
        kept.sum("s") + 0, kept.filter(lambda r: r.k > 9).mean("s") + 0, model(kept)["w"] + 0
    )
    assert reads(source) == 0
    kept.forget()
    with so.session(threads=1, memory="100KB"):
        third = so.collect(kept.sum("s"), kept.filter(lambda r: r.k > 9).mean("s"), model(kept))
    assert (first[0], first[1], first[2]["w"]) == second == (third[0], third[1], third[2]["w"])


def test_records_stay_in_order_and_forget_makes_them_anew() -> None:
    table, source = watched()
    kept = table.select("k").shuffle(1).cache()
    once = kept.collect()
    reads(source)
    assert kept.collect() == once
    assert reads(source) == 0
    kept.forget()
    assert kept.collect() == once
    assert reads(source) > 0


def test_a_session_that_ends_keeps_nothing() -> None:
    table, source = watched()
    kept = table.cache()
    with so.session() as inner:
        kept.count().collect()
        assert inner._tables.bytes > 0
    assert inner._tables.bytes == 0
    reads(source)
    kept.sum("k").collect()
    assert reads(source) > 0


def test_what_nobody_can_ask_for_is_not_kept() -> None:
    table, _ = watched()
    kept = table.cache()
    kept.count().collect()
    session = current_session()
    assert session._tables.bytes > 0
    del kept
    session._checked.clear()
    session._results.clear()
    gc.collect()
    assert session._tables.bytes == 0


def test_what_does_not_fit_lies_in_a_file() -> None:
    table, source = watched()
    expected = table.sum("x").collect()
    kept = table.cache()
    part = int(source.bytes * 0.6)
    with so.session(memory=part) as session:
        assert (kept.sum("x").collect() == expected).all()
        assert 0 < session._tables.bytes <= part
        reads(source)
        assert ((kept.sum("x") + 0).collect() == expected).all()
        assert reads(source) == 0


def test_kept_tables_give_way_to_what_cannot_do_without_memory() -> None:
    table, source = watched()
    kept = table.cache()
    with so.session(memory=int(source.bytes * 1.3)) as session:
        kept.count().collect()
        held = session._tables.bytes
        other = so.table({"a": np.arange(source.bytes // 16)})
        assert other.sort("a", descending=True).limit(1).collect()["a"][0].as_py() > 0
        assert session._tables.bytes < held
        reads(source)
        assert kept.count().collect() + 0 == source.rows


def test_a_cache_in_a_loop_that_changes_it_is_filled_anew() -> None:
    table, _ = watched()

    @so.loop({"n": 0.0}, range(3))
    def model(env: Any, i: Any) -> Any:
        part = table.filter(lambda r: r.k < 10.0 * (i + 1)).cache()
        return {"n": env["n"] + part.sum("k") + part.count()}

    expected = sum(sum(range(10 * (i + 1))) + 10 * (i + 1) for i in range(3))
    assert model.collect()["n"] == expected
    assert current_session()._tables.bytes == 0


def test_explain_shows_what_the_user_keeps() -> None:
    table, _ = watched()
    kept = table.cache()
    text = kept.sum("k").explain()
    assert "Cache [cache]" in text
    assert "x: float64[64]" in text  # no rule makes it narrower
    assert kept.cache().plan is kept.plan
    assert "kept by the session" in kept.explain(stage="physical")


def test_a_loop_reads_the_kept_table() -> None:
    table, source = watched()
    kept = table.cache()
    kept.count().collect()
    reads(source)

    @so.loop({"w": np.zeros(64)}, range(3))
    def model(env: Any) -> Any:
        return {"w": env["w"] * 0.5 + kept.mean(lambda r: np.tanh(r.x - env["w"]))}

    model.collect()
    assert reads(source) == 0


def _sorted(t: so.Table) -> so.Table:
    return t.sort("k")


def _joined(t: so.Table) -> so.Table:
    return t.join(t.select("k", w=lambda r: r.v), on="k")


def _grouped(t: so.Table) -> so.Table:
    return t.group_by("k").agg(s=so.sum("v"))


def _distinct(t: so.Table) -> so.Table:
    return t.distinct()


@pytest.mark.parametrize("call", [_sorted, _joined, _grouped, _distinct])
def test_what_cannot_spill_names_the_line_of_its_operator(
    call: Callable[[so.Table], so.Table], tmp_path: Path
) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    keys = np.random.default_rng(0).permutation(5_000)
    t = so.table({"k": keys, "v": keys / 2})
    with so.session(memory="2KB", spill=str(place)):
        place.rmdir()
        with pytest.raises(so.ScalopsError, match=f"{place}: there is no such folder") as error:
            call(t).collect()
    assert error.value.location is not None
    assert error.value.location.line == call.__code__.co_firstlineno + 1
