"""What a program returns, run and brought together with what its loops did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def check_returned(function: Callable[..., Any], returned: Any) -> None:
    """PlanError unless a program returned what can be run."""
    from scalops.algebra.errors import PlanError
    from scalops.capture import function_location
    from scalops.results import take_leaves

    try:
        take_leaves(returned)
    except PlanError:
        found = "None" if returned is None else f"a {type(returned).__name__}"
        if isinstance(returned, (dict, list, tuple)):
            found += " that holds other things"
        raise PlanError(
            f"{getattr(function, '__name__', 'the program')}() returns {found};"
            " expected a Loop, Table, Value or a nesting of them",
            location=function_location(function),
            hint="return what to run, without collect()",
        ) from None


def run_returned(returned: Any) -> Any:
    """Run it as one job; the same nesting with a LoopResult in the place of each loop."""
    from scalops.loop import AnyLoop
    from scalops.session import collect, run_loop

    if isinstance(returned, AnyLoop):
        return run_loop(returned)
    return _with_loops(returned, collect(returned))


def _with_loops(returned: Any, collected: Any) -> Any:
    from scalops.loop import AnyLoop
    from scalops.session import run_loop

    if isinstance(returned, AnyLoop):
        return run_loop(returned)  # the session has kept its result
    if isinstance(returned, dict):
        return {name: _with_loops(item, collected[name]) for name, item in returned.items()}
    if isinstance(returned, (list, tuple)):
        parts = [_with_loops(*pair) for pair in zip(returned, collected, strict=True)]
        if hasattr(returned, "_fields"):
            return type(returned)(*parts)
        return parts if isinstance(returned, list) else tuple(parts)
    return collected
