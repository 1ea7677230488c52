"""Sessions: where plans run, with which options, and what is kept between runs."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, finalize

from scalops.algebra.errors import (
    DataError,
    OutOfMemoryError,
    PlanError,
    ScalopsError,
    text_of,
    user_location,
)
from scalops.algebra.expressions import Constant, Expression, Held, LoopOutput, constant
from scalops.algebra.operators import Cache, Job, Scan
from scalops.algebra.operators import Loop as LoopPlan
from scalops.algebra.relations import LoopTable
from scalops.algebra.tree import Node, find, substitute
from scalops.algebra.validate import validate
from scalops.checks import check_traces
from scalops.clusters import may_have_workers, open_workers
from scalops.configuration import SESSION, Config, configure, given_options, inherited
from scalops.deciding import Decided, decide_to_run, in_this_process
from scalops.differentiating import refuse_number
from scalops.engine.driver import BeginTaking
from scalops.engine.events import SILENT, EventLog
from scalops.engine.kept_tables import KeptSource, KeptTable, KeptTables, TablesGone
from scalops.engine.loop_runner import LoopControl, further_back, heard_once
from scalops.engine.outcome import LoopOutcome, StateRows
from scalops.engine.physical_plan import PhysicalPlan
from scalops.engine.recording import NO_RECORDER, Recorder
from scalops.engine.storage.bad_records import bad_records_reported
from scalops.engine.threads import in_engine_thread
from scalops.loop import AnyLoop, LoopResult
from scalops.options import OF_ONE_RUN, Options, refuse_unknown
from scalops.planning import execute, plan
from scalops.profiles import machine
from scalops.results import loop_result, rebuild, take_leaves
from scalops.table import Table
from scalops.tracing import refuse_to_run
from scalops.value import Value, is_record_symbol

if TYPE_CHECKING:
    from scalops.engine.cluster.session_workers import SessionWorkers
    from scalops.engine.processes.runner import ProcessRunner


class Session:
    """Where plans run: in this process, on threads, or on workers.

    A Value's or Loop's result is kept here once collected, and later plans use it. `events` hears
    of what happens while plans run. `source` is whence it was `given` its options.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, source: str = SESSION) -> None:
        self.given = dict(given or {})
        self.config = configure(self.given, source)
        self.options: Options = self.config.options
        self._results: WeakKeyDictionary[Node, Any] = WeakKeyDictionary()
        self._checked: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()
        self._tables = KeptTables()
        self._lock = threading.RLock()
        self._entered = 0
        self._runner: ProcessRunner | None = None
        self._workers: SessionWorkers | None = None
        self._end_workers: finalize[Any, Any] | None = None
        self.events: EventLog = SILENT
        _sessions.add(self)

    def forked(self) -> None:
        """In a forked process: the lock's holder is not there, and the workers are the parent's."""
        self._lock = threading.RLock()
        self._workers = None
        if self._end_workers is not None:
            self._end_workers.detach()
            self._end_workers = None

    def __enter__(self) -> Session:
        with self._lock:
            self._entered += 1
        _open.set((*_open.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        # Blocks of generators may end in any order, and those of threads at any time.
        sessions = list(_open.get())
        for i in reversed(range(len(sessions))):
            if sessions[i] is self:
                del sessions[i]
                break
        _open.set(tuple(sessions))
        with self._lock:
            self._entered -= 1
            last = not self._entered
        if last:  # the outermost of nested blocks ends it
            self.close()

    def close(self) -> None:
        """Drop what the session keeps, end its worker processes, and leave its cluster."""
        with self._lock:
            runner, self._runner = self._runner, None
            end_workers, self._workers, self._end_workers = self._end_workers, None, None
        try:
            if end_workers is not None:
                end_workers()
        finally:
            if runner is not None:
                runner.stop()
            self._results.clear()
            self._checked.clear()
            self._tables.clear()

    def forget(self, thing: Any) -> None:
        """Drop the kept result of a Value or Loop, or the records of a cached table."""
        if isinstance(thing, Table) and isinstance(thing.plan, Cache):
            self._tables.forget(thing.plan)
            self._forget_at_ranks(thing.plan.key)
        nodes: list[Node] = [thing.expression] if isinstance(thing, Value) else []
        if isinstance(thing, AnyLoop):
            nodes.append(thing.loop_plan)
        for node in nodes:
            self._results.pop(node, None)

    def _forget_at_ranks(self, key: str) -> None:
        workers = self._workers
        if workers is None:
            return
        workers.forget(key)
        if self._lock.acquire(blocking=False):  # else a plan runs, and the next one tells them
            try:
                workers.tell_forgotten()
            finally:
                self._lock.release()

    def run(
        self,
        nodes: tuple[Node, ...],
        listen: Any = None,
        call: Mapping[str, Any] | None = None,
        control: LoopControl | None = None,
        recorder: Recorder = NO_RECORDER,
        begin: BeginTaking | None = None,
    ) -> list[Any]:
        """Run the nodes as one job; results in the same order. `call` holds this run's options.

        With a `control` there is one node, a loop, and it is run even where its result is kept.
        With a recorder that measures, all is: the plan is the one that explain shows. With `begin`
        the one node is a table, which goes to what that makes: perhaps again, from its beginning.
        """
        if getattr(_running, "plan", False) or in_engine_thread():
            # The engine's threads would wait for themselves.
            raise PlanError(
                "collect() is called while a plan runs, from one of its functions",
                location=user_location(),
                hint="collect before, or let the function use the Value itself",
            )
        job = Job(nodes)
        options = replace(self.options, **(call or {}))
        with self._lock, self._told(options), placed():
            validate(job)
            _check_unchanged(job)
            check_traces(job, self._checked)
            anew = control is not None or recorder.meter is not None
            open_nodes = [n for n in nodes if anew or n not in self._results]
            if open_nodes:
                results = self._results_of(
                    job, open_nodes, options, listen, control, recorder, begin
                )
                for node, result in zip(open_nodes, results, strict=True):
                    stopped = isinstance(result, LoopOutcome) and result.stopped
                    if isinstance(node, (Expression, LoopPlan)) and not stopped:
                        # Tables are not kept: they are large.
                        self._results[node] = result
                fresh = dict(zip(open_nodes, results, strict=True))
            else:
                fresh = {}
            return [fresh[n] if n in fresh else self._results[n] for n in nodes]

    def _results_of(
        self,
        job: Job,
        nodes: Sequence[Node],
        options: Options,
        listen: Any,
        control: LoopControl | None,
        recorder: Recorder,
        begin: BeginTaking | None,
    ) -> list[Any]:
        """Results of these nodes of a job; where kept tables are gone it is planned anew."""
        own, gone = _at_rest(control), frozenset[str]()
        tables = {c.key: self._tables.of(c) for c in _caches(job)}
        if self._workers is not None and self._workers.is_running:
            # A callback of a loop that has the workers: its plan runs here, and leaves them theirs.
            options, gone, tables = in_this_process(options), _away(tables), {}
        own = heard_once(own) if may_have_workers(options) else own
        while True:
            kept = {} if recorder.meter is not None else self._kept(job, gone)
            rewritten = Job(tuple(substitute(n, kept) for n in nodes))
            _running.plan = True
            try:
                with bad_records_reported(list(find((job,), Scan))):
                    physical, decided = self._decided(rewritten, options)
                    workers = self.workers() if decided.neutral.workers else None
                    if workers is None and not _away(tables) <= gone:
                        gone |= _away(tables)  # the workers have them, and are not to be asked
                        continue
                    runner = self.processes() if workers is None else None
                    return execute(
                        rewritten, physical, decided, options, listen, runner, own,
                        self._tables, tables, workers, self.events, recorder, begin,
                    )  # fmt: skip
            except TablesGone as found:  # each of them once: it is not read again in this run
                self._tables.gone(found.keys)
                gone |= found.keys
                own = further_back(own)
            finally:
                _running.plan = False

    def _decided(self, job: Job, options: Options) -> tuple[PhysicalPlan, Decided]:
        """The plan of a job, and what is decided for it."""
        if options.connect is not None:
            self.workers()  # how many there are is asked of the cluster
        physical = plan(job, options.jit)
        return physical, decide_to_run(physical, options, machine(), self.attached)

    @contextmanager
    def _told(self, options: Options) -> Iterator[None]:
        """The events of the beginning and the end of a run."""
        begin, failed = perf_counter(), True
        self.events.emit("run", options=vars(options))
        try:
            yield
            failed = False
        except BaseException as error:
            self.events.emit("error", type=type(error).__name__, message=_message(error))
            raise
        finally:
            self.events.emit("end", seconds=perf_counter() - begin, failed=failed)

    def workers(self) -> SessionWorkers | None:
        """The workers that plans run on, there since this was first asked; None where none are.

        They end with `close`, with the session itself and with the interpreter.
        """
        with self._lock:
            if self._workers is None and may_have_workers(self.options):
                made = open_workers(self.options)
                self._workers, self._end_workers = made, finalize(self, made.close)
            return self._workers

    @property
    def attached(self) -> int | None:
        """How many workers the session has now; None before a plan has run on them."""
        return None if self._workers is None else len(self._workers.hub.workers())

    def processes(self) -> ProcessRunner | None:
        """What asks worker processes; they start when it is first asked."""
        count = self.options.processes
        if count is None:
            count = len(os.sched_getaffinity(0))
        if count and self._runner is None:
            from scalops.engine.processes.runner import ProcessRunner, kept_bytes

            room = kept_bytes(self.options.memory)
            self._runner = ProcessRunner(count, self.options.task_timeout, room)
        return self._runner

    def _kept(self, job: Job, gone: Collection[str] = ()) -> dict[Node, Node]:
        """What of the job is known from earlier runs, as constants; tables but those `gone`."""
        kept: dict[Node, Node] = {}
        for node in find((job,), Expression):
            if isinstance(node, Constant):
                continue
            if node in self._results:
                kept[node] = _kept_constant(node, self._results[node])
            elif isinstance(node, LoopOutput) and node.loop in self._results:
                outcome = self._results[node.loop]
                kept[node] = constant(outcome.value(node.name))
        for made in find((job,), LoopTable):
            if made.loop in self._results:
                kept[made] = Scan(_kept_rows(made, self._results[made.loop].state[made.name]))
        for cache in _caches(job):
            table = self._tables.of(cache)
            if table.is_complete and table.key not in gone:
                # The plan over it stays as it is, so that its numbers do.
                kept[cache] = replace(cache, source=Scan(KeptSource(table)))
        return kept


@contextmanager
def placed() -> Iterator[None]:
    """What is raised inside names a line of the user's: the calling one, where it has no better."""
    where = user_location()
    try:
        yield
    except ScalopsError as error:
        error.location = error.location or where
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"the machine has not the memory: {error}",
            location=where,
            hint="a record, a Value or a field of an environment is too large for it",
        ) from error
    except RecursionError as error:
        raise PlanError(
            "the plan is too deep: hundreds of operators, one over the other",
            location=where,
            hint="collect a table half-way and go on from so.from_arrow(...); join many tables by"
            " pairs, not one after the other",
        ) from error


_running = threading.local()
# The sessions of the `with` statements around, the innermost last.
_open: contextvars.ContextVar[tuple[Session, ...]] = contextvars.ContextVar("sessions", default=())
_default: Session | None = None
_sessions: WeakSet[Session] = WeakSet()


def _forked() -> None:
    for session in list(_sessions):
        session.forked()


os.register_at_fork(after_in_child=_forked)


def _away(tables: Mapping[str, KeptTable]) -> frozenset[str]:
    """The keys of kept tables that lie with workers."""
    return frozenset(k for k, t in tables.items() if t.away is not None)


def _message(error: BaseException) -> str:
    """What an error's event says; of an end from outside, too, which has no text of its own."""
    if isinstance(error, KeyboardInterrupt):
        return text_of(error) or "interrupted"
    if isinstance(error, SystemExit):
        return f"the process is ended with exit code {error.code}"
    return text_of(error)


def _check_unchanged(job: Job) -> None:
    """DataError where a source is not what it was when the plan was written."""
    for scan in find((job,), Scan):
        source: Any = scan.source
        try:
            source.check_unchanged()
        except DataError as error:
            error.location = error.location or scan.location
            raise


def _caches(job: Job) -> list[Cache]:
    """The tables that the user asked to keep."""
    return [c for c in find((job,), Cache) if c.key]


def _at_rest(control: LoopControl | None) -> LoopControl | None:
    """The control with a callback that may run plans of its own: between iterations none runs."""
    if control is None or control.on_iteration is None:
        return control
    on_iteration = control.on_iteration

    def call(number: int, env: Any) -> Any:
        _running.plan = False
        try:
            return on_iteration(number, env)
        finally:
            _running.plan = True

    return replace(control, on_iteration=call)


def _kept_constant(node: Expression, value: Any) -> Expression:
    """A kept result in its type: a weak number stays weak."""
    kind = node.type
    if value is None or kind.is_object or kind.is_list:
        return Held("kept", kind, node.digest.hex(), value)
    return Constant(kind.python(value)) if kind.weak else constant(value)


def _kept_rows(node: LoopTable, rows: StateRows) -> KeptSource:
    """A table of a loop's result, as it lay in the loop."""
    size = sum(b.rows for b in rows.blocks) * rows.schema.bytes_per_row
    parts = dict(enumerate(rows.parts))
    return KeptSource(KeptTable(node.digest.hex(), node.schema, len(parts), size, parts))


def current_session() -> Session:
    """The session of the innermost `with so.session(...)`, else one for this process."""
    global _default
    around = _open.get()
    if around:
        return around[-1]
    if _default is None:
        _default = Session()
    return _default


def session(uri: str | None = None, /, **options: Any) -> Session:
    """A session with options, for a `with` statement.

    With `workers=4` plans run on so many processes of this machine; with a URI, as in
    `so.session("tcp://host:5555", key="driver.secret")`, on the workers of a running cluster.

    Other options: threads (with workers: of each), memory ("4GB"), opaque ("run" or "error"),
    implicit_collect, processes, task_timeout, folds ("auto", "threads" or "processes"), jit ("auto"
    or a bool); of workers fan_in and lease. Those not given are those given to
    the session around it, then those of SCALOPS_* variables, of the nearest scalops.toml, the
    defaults.
    """
    if uri is not None:
        options = dict(connect=uri, **options)
    given = given_options(options)
    around = _open.get()
    return Session(inherited(around[-1].given, given) if around else given)


def config(**call: Any) -> Config:
    """The options in force here, each with where it came from; print it.

    With options, those that `so.collect(..., **call)` would run with.
    """
    return current_session().config.for_call(_of_one_run(call))


def _of_one_run(call: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(call, "collect()", OF_ONE_RUN)
    return given_options(call)


def collect(*things: Any, listen: Any = None, **options: Any) -> Any:
    """Run several tables, values and loops as one job, sharing what they share.

    Nested dicts, lists and tuples of them give the same nesting. `options`: threads and memory
    for this run alone.
    """
    refuse_to_run("a collected result", "use the tables, values and loops themselves")
    call = _of_one_run(options)
    wanted = things[0] if len(things) == 1 else things
    leaves = take_leaves(wanted)
    results = current_session().run(_wanted(leaves), listen, call)
    return rebuild(wanted, iter(zip(leaves, results, strict=True)))


def measure(leaves: Sequence[Any], recorder: Recorder) -> None:
    """Run tables, values and loops as `collect` would, and keep what it would keep.

    The whole plan is run, whatever the session has kept of it; the recorder hears of it.
    """
    refuse_to_run("a collected result", "use the tables, values and loops themselves")
    current_session().run(_wanted(leaves), recorder=recorder)


def _wanted(leaves: Sequence[Any]) -> tuple[Node, ...]:
    """The nodes of a job; PlanError where one of them can be no result."""
    for leaf in leaves:
        if isinstance(leaf, Value) and is_record_symbol(leaf):
            raise PlanError(
                "a record's symbol is used outside its row function", location=user_location()
            )
    nodes = tuple(_node(leaf) for leaf in leaves)
    refuse_number(nodes, "a collected result")
    return nodes


def run_loop(loop: AnyLoop, listen: Any = None, control: LoopControl | None = None) -> LoopResult:
    """Run one loop; its environment, iterations, history and profile."""
    refuse_number([loop.loop_plan], "a collected result")
    (outcome,) = current_session().run((loop.loop_plan,), listen, control=control)
    return loop_result(loop, outcome)


def _node(leaf: Any) -> Node:
    if isinstance(leaf, AnyLoop):
        return leaf.loop_plan
    if isinstance(leaf, Table):
        return leaf.plan
    expression: Expression = leaf.expression
    return expression
