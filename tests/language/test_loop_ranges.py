"""so.range: bounds that the plan computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scalops as so
from tests.engine.plans import bits, job_of, run
from tests.language.witness import value

N = 23


@pytest.fixture
def table() -> so.Table:
    """23 records."""
    return so.table({"x": np.arange(float(N)), "k": np.arange(N)})


def elements(condition: Any) -> list[int]:
    """The elements that a loop's body is given, in order, for at most nine of them."""
    end = so.loop({"seen": np.full(9, -99), "n": 0}, condition)(
        lambda env, i: {
            "seen": np.where(np.arange(9) == env["n"], i, env["seen"]),
            "n": env["n"] + 1,
        }
    ).collect()
    found: list[int] = end["seen"][: end["n"]].tolist()
    return found


@pytest.mark.parametrize(
    "bounds", [(4,), (0,), (3, 7), (5, 5), (10, 0, -3), (0, 10, 4), (5, 2), (-2, 3)], ids=str
)
def test_elements_are_those_of_pythons_range(bounds: tuple[int, ...]) -> None:
    expected = list(range(*bounds))
    assert elements(so.range(*bounds)) == expected
    assert elements(so.range(*(value(np.int64(b)) for b in bounds))) == expected
    assert elements(so.range(*(np.int32(b) for b in bounds))) == expected


def test_bound_may_be_computed_from_a_table(table: so.Table) -> None:
    made = so.loop(0, so.range(table.count() // 5))(lambda s, i: s + i)
    result = made.run()
    assert (result.env, result.iterations, result.converged) == (6, 4, True)
    assert elements(so.range(table.min("k") + 1, table.max("k") // 2, 3)) == [1, 4, 7, 10]


def test_range_of_known_numbers_is_the_plan_of_pythons_range() -> None:
    plans = [so.loop(0, r, name="s")(lambda s: s + 1).explain() for r in (range(3), so.range(3))]
    without_lines = [p.splitlines()[0] for p in plans]
    assert without_lines[0].split("(test")[0] == without_lines[1].split("(test")[0]


def test_inner_range_is_read_at_every_outer_iteration(table: so.Table) -> None:
    @so.loop({"n": 1, "total": 0}, range(4))
    def outer(env: Any, i: Any) -> Any:
        inner = so.loop(0, so.range(i, env["n"] * 2))(lambda s, j: s + j)
        return {"n": env["n"] + 1, "total": env["total"] + inner + table.count()}

    expected = sum(sum(range(i, 2 * (i + 1))) + N for i in range(4))
    assert outer.collect()["total"] == expected
    (engine,) = run([outer])
    from scalops.engine.witness.interpreter import Interpreter

    assert Interpreter().run_loop(outer.plan)["total"] == engine.state["total"] == expected


def test_bound_may_be_a_loops_result(table: so.Table) -> None:
    first = so.loop(0, range(3))(lambda s: s + 1)
    assert so.loop(1.0, so.range(first))(lambda s: 2 * s).collect() == 8.0
    assert so.loop(1.0, so.range(first.iterations))(lambda s: 2 * s).collect() == 8.0


def test_range_that_ends_early_is_not_converged(table: so.Table) -> None:
    made = so.loop(0, so.range(table.count()), max_iterations=5, warn=False)(lambda s: s + 1)
    result = made.run()
    assert (result.env, result.converged) == (5, False)


def test_same_bits_for_any_number_of_threads(table: so.Table) -> None:
    rng = np.random.default_rng(3)
    wide = so.table({"x": rng.normal(size=(3_000, 60))})
    made = so.loop(np.zeros(60), so.range(wide.count() // 1_000))(
        lambda w, i: w + wide.map(lambda r: r.x * np.tanh(r.x @ w + i)).sum()
    )
    found = [bits(run([made], threads, memory)) for threads in (1, 2) for memory in (None, 100_000)]
    assert all(f == found[0] for f in found)


def test_explain_shows_the_bounds(table: so.Table) -> None:
    made = so.loop(0, so.range(table.count() // 5))(lambda s, i: s + i)
    assert "n // 5 times" in made.explain().replace("count", "n")
    assert "Iterate loop 1: " in made.explain("physical")
    stepped = so.loop(0, so.range(2, table.count(), 3))(lambda s, i: s + i)
    assert "over 2:" in stepped.explain("logical")
    assert "4 times" in so.loop(0, so.range(4))(lambda s: s).explain("logical")


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        (2.5, "float64"),
        ("4", "str"),
        (True, "bool"),
        (None, "NoneType"),
        (np.arange(3), r"int64\[3\]"),
        ([3], "list"),
    ],
)
def test_bound_that_is_no_int_is_refused(bound: Any, found: str) -> None:
    with pytest.raises(so.LoopError, match=rf"of so\.range is {found}; expected an int"):
        so.range(bound) if bound is not None else so.range(None)


def test_value_that_is_no_int_is_refused(table: so.Table) -> None:
    with pytest.raises(so.LoopError, match=r"the stop of so\.range is float64; .*n // m"):
        so.range(table.count() / 5)
    with pytest.raises(so.LoopError, match=r"the step of so\.range is float64\[2\]"):
        so.range(0, 3, value(np.zeros(2)))
    with pytest.raises(so.LoopError, match=r"the step of so\.range is 0"):
        so.range(0, 3, 0)


def test_step_that_turns_out_to_be_zero_is_an_error(table: so.Table) -> None:
    made = so.loop(0, so.range(0, 9, table.min("k")))(lambda s: s)
    with pytest.raises(so.LoopError, match=r"the step of a loop's range is 0 \(test_loop_ranges"):
        made.collect()


def test_records_column_is_no_bound(table: so.Table) -> None:
    with pytest.raises(so.LoopError, match="record's column"):
        table.map(lambda r: so.range(r.k) and 1)


def test_it_is_no_sequence(table: so.Table) -> None:
    made = so.range(table.count())
    with pytest.raises(TypeError, match=r"condition.*range\(int\(n\)\)"):
        list(made)
    with pytest.raises(TypeError):
        len(made)
    assert repr(made) == "so.range(0, Value, 1)"


def test_bound_of_another_loops_state_is_refused() -> None:
    leaked: list[Any] = []

    def body(s: Any) -> Any:
        leaked.append(so.range(s))
        return s

    so.loop(1, range(2))(body)
    with pytest.raises(so.PlanError, match="outside its loop"):
        so.loop(0, leaked[0])(lambda s: s).collect()


def test_a_job_may_hold_it_in_any_place(table: so.Table) -> None:
    assert job_of(so.loop(0, so.range(table.count()))(lambda s: s + 1)).outputs
    total = so.loop(0, so.range(table.count()))(lambda s: s + 1)
    assert so.collect(total, total + 1, total.converged) == (N, N + 1, True)
