"""Joins of a table that stays with one that changes, in a loop: few records cost little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from scalops.algebra.relations import Join, JoinKind
from scalops.engine import physical_relations as pr
from scalops.engine.kernels.matching import KeyIndex
from scalops.engine.outcome import LoopOutcome
from scalops.engine.physical_display import display
from scalops.engine.relations import meeting
from scalops.engine.witness.interpreter import Interpreter
from scalops.planning import plan
from tests.engine.joins import column, source
from tests.engine.plans import job_of, run, sinks
from tests.optimizer.plans import same_answer


class Sums(so.Environment):
    """What an iteration leaves of the pairs it has made."""

    at: int
    most: int
    rows: int
    total: float
    weighted: float


def shrinking(left: so.Table, right: so.Table, kind: JoinKind, on: list[str]) -> Any:
    """A loop that joins `left` with fewer records of `right` each time, and at last with none."""
    outputs = [("row", 0, "row"), ("text", 0, "text"), ("thin", 0, "thin")]
    if kind != "semi":
        outputs += [("number", 1, "row"), ("items", 1, "items")]

    @so.loop(Sums(at=0, most=0, rows=0, total=0.0, weighted=0.0), range(4))
    def loop(env: Any, i: Any) -> Any:
        changed = right.filter(lambda r: r.row >= i * 20)
        node = Join(
            left.plan, changed.plan, tuple(column(left, k) for k in on),
            tuple(column(right, k) for k in on), kind, tuple(outputs),
        )  # fmt: skip
        pairs = so.Table(node)
        name = "row" if kind == "semi" else "number"
        numbered = pairs.with_row_index("place")
        env.at = i
        env.rows = pairs.count()
        env.most = pairs.map(lambda r: r.text.str.length()).sum()
        env.total = pairs.sum(lambda r: r.thin @ np.arange(50.0))
        # Depends on the order of the pairs.
        env.weighted = numbered.sum(lambda r: so.cast(r.place * (1 + r[name]) + r.row, "float64"))
        return env

    return loop


@pytest.mark.parametrize("kind", ["inner", "semi"])
@pytest.mark.parametrize("on", [["int"], ["wide"], ["int", "string"]], ids=",".join)
@pytest.mark.parametrize("cost", [0, 1_000_000], ids=["looked up", "probed"])
def test_agrees_with_the_interpreter(
    kind: JoinKind, on: list[str], cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SORT_COST", cost)
    loop = shrinking(source(90, 1), source(60, 2), kind, on)
    physical = plan(job_of(loop))
    assert len(sinks(physical, pr.MeetIndexed)) == 1
    expected = Interpreter().run_loop(loop.plan)
    for threads in (1, 2):
        (found,) = run([loop], threads)
        assert isinstance(found, LoopOutcome)
        for name, value in found.state.items():
            assert same_answer([expected[name]], [value]), name


def test_the_side_that_stays_is_indexed_once_and_probed_no_more() -> None:
    loop = shrinking(source(90, 1), source(60, 2), "inner", ["int"])
    physical = plan(job_of(loop))
    shown = display(physical).to_text()
    assert shown.index("BuildIndex") < shown.index("Iterate") < shown.index("MeetIndexed")
    assert "join with t" in shown
    assert "few records are looked up in the index of the side that stays" in shown


def test_few_records_do_not_read_the_side_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index over the right side, to be probed with all of the left one, is not made."""
    made: list[int] = []
    original = KeyIndex

    def counted(*arguments: Any, **named: Any) -> Any:
        made.append(1)
        return original(*arguments, **named)

    monkeypatch.setattr(meeting, "KeyIndex", counted)
    left = so.table({"k": np.arange(5_000), "x": np.arange(5_000.0)})
    right = so.table({"k": np.array([7, 4_999, 7]), "y": np.arange(3)})

    @so.loop({"s": 0.0}, range(3))
    def loop(env: Any, i: Any) -> Any:
        keys = (column(left, "k"),), (column(right, "k"),)
        few = right.filter(lambda r: r.y >= i)
        node = Join(left.plan, few.plan, *keys, "inner", (("x", 0, "x"), ("y", 1, "y")))
        env["s"] += so.Table(node).sum(lambda r: r.x * (r.y + 1))
        return env

    (found,) = run([loop])
    assert isinstance(found, LoopOutcome)
    assert found.state["s"] == (7 + 2 * 4_999 + 3 * 7) + (2 * 4_999 + 3 * 7) + 3 * 7
    assert not made


@pytest.mark.parametrize("kind", ["left", "full", "anti"])
def test_other_kinds_stream(kind: JoinKind) -> None:
    left, right = source(30, 1), source(20, 2)

    @so.loop({"n": 0}, range(3))
    def loop(env: Any, i: Any) -> Any:
        few = right.filter(lambda r: r.row >= i * 9)
        keys = (column(left, "int"),), (column(right, "int"),)
        env["n"] += so.Table(Join(left.plan, few.plan, *keys, kind, (("row", 0, "row"),))).count()
        return env

    assert not sinks(plan(job_of(loop)), pr.MeetIndexed)
    (found,) = run([loop], 2)
    assert isinstance(found, LoopOutcome)
    assert found.state["n"] == Interpreter().run_loop(loop.plan)["n"]
