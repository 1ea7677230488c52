"""Sessions: where plans run, with which options, and what is kept between runs."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scalops.algebra.errors import ConfigError, DataError, PlanError, user_location
from scalops.algebra.expressions import Constant, Expression, LoopOutput, constant
from scalops.algebra.operators import Job, Scan
from scalops.algebra.operators import Loop as LoopPlan
from scalops.algebra.tree import Node, find, substitute
from scalops.algebra.validate import validate
from scalops.checks import check_traces
from scalops.engine.threads import in_engine_thread
from scalops.loop import BareLoop, Loop, LoopResult
from scalops.not_yet import refuse
from scalops.planning import execute
from scalops.results import loop_result, rebuild, take_leaves
from scalops.table import Table
from scalops.tracing import refuse_to_run
from scalops.value import Value, is_record_symbol

if TYPE_CHECKING:
    from scalops.engine.processes import ProcessRunner


@dataclass(frozen=True)
class Options:
    """What a session may be told.

    threads: how many threads work on partitions; 0 means one per usable core.
    memory: bytes that caches and buffers may take together; None means 60 % of what is free.
    opaque: "run" or "error", whether functions that cannot be traced may run record by record.
    implicit_collect: whether float(v), int(v), bool(v) and np.asarray(v) run the plan of v.
    processes: how many worker processes call opaque functions; 0 means this process does.
    """

    threads: int = 0
    memory: int | None = None
    opaque: str = "run"
    implicit_collect: bool = True
    processes: int = 0


_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def _memory(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    text = str(value).strip().upper()
    digits = text.rstrip("KMGTIB").strip()
    unit = text[len(digits) :].strip()
    try:
        size = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(
            f"memory is {value!r}; expected bytes, or a text such as '4GB' or '512MiB'",
            location=user_location(),
        )
    return size


def _threads(value: Any) -> int:
    return _count("threads", value)


def _processes(value: Any) -> int:
    return _count("processes", value)


def _count(name: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0 or isinstance(value, bool) or str(count) != str(value).strip():
        raise ConfigError(
            f"{name} is {value!r}; expected an int of at least 0", location=user_location()
        )
    return count


def _opaque(value: Any) -> str:
    if value not in ("run", "error"):
        raise ConfigError(
            f"opaque is {value!r}; expected 'run' or 'error'", location=user_location()
        )
    return str(value)


def _flag(value: Any) -> bool:
    known = {"1": True, "true": True, "0": False, "false": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() in known:
        return known[str(value).lower()]
    raise ConfigError(
        f"implicit_collect is {value!r}; expected true or false", location=user_location()
    )


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "threads": _threads, "memory": _memory, "opaque": _opaque, "implicit_collect": _flag,
    "processes": _processes,
}  # fmt: skip


def options_from(given: Mapping[str, Any], base: Options) -> Options:
    """Options with some of them replaced; ConfigError for unknown names and senseless values."""
    known = [f.name for f in fields(Options)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            f"a session has no option {unknown}; its options are {known}",
            location=user_location(),
        )
    return replace(base, **{name: _PARSERS[name](value) for name, value in given.items()})


def _environment_options() -> Options:
    given = {
        f.name: os.environ[f"SCALOPS_{f.name.upper()}"]
        for f in fields(Options)
        if f"SCALOPS_{f.name.upper()}" in os.environ
    }
    return options_from(given, Options())


class Session:
    """An embedded session: plans run in this process, on threads.

    A Value's or Loop's result is kept here once collected, and later plans use it.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._results: WeakKeyDictionary[Node, Any] = WeakKeyDictionary()
        self._checked: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._tokens: list[contextvars.Token[Session | None]] = []
        self._runner: ProcessRunner | None = None

    def __enter__(self) -> Session:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())
        if not self._tokens:  # the outermost of nested blocks ends it
            self.close()

    def close(self) -> None:
        """Drop what the session keeps, and end its worker processes."""
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop()
        self._results.clear()
        self._checked.clear()

    def forget(self, thing: Any) -> None:
        """Drop the kept result of a Value or Loop."""
        nodes: list[Node] = [thing.expression] if isinstance(thing, Value) else []
        if isinstance(thing, (Loop, BareLoop)):
            nodes.append(thing.plan)
        for node in nodes:
            self._results.pop(node, None)

    def run(self, nodes: tuple[Node, ...], listen: Any = None) -> list[Any]:
        """Run the nodes as one job; results in the same order."""
        if getattr(_running, "plan", False) or in_engine_thread():
            # The engine's threads would wait for themselves.
            raise PlanError(
                "collect() is called while a plan runs, from one of its functions",
                location=user_location(),
                hint="collect before, or let the function use the Value itself",
            )
        job = Job(nodes)
        validate(job)
        for scan in find((job,), Scan):
            source: Any = scan.source
            try:
                source.check_unchanged()
            except DataError as error:
                error.location = error.location or scan.location
                raise
        with self._lock:
            check_traces(job, self._checked)
            kept = self._kept(job)
            open_nodes = [n for n in nodes if n not in self._results]
            if open_nodes:
                rewritten = tuple(substitute(n, kept) for n in open_nodes)
                _running.plan = True
                try:
                    results = execute(Job(rewritten), self.options, listen, self._processes())
                finally:
                    _running.plan = False
                for node, result in zip(open_nodes, results, strict=True):
                    if isinstance(node, (Expression, LoopPlan)):  # not tables: they are large
                        self._results[node] = result
                fresh = dict(zip(open_nodes, results, strict=True))
            else:
                fresh = {}
            return [fresh[n] if n in fresh else self._results[n] for n in nodes]

    def _processes(self) -> ProcessRunner | None:
        """What calls opaque functions in other processes; they start when it is first asked."""
        if self.options.processes and self._runner is None:
            from scalops.engine.processes import ProcessRunner

            self._runner = ProcessRunner(self.options.processes)
        return self._runner

    def _kept(self, job: Job) -> dict[Node, Node]:
        """What of the job is known from earlier runs, as constants."""
        kept: dict[Node, Node] = {}
        for node in find((job,), Expression):
            if isinstance(node, Constant):
                continue
            if node in self._results:
                kept[node] = _kept_constant(node, self._results[node])
            elif isinstance(node, LoopOutput) and node.loop in self._results:
                outcome = self._results[node.loop]
                kept[node] = constant(outcome.value(node.name))
        return kept


_running = threading.local()
_current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("session", default=None)
_default: Session | None = None


def _kept_constant(node: Expression, value: Any) -> Constant:
    """A kept result in its type: a weak number stays weak."""
    kind = node.type
    return Constant(kind.python(value)) if kind.weak else constant(value)


def current_session() -> Session:
    """The session of the innermost `with so.session(...)`, else one for this process."""
    global _default
    session = _current.get()
    if session is not None:
        return session
    if _default is None:
        _default = Session(_environment_options())
    return _default


def session(uri: str | None = None, **options: Any) -> Session:
    """A session with options, for a `with` statement.

    Options: threads, memory ("4GB"), opaque ("run" or "error"), implicit_collect, processes.
    Those not given come from SCALOPS_* variables, then from the defaults.
    """
    if uri is not None or "workers" in options or "key" in options or "objective" in options:
        refuse("a session on workers or with an objective")
    return Session(options_from(options, _environment_options()))


def collect(*things: Any, listen: Any = None) -> Any:
    """Run several tables, values and loops as one job, sharing what they share.

    Nested dicts, lists and tuples of them give the same nesting.
    """
    refuse_to_run("a collected result", "use the tables, values and loops themselves")
    wanted = things[0] if len(things) == 1 else things
    leaves = take_leaves(wanted)
    for leaf in leaves:
        if isinstance(leaf, Value) and is_record_symbol(leaf):
            raise PlanError(
                "a record's symbol is used outside its row function", location=user_location()
            )
    nodes = tuple(_node(leaf) for leaf in leaves)
    results = current_session().run(nodes, listen)
    return rebuild(wanted, iter(zip(leaves, results, strict=True)))


def run_loop(loop: Loop | BareLoop, listen: Any = None) -> LoopResult:
    """Run one loop; its environment, iterations, history and profile."""
    (outcome,) = current_session().run((loop.plan,), listen)
    return loop_result(loop, outcome)


def _node(leaf: Any) -> Node:
    if isinstance(leaf, (Loop, BareLoop, Table)):
        return leaf.plan
    expression: Expression = leaf.expression
    return expression
