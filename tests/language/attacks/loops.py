"""Attacks by loops: starts, bodies, conditions, and what becomes of them while running."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scalops as so
from tests.language.attacks.table import T, ends_in


class Model(so.Environment):
    """A loop's state."""

    w: np.ndarray
    loss: float


def start() -> Model:
    """Where it starts."""
    return Model(w=np.zeros(4), loss=0.0)


# Starts.


@ends_in(so.LoopError, r"the environment has no fields")
def a_start_of_none(_: Path) -> Any:
    return so.loop(None, range(2))(lambda e: e)


@ends_in(so.LoopError, r"the environment has no fields")
def a_start_of_nothing(_: Path) -> Any:
    return so.loop({}, range(2))(lambda e: e)


@ends_in(so.LoopError, r"the environment has no fields")
def a_start_of_an_empty_tuple(_: Path) -> Any:
    return so.loop((), range(2))(lambda e: e)


@ends_in(so.LoopError, r"the field 'w' starts as a list; expected a number, an array or a Value")
def a_ragged_start(_: Path) -> Any:
    return so.loop({"w": [[1.0], [1.0, 2.0]]}, range(2))(lambda e: e)


@ends_in(so.LoopError, r"the field 'w' starts as a ndarray; expected a number, an array or a Value")
def a_start_of_objects(_: Path) -> Any:
    return so.loop({"w": np.array([object()])}, range(2))(lambda e: e)


@ends_in(so.LoopError, r"the field 'w' starts as a complex; expected a number, an array or a Value")
def a_start_of_complex_numbers(_: Path) -> Any:
    return so.loop({"w": 1j}, range(2))(lambda e: e)


@ends_in(so.LoopError, r"an environment's keys must be strings")
def a_start_with_numbers_for_names(_: Path) -> Any:
    return so.loop({1: 0.0}, range(2))(lambda e: e).collect()


@ends_in(so.LoopError, r"the field 'value' starts as a set; expected a number, an array or a Value")
def a_start_of_a_set(_: Path) -> Any:
    return so.loop({1.0, 2.0}, range(2))(lambda e: e)


@ends_in(so.LoopError, r"the field 'value' starts as a State; expected a number, an array or a")
def a_start_of_another_class(_: Path) -> Any:
    @dataclass
    class State:
        w: float

    return so.loop(State(1.0), range(2))(lambda e: e)


@ends_in(so.LoopError, r"starts as a type; expected a number, an array or a Value")
def a_class_for_a_start(_: Path) -> Any:
    return so.loop(Model, range(2))(lambda e: e)


@ends_in(so.LoopError, r"Model has no field \['zz'\]; its fields are \['w', 'loss'\]")
def an_environment_with_a_field_too_many(_: Path) -> Any:
    return Model(w=np.zeros(2), loss=0.0, zz=1)


@ends_in(so.LoopError, r"the field 'loss' is annotated float and starts as string")
def an_environment_whose_field_is_no_number(_: Path) -> Any:
    return so.loop(Model(w=np.zeros(4), loss="low"), range(2))(lambda e: e)


@ends_in(so.LoopError, r"no field 'missing'; its fields are \['value', 'w'\]")
def a_field_that_no_loop_has(_: Path) -> Any:
    model = so.loop({"value": 1.0, "w": 1.0}, range(2))(lambda e: e)
    return model.missing


# Conditions.


@ends_in(so.LoopError, r"a loop's condition is a function or a range, not a int")
def a_condition_of_a_number(_: Path) -> Any:
    return so.loop(0.0, 5)(lambda v: v)


@ends_in(so.LoopError, r"a loop's condition is a function or a range, not a Value")
def a_condition_of_a_value(_: Path) -> Any:
    return so.loop(0.0, T.count() > 2)(lambda v: v)


@ends_in(so.LoopError, r"condition gives bool\[4\]")
def a_condition_of_many_truths(_: Path) -> Any:
    return so.loop(np.zeros(4), lambda w: w < 3)(lambda w: w + 1)


@ends_in(so.LoopError, r"the loop condition gives NoneType; expected true or false")
def a_condition_that_returns_nothing(_: Path) -> Any:
    return so.loop(0.0, lambda v: None)(lambda v: v + 1)


@ends_in(so.LoopError, r"condition gives str")
def a_condition_of_a_string(_: Path) -> Any:
    return so.loop(0.0, lambda v: "yes")(lambda v: v + 1)


@ends_in(so.TraceError, r"condition asks for a truth value")
def a_chained_comparison(_: Path) -> Any:
    return so.loop(0.0, lambda v: 0 <= v < 3)(lambda v: v + 1)


@ends_in(so.TraceError, r"condition asks for a truth value")
def a_negation(_: Path) -> Any:
    return so.loop(0.0, lambda v: not v > 3)(lambda v: v + 1)


@ends_in(so.LoopError, r"Model has no field 'z'; its fields are")
def a_condition_on_an_unknown_field(_: Path) -> Any:
    return so.loop(start(), lambda e: e.z > 0)(lambda e: e)


@ends_in(so.LoopError, r"the loop condition has the parameters \(v, i\); expected one, the")
def a_condition_of_two(_: Path) -> Any:
    return so.loop(0.0, lambda v, i: i < 3)(lambda v: v + 1)


@ends_in(
    so.TraceError, r"the loop condition asks for its value, which is not known before the loop"
)
def a_condition_that_collects(_: Path) -> Any:
    return so.loop(0.0, lambda v: v < T.sum("a").collect())(lambda v: v + 1)


# Bodies.


@ends_in(so.LoopError, r"the body returns nothing")
def a_body_that_only_assigns(_: Path) -> Any:
    def body(env: Any) -> None:
        env.w = env.w + 1

    return so.loop(start(), range(2))(body)


@ends_in(so.LoopError, r"Model has no field 'z'; its fields are")
def a_body_that_reads_an_unknown_field(_: Path) -> Any:
    def body(env: Any) -> Any:
        env.w = env.z
        return env

    return so.loop(start(), range(2))(body)


@ends_in(so.LoopError, r"Model keeps its fields")
def a_body_that_deletes_a_field(_: Path) -> Any:
    def body(env: Any) -> Any:
        del env.w
        return env

    return so.loop(start(), range(2))(body)


@ends_in(so.LoopError, r"returns dict \['v', 'z'\]")
def a_body_that_adds_a_key(_: Path) -> Any:
    def body(env: Any) -> Any:
        env["z"] = 1.0
        return env

    return so.loop({"v": 1.0}, range(2))(body)


@ends_in(so.LoopError, r"the body returns tuple \['_0', '_1', '_2'\]; the loop starts with tuple")
def a_body_that_returns_too_many(_: Path) -> Any:
    return so.loop((1.0, 2.0), range(2))(lambda e: (*e, 3.0))


@ends_in(so.LoopError, r"returns string for")
def a_body_that_returns_a_string(_: Path) -> Any:
    return so.loop({"v": 1.0}, range(2))(lambda e: {"v": "done"})


@ends_in(so.LoopError, r"the body returns a function for 'v', which starts as float64")
def a_body_that_returns_a_function(_: Path) -> Any:
    return so.loop({"v": 1.0}, range(2))(lambda e: {"v": lambda: 1.0})


@ends_in(so.LoopError, r"for 'v', which starts as int64")
def a_body_that_divides_an_int(_: Path) -> Any:
    return so.loop({"v": 8}, range(2))(lambda e: {"v": e["v"] / 2})


@ends_in(so.LoopError, r"float64\[8\] for 'w', which starts as float64\[4\]")
def a_body_that_grows_an_array(_: Path) -> Any:
    def body(env: Any) -> Any:
        env.w = np.concatenate([env.w, env.w])
        return env

    return so.loop(start(), range(2))(body)


@ends_in(so.TraceError, r"a Value is immutable: v\[i\] = x has no effect on a plan")
def a_body_that_sets_an_item(_: Path) -> Any:
    def body(env: Any) -> Any:
        env.w[0] = 1.0
        return env

    return so.loop(start(), range(2))(body)


@ends_in(so.TraceError, r"asks for a formatted number")
def a_body_that_formats(_: Path) -> Any:
    def body(env: Any) -> Any:
        print(f"{env.loss:.3f}")
        return env

    return so.loop(start(), range(2))(body)


@ends_in(so.TraceError, r"the loop body asks for an int, which is not known before the loop runs")
def a_body_that_counts_with_int(_: Path) -> Any:
    return so.loop(3.0, range(2))(lambda v: v + len(range(int(v))))


@ends_in(so.TraceError, r"the loop body asks for membership \(in\), which is not known before the")
def a_body_that_asks_for_membership(_: Path) -> Any:
    return so.loop(np.zeros(3), range(2))(lambda v: v + (1.0 in v))


@ends_in(so.TraceError, r"asks for a truth value")
def a_body_that_asks_all_of_python(_: Path) -> Any:
    return so.loop(np.zeros(3), range(2))(lambda v: v + max(v))


@ends_in(so.LoopError, r"has the parameters \(\)")
def a_body_of_nothing(_: Path) -> Any:
    return so.loop(1.0, range(2))(lambda: 1.0)


@ends_in(so.TraceError, r"the body returns a record's column for 'v'; expected one value")
def a_body_that_returns_a_record(_: Path) -> Any:
    kept: list[Any] = []
    T.map(lambda r: kept.append(r.a) or r.a)  # type: ignore[func-returns-value]
    return so.loop({"v": 1.0}, range(2))(lambda e: {"v": kept[0]})


@ends_in(so.PlanError, r"a symbol of a loop's environment is used outside its loop")
def a_state_of_another_loop(_: Path) -> Any:
    kept: list[Any] = []
    so.loop(0.0, range(2))(lambda v: kept.append(v) or v)  # type: ignore[func-returns-value]
    return so.loop(0.0, range(2))(lambda v: v + kept[0]).collect()


@ends_in(so.TraceError, r"random numbers, a clock")
def a_body_with_a_memory(_: Path) -> Any:
    seen: list[int] = []

    def body(v: Any) -> Any:
        seen.append(1)
        return v + len(seen)

    return so.loop(0.0, range(2))(body)


@ends_in(
    so.TraceError, r"the loop body asks for its value, which is not known before the loop runs"
)
def a_body_that_runs_a_loop(_: Path) -> Any:
    inner = so.loop(0.0, range(2))(lambda v: v + 1)
    return so.loop(0.0, range(2))(lambda v: v + inner.collect())


@ends_in(so.PlanError, r"inside a row function")
def a_loop_per_record(_: Path) -> Any:
    def solve(r: Any) -> Any:
        @so.loop(r.a, lambda v: v > 1)
        def root(v: Any) -> Any:
            return v / 2

        return root

    return T.map(solve)


@ends_in(so.LoopError, r"max_iterations is 'many'")
def max_iterations_by_a_word(_: Path) -> Any:
    return so.loop(0.0, range(2), max_iterations="many")  # type: ignore[arg-type]


@ends_in(so.LoopError, r"max_iterations is 2\.5")
def max_iterations_by_a_float(_: Path) -> Any:
    return so.loop(0.0, range(2), max_iterations=2.5)  # type: ignore[arg-type]


@ends_in(so.LoopError, r"a loop's name is 3; expected a string")
def a_number_for_a_name(_: Path) -> Any:
    return so.loop(0.0, range(2), name=3)  # type: ignore[arg-type]


@ends_in(so.LoopError, r"allow_nonfinite is 'yes'; expected true or false")
def a_flag_of_a_loop_by_a_word(_: Path) -> Any:
    return so.loop(0.0, range(2), allow_nonfinite="yes")  # type: ignore[arg-type]


@ends_in(so.LoopError, r"the environment has no field \['v'\]; its fields are \['v'\]")
def a_field_by_a_list(_: Path) -> Any:
    return so.loop({"v": 0.0}, range(2))(lambda e: e)[["v"]]


# While running.


@ends_in(so.LoopError, r"the state has become NaN .*in iteration 2")
def a_state_that_becomes_nan(_: Path) -> Any:
    return so.loop(3.0, range(9))(lambda v: np.sqrt(v - 1) + 0 * np.log(v - 1)).collect()


@ends_in(so.LoopError, r"the field 'w' has become infinite")
def a_state_that_becomes_infinite(_: Path) -> Any:
    return so.loop({"w": np.ones(2)}, range(9))(lambda e: {"w": e["w"] * 1e200}).collect()


@ends_in(so.DataError, r"min over no records")
def a_fold_that_runs_dry(_: Path) -> Any:
    return so.loop(0.0, range(9))(
        lambda v: v + T.filter(lambda r: r.a > v).min("a"),
    ).collect()


@ends_in(so.ExecutionError, r"take failed: index 4 is out of bounds for axis 0 with size 4")
def an_index_that_leaves_the_array(_: Path) -> Any:
    return so.loop(0.0, range(9))(lambda v, i: v + so.lit(np.ones(4))[i]).collect()


@ends_in(so.ExecutionError, r"inv failed: Singular matrix")
def a_matrix_that_becomes_singular(_: Path) -> Any:
    eye = np.eye(2)
    return so.loop(eye, range(3))(lambda m: np.linalg.inv(m - eye)).collect()


@ends_in(so.UserFunctionError, r"the lambda raised ZeroDivisionError: float division by zero")
def an_opaque_function_of_the_state_that_divides_by_zero(_: Path) -> Any:
    def body(env: Any) -> Any:
        env.loss = (
            env.loss + T.map(so.udf(lambda r: r.a / (1 - env.loss), returns=so.float64)).sum()
        )
        return env

    return so.loop(Model(w=np.zeros(4), loss=1.0), range(2))(body).collect()


@ends_in(so.TraceError, r"cannot be captured: its variable 'lock'")
def a_body_whose_row_function_holds_a_lock(_: Path) -> Any:
    lock = threading.Lock()
    return so.loop(0.0, range(2))(
        lambda v: v + T.map(lambda r: 1.0 if r.a > v and lock.locked() else 0.0).sum()
    )
