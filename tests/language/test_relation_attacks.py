"""Bad input to joins, groups, running aggregates and tables of loops: named, and nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.errors import OutOfMemoryError
from scalops.engine import free_memory

A = so.table({"k": [1, 2, 3], "v": [1.0, 2.0, 3.0]})
B = so.table({"k": [3, 1, 1], "w": ["a", "b", "c"]})
PAIRS = so.join(A.by("k"), B.by("k"))
ONE_KEY: dict[str, Any] = {"left_on": lambda r: r.k * 0, "right_on": lambda r: r.k * 0}


def tight(made: Callable[[so.Table], Any], rows: int = 2_000) -> Any:
    """Over so many records with room for 1 MB."""
    with so.session(memory="1MB"):
        return made(so.table({"k": np.arange(rows), "v": np.ones(rows)})).collect()


def gave_fewer_fields(t: so.Table) -> so.Table:
    return t.map(lambda p: {"_0": {"k": p[0].k}, "_1": p[1]})


CASES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "cross join as state": (
        lambda: tight(lambda t: so.loop(t, range(9))(
            lambda s: s.join(s, how="cross").select("k", "v"))),
        so.ExecutionError, "a spill file in",
    ),
    "one key joined as state": (
        lambda: tight(lambda t: so.loop(t, range(9))(
            lambda s: s.join(s, **ONE_KEY).select("k", "v"))),
        so.ExecutionError, "a spill file in",
    ),
    "filtered pairs as state": (
        lambda: tight(lambda t: so.loop(t, range(9))(
            lambda s: s.join(s, **ONE_KEY).filter(lambda r: r.v > 0).select("k", "v"))),
        so.ExecutionError, "a spill file in",
    ),
    "records compared": (
        lambda: PAIRS.map(lambda p: p[0] == p[1]), so.TraceError, "a record is compared",
    ),
    "records compared otherwise": (
        lambda: PAIRS.filter(lambda p: p[0] != p[1]), so.TraceError, "p[0].id == p[1].id",
    ),
    "records of the state lose a field": (
        lambda: so.loop(PAIRS, range(2))(gave_fewer_fields),
        so.LoopError, "have the fields ['k']; the table starts with a field 'v' (float64)",
    ),
    "a list of tables as state": (
        lambda: so.loop([A, A], range(2))(lambda env: env), so.LoopError, "a list",
    ),
    "a list of tables returned": (
        lambda: so.loop(A, range(2))(lambda t: [t]), so.LoopError, "",
    ),
    "a schema of apply": (
        lambda: A.group_by("k").apply(lambda t: t, 3), so.SchemaError, "apply declares",
    ),
    "a size beyond all machines": (
        lambda: A.to_array("v", index="k", size=10**30), so.TraceError, "to_array needs its size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named(name: str) -> None:
    program, error, says = CASES[name]
    with pytest.raises(error) as caught:
        program()
    assert says in str(caught.value)
    assert "(test_relation_attacks.py:" in str(caught.value)
    assert so.collect(A.join(B, on="k").count(), A.group_by("k").count().count()) == (3, 3)


def test_pairs_beyond_memory_go_to_files() -> None:
    """Groups of all pairs, and positions of all pairs in a loop."""
    every = ("k", "v", "k_right")
    assert tight(lambda t: t.join(t, **ONE_KEY).group_by(*every).count().count(), 300) == 90_000

    def summed(s: so.Table, t: so.Table) -> so.Table:
        pairs = s.with_columns(k=0).join(t.select(u="v").with_columns(k=0), on="k")
        return pairs.group_by("k").agg(v=so.sum(lambda r: r.v * r.u))

    found = tight(lambda t: so.loop(t, range(3))(lambda s: summed(s, t)), 500)
    assert found.to_pydict() == {"k": [0], "v": [500.0**4]}


def test_a_collected_table_stops_before_the_machine_has_nothing_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(free_memory, "LEAST_FREE", 2.0)
    monkeypatch.setattr(free_memory, "LOOK_BYTES", 1 << 20)
    t = so.table({"k": np.arange(5_000)})
    with pytest.raises(OutOfMemoryError, match="the table that is collected has") as caught:
        t.join(t, how="cross").collect()
    assert "(test_relation_attacks.py:" in str(caught.value)
    assert t.join(t, how="cross").count().collect() == 25_000_000


HIDDEN_LIKE = ["@row", "@by", "@key", "@key1", "@argument", "@0", "@c", "@timestamp"]


@pytest.mark.parametrize("name", HIDDEN_LIKE)
def test_columns_may_be_called_as_computed_ones_are(name: str) -> None:
    t = so.table({name: [3, 1, 2, 1], "p": [1.0, 2.0, 3.0, 4.0], "q": [1, 1, 2, 2]})
    assert sorted(t.shuffle(1).collect()[name].to_pylist()) == [1, 1, 2, 3]
    assert t.sample(1.0, 1).collect().equals(t.collect())
    assert t.sort(lambda r: -r.p).collect()[name].to_pylist() == [1, 2, 1, 3]
    assert t.argmax(lambda r: r.p, name).collect() == 1
    groups = t.group_by(lambda r: r.q + 1)
    assert groups.map(lambda k, rows: {"k": k, "s": rows.sum(name)}).collect().to_pydict() == {
        "k": [2, 3], "s": [4, 3],
    }  # fmt: skip
    called = groups.map(lambda k, rows: so.call(wide, rows, k, like=0.0)).collect()
    assert called["value"].to_pylist() == [32.0, 33.0]
    kept = t.group_by(name).apply(lambda rows: rows.select([name]), {name: so.int64})
    assert kept.collect()[name].to_pylist() == [3, 1, 1, 2]
    running = t.with_columns(
        c=so.cumsum(lambda r: r[name] * 2, over=lambda r: r.q + 1),
        d=so.cumsum(lambda r: r[name] + r.p),
    )
    assert running.select("c", "d", name).collect().to_pydict() == {
        "c": [6, 8, 4, 6], "d": [4.0, 7.0, 12.0, 17.0], name: [3, 1, 2, 1],
    }  # fmt: skip


def wide(rows: Any, key: int) -> float:
    return float(rows.num_columns * 10 + key)
