"""Results: nestings of lazy things taken apart for one job and put together again."""

from __future__ import annotations

from collections.abc import Iterator, MappingView, Set
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.errors import PlanError, user_location
from scalops.engine.outcome import SECONDS, LoopOutcome, StateRows
from scalops.loop import AnyLoop, Loop, LoopResult
from scalops.planning import arrow_table
from scalops.structured import StructuredValue
from scalops.table import Table
from scalops.value import Value


def take_leaves(wanted: Any, what: str = "collect") -> list[Any]:
    """The tables, values and loops of a nesting, in order; `what` is called with it."""
    try:
        return _leaves(wanted, what)
    except RecursionError:
        raise PlanError(
            f"{what} takes no nesting that holds itself, or is nested so deeply",
            location=user_location(),
        ) from None


def _leaves(wanted: Any, what: str) -> list[Any]:
    if isinstance(wanted, (Table, Value, Loop)):
        return [wanted]
    if isinstance(wanted, StructuredValue):
        return _leaves(wanted.parts, what)
    if isinstance(wanted, dict):
        return [leaf for item in wanted.values() for leaf in _leaves(item, what)]
    if isinstance(wanted, (list, tuple)):
        return [leaf for item in wanted for leaf in _leaves(item, what)]
    hint = None
    if isinstance(wanted, (Iterator, MappingView, Set)):
        hint = f"pass a list of them: {what}(list(...))"
    elif isinstance(wanted, str) and what == "explain":
        hint = f"a stage is a keyword here: so.explain(..., stage={wanted!r})"
    elif isinstance(wanted, str) and what == "whatif":
        hint = f"a program in a file is for the command: scalops whatif {wanted}"
    raise PlanError(
        f"{what} takes tables, values, loops, and dicts, lists and tuples of them;"
        f" it got a {type(wanted).__name__}",
        location=user_location(),
        hint=hint,
    )


def rebuild(wanted: Any, results: Iterator[tuple[Any, Any]]) -> Any:
    """The same nesting with results in the place of what was lazy."""
    if isinstance(wanted, (Table, Value, Loop)):
        leaf, result = next(results)
        if isinstance(leaf, AnyLoop):
            return loop_result(leaf, result).env
        return _own(result)
    if isinstance(wanted, StructuredValue):
        return rebuild(wanted.parts, results)
    if isinstance(wanted, dict):
        return {name: rebuild(item, results) for name, item in wanted.items()}
    parts = [rebuild(item, results) for item in wanted]
    if hasattr(wanted, "_fields"):
        return type(wanted)(*parts)
    return parts if isinstance(wanted, list) else tuple(parts)


def _own(result: Any) -> Any:
    """A copy that the caller may change: the session keeps the result for later plans."""
    if isinstance(result, StateRows):
        return arrow_table(result.blocks, result.schema)
    if isinstance(result, (dict, list, tuple)):
        return deepcopy(result)
    return result.copy() if isinstance(result, np.ndarray) else result


def loop_result(loop: AnyLoop, outcome: LoopOutcome) -> LoopResult:
    """A loop's outcome in the form of its environment."""
    return LoopResult(
        loop.structure.rebuild({name: _own(value) for name, value in outcome.state.items()}),
        outcome.iterations,
        outcome.converged,
        history_table(outcome),
        dict(outcome.profile),
    )


def history_table(outcome: LoopOutcome) -> pa.Table:
    """One row per iteration: its number from 0, the scalar fields after it, seconds.

    Fields of the names `iteration` and `seconds` are `env.iteration` and `env.seconds` here.
    """
    columns: dict[str, Any] = {"iteration": pa.array(range(outcome.iterations), pa.int64())}
    for name, values in outcome.history.items():
        if name != SECONDS:
            own = name in ("iteration", "seconds")
            columns[f"env.{name}" if own else name] = pa.array(values)
    columns["seconds"] = pa.array(outcome.history.get(SECONDS, []), pa.float64())
    return pa.table(columns)
