"""What a user asks of one run of a loop: callbacks, checkpoints, where to go on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.errors import Location, LoopError, user_location
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.tree import find
from scalops.engine.checkpoint import (
    CheckpointFolder,
    is_empty,
    newest,
    require_own,
    require_same_plan,
)
from scalops.engine.loop_runner import LoopControl
from scalops.engine.outcome import StateRows
from scalops.planning import arrow_table, plan

if TYPE_CHECKING:
    from scalops.environment import Structure
    from scalops.loop import AnyLoop


def control_of(
    loop: AnyLoop, on_iteration: Any, checkpoint: Any, every: Any, resume: Any
) -> LoopControl | None:
    """The control of a run; None where nothing was asked.

    Raises LoopError for arguments that make no sense, DataError for folders that cannot be used,
    PlanError for a checkpoint of another plan.
    """
    if on_iteration is None and checkpoint is None and every is None and resume is None:
        return None
    location = user_location()
    if on_iteration is not None and not callable(on_iteration):
        raise _expected("on_iteration", on_iteration, "a function of iteration and env", location)
    if every is not None and (
        isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1
    ):
        raise _expected("every", every, "an int of at least 1", location)
    if every is not None and checkpoint is None:
        raise LoopError("every= is given without checkpoint=", location=location)
    into, out_of = _folder("checkpoint", checkpoint, location), _folder("resume", resume, location)
    control = LoopControl(
        None if on_iteration is None else _in_structure(loop.structure, on_iteration),
        every=int(every or 1),
    )
    if into is None and out_of is None:
        return control
    from scalops.session import current_session  # which imports loops

    jit = current_session().options.jit
    control.fingerprint = plan(op.Job((loop.loop_plan,)), jit).fingerprint
    control.about = about(loop.loop_plan)
    resumed = None
    # The same folder for both is a program that may be started again and again: also at first.
    if out_of is not None and not (out_of == into and is_empty(out_of)):
        resumed, control.resumed = newest(out_of)
        require_same_plan(control.resumed, resumed, control.fingerprint, control.about, location)
    if into is not None:
        if resumed is None:
            require_own(into, control.fingerprint, location)
        control.folder = CheckpointFolder(into, resumed)
    return control


def _expected(name: str, found: Any, expected: str, location: Location | None) -> LoopError:
    return LoopError(f"{name} is {found!r}; expected {expected}", location=location)


def _folder(name: str, value: Any, location: Location | None) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise _expected(name, value, "a folder", location)
    try:
        if not os.fsencode(value) or b"\0" in os.fsencode(value):
            raise ValueError(value)
    except ValueError:  # half a surrogate pair, too
        raise _expected(name, value, "a folder", location) from None
    return Path(os.fsdecode(value)).expanduser().absolute()


def _in_structure(
    structure: Structure, on_iteration: Callable[[int, Any], Any]
) -> Callable[[int, dict[str, Any]], Any]:
    """The callback over fields: its environment is the user's own, to keep and to change."""
    settings = np.geterr()

    def call(iteration: int, fields: dict[str, Any]) -> Any:
        own = {n: _own(v) for n, v in fields.items()}
        with np.errstate(**settings):
            return on_iteration(iteration, structure.rebuild(own))

    return call


def _own(value: Any) -> Any:
    if isinstance(value, StateRows):
        return arrow_table(value.blocks, value.schema)
    return value.copy() if isinstance(value, np.ndarray) else value


def about(loop: op.Loop) -> dict[str, str]:
    """The parts of a loop as texts that are the same in another process; # begins a digest."""
    blank = replace(
        loop,
        start=(),
        types=(),
        tables=(),
        condition=None,
        range=None,
        max_iterations=None,
        body=op.Update(()),
    )
    parts = {
        "the environment": ", ".join(
            [f"{n}: {k}" for n, k in loop.state_types.items()]
            + [f"{n}: table ({t.schema})" for n, t in loop.tables]
        ),
        "max_iterations": str(loop.max_iterations),
        "the start": _digest(
            replace(blank, start=loop.start, types=loop.types, tables=loop.tables)
        ),
        "the condition": _digest(replace(blank, condition=loop.condition)),
        "the range": _digest(replace(blank, range=loop.range)),
        "the body": _digest(replace(blank, body=loop.body)),
    }
    for scan in find((loop,), op.Scan):
        name = f"the data of {scan.source.title}"
        parts[name] = f"{parts.get(name, '#')}{scan.source.stamp};"
    return parts


def _digest(loop: op.Loop) -> str:
    return f"#{fingerprint(loop, data=False)}"
