"""A loop of the driver's program, as a coroutine that asks for passes.

It runs its other steps itself and yields the number of each stage that folds a table; whoever
runs it has that stage run, perhaps in one pass with another loop's, and lets it go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from scalops.algebra.errors import LoopError, ScalopsError
from scalops.engine import physical_plan as pp
from scalops.engine.backends import TableInfo
from scalops.engine.checkpoint import Checkpoint, CheckpointFolder
from scalops.engine.checkpoint_tables import decode_rows
from scalops.engine.history import History
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.value_program import ValueProgram, typed

log = logging.getLogger("scalops")

Seconds = dict[str, float]  # by kind of work
Fold = int  # the number of a stage to run


@dataclass
class LoopControl:
    """What the user asked of one run of an outermost loop.

    `on_iteration(number, fields)` hears of each iteration, and ends the loop by False.
    `fingerprint` and `about` go into the checkpoints, one every `every` iterations; `resumed` is
    where to go on from.
    """

    on_iteration: Callable[[int, dict[str, Any]], Any] | None = None
    folder: CheckpointFolder | None = None
    every: int = 1
    resumed: Checkpoint | None = None
    fingerprint: str = ""
    about: dict[str, str] | None = None


class _Once:
    """An `on_iteration` that hears of no iteration twice, however often the loop is run."""

    def __init__(self, on_iteration: Callable[[int, dict[str, Any]], Any]) -> None:
        self._call, self._heard = on_iteration, -1

    def __call__(self, number: int, fields: dict[str, Any]) -> Any:
        if number <= self._heard:
            return True
        self._heard = number
        return self._call(number, fields)


def heard_once(control: LoopControl | None) -> LoopControl | None:
    """The control of a loop that may be run again: its callback hears of an iteration once."""
    call = None if control is None else control.on_iteration
    if control is None or call is None or isinstance(call, _Once):
        return control
    return replace(control, on_iteration=_Once(call))


def further_back(control: LoopControl | None) -> LoopControl | None:
    """The control of a run that goes on from the last checkpoint of this one."""
    saved = None if control is None or control.folder is None else control.folder.last_saved()
    return control if saved is None or control is None else replace(control, resumed=saved)


class Host(Protocol):
    """What a loop needs of the driver. `load_seconds`: of the caches filled outside of loops."""

    load_seconds: float

    def program(self, instructions: Sequence[pp.Instruction]) -> list[Any]: ...
    def set(self, values: dict[int, Any]) -> None: ...
    def get(self, slot: int) -> Any: ...
    def evaluated(self, program: ValueProgram) -> list[Any]: ...
    def settle(self) -> None: ...
    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None: ...
    def put(self, table: pp.TableField, rows: StateRows) -> None: ...
    def info(self, table: int) -> TableInfo: ...
    def rows(self, table: pp.TableField) -> StateRows: ...
    def is_wanted(self, iterate: pp.Iterate) -> bool: ...
    def finish_loop(self, iterate: pp.Iterate, outcome: LoopOutcome) -> None: ...
    def listen(
        self, iterate: pp.Iterate, number: int, scalars: dict[str, Any], seconds: float
    ) -> None: ...
    def commit(self, iteration: int) -> None: ...


class LoopRunner:
    """One loop, compiled; run once for an outermost loop, once per outer iteration inside.

    `seconds` are those of an outermost loop's own work.
    """

    def __init__(self, host: Host, iterate: pp.Iterate, control: LoopControl) -> None:
        self._host, self._plan, self._control = host, iterate, control
        self._test = host.program(iterate.test)
        self._condition = ValueProgram([iterate.condition] if iterate.condition else [])
        self._body = host.program(iterate.body)
        self._range = None if iterate.range is None else ValueProgram(iterate.range.bounds)
        self._scalars = [
            (n, s)
            for n, s, k in zip(iterate.fields, iterate.state, iterate.types, strict=True)
            if not (k.shape or k.is_object)
        ]
        self._floats = [
            (n, s, new)
            for n, s, new, k in zip(
                iterate.fields, iterate.state, iterate.next, iterate.types, strict=True
            )
            if k.is_numeric and k.numpy.kind == "f"
        ]
        self._warned = False
        self._infinite: dict[str, frozenset[str]] = {}  # columns of the state that hold infinities
        # In a nested loop both iterations are named.
        named = iterate.name and iterate.name != "<lambda>"
        self._named = f" {iterate.name!r}" if named else ""
        self._of_which = f" of the inner loop{self._named}" if iterate.nested else ""
        self.seconds: Seconds = {"load": 0.0, "map": 0.0, "update": 0.0}

    @property
    def index(self) -> int:
        """The loop's number in the plan."""
        return self._plan.index

    def run(self) -> Generator[Fold, None, None]:
        """Iterate until the condition is false, the range ends or max_iterations is reached."""
        host, plan, control = self._host, self._plan, self._control
        begin = perf_counter()
        history = History(dict(zip(plan.fields, plan.types, strict=True)))
        iteration, saved = self._start(history), -1
        elements = self._elements()
        converged = stopped = False
        while True:
            if elements is not None:
                if iteration >= len(elements):
                    converged = True
                    break
            else:
                yield from _steps(self._test)
                if plan.condition is not None and not host.evaluated(self._condition)[0]:
                    converged = True
                    break
            if plan.max_iterations is not None and iteration >= plan.max_iterations:
                break
            started = perf_counter()
            host.set({plan.counter: iteration if elements is None else elements[iteration]})
            try:
                yield from _steps(self._body)
                host.settle()
                new = [host.get(s) for s in plan.next]
                if not plan.allow_nonfinite:
                    self._check_finite()
                    self._check_tables()
            except ScalopsError as error:
                error.add_place(f"iteration {iteration}{self._of_which}")
                raise
            host.set(dict(zip(plan.state, new, strict=True)))
            host.adopt([(t.state, t.next, t.keeps[1]) for t in plan.tables])
            host.commit(iteration)
            iteration += 1
            if plan.nested:
                continue
            self._record(history, iteration - 1, perf_counter() - started)
            if control.folder is not None and iteration % control.every == 0:
                self._save(iteration, history)
                saved = iteration
            if control.on_iteration is not None:
                answer = control.on_iteration(iteration - 1, self._state())
                if isinstance(answer, (bool, np.bool_)) and not answer:
                    stopped = True
                    break
        if control.folder is not None and saved != iteration:
            self._save(iteration, history)
        if not (converged or stopped):
            self._warn()
        host.set({plan.done[0]: np.int64(iteration), plan.done[1]: np.bool_(converged)})
        if not plan.nested:
            before = host.load_seconds  # of the caches that were filled before the loop
            profile = {**self.seconds, "load": before + self.seconds["load"]}
            profile["total"] = before + perf_counter() - begin
            kept = history.columns()
            if host.is_wanted(plan):
                state = self._state()
                outcome = LoopOutcome(state, iteration, converged, kept, profile, stopped)
                host.finish_loop(plan, outcome)

    def _start(self, history: History) -> int:
        """Set the state, from the start values or a checkpoint; the iterations done."""
        host, plan, resumed = self._host, self._plan, self._control.resumed
        host.adopt([(t.state, t.start, t.keeps[0]) for t in plan.tables])
        if resumed is None:
            values = [host.get(slot) for slot in plan.start]
        else:
            values = [resumed.state[name] for name in plan.fields]
            for table in plan.tables:
                host.put(table, decode_rows(resumed.state[table.name], table.schema))
            history.extend(resumed.history)
        self._infinite = {t.name: frozenset(host.info(t.state).infinite) for t in plan.tables}
        host.set({s: typed(v, k) for s, v, k in zip(plan.state, values, plan.types, strict=True)})
        return 0 if resumed is None else resumed.iterations

    def _elements(self) -> range | None:
        if self._range is None:
            return None
        start, stop, step = (int(n) for n in self._host.evaluated(self._range))
        if step == 0:
            raise LoopError("the step of a loop's range is 0", location=self._plan.location)
        return range(start, stop, step)

    def _state(self) -> dict[str, Any]:
        """The environment's fields now; of a table its StateRows."""
        host, plan = self._host, self._plan
        values = {n: host.get(s) for n, s in zip(plan.fields, plan.state, strict=True)}
        return values | {t.name: host.rows(t) for t in plan.tables}

    def _record(self, history: History, iteration: int, seconds: float) -> None:
        scalars = {n: self._host.get(s) for n, s in self._scalars}
        history.append(scalars, seconds)
        self._host.listen(self._plan, iteration, scalars, seconds)

    def _save(self, iterations: int, history: History) -> None:
        control = self._control
        assert control.folder is not None
        checkpoint = Checkpoint(
            control.fingerprint, control.about or {}, iterations, self._state(), history.columns()
        )
        try:
            control.folder.save(checkpoint)
        except ScalopsError as error:
            error.location = error.location or self._plan.location
            error.add_place(f"iteration {iterations - 1}")
            raise

    def _check_finite(self) -> None:
        for name, old, new in self._floats:
            value = self._host.get(new)
            finite = np.isfinite(value)
            if finite.all():
                continue
            was_finite = np.isfinite(self._host.get(old))
            if np.isnan(value).any():
                problem = "NaN"
            elif (was_finite & ~finite).any():
                problem = "infinite"
            else:
                continue
            field_name = "the state" if name == "value" else f"the field {name!r}"
            raise LoopError(
                f"{field_name} has become {problem}",
                location=self._plan.location,
                hint="a smaller step may help; allow_nonfinite=True lets it pass",
            )

    def _check_tables(self) -> None:
        """As for arrays, for the columns that the body computes."""
        found = {t.name: self._host.info(t.next) for t in self._plan.tables}
        for table in self._plan.tables:
            own = found[table.name]
            infinite = [c for c in own.infinite if c not in self._infinite[table.name]]
            nan = [c for c in own.nan if c in table.computed]
            infinite = [c for c in infinite if c in table.computed]
            for columns, problem in ((nan, "NaN"), (infinite, "infinite")):
                if columns:
                    name = "the state" if table.name == "value" else f"the field {table.name!r}"
                    raise LoopError(
                        f"the column {columns[0]!r} of {name} has become {problem}",
                        location=self._plan.location,
                        hint="filter such records, or let it pass: allow_nonfinite=True",
                    )
        self._infinite = {n: frozenset(info.infinite) for n, info in found.items()}

    def _warn(self) -> None:
        if self._plan.warn and not self._warned:
            self._warned = True
            log.warning(
                "the loop%s stopped after max_iterations=%s without converging (%s)",
                self._named,
                self._plan.max_iterations,
                self._plan.location,
            )


def _steps(steps: Sequence[Any]) -> Generator[Fold, None, None]:
    for step in steps:
        if isinstance(step, int):
            yield step
        elif isinstance(step, LoopRunner):
            yield from step.run()
        else:
            step()
