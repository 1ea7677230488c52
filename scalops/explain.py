"""EXPLAIN: a plan at any stage, as text or JSON, without running anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.deep_json import deep_json
from scalops.algebra.errors import ConfigError, user_location
from scalops.algebra.explain import FORMAT_VERSION, Display, PlanPrinter, bytes_text
from scalops.algebra.fingerprint import fingerprint
from scalops.algebra.segment_folds import Segment
from scalops.algebra.tree import Node, find, walk
from scalops.algebra.validate import validate
from scalops.clusters import workers_of
from scalops.deciding import decide
from scalops.engine import physical_display
from scalops.engine.cluster_display import ClusterNotes
from scalops.engine.recording import ProfileRecorder
from scalops.just_in_time import just_in_time
from scalops.loop import AnyLoop
from scalops.optimizer.cardinality import Estimates
from scalops.optimizer.column_invariance import invariant_columns
from scalops.optimizer.duplicates import DISTINCT_RECORDS, records_of
from scalops.optimizer.lowering import lower
from scalops.optimizer.rewriter import Firing
from scalops.plan_figures import cost_figures
from scalops.planning import optimize, place, with_notes
from scalops.profiles import machine
from scalops.results import take_leaves
from scalops.table import Table

if TYPE_CHECKING:
    from scalops.analyzing import Analysis
    from scalops.plan_figures import CostFigures

STAGES = ("traced", "logical", "optimized", "physical")
FORMATS = ("text", "json", "dot", "mermaid", "html")
_GRAPHS = ("dot", "mermaid")
_COUNTED = (op.Filter, op.Distinct, rel.Join, rel.GroupAggregate)  # of which rows are estimated


def explain(
    *things: Any,
    stage: str | None = None,
    format: str = "text",
    trace: bool = False,
    analyze: bool = False,
    costs: bool = True,
) -> str:
    """The plan that `so.collect(*things)` would run: of tables, values, loops, nestings of them.

    `stage`: traced (as written, with the user's lines), logical (as the optimizer gets it),
    optimized (if nothing is said), physical, or all. `format`: text (at most 100 columns), json,
    dot (Graphviz), mermaid, or html (one page that needs no network). `trace` adds what each rule
    did; not to a drawing. `costs`: the physical plan with what its parts are estimated to take, by
    the rates that `scalops calibrate` has measured, else by assumed ones. Nothing is run.

    With `analyze` it is run, as `so.collect` would, and the physical plan shown with what was
    estimated beside what happened. Raises what `so.collect` raises.
    """
    if stage is None:
        stage = "physical" if analyze else "optimized"
    _require("stage", stage, (*STAGES, "all"))
    _require("format", format, FORMATS)
    if analyze and stage != "physical":
        _refuse_stage(stage)
    if trace and format in _GRAPHS:
        _refuse_trace(format)
    wanted = things[0] if len(things) == 1 else things
    leaves = take_leaves(wanted, "explain")
    job = op.Job(tuple(_node(leaf) for leaf in leaves))
    validate(job)
    optimized, firings = optimize(job)
    analysis = _analysis(leaves, optimized, costs) if analyze else None
    if analysis is not None:
        displays = {stage: analysis.display}
    else:
        stages = STAGES if stage == "all" else (stage,)
        displays = {name: _display(name, job, optimized, firings, costs) for name in stages}
    if format in _GRAPHS:
        return _graph_text(displays, format)
    if format == "text":
        return _text(displays, firings if trace else None, analysis)
    made = _data(displays, firings if trace else None, analysis)
    return _page_text(made) if format == "html" else deep_json(made, indent=2)


def _text(
    displays: dict[str, Display], firings: list[Firing] | None, analysis: Analysis | None
) -> str:
    parts = []
    for name, shown in displays.items():
        parts.append(f"-- {name}\n{shown.to_text()}" if len(displays) > 1 else shown.to_text())
    if analysis is not None:
        parts.append(analysis.summary())
    if firings is not None:
        parts.append(_trace_text(firings))
    return "\n\n".join(parts)


def _data(
    displays: dict[str, Display], firings: list[Firing] | None, analysis: Analysis | None
) -> dict[str, Any]:
    """What JSON and pages have: see docs/explain.md and docs/explain.schema.json."""
    made: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "stages": {name: d.to_dict() for name, d in displays.items()},
    }
    if analysis is not None:
        made["analysis"] = analysis.to_dict()
    if firings is not None:
        made["trace"] = [
            {"phase": f.phase, "rule": f.rule, "before": _tree(f.before), "after": _tree(f.after)}
            for f in firings
        ]
    return made


def _analysis(leaves: list[Any], optimized: op.Job, costs: bool) -> Analysis:
    """Run what is explained, and compare."""
    from scalops.analyzing import analyzed
    from scalops.session import measure

    display, figures = _physical(optimized, costs)
    recorder = ProfileRecorder()
    measure(leaves, recorder)
    return analyzed(display, figures if costs else None, recorder.profile())


def _graph_text(displays: dict[str, Display], format: str) -> str:
    if format == "dot":
        from scalops.reports.dot import to_dot

        return to_dot(displays)
    from scalops.reports.mermaid import to_mermaid

    return to_mermaid(displays)


def _page_text(explained: dict[str, Any]) -> str:
    from scalops.reports.plan_page import plan_page

    return plan_page(explained)


def _refuse_stage(stage: str) -> None:
    raise ConfigError(
        f"explain's stage is {stage!r}, and analyze=True measures the physical plan; expected no"
        " stage, or 'physical'",
        location=user_location(),
        hint="the other stages are shown without analyze",
    )


def _refuse_trace(format: str) -> None:
    raise ConfigError(
        f"explain's format {format!r} draws a plan and has no place for trace=True; expected one of"
        " text, json, html with it",
        location=user_location(),
    )


def _require(what: str, given: str, known: tuple[str, ...]) -> None:
    if not isinstance(given, str) or given not in known:
        raise ConfigError(
            f"explain's {what} is {given!r}; expected one of {', '.join(known)}",
            location=user_location(),
        )


def _node(leaf: Any) -> Node:
    if isinstance(leaf, AnyLoop):
        return leaf.loop_plan
    node: Node = leaf.plan if isinstance(leaf, Table) else leaf.expression
    return node


def _display(
    name: str, job: op.Job, optimized: op.Job, firings: list[Firing], costs: bool
) -> Display:
    if name == "physical":
        made, figures = _physical(optimized, costs)
        if costs:
            figures.show(made)
        return made
    if name == "traced":
        return PlanPrinter(job).display(job)
    if name == "logical":
        return _Plain(job).display(job)
    notes = _Notes(optimized, firings)
    made = PlanPrinter(optimized, notes=notes).display(optimized)
    made.details.append(("fingerprint", fingerprint(optimized)))
    return made


def _physical(optimized: op.Job, costs: bool) -> tuple[Display, CostFigures]:
    """The physical plan, and what it is estimated to take; decisions only with their `costs`."""
    from scalops.session import current_session  # which imports tables

    session = current_session()
    options, rates = session.options, machine()
    planned = just_in_time(lower(optimized), options.jit)
    decided = decide(planned, options, rates, session.attached)
    processes: frozenset[int] = frozenset()
    if decided.neutral.workers:
        known = options.connect is None or bool(session.attached)
        cluster = ClusterNotes(planned, workers_of(decided, options, known))
        made = physical_display.display(planned, cluster)
        made.workers = cluster.layout()
    else:
        placed = place(planned, options, session.processes())
        processes = frozenset() if placed is None else placed.stages
        made = physical_display.display(with_notes(planned, placed))
    if costs:
        made.details += [("decided", str(decision)) for decision in decided.decisions]
    return made, cost_figures(planned, options, rates, decided, processes)


class _Plain(PlanPrinter):
    """A printer without the user's words and lines: only what takes part in the plan."""

    def display(self, node: Node) -> Display:
        made = super().display(node)
        made.location = None
        return made

    def _title(self, node: Node) -> str:
        title = super()._title(node)
        label = getattr(node, "label", "")
        return title.replace(f" [{label}]", "", 1) if label else title


class _Notes:
    """What the optimizer knows of each node: invariance, cache and estimates, rules."""

    def __init__(self, job: op.Job, firings: list[Firing]) -> None:
        loops = [n for n in walk(job) if isinstance(n, op.Loop)]
        self._once = {
            a for loop in loops for _, e in loop.bindings for a in find((e,), op.Aggregate)
        }
        self._looped = {c for loop in loops for c in find((loop.body,), op.Cache)}
        self._fired = {f.rule for f in firings}
        self._estimates = Estimates(job)

    def _fusing(self, node: op.MapReduceUpdate) -> Iterable[str]:
        """The rules behind a fused pass, as far as they fired and show in it."""
        traces = {
            "merge_maps": True,
            "contract_groups": any(isinstance(f, Segment) and not f.over for f in node.reduce),
            "merge_aggregates": len(node.reduce) > 1,
            "contract_one_hots": any(isinstance(f, Segment) and f.over for f in node.reduce),
            "contract_products": any("scaled" in f.kind or "outer" in f.kind for f in node.reduce),
            "share_common_expressions": bool(node.map),
            "fuse_map_reduce_update": True,
        }
        return [rule for rule, shows in traces.items() if shows and rule in self._fired]

    def _why_cached(self, node: op.Cache) -> str:
        if node.key:
            return "by your cache(), kept for later plans"
        if node in self._looped:
            return "invariant, computed once by cache_invariants"
        return "read by several, computed once by cache_shared"

    def __call__(self, node: Node) -> Iterable[tuple[str, str]]:
        if isinstance(node, op.Cache):
            guess = self._estimates.of(node)
            yield (
                "cached",
                f"{self._why_cached(node)}: {_rows(guess.rows)} rows,"
                f" {bytes_text(guess.bytes)} ({guess.provenance})",
            )
            yield "holds", str(node.schema)
        elif isinstance(node, op.Loop):
            if node.bindings:
                yield "once", "before the first iteration, by hoist_invariants"
            stays, presumed = invariant_columns(node)
            if stays:
                yield "stays", f"invariant columns of the state: {', '.join(stays)}"
            if presumed:
                yield "stays", f"presumed: {', '.join(presumed)}; the engine checks"
        elif isinstance(node, op.Aggregate):
            if node in self._once:
                yield "runs", "once, before the loop"
        elif isinstance(node, op.MapReduceUpdate):
            yield "fused", ", ".join(self._fusing(node))
        elif isinstance(node, rel.GroupAggregate) and node.label == DISTINCT_RECORDS:
            yield "collapsed", _collapsed(node, self._estimates)
        elif isinstance(node, _COUNTED):
            guess = self._estimates.of(node)
            yield "rows", f"{_rows(guess.rows)} ({guess.provenance})"


def _rows(count: float) -> str:
    return f"{count:,.0f}".replace(",", "_")


def _collapsed(node: rel.GroupAggregate, estimates: Estimates) -> str:
    """How many records become how many distinct ones, and how that is known."""
    given = estimates.of(node.source)
    found = records_of(node, given.rows)
    if found is None:
        return f"{_rows(given.rows)} records to distinct ones, by collapse_duplicates"
    many = f"{'about' if found.sampled else 'at most'} {_rows(found.likely)} distinct"
    how = f"from {_rows(found.sampled)} of them" if found.sampled else "from types and metadata"
    return f"{_rows(given.rows)} records to {many} (estimated {how}), by collapse_duplicates"


def _tree(node: Node) -> dict[str, Any]:
    return PlanPrinter(node).display(node).to_dict()


def _trace_text(firings: list[Firing]) -> str:
    lines = ["-- trace"]
    for firing in firings:
        before = _block("before", firing.before)
        after = _block("after", firing.after)
        lines.append(f"{firing.phase}: {firing.rule}")
        lines.extend([*before, *after])
    return "\n".join(lines)


def _block(label: str, node: Node) -> list[str]:
    text = PlanPrinter(node).display(node).to_text().splitlines()
    return [f"  {label}", *(f"    {line}"[:100] for line in text)]
