"""What runs tell of: stages, caches, iterations and the rows that they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.engine.events import Several


class Kept:
    """Keeps events as they come."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The fields of the events of a kind."""
        return [fields for found, fields in self.events if found == kind]


def told(*things: Any, **options: Any) -> Kept:
    """The events of a run."""
    kept = Kept()
    with so.session(threads=1, **options) as session:
        session.events = kept
        so.collect(*things)
    return kept


def halving(table: Any, steps: int = 3) -> Any:
    """A loop that folds a table in each iteration."""
    return so.loop(1.0, range(steps))(lambda s: s / 2 + table.map(lambda r: r.v * s).sum())


def table(rows: int = 10) -> Any:
    """Zeros."""
    return so.table({"v": np.zeros(rows)})


def test_a_run_is_told_from_beginning_to_end() -> None:
    derived = table().map(lambda r: {"v": np.tanh(r.v)})
    kept = told(halving(derived, 2), memory="1GB")
    assert [kind for kind, _ in kept.events] == [
        "run", "plan", "cache", "stage", "iteration", "stage", "iteration", "end",
    ]  # fmt: skip
    (run,), (plan,), (cache,), (end,) = map(kept.of, ("run", "plan", "cache", "end"))
    assert (run["options"]["threads"], run["options"]["memory"]) == (1, 10**9)
    assert (len(plan["fingerprint"]), plan["stages"]) == (32, 2)
    assert (cache["rows"], cache["bytes"], cache["partitions"], cache["cached"]) == (10, 80, 1, 1)
    assert [s["sink"] for s in kept.of("stage")] == ["TreeAggregate"] * 2
    assert not end["failed"]
    timed = (cache, end, *kept.of("stage"), *kept.of("iteration"))
    assert all(fields["seconds"] >= 0 for fields in timed)


def test_rows_are_those_that_an_iteration_read() -> None:
    derived = table(100).map(lambda r: {"v": np.tanh(r.v)})
    for source in (table(100), derived):
        assert [e["rows"] for e in told(halving(source)).of("iteration")] == [100] * 3


def test_rows_of_an_inner_loop_count_as_often_as_they_are_read() -> None:
    t = table(100)

    def body(s: Any) -> Any:
        return so.loop(s, range(4))(lambda x: x / 2 + t.map(lambda r: r.v * x).sum())

    assert [e["rows"] for e in told(so.loop(1.0, range(2))(body)).of("iteration")] == [400] * 2


def test_loops_together_read_a_table_once_each_iteration() -> None:
    t = table(100)
    loops = [so.loop(float(i), range(2))(lambda s: s / 2 + t.map(lambda r: r.v * s).sum())
             for i in range(3)]  # fmt: skip
    kept = told(*loops)
    assert len(kept.of("iteration")) == 6
    assert {e["rows"] for e in kept.of("iteration")} == {100}
    assert any(len(s["stages"]) == 3 for s in kept.of("stage"))


def test_a_loop_over_no_table_has_no_rows() -> None:
    kept = told(so.loop(1.0, range(2))(lambda s: s / 2))
    assert [e["rows"] for e in kept.of("iteration")] == [None, None]


def test_an_error_is_told_before_the_end() -> None:
    kept = Kept()
    with so.session() as session:
        session.events = kept
        with pytest.raises(so.LoopError):
            so.loop(1.0, range(3))(lambda s: np.log(s - 1)).collect()
    (error,), (end,) = kept.of("error"), kept.of("end")
    assert error["type"] == "LoopError"
    assert "has become infinite" in error["message"]
    assert end["failed"]
    assert [kind for kind, _ in kept.events][-2:] == ["error", "end"]


def test_a_result_that_is_kept_is_not_run() -> None:
    kept, total = Kept(), table().sum("v")
    with so.session() as session:
        so.collect(total)
        session.events = Several([kept, kept])
        so.collect(total)
    assert [kind for kind, _ in kept.events] == ["run", "run", "end", "end"]
