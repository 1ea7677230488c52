"""Loops: state, a condition, and a body that is traced once."""

from __future__ import annotations

import builtins
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, LoopError, PlanError, TraceError, user_location
from scalops.algebra.expressions import (
    CONVERGED,
    ITERATIONS,
    Constant,
    Expression,
    Iteration,
    LoopOutput,
    State,
    call,
    columns,
)
from scalops.algebra.fingerprint import comparable
from scalops.algebra.functions import function
from scalops.capture import function_location
from scalops.environment import BARE, Structure, describe, start_field
from scalops.lazy import Lazy
from scalops.not_yet import refuse
from scalops.tracing import refuse_to_run, row_depth, tracing
from scalops.value import Value, lift

_tokens = itertools.count(1)
Body = Callable[..., Any]
_RUN_OPTIONS = ("on_iteration", "checkpoint", "every", "resume")


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


class _LoopMethods:
    """What a loop over named fields and a loop over a bare value have in common."""

    plan: op.Loop
    structure: Structure

    @property
    def iterations(self) -> Value:
        """How many iterations were run, as a Value for later plans."""
        return Value(LoopOutput(self.plan, ITERATIONS, location=user_location()))

    @property
    def converged(self) -> Value:
        """Whether the condition turned false, or the range was finished."""
        return Value(LoopOutput(self.plan, CONVERGED, location=user_location()))

    def run(self, on_iteration: Any = None, checkpoint: Any = None, **more: Any) -> LoopResult:
        """Run the loop; its final environment with iterations, history and profile."""
        if on_iteration is not None or checkpoint is not None or more:
            refuse("run() with on_iteration, checkpoint or resume")
        from scalops.session import run_loop

        refuse_to_run(
            "the result of a loop",
            "run() and collect() run nothing here: use the Loop's fields (model.w), or the loop"
            " itself where it is a Value",
        )
        assert isinstance(self, (Loop, BareLoop))
        return run_loop(self)

    def forget(self) -> None:
        """Drop a result kept from an earlier run."""
        from scalops.session import current_session

        current_session().forget(self)


class Loop(_LoopMethods, Lazy):
    """A loop over named fields; `model.w` or `model["w"]` is a Value for later plans."""

    __hash__ = None  # type: ignore[assignment]
    _capture_refusal = "it keeps a whole Loop; use its fields, as in w = model.w"
    _value_hint = "use its fields: model.w"

    def __init__(self, plan: op.Loop, structure: Structure) -> None:
        self.plan, self.structure = plan, structure

    def __getitem__(self, name: Any) -> Value:
        names = self.structure.names
        if isinstance(name, int) and -len(names) <= name < len(names):
            name = names[name]
        if name not in self.plan.state_types:
            raise LoopError(
                f"the environment has no field {name!r}; its fields are {list(names)}",
                location=user_location(),
            )
        return Value(LoopOutput(self.plan, name, location=user_location()))

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_") or name in ("plan", "structure"):
            raise AttributeError(name)
        return self[name]

    def collect(self) -> Any:
        """Run the loop; its final environment."""
        return self.run().env

    def __repr__(self) -> str:
        fields = ", ".join(f"{n}: {t}" for n, t in self.plan.state_types.items())
        return f"Loop({fields})"

    def __bool__(self) -> NoReturn:
        raise TypeError("a Loop has no truth value; collect() it")


class BareLoop(_LoopMethods, Value):
    """A loop over one scalar or array: also the Value of its result."""

    __slots__ = ("plan", "structure")
    __hash__ = None

    def __init__(self, plan: op.Loop, structure: Structure) -> None:
        Value.__init__(self, LoopOutput(plan, BARE))
        self.plan, self.structure = plan, structure


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

    `start` is a scalar, an array, a tuple, a dict or an Environment; `condition` a function of
    it, tested before each iteration, or a `range`. The body takes the environment (and, as a
    second parameter without a default, the range's element or the iteration number) and
    returns the next one, of the same fields, types and shapes.
    """
    location = user_location()
    for option in later:
        if option not in _RUN_OPTIONS:
            raise TypeError(f"loop() got an unexpected keyword argument {option!r}")
        refuse(f"so.loop({option}=)")
    if max_iterations is not None and (
        isinstance(max_iterations, bool)
        or not isinstance(max_iterations, int)
        or max_iterations < 0
    ):
        raise LoopError(
            f"max_iterations is {max_iterations!r}; expected an int of at least 0",
            location=location,
        )
    if not callable(condition) and not isinstance(condition, builtins.range):
        raise LoopError(
            f"a loop's condition is a function or a range, not a {type(condition).__name__}",
            location=location,
            hint="write lambda env: ..., or range(n)",
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
    named = [(n, *start_field(start, n, v, location)) for n, v in fields.items()]
    starts = {n: e for n, e, _ in named}
    kinds = {n: k for n, _, k in named}
    token = next(_tokens)
    first = _trace_body(body, structure, kinds, starts, token)
    second = _trace_body(body, structure, kinds, starts, token)
    for field_name in kinds:
        if comparable(first[field_name]) != comparable(second[field_name]):
            raise TraceError(
                f"the loop body gives another expression for {field_name!r} when called again"
                " (random numbers, a clock, a counter)",
                location=function_location(body),
                hint="compute it before the loop",
            )
    elements = None
    if isinstance(condition, builtins.range):
        elements = op.Range(condition.start, condition.stop, condition.step)
    plan = op.Loop(
        token,
        tuple((n, e) for n, e, _ in named),
        op.Update(tuple(first.items()), location=function_location(body)),
        None
        if elements is not None
        else _trace_condition(condition, structure, kinds, starts, token),
        elements,
        max_iterations,
        allow_nonfinite,
        warn,
        (),
        tuple(kinds.values()),
        name=name or getattr(body, "__name__", None),
        location=location,
    )
    return BareLoop(plan, structure) if structure.kind == BARE else Loop(plan, structure)


def _symbols(structure: Structure, kinds: dict[str, ArrayType], token: int) -> Any:
    return structure.rebuild({n: Value(State(n, k, token)) for n, k in kinds.items()})


def _trace_body(
    body: Body,
    structure: Structure,
    kinds: dict[str, ArrayType],
    starts: dict[str, Expression],
    token: int,
) -> dict[str, Expression]:
    where = function_location(body)
    converted = {n: _converted(e, kinds[n]) for n, e in starts.items()}
    with tracing("loop", "the loop body", {token: converted}):
        arguments = [_symbols(structure, kinds, token)]
        if _takes_element(body):
            arguments.append(Value(Iteration(token)))
        _require_parameters(body, arguments, "the loop body", _BODY_TAKES)
        result = body(*arguments)
    returned = structure.take_apart(result, where)
    new = {}
    for name, kind in kinds.items():
        value = lift(returned[name])
        if value is None:
            raise LoopError(
                f"the body returns a {type(returned[name]).__name__} for {name!r},"
                f" which starts as {kind}",
                location=where,
            )
        if columns([value]):
            raise TraceError(
                f"the body returns a record's column for {name!r}; expected one value",
                location=where,
                hint="fold the table: .reduce(...), .sum(...)",
            )
        new[name] = _same_type(name, value, kind, where)
    return new


_BODY_TAKES = (
    "one, the environment, or two, with the range's element or the number of the iteration"
)


def _require_parameters(
    function: Callable[..., Any], arguments: list[Any], what: str, expected: str
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: calling it tells
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise LoopError(
            f"{what} has the parameters {signature}; expected {expected}",
            location=function_location(function),
        ) from None


def _takes_element(body: Body) -> bool:
    """Whether the body has a second positional parameter without a default."""
    try:
        parameters = inspect.signature(body).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(positional) > 1


def _converted(expression: Expression, kind: ArrayType) -> Expression:
    if expression.type == kind:
        return expression
    return call(function("cast"), expression, dtype=kind.name)


def _same_type(name: str, value: Expression, kind: ArrayType, where: Location | None) -> Expression:
    """The returned field in the start's type, where NumPy's in-place rule allows it."""
    found = value.type
    fits = found.shape == kind.shape and found.is_string == kind.is_string
    if fits and not kind.is_string and found.name != kind.name:
        fits = np.can_cast(found.numpy, kind.numpy, "same_kind")
    if not fits:
        raise LoopError(
            f"the body returns {found} for {name!r}, which starts as {kind}",
            location=value.location or where,
            hint="start it with the type and shape that the body gives"
            if found.shape == kind.shape
            else "the shape of a field cannot change",
        )
    if isinstance(value, Constant) and found.weak:
        return Constant(kind.numpy.type(value.value))
    return value if found == kind else _converted(value, kind)


def _trace_condition(
    condition: Callable[..., Any],
    structure: Structure,
    kinds: dict[str, ArrayType],
    starts: dict[str, Expression],
    token: int,
) -> Expression:
    where = function_location(condition)
    converted = {n: _converted(e, kinds[n]) for n, e in starts.items()}
    with tracing("loop", "the loop condition", {token: converted}):
        arguments = [_symbols(structure, kinds, token)]
        _require_parameters(condition, arguments, "the loop condition", "one, the environment")
        result = condition(*arguments)
    expression = lift(result)
    if expression is None or expression.type.shape or expression.type.name != "bool":
        found = type(result).__name__ if expression is None else str(expression.type)
        raise LoopError(
            f"the loop condition gives {found}; expected true or false",
            location=where,
            hint="compare a field: lambda env: env.delta > eps",
        )
    return expression
