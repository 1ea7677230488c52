"""Loops of one form in lock-step: their folds are one product, each loop's results its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scalops as so
from scalops.algebra.batching import LEAST_STACKED
from scalops.engine import physical_plan as pp
from scalops.engine import stacked
from scalops.engine.blas import single_threaded
from scalops.engine.driver import Driver
from scalops.engine.outcome import SECONDS, LoopOutcome
from scalops.engine.passes import Pass
from scalops.engine.process_folds import ProcessFolds
from scalops.engine.stacked import StackedReduction
from scalops.explain import explain
from scalops.planning import plan
from tests.engine.plans import Backend, bits, job_of, run

RNG = np.random.default_rng(11)
ROWS, WIDTH = 6_000, 20
X = RNG.normal(size=(ROWS, WIDTH))
Y = np.where(X @ RNG.normal(size=WIDTH) + RNG.normal(size=ROWS) > 0, 1.0, -1.0)
STRENGTHS = [0.001, 0.01, 0.1, 1.0, 3.0]


@pytest.fixture
def table() -> so.Table:
    """6,000 records in several partitions."""
    return so.table({"x": X, "y": Y})


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many loops each stack that was compiled is for."""
    found: list[int] = []
    init = StackedReduction.__init__

    def watched(self: StackedReduction, stages: Any, *rest: Any) -> None:
        found.append(len(stages))
        init(self, stages, *rest)

    monkeypatch.setattr(StackedReduction, "__init__", watched)
    return found


def logistic(table: so.Table, strength: float, condition: Any = range(4), **options: Any) -> Any:
    """Loss and gradient, regularised."""

    @so.loop({"w": np.zeros(WIDTH), "loss": np.inf, "delta": np.inf}, condition, **options)
    def model(env: Any) -> Any:
        def margin(r: Any) -> Any:
            return r.y * (r.x @ env["w"])

        gradient = table.map(lambda r: -r.y * r.x / (1 + np.exp(margin(r)))).mean()
        loss = table.map(lambda r: np.log1p(np.exp(-margin(r)))).mean()
        w = env["w"] - 0.5 * (gradient + strength * env["w"])
        return {"w": w, "loss": loss, "delta": np.abs(env["loss"] - loss)}

    return model


def stacks(*things: Any) -> list[int]:
    """How many stages each stack of the plan has."""
    made = plan(job_of(*things))
    together = [i for i in made.program if isinstance(i, pp.IterateTogether)]
    return [len(own) for i in together for own in i.stacks]


def agree(found: Any, expected: Any) -> None:
    """Two outcomes of one loop, to rounding."""
    if isinstance(found, LoopOutcome):
        assert (found.iterations, found.converged) == (expected.iterations, expected.converged)
        agree(found.state, expected.state)
        assert found.history.keys() == expected.history.keys()
        for name in found.history.keys() - {SECONDS}:
            agree(found.history[name], expected.history[name])
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            agree(found[name], expected[name])
    else:
        assert np.asarray(found).dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def as_alone(*loops: Any) -> list[LoopOutcome]:
    """What the loops give together: as each gives alone, with the same bits on any threads."""
    made = plan(job_of(*loops))
    found = executed(made)
    for loop, outcome in zip(loops, found, strict=True):
        agree(outcome, run([loop])[0])
    for threads, memory in ((2, None), (2, 400_000), (1, 1_000)):
        assert bits(executed(made, threads, memory)) == bits(found)
    assert bits(executed(made, 2, inline=True)) == bits(found)
    return found


def executed(
    made: pp.PhysicalPlan, threads: int = 1, memory: int | None = None, inline: bool = False
) -> list[Any]:
    """What a plan gives with so many threads and so much memory."""
    with single_threaded():
        return Driver(made, Backend(threads, memory, inline)).run()


def test_strengths_of_regularisation_are_one_product(table: so.Table, sizes: list[int]) -> None:
    loops = [logistic(table, s) for s in STRENGTHS]
    assert stacks(*loops) == [5]
    found = as_alone(*loops)
    assert set(sizes) == {5}
    for strength, outcome in zip(STRENGTHS, found, strict=True):
        w = np.zeros(WIDTH)
        for _ in range(4):
            gradient = (-Y / (1 + np.exp(Y * (X @ w)))) @ X / ROWS
            w = w - 0.5 * (gradient + strength * w)
        np.testing.assert_allclose(outcome.state["w"], w, rtol=1e-9)


def test_explain_says_so(table: so.Table) -> None:
    text = explain([logistic(table, s) for s in STRENGTHS], stage="physical")
    assert "5 of one form as one product: stages 1, 2, 3, 4 and 5" in text
    assert "stacked" not in explain([logistic(table, s) for s in STRENGTHS[:3]], stage="physical")


def test_stacking_is_part_of_the_fingerprint(table: so.Table, monkeypatch: Any) -> None:
    loops = [logistic(table, s) for s in STRENGTHS]
    made = plan(job_of(*loops)).fingerprint
    monkeypatch.setattr("scalops.optimizer.lockstep.stacks", lambda *_: ())
    assert plan(job_of(*loops)).fingerprint != made


def test_few_loops_keep_the_bits_that_they_have_alone(table: so.Table) -> None:
    loops = [logistic(table, s) for s in STRENGTHS[: LEAST_STACKED - 1]]
    assert stacks(*loops) == []
    assert bits(run(loops)) == [b for loop in loops for b in bits(run([loop]))]


def test_loops_without_products_keep_their_bits(table: so.Table) -> None:
    loops = [
        so.loop(0.1 * k, range(3))(lambda s: s / 2 + table.map(lambda r: np.tanh(r.y * s)).mean())
        for k in range(6)
    ]
    assert stacks(*loops) == []
    assert bits(run(loops)) == [b for loop in loops for b in bits(run([loop]))]


# Loops that end.


def test_loops_drop_out_one_by_one(table: so.Table, sizes: list[int]) -> None:
    counts = [2, 9, 4, 0, 7, 1, 5, 5, 3, 8, 6, 6, 2, 10, 4, 7]
    loops = [logistic(table, 0.01 * k, range(n)) for k, n in enumerate(counts)]
    found = run(loops)
    assert [o.iterations for o in found] == counts
    assert [len(o.history["loss"]) for o in found] == counts
    active = [sum(n > i for n in counts) for i in range(max(counts))]
    assert sizes == sorted({n for n in active if n >= LEAST_STACKED}, reverse=True)
    for loop, outcome in list(zip(loops, found, strict=True))[::3]:
        agree(outcome, run([loop])[0])


def test_each_converges_by_its_own_condition(table: so.Table) -> None:
    loops = [logistic(table, s, lambda env: env["delta"] > 1e-3) for s in STRENGTHS]
    found = as_alone(*loops)
    assert len({o.iterations for o in found}) > 2
    assert all(o.converged for o in found)


def test_inner_loops_fall_out_of_step_and_come_back(table: so.Table) -> None:
    def nested(k: int) -> Any:
        def fit(w: Any) -> Any:
            return w - 0.1 * table.map(lambda r: (r.x @ w - r.y) * r.x).mean()

        return so.loop(np.full(WIDTH, 0.1), range(3))(
            lambda w: so.loop(w / 2, range(1 + k % 3))(fit)
        )

    as_alone(*[nested(k) for k in range(6)])


def test_buffers_of_what_was_compiled_are_given_back(
    table: so.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "_MOST_COMPILED", 1)
    loops = [logistic(table, 0.01 * k, range(1 + k)) for k in range(8)]
    outcomes = run(loops)
    agree(outcomes[-1], run([loops[-1]])[0])


# Which loops go together.


def test_several_forms_are_several_products(table: so.Table) -> None:
    def ridge(rate: float, start: Any) -> Any:
        return so.loop(start, range(3))(
            lambda w: w - rate * table.map(lambda r: (r.x @ w - r.y) * r.x).mean()
        )

    def counted(s: Any) -> Any:
        return s + table.filter(lambda r: r.y > s * 1e-4).count()

    loops = [
        *(ridge(0.1 * k, np.zeros(WIDTH)) for k in range(1, 5)),
        *(logistic(table, s) for s in STRENGTHS),
        so.loop(0.0, range(4))(counted),
        ridge(0.1, np.zeros(WIDTH, "float32")),
    ]
    assert sorted(stacks(*loops)) == [4, 5]
    as_alone(*loops)


def test_many_loops_are_several_products_of_near_equal_size(
    table: so.Table, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "MOST_STACKED", 8)
    loops = [logistic(table, 0.01 * k, range(2)) for k in range(18)]
    for loop, outcome in list(zip(loops, run(loops), strict=True))[::5]:
        agree(outcome, run([loop])[0])
    assert sizes[:3] == [6, 6, 6]


def test_numbers_inside_record_functions_may_differ(table: so.Table) -> None:
    def huber(c: float) -> Any:
        return so.loop(np.zeros(WIDTH), range(3))(
            lambda w: w - table.map(lambda r: np.clip(r.x @ w - r.y, -c, c) * r.x).mean()
        )

    loops = [huber(c) for c in (0.1, 0.5, 1.0, 2.0)]
    assert stacks(*loops) == [4]
    as_alone(*loops)


def test_float32_stays(table: so.Table) -> None:
    small = so.table({"x": X.astype("float32"), "y": Y.astype("float32")})

    def ridge(rate: float) -> Any:
        return so.loop(np.zeros(WIDTH, "float32"), range(3))(
            lambda w: w - rate * small.map(lambda r: (r.x @ w - rate * r.y) * r.x).mean()
        )

    loops = [ridge(0.1 * k) for k in range(1, 6)]
    for loop, outcome in zip(loops, run(loops), strict=True):
        (alone,) = run([loop])
        assert outcome.state["value"].dtype == np.float32
        np.testing.assert_allclose(outcome.state["value"], alone.state["value"], rtol=1e-4)


FORMS: dict[str, Callable[[so.Table, float], Any]] = {
    "softmax regression": lambda t, eta: so.loop(np.zeros((WIDTH, 3)), range(3))(
        lambda w: w
        - eta
        * t.map(
            lambda r: np.outer(r.x, so.softmax(r.x @ w) - so.one_hot(so.cast(r.y > 0, "int64"), 3))
        ).mean()
    ),
    "rows of weights": lambda t, eta: so.loop(np.ones((4, WIDTH)), range(3))(
        lambda w: w - eta * t.map(lambda r: np.outer(np.tanh(w @ r.x) - r.y, r.x)).mean()
    ),
    "a hinge": lambda t, eta: so.loop(np.zeros(WIDTH), range(3))(
        lambda w: (
            (1 - eta) * w - t.map(lambda r: np.where(r.y * (r.x @ w) < 1, -r.y, 0) * r.x).mean()
        )
    ),
    "extremes of margins": lambda t, eta: so.loop((np.ones(WIDTH), 0.0), range(3))(
        lambda s: (
            s[0] - eta * t.map(lambda r: (r.x @ s[0] - r.y) * r.x).mean(),
            t.map(lambda r: np.abs(r.x @ s[0])).max() + t.map(lambda r: r.x @ s[0]).std(),
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_other_record_functions(name: str, table: so.Table) -> None:
    loops = [FORMS[name](table, 0.1 * k) for k in range(1, 6)]
    assert stacks(*loops)[0] == 5
    as_alone(*loops)


def test_mini_batches_that_agree_share_their_records(table: so.Table, sizes: list[int]) -> None:
    """The steps below the folds read slots: of loops that are as far, these have equal values."""

    def descent(rate: float, first: int) -> Any:
        return so.loop(np.zeros(WIDTH), range(first, first + 5))(
            lambda w, i: (
                w - rate * table.slice(i * 64, 64).map(lambda r: (r.x @ w - r.y) * r.x).mean()
            )
        )

    loops = [descent(0.01 * k, 0 if k < 5 else 7) for k in range(10)]
    assert stacks(*loops) == [10]
    as_alone(*loops)
    assert set(sizes) == {5}


def test_records_chosen_by_the_loop_are_folded_apart(table: so.Table, sizes: list[int]) -> None:
    def trimmed(rate: float) -> Any:
        return so.loop(np.full(WIDTH, rate), range(3))(
            lambda w: (
                w
                - rate
                * table.filter(lambda r: np.abs(r.x @ w - r.y) < 2)
                .map(lambda r: (r.x @ w - r.y) * r.x)
                .mean()
            )
        )

    loops = [trimmed(0.1 * k) for k in range(1, 6)]
    together = run(loops)
    assert bits(together) == [b for loop in loops for b in bits(run([loop]))]
    assert stacks(*loops) == [5]  # they might choose alike
    assert sizes == []


# Nulls.


def with_nulls() -> so.Table:
    """The same records, some of y null."""
    known = RNG.random(ROWS) < 0.9
    y = pa.array(Y, mask=~known)
    x = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), WIDTH)
    return so.from_arrow(pa.table({"x": x, "y": y}))


def test_nulls_are_left_out_for_all_alike(sizes: list[int]) -> None:
    table = with_nulls()
    as_alone(*[logistic(table, s) for s in STRENGTHS])
    assert set(sizes) == {5}


def test_a_choice_by_loop_over_nulls_takes_the_stack_apart(sizes: list[int]) -> None:
    """Whether the result is null would differ by loop: the records have one mask."""
    table = with_nulls()

    def chosen(c: float) -> Any:
        return so.loop(np.full(WIDTH, 0.01), range(3))(
            lambda w: (
                w
                - 0.1
                * table.map(lambda r: np.where(r.x @ w > c, r.y, 0.5 * (r.x @ w)) * r.x).mean()
            )
        )

    loops = [chosen(0.1 * k) for k in range(5)]
    assert stacks(*loops) == [5]
    together = run(loops)
    assert bits(together) == [b for loop in loops for b in bits(run([loop]))]
    assert sizes == [5]
    assert bits(run(loops, 2)) == bits(together)


# Processes.


def test_processes_fold_the_same_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[Any] = []
    ask = ProcessFolds.run

    def watched(self: ProcessFolds, made: Pass, *rest: Any) -> bool:
        done = ask(self, made, *rest)
        units.extend(made.units if done else ())
        return done

    monkeypatch.setattr(ProcessFolds, "run", watched)
    table = so.table({"x": np.tile(X, (4, 1)), "y": np.tile(Y, 4)})
    loops = [logistic(table, s, range(1 + i)) for i, s in enumerate(STRENGTHS)]
    found = run(loops)
    with so.session(folds="processes", threads=2, processes=1, jit=False):
        for env, outcome in zip(so.collect(*loops), found, strict=True):
            assert env["w"].tobytes() == outcome.state["w"].tobytes()
    assert {len(u) for u in units} == {5, 4, 1}


# Errors.


def test_error_names_the_loop_at_fault(table: so.Table) -> None:
    fine = [logistic(table, s, range(200)) for s in STRENGTHS]
    wild = logistic(table, 1e6, range(200))
    with pytest.raises(so.LoopError) as caught:
        so.collect(*fine[:3], wild, *fine[3:])
    with pytest.raises(so.LoopError) as alone:
        wild.collect()
    assert str(caught.value) == str(alone.value)


def test_fold_over_nothing_names_loop_and_iteration(table: so.Table) -> None:
    def empty(k: int) -> Any:
        return so.loop(np.zeros(WIDTH), range(3))(
            lambda w, i: (
                w
                + table.filter(lambda r: r.y > 0.5 + i)
                .map(lambda r: (r.x @ w) * r.x * k)
                .reduce(lambda a, b: a + b)
            )
        )

    loops = [empty(k) for k in range(1, 6)]
    with pytest.raises(so.DataError, match="iteration 1") as caught:
        so.collect(*loops)
    with pytest.raises(so.DataError) as alone:
        loops[0].collect()
    assert str(caught.value) == str(alone.value)


def test_results_histories_and_profiles_are_each_loops_own(table: so.Table) -> None:
    with so.session():
        loops = [logistic(table, s, range(1 + i)) for i, s in enumerate(STRENGTHS)]
        found = so.collect(*loops)
        for i, (loop, env) in enumerate(zip(loops, found, strict=True)):
            result = loop.run()
            np.testing.assert_array_equal(result.env["w"], env["w"])
            assert result.env["w"].base is None
            assert result.history.num_rows == 1 + i
            assert 0 < result.profile["map"] <= result.profile["total"]


def test_values_and_other_loops_of_the_job(table: so.Table) -> None:
    loops = [logistic(table, s) for s in STRENGTHS]
    later = so.loop(loops[0]["loss"], range(2))(lambda s: s + table.map(lambda r: r.y * s).mean())
    found = so.collect(
        {"n": table.count(), "loops": loops, "later": later, "first": loops[0]["loss"]}
    )
    assert found["n"] == ROWS
    assert found["first"] == found["loops"][0]["loss"]
    np.testing.assert_allclose(found["later"], later.collect(), rtol=1e-9)
