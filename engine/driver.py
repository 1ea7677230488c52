"""The driver: runs a physical plan's program over a backend.

Compiled once; an iteration evaluates a few expressions, binds slots and runs stages.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, LoopError, ScalopsError
from scalops.algebra.expressions import Call, Constant, Slot
from scalops.algebra.tree import Node
from scalops.engine import physical_plan as pp
from scalops.engine.backends import Backend
from scalops.engine.blocks import Block
from scalops.engine.outcome import SECONDS, LoopOutcome

log = logging.getLogger("scalops")


class Listener(Protocol):
    """Hears of each iteration of an outermost loop."""

    def iteration(
        self, loop: str | None, number: int, scalars: dict[str, float], seconds: float
    ) -> None:
        """`number` counts from 0; `scalars` are the environment's scalar fields after it."""


Replan = Callable[[pp.Measurements], pp.Change | None]


class Driver:
    """Runs one plan, once."""

    def __init__(
        self,
        plan: pp.PhysicalPlan,
        backend: Backend,
        listener: Listener | None = None,
        replan: Replan | None = None,
    ) -> None:
        self._plan, self._backend = plan, backend
        self._listener, self._replan = listener, replan
        self._values: list[Any] = [None] * len(plan.slots)
        self._outcomes: dict[int, LoopOutcome] = {}
        self._steps: dict[pp.Instruction, Callable[[], None]] = {}
        self._seconds = {"load": 0.0, "map": 0.0, "update": 0.0}
        self._stage_seconds: dict[int, float] = {}
        self._read = frozenset(s for stage in plan.stages for s in stage.reads)

    def run(self) -> list[Any]:
        """The job's outputs: values, tables as blocks by partition, loop outcomes."""
        try:
            self._backend.start(self._plan)
            with np.errstate(all="ignore"):
                for step in self._program(self._plan.program):
                    step()
                return [self._output(o) for o in self._plan.outputs]
        finally:
            self._backend.stop()

    def _output(self, output: pp.Output) -> Any:
        match output.kind:
            case "value":
                kind = self._plan.slots[output.number][1]
                return typed(self._values[output.number], kind.strong())
            case "loop":
                return self._outcomes[output.number]
            case "table":
                partitions = self._backend.partitions(output.number)
                blocks: list[Block] = []
                for partition in range(partitions):
                    blocks.extend(self._backend.fetch(output.number, partition))
                return blocks

    # Compilation.

    def _program(self, instructions: Sequence[pp.Instruction]) -> list[Callable[[], None]]:
        return [self._step(i) for i in instructions]

    def _step(self, instruction: pp.Instruction) -> Callable[[], None]:
        match instruction:
            case pp.RunStage(stage=number):
                return self._run_stage(self._plan.stages[number])
            case pp.Evaluate(assignments=assignments):
                return self._evaluate(assignments)
            case pp.Iterate():
                return _LoopRunner(self, instruction).run
        raise TypeError(type(instruction).__name__)

    def _run_stage(self, stage: pp.Stage) -> Callable[[], None]:
        backend, number, sink = self._backend, stage.number, stage.sink
        match sink:
            case pp.CacheTable():
                return lambda: self._timed("load", number, lambda: backend.load(number))
            case pp.Exchange():
                return lambda: self._timed("load", number, lambda: backend.exchange(number))
            case pp.CountPrefix():
                return lambda: self._timed("map", number, lambda: backend.run_stage(number))
            case pp.Gather():
                return lambda: None  # fetched when the job's outputs are handed out
            case pp.TreeAggregate(slots=slots):

                def reduce() -> None:
                    begin = perf_counter()
                    backend.run_stage(number)
                    self.set(dict(zip(slots, backend.combine(number), strict=True)))
                    seconds = perf_counter() - begin
                    self._seconds["map"] += seconds
                    self._stage_seconds[number] = seconds

                return reduce
        raise TypeError(type(sink).__name__)

    def _timed(self, kind: str, stage: int, call: Callable[[], Any]) -> None:
        begin = perf_counter()
        call()
        self._seconds[kind] += perf_counter() - begin

    def _evaluate(self, assignments: Sequence[tuple[int, ex.Expression]]) -> Callable[[], None]:
        program = ValueProgram([e for _, e in assignments])
        slots = [s for s, _ in assignments]
        kinds = [e.type for _, e in assignments]

        def evaluate() -> None:
            begin = perf_counter()
            values = program.run(self._values)
            self.set({s: typed(v, k) for s, v, k in zip(slots, values, kinds, strict=True)})
            self._seconds["update"] += perf_counter() - begin

        return evaluate

    # Values.

    def set(self, values: dict[int, Any]) -> None:
        """Set slots; those that stages read go to the backend."""
        for slot, value in values.items():
            self._values[slot] = value
        bound = {s: v for s, v in values.items() if s in self._read}
        if bound:
            self._backend.bind(bound)

    def get(self, slot: int) -> Any:
        """A slot's value."""
        return self._values[slot]

    def condition(self, e: ex.Expression | None) -> Callable[[], bool]:
        """A test compiled."""
        if e is None:
            return lambda: True
        program = ValueProgram([e])
        return lambda: bool(program.run(self._values)[0])

    def finish_loop(self, iterate: pp.Iterate, outcome: LoopOutcome) -> None:
        """Keep an outermost loop's outcome."""
        self._outcomes[iterate.index] = outcome

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by kind of work."""
        return self._seconds

    def listen(self, iterate: pp.Iterate, number: int, scalars: dict[str, Any], s: float) -> None:
        """Tell the listener of an iteration, and ask whether to change the plan."""
        if self._listener is not None:
            self._listener.iteration(iterate.name, number, scalars, s)
        if self._replan is not None and number > 0 and number & (number + 1) == 0:
            change = self._replan(pp.Measurements(number, dict(self._stage_seconds)))
            if change is not None:
                self._backend.change(change)

    def commit(self, iteration: int) -> None:
        """The iteration's state stands."""
        self._backend.commit(iteration)


def typed(value: Any, kind: ArrayType) -> Any:
    """A driver value in its type: weak numbers as Python's, the rest as NumPy's."""
    if kind.is_string:
        return value.item() if isinstance(value, np.ndarray) else value
    if kind.weak:
        return (
            value
            if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)
            else kind.python(value)
        )
    if getattr(value, "dtype", None) == kind.numpy:
        return value
    return np.asarray(value).astype(kind.numpy)[()]


class ValueProgram:
    """Expressions over slots, compiled to steps in order; no block axis."""

    def __init__(self, roots: Sequence[ex.Expression]) -> None:
        self._registers: list[Any] = []
        self._reads: list[tuple[int, int]] = []
        self._steps: list[tuple[Callable[..., Any], tuple[int, ...], int, ex.Expression]] = []
        index: dict[Node, int] = {}
        stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(roots)]
        while stack:
            node, entered = stack.pop()
            if node in index or not isinstance(node, ex.Expression):
                continue
            if not entered:
                stack.append((node, True))
                stack.extend((c, False) for c in reversed(node.children))
                continue
            register = index[node] = len(self._registers)
            self._registers.append(None)
            self._add(node, register, index)
        self._roots = [index[r] for r in roots]

    def _add(self, node: ex.Expression, register: int, index: dict[Node, int]) -> None:
        match node:
            case Constant(value=value):
                self._registers[register] = value
            case Slot(number=number):
                self._reads.append((register, number))
            case ex.Item(source=source, index=i):
                self._steps.append((_item(i), (index[source],), register, node))
            case Call(function=function, arguments=arguments):
                parameters = dict(node.parameters)
                apply = function.evaluate
                if parameters:
                    apply = _with_parameters(apply, parameters)
                self._steps.append((apply, tuple(index[a] for a in arguments), register, node))
            case _:
                raise TypeError(f"{type(node).__name__} is no driver value")

    def run(self, slots: Sequence[Any]) -> list[Any]:
        """The roots' values."""
        registers = self._registers
        for register, slot in self._reads:
            registers[register] = slots[slot]
        for apply, arguments, target, node in self._steps:
            try:
                registers[target] = apply(*[registers[a] for a in arguments])
            except ScalopsError:
                raise
            except Exception as error:
                raise _failed(node, error) from error
        return [registers[r] for r in self._roots]


def _failed(node: ex.Expression, error: Exception) -> ExecutionError:
    name = node.function.name if isinstance(node, Call) else "a step"
    hint = None
    if isinstance(error, np.linalg.LinAlgError):
        hint = "the matrix has no such solution; a small multiple of the identity may help"
    return ExecutionError(f"{name} failed: {error}", location=node.location, hint=hint)


def _item(index: int) -> Callable[[Any], Any]:
    return lambda several: several[index]


def _with_parameters(function: Callable[..., Any], given: dict[str, Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments, **given)


class _LoopRunner:
    """One loop, compiled; run once for an outermost loop, once per outer iteration inside."""

    def __init__(self, driver: Driver, iterate: pp.Iterate) -> None:
        self._driver, self._plan = driver, iterate
        self._test = driver._program(iterate.test)
        self._condition = driver.condition(iterate.condition)
        self._body = driver._program(iterate.body)
        self._scalars = [
            (n, s)
            for n, s, k in zip(iterate.fields, iterate.state, iterate.types, strict=True)
            if not k.shape
        ]
        self._floats = [
            (n, s, new)
            for n, s, new, k in zip(
                iterate.fields, iterate.state, iterate.next, iterate.types, strict=True
            )
            if k.is_numeric and k.numpy.kind == "f"
        ]
        self._warned = False
        # In a nested loop both iterations are named.
        named = iterate.name and iterate.name != "<lambda>"
        name = f" {iterate.name!r}" if named else ""
        self._of_which = f" of the inner loop{name}" if iterate.nested else ""

    def run(self) -> None:
        """Iterate until the condition is false, the range ends or max_iterations is reached."""
        driver, plan = self._driver, self._plan
        before = dict(driver.seconds)
        begin = perf_counter()
        driver.set(
            {
                s: typed(driver.get(a), k)
                for s, a, k in zip(plan.state, plan.start, plan.types, strict=True)
            }
        )
        elements = None
        if plan.range is not None:
            elements = range(plan.range.start, plan.range.stop, plan.range.step)
        history = self._new_history()
        iteration, converged = 0, False
        while True:
            if elements is not None:
                if iteration >= len(elements):
                    converged = True
                    break
            else:
                for step in self._test:
                    step()
                if not self._condition():
                    converged = True
                    break
            if plan.max_iterations is not None and iteration >= plan.max_iterations:
                break
            started = perf_counter()
            driver.set({plan.counter: iteration if elements is None else elements[iteration]})
            try:
                for step in self._body:
                    step()
                new = [driver.get(s) for s in plan.next]
                if not plan.allow_nonfinite:
                    self._check_finite()
            except ScalopsError as error:
                error.add_place(f"iteration {iteration}{self._of_which}")
                raise
            driver.set(dict(zip(plan.state, new, strict=True)))
            driver.commit(iteration)
            if not plan.nested:
                self._record(history, iteration, perf_counter() - started)
            iteration += 1
        if not converged:
            self._warn()
        done = {plan.done[0]: np.int64(iteration), plan.done[1]: np.bool_(converged)}
        driver.set(done)
        if not plan.nested:
            state = {n: driver.get(s) for n, s in zip(plan.fields, plan.state, strict=True)}
            profile = {k: v - before[k] for k, v in driver.seconds.items()}
            profile["total"] = perf_counter() - begin
            kept = {n: self._finished(n, h) for n, h in history.items()}
            driver.finish_loop(plan, LoopOutcome(state, iteration, converged, kept, profile))

    def _new_history(self) -> dict[str, Any]:
        # Typed arrays: a number is 8 bytes, and nothing is kept per iteration beside it.
        kinds = dict(zip(self._plan.fields, self._plan.types, strict=True))
        history: dict[str, Any] = {}
        for name, _ in self._scalars:
            kind = kinds[name]
            code = {"f": "d", "i": "q", "u": "Q", "b": "b"}.get(kind.numpy.kind)
            history[name] = array(code) if code and kind.is_numeric else []
        history[SECONDS] = array("d")
        return history

    def _finished(self, name: str, numbers: Any) -> Any:
        """A history in the type of its field."""
        kind = dict(zip(self._plan.fields, self._plan.types, strict=True)).get(name)
        if kind is None:
            return numbers
        return numbers if kind.is_string else np.array(numbers, dtype=kind.numpy)

    def _record(self, history: dict[str, Any], iteration: int, seconds: float) -> None:
        scalars = {n: self._driver.get(s) for n, s in self._scalars}
        for name, value in scalars.items():
            history[name].append(value.item() if isinstance(value, np.bool_) else value)
        history[SECONDS].append(seconds)
        self._driver.listen(self._plan, iteration, scalars, seconds)

    def _check_finite(self) -> None:
        for name, old, new in self._floats:
            value = self._driver.get(new)
            finite = np.isfinite(value)
            if finite.all():
                continue
            was_finite = np.isfinite(self._driver.get(old))
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

    def _warn(self) -> None:
        if self._plan.warn and not self._warned:
            self._warned = True
            log.warning(
                "the loop stopped after max_iterations=%s without converging (%s)",
                self._plan.max_iterations,
                self._plan.location,
            )
