"""The driver: runs a physical plan's program over a backend.

Compiled once; an iteration evaluates a few expressions, binds slots and runs stages. Loops ask
for the stages that fold tables; those of several loops that rest on one table share a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.errors import ScalopsError
from scalops.engine import physical_plan as pp
from scalops.engine.backends import Backend, StageFailure, TableInfo, Take
from scalops.engine.blocks import Block
from scalops.engine.events import SILENT, EventLog
from scalops.engine.loop_runner import Fold, LoopControl, LoopRunner
from scalops.engine.neutral import Change, HeldPart, Measurements
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.reading import RowsRead
from scalops.engine.recording import NO_RECORDER, Recorder
from scalops.engine.relations.state import infinite_columns
from scalops.engine.value_program import ValueProgram, typed


class Listener(Protocol):
    """Hears of each iteration of an outermost loop."""

    def iteration(
        self, loop: str | None, number: int, scalars: dict[str, float], seconds: float
    ) -> None:
        """`number` counts from 0; `scalars` are the environment's scalar fields after it."""


Steps = Generator[Fold, None, None]
Asking = tuple[LoopRunner, Steps, Fold]
Replan = Callable[[Measurements], Change | None]
BeginTaking = Callable[[], Take]  # makes what takes a table, from its first record on


class Driver:
    """Runs one plan, once; `control` is for the one loop that is the job's output."""

    def __init__(
        self,
        plan: pp.PhysicalPlan,
        backend: Backend,
        listener: Listener | None = None,
        replan: Replan | None = None,
        control: LoopControl | None = None,
        events: EventLog = SILENT,
        recorder: Recorder = NO_RECORDER,
        begin: BeginTaking | None = None,
    ) -> None:
        """With `begin` the job gives one table, which goes to what that makes, and not back."""
        self._plan, self._backend = plan, backend
        self._events, self._is_logged = events, events is not SILENT
        self._recorder, self._begin = recorder, begin
        self._rows_read = RowsRead(plan)
        self._listener, self._replan, self._control = listener, replan, control
        self._values: list[Any] = [None] * len(plan.slots)
        self._outcomes: dict[int, LoopOutcome] = {}
        self._infos: dict[int, TableInfo] = {}
        self._seconds = self._outside = {"load": 0.0, "map": 0.0, "update": 0.0}
        self.load_seconds = 0.0
        self._stage_seconds: dict[int, float] = {}
        self._caches: dict[int, HeldPart] = {}
        self._read = frozenset(s for stage in plan.stages for s in stage.reads)

    def run(self) -> list[Any]:
        """The job's outputs: values, tables as blocks by partition, loop outcomes."""
        try:
            self._recorder.start(self._plan)
            self._backend.start(self._plan)
            self._recorder.started()
            with np.errstate(all="ignore"):
                for step in self.program(self._plan.program):
                    if isinstance(step, Fold):
                        self._fold([step])
                    elif isinstance(step, LoopRunner):
                        self._run_loops([step])
                    else:
                        step()
                outputs = [self._output(o) for o in self._plan.outputs]
            self._recorder.end(self._backend.lost)
            return outputs
        finally:
            self._backend.stop()

    def _output(self, output: pp.Output) -> Any:
        match output.kind:
            case "value":
                kind = self._plan.slots[output.number][1]
                return typed(self._values[output.number], kind.strong())
            case "loop":
                return self._outcomes[output.number]
            case "table" if self._begin is not None:
                self._backend.stream(output.number, self._begin())
            case "table":
                return [b for part in self._fetched(output.number) for b in part]

    def _fetched(self, stage: int) -> list[list[Block]]:
        begin = perf_counter()
        partitions = range(self._backend.partitions(stage))
        found = [self._backend.fetch(stage, p) for p in partitions]
        self._recorder.ran((stage,), begin)
        return found

    # Compilation.

    def program(self, instructions: Sequence[pp.Instruction]) -> list[Any]:
        """Steps: what to call, the number of a stage that folds, or a loop."""
        return [self._step(i) for i in instructions]

    def _step(self, instruction: pp.Instruction) -> Callable[[], None] | Fold | LoopRunner:
        match instruction:
            case pp.RunStage(stage=number):
                return self._run_stage(self._plan.stages[number])
            case pp.Evaluate(assignments=assignments):
                return self._evaluate(assignments)
            case pp.Iterate():
                return self._loop(instruction)
            case pp.IterateTogether(loops=loops):
                runners = [self._loop(loop) for loop in loops]
                return lambda: self._run_loops(runners)
        raise TypeError(type(instruction).__name__)

    def _loop(self, iterate: pp.Iterate) -> LoopRunner:
        outputs = [o.number for o in self._plan.outputs if o.kind == "loop"]
        own = self._control if [iterate.index] == outputs else None
        return LoopRunner(self, iterate, own or LoopControl())

    def _run_stage(self, stage: pp.Stage) -> Callable[[], None] | Fold:
        number, sink = stage.number, stage.sink
        match sink:
            case pp.CacheTable():
                return lambda: self._timed("load", lambda: self._load(number, sink.number))
            case pp.StoreSink():
                return lambda: self._timed(
                    # A loop's joins, groups and next tables are its passes over records.
                    "load" if self._seconds is self._outside else "map",
                    lambda: self._store(number, sink.number),
                )
            case pp.CountPrefix() | pp.CountRows():
                return lambda: self._timed("map", lambda: self._count(number))
            case pp.Gather():
                return lambda: None  # fetched when the job's outputs are handed out
            case pp.TreeAggregate():
                return number
        raise TypeError(type(sink).__name__)

    def _load(self, stage: int, table: int) -> None:
        begin = perf_counter()
        info = self._infos[table] = self._backend.load(stage)
        whole = info.bytes * info.partitions / max(1, info.cached)
        self._caches[table] = HeldPart(info.bytes, whole, perf_counter() - begin)
        self._recorder.ran((stage,), begin, {table: info})
        if self._is_logged:
            self._events.emit(
                "cache", stage=stage, table=table, rows=info.rows, bytes=info.bytes,
                partitions=info.partitions, cached=info.cached, seconds=perf_counter() - begin,
            )  # fmt: skip

    def _count(self, stage: int) -> None:
        begin = perf_counter()
        self._backend.run_stage(stage)
        self._recorder.ran((stage,), begin)
        self._have_run((stage,), begin)

    def _store(self, stage: int, table: int) -> None:
        begin = perf_counter()
        self._infos[table] = self._backend.exchange(stage)
        self._recorder.ran((stage,), begin)
        self._have_run((stage,), begin)

    def _have_run(self, stages: Sequence[int], begin: float) -> None:
        """Tell of stages that have run in one pass."""
        if self._is_logged:
            seconds, sink = perf_counter() - begin, type(self._plan.stages[stages[0]].sink).__name__
            self._events.emit("stage", stages=list(stages), sink=sink, seconds=seconds)
            self._rows_read.have_run(stages)

    def _timed(self, kind: str, call: Callable[[], Any]) -> None:
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

    # Folds, and the loops that ask for them.

    def _fold(self, stages: Sequence[Fold]) -> None:
        """Run stages in one pass; their results are in slots afterwards."""
        begin = perf_counter()
        if len(stages) == 1:
            self._backend.run_stage(stages[0])
        else:
            self._backend.run_stages(stages)
        results: dict[int, Any] = {}
        for number in stages:
            sink = self._plan.stages[number].sink
            assert isinstance(sink, pp.TreeAggregate)
            results.update(zip(sink.slots, self._backend.combine(number), strict=True))
        self._recorder.ran(stages, begin)
        self.set(results)
        seconds = perf_counter() - begin
        self._seconds["map"] += seconds
        self._stage_seconds.update(dict.fromkeys(stages, seconds))
        self._have_run(stages, begin)

    def _run_loops(self, runners: Sequence[LoopRunner]) -> None:
        """Run loops in lock-step: at each round every loop that is not done gets its fold."""
        outside = self._seconds
        self.load_seconds = outside["load"]
        try:
            waiting: list[Asking] = []
            for runner in runners:
                waiting += self._advanced(runner, runner.run())
            while waiting:
                for group in self._by_base(waiting):
                    self._fold_for(group)
                waiting = [a for r, steps, _ in waiting for a in self._advanced(r, steps)]
        finally:
            self._seconds = outside
            self._recorder.goes_on(())

    def _by_base(self, waiting: list[Asking]) -> Iterable[list[Asking]]:
        """Those whose folds rest on the same table side by side."""
        if len(waiting) == 1:
            return [waiting]
        groups: dict[pp.PhysicalTable, list[Asking]] = {}
        for asking in waiting:
            base = pp.base(self._plan.stages[asking[2]].source)
            groups.setdefault(base, []).append(asking)
        return groups.values()

    def _advanced(self, runner: LoopRunner, steps: Steps) -> list[Asking]:
        """The loop with the next fold that it asks for; nothing where it is done."""
        self._seconds = runner.seconds
        self._recorder.goes_on((runner.index,))
        return [(runner, steps, stage) for stage in islice(steps, 1)]

    def _fold_for(self, group: Sequence[Asking]) -> None:
        """One pass for several loops; an error is raised where the loop at fault asked for it."""
        self._seconds = {"map": 0.0}
        self._recorder.goes_on([runner.index for runner, _, _ in group])
        failed: ScalopsError
        try:
            self._fold([stage for _, _, stage in group])
        except StageFailure as failure:
            at_fault = next(steps for _, steps, stage in group if stage == failure.stage)
            failed = failure.error
        except ScalopsError as error:
            at_fault, failed = group[0][1], error
        else:
            for runner, _, _ in group:
                runner.seconds["map"] += self._seconds["map"] / len(group)
            return
        at_fault.throw(failed)

    # Values.

    def set(self, values: dict[int, Any]) -> None:
        """Set slots; those that stages read go to the backend."""
        for slot, value in values.items():
            self._values[slot] = value
        bound = {s: v for s, v in values.items() if s in self._read}
        if bound:
            begin = perf_counter()
            self._backend.bind(bound)
            self._recorder.bound(begin)

    def get(self, slot: int) -> Any:
        """A slot's value."""
        return self._values[slot]

    def evaluated(self, program: ValueProgram) -> list[Any]:
        """What expressions over slots give now."""
        return program.run(self._values)

    # Tables of a loop's state.

    def adopt(self, moves: Sequence[tuple[int, int, bool]]) -> None:
        """Let tables be what is kept as others, all at once: (table, source, keep source)."""
        if moves:
            self._backend.adopt(moves)
            blank = TableInfo(0, 0, 0, 0)
            self._infos.update({s: self._infos.get(source, blank) for s, source, _ in moves})

    def settle(self) -> None:
        """All steps so far are done."""
        begin = perf_counter()
        self._backend.settle()
        self._recorder.ran((), begin)

    def put(self, table: pp.TableField, rows: StateRows) -> None:
        """Let a table of the state have these records, which were saved."""
        self._backend.put(table.state, table.schema, rows.blocks)
        infinite = tuple(infinite_columns(rows, table.computed))
        self._infos[table.state] = TableInfo(0, 0, 0, 0, (), infinite)

    def info(self, table: int) -> TableInfo:
        """What is known of a stored table."""
        return self._infos[table]

    def rows(self, table: pp.TableField) -> StateRows:
        """The records of a table of the state now."""
        return StateRows(table.schema, self._fetched(table.rows))

    def is_wanted(self, iterate: pp.Iterate) -> bool:
        """Whether the job gives a loop's outcome."""
        return any(o.kind == "loop" and o.number == iterate.index for o in self._plan.outputs)

    def finish_loop(self, iterate: pp.Iterate, outcome: LoopOutcome) -> None:
        """Keep an outermost loop's outcome."""
        self._outcomes[iterate.index] = outcome

    def listen(self, iterate: pp.Iterate, number: int, scalars: dict[str, Any], s: float) -> None:
        """Tell the listener of an iteration, and ask whether to change the plan."""
        self._recorder.iteration(iterate.index)
        if self._listener is not None:
            self._listener.iteration(iterate.name, number, scalars, s)
        if self._is_logged:
            rows = self._rows_read.since_asked(iterate, self._infos)
            self._events.emit(
                "iteration", loop=iterate.name, number=number, scalars=scalars, seconds=s, rows=rows
            )
        if self._replan is not None and number > 0 and number & (number + 1) == 0:
            seen = dict(self._stage_seconds), self._backend.partial_bytes(), dict(self._caches)
            change = self._replan(Measurements(number, *seen))
            if change is not None:
                self._backend.change(change)
                for why in change.why:
                    self._events.emit("changed", why=why)

    def commit(self, iteration: int) -> None:
        """The iteration's state stands."""
        self._backend.commit(iteration)
