"""Loops: state, a condition, and a body that is traced once."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, NoReturn

import pyarrow as pa

from scalops.algebra import operators as op
from scalops.algebra.errors import ConfigError, Location, LoopError, PlanError, user_location
from scalops.algebra.expressions import CONVERGED, ITERATIONS, LoopOutput
from scalops.algebra.relations import LoopTable
from scalops.capture import function_location
from scalops.computed_columns import computed_columns
from scalops.environment import BARE, NoField, Structure, describe, no_field, start_field
from scalops.lazy import Lazy, name_methods
from scalops.loop_control import control_of
from scalops.loop_range import ValueRange, elements_of
from scalops.loop_tracing import Body, Fields, trace_body, trace_condition
from scalops.options import refuse_unknown
from scalops.running import require_ordered_states
from scalops.table import Table
from scalops.tracing import in_group, refuse_to_run, row_depth
from scalops.value import Value

_tokens = itertools.count(1)
_LOOP_OPTIONS = ("max_iterations", "allow_nonfinite", "warn", "name")
_RUN_OPTIONS = ("on_iteration", "checkpoint", "every", "resume")
# What others give as a number, and how the condition says it here.
_CONDITIONS = {
    **dict.fromkeys(("tol", "tolerance", "eps", "atol", "rtol"), "lambda env: env.change > 1e-6"),
    **dict.fromkeys(("n", "n_iter", "epochs", "n_epochs", "steps", "n_steps"), "range(100)"),
}


@dataclass(frozen=True)
class LoopResult:
    """What `run()` gives.

    `history` has one row per iteration: its number from 0, the scalar fields after it, seconds.
    `profile` says where the time went, in seconds, over the whole loop.
    """

    env: Any
    iterations: int
    converged: bool
    history: pa.Table
    profile: dict[str, float]

    def __getattr__(self, name: str) -> NoReturn:
        fields = () if name.startswith("_") or name == "env" else describe(self.env, None)[0].names
        text = f"a LoopResult has no attribute {name!r}"
        if name in fields:
            own = f'["{name}"]' if isinstance(self.env, dict) else f".{name}"
            text += f"; the environment is its field env: result.env{own}"
        raise AttributeError(text)


class AnyLoop:
    """What loops over named fields, over a bare value and over a bare table have in common."""

    __slots__ = ()
    structure: Structure

    @property
    def loop_plan(self) -> op.Loop:
        """The loop's own operator."""
        raise NotImplementedError

    @property
    def iterations(self) -> Value:
        """How many iterations were run, as a Value for later plans."""
        return Value(LoopOutput(self.loop_plan, ITERATIONS, location=user_location()))

    @property
    def converged(self) -> Value:
        """Whether the condition turned false, or the range was finished."""
        return Value(LoopOutput(self.loop_plan, CONVERGED, location=user_location()))

    def run(
        self,
        on_iteration: Callable[[int, Any], Any] | None = None,
        checkpoint: str | PathLike[str] | None = None,
        every: int | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> LoopResult:
        """Run the loop; its final environment with iterations, history and profile.

        `on_iteration(iteration, env)` is called after each, numbered from 0; returning False
        stops the loop. `checkpoint` is a folder in which the environment is saved after every
        `every`-th iteration (each one by default) and at the end; `resume` one to go on from.
        With any of them the loop is run even where its result is known.
        """
        from scalops.session import placed, run_loop

        refuse_to_run(
            "the result of a loop",
            "run() and collect() run nothing here: use the Loop's fields (model.w), or the loop"
            " itself where it is a Value",
        )
        with placed():
            control = control_of(self, on_iteration, checkpoint, every, resume)
        return run_loop(self, control=control)

    def forget(self) -> None:
        """Drop a result kept from an earlier run."""
        from scalops.session import current_session

        current_session().forget(self)


class Loop(AnyLoop, Lazy):
    """A loop over named fields; `model.w` or `model["w"]` is a Value or Table for later plans."""

    __hash__ = None  # type: ignore[assignment]
    _capture_refusal = "it keeps a whole Loop; use its fields, as in w = model.w"
    _value_hint = "use its fields: model.w"

    def __init__(self, plan: op.Loop, structure: Structure) -> None:
        self.plan, self.structure = plan, structure

    @property
    def loop_plan(self) -> op.Loop:
        return self.plan

    def __getitem__(self, name: Any) -> Any:
        names = self.structure.names
        if isinstance(name, int) and -len(names) <= name < len(names):
            name = names[name]
        if not isinstance(name, str) or name not in names:
            raise no_field("the environment", name, names)
        if name in dict(self.plan.tables):
            return Table(LoopTable(self.plan, name, location=user_location()))
        return Value(LoopOutput(self.plan, name, location=user_location()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("plan", "structure"):
            raise AttributeError(name)
        return self[name]

    def collect(self) -> Any:
        """Run the loop; its final environment."""
        return self.run().env

    def __repr__(self) -> str:
        kinds = self.plan.state_types | dict.fromkeys(dict(self.plan.tables), "Table")
        fields = ", ".join(f"{n}: {kinds[n]}" for n in self.structure.names)
        return f"Loop({fields})"

    def __bool__(self) -> NoReturn:
        raise TypeError("a Loop has no truth value; collect() it")


class BareLoop(AnyLoop, Value):
    """A loop over one scalar or array: also the Value of its result."""

    __slots__ = ("plan", "structure")
    __hash__ = None

    def __init__(self, plan: op.Loop, structure: Structure) -> None:
        Value.__init__(self, LoopOutput(plan, BARE))
        self.plan, self.structure = plan, structure

    @property
    def loop_plan(self) -> op.Loop:
        return self.plan

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or name in ("plan", "structure"):
            raise AttributeError(name)
        raise NoField(
            f"a loop over one value has no field {name!r}",
            location=user_location(),
            hint="the loop is itself the Value of its result; start with a dict for named fields",
        )


class TableLoop(AnyLoop, Table):
    """A loop over one table: also the Table of its result."""

    __slots__ = ("_loop", "structure")
    __hash__ = None  # type: ignore[assignment]
    _capture_refusal = Loop._capture_refusal

    def __init__(self, plan: op.Loop, structure: Structure) -> None:
        Table.__init__(self, LoopTable(plan, BARE, location=plan.location))
        self._loop, self.structure = plan, structure

    def _made(self, plan: op.Operator) -> Table:
        return Table(plan)

    @property
    def loop_plan(self) -> op.Loop:
        return self._loop


name_methods("Loop", AnyLoop)


def loop(
    start: Any,
    condition: Any,
    *,
    max_iterations: int | None = None,
    allow_nonfinite: bool = False,
    warn: bool = True,
    name: str | None = None,
    **later: Any,
) -> Callable[[Body], Any]:
    """Repeat a body over an environment, as a call or a decorator.

    `start` is a scalar, an array, a Table, a tuple or dict of them, or an Environment;
    `condition` a function of it, tested before each iteration, a `range`, or `so.range` of
    Values. The body takes the environment (and, as a second parameter without a default, the
    range's element or the iteration number) and returns the next one, of the same fields, types
    and shapes; a table may change in records, not in columns.
    """
    location = user_location()
    for option in later:
        if option not in _RUN_OPTIONS:
            if option in _CONDITIONS:
                raise ConfigError(
                    f"loop() has no option {option!r}",
                    location=location,
                    hint=f"its condition says so: {_CONDITIONS[option]}",
                )
            refuse_unknown([option], "loop()", _LOOP_OPTIONS)
        raise PlanError(
            f"{option}= is an option of a run, not of the loop",
            location=location,
            hint=f"loop.run({option}=...)",
        )
    if max_iterations is not None and (
        isinstance(max_iterations, bool)
        or not isinstance(max_iterations, int)
        or max_iterations < 0
    ):
        raise LoopError(
            f"max_iterations is {max_iterations!r}; expected an int of at least 0",
            location=location,
        )
    for option, given in (("allow_nonfinite", allow_nonfinite), ("warn", warn)):
        if not isinstance(given, bool):
            raise LoopError(f"{option} is {given!r}; expected true or false", location=location)
    if name is not None and not isinstance(name, str):
        raise LoopError(f"a loop's name is {name!r}; expected a string", location=location)
    if not callable(condition) and not isinstance(condition, (builtins.range, ValueRange)):
        raise LoopError(
            f"a loop's condition is a function or a range, not a {type(condition).__name__}",
            location=location,
            hint="write lambda env: ..., or range(n), or so.range(n) for a Value n",
        )

    def decorate(body: Body) -> Any:
        if not callable(body):
            raise LoopError(
                f"a loop's body is a function, not a {type(body).__name__}", location=location
            )
        return _build(start, condition, body, location, max_iterations, allow_nonfinite, warn, name)

    return decorate


def _build(
    start: Any,
    condition: Any,
    body: Body,
    location: Location | None,
    max_iterations: int | None,
    allow_nonfinite: bool,
    warn: bool,
    name: str | None,
) -> Any:
    if in_group():
        raise PlanError(
            "a loop inside a group's function: it would run once per group",
            location=location,
            hint="an ordinary Python function with the loop in it gets the group's rows:"
            " so.call(f, rows, ..., like=...)",
        )
    if row_depth():
        raise PlanError(
            "a loop inside a row function: it would run once per record",
            location=location,
            hint="write the loop outside and fold the table in its body; a function marked by"
            " so.udf may hold an ordinary Python loop",
        )
    structure, fields = describe(start, location)
    if not structure.names:
        raise LoopError("the environment has no fields", location=location)
    begun = {n: start_field(start, n, v, location) for n, v in fields.items()}
    values = {n: v for n, v in begun.items() if isinstance(v, tuple)}
    tables = {n: t for n, t in begun.items() if not isinstance(t, tuple)}
    own = Fields(structure, next(_tokens), values, tables)
    new = trace_body(body, own)
    elements = None if callable(condition) else elements_of(condition)
    plan = op.Loop(
        own.token,
        tuple((n, e) for n, (e, _) in values.items()),
        op.Update(
            tuple(new.values.items()),
            tuple(new.tables.items()),
            () if allow_nonfinite else computed_columns(new.tables, own.token),
            location=function_location(body),
        ),
        None if elements is not None else trace_condition(condition, own),
        elements,
        max_iterations,
        allow_nonfinite,
        warn,
        (),
        tuple(own.kinds.values()),
        tuple(tables.items()),
        name=name or getattr(body, "__name__", None),
        location=location,
    )
    require_ordered_states(plan)
    if structure.kind != BARE:
        return Loop(plan, structure)
    return TableLoop(plan, structure) if tables else BareLoop(plan, structure)
