"""Plans for readers: one display tree, for every stage and format."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from scalops.algebra import expressions as ex
from scalops.algebra import operators as op
from scalops.algebra import relations as rel
from scalops.algebra.deep_json import deep_json
from scalops.algebra.figures import bytes_text as bytes_text
from scalops.algebra.figures import figure_lines
from scalops.algebra.folds import OpaqueAggregate
from scalops.algebra.printing import (
    constant_text,
    fold_text,
    range_text,
    running_text,
    table_title,
    text,
)
from scalops.algebra.tree import Node, walk

WIDTH = 100
_DEEPEST = 24  # a plan deeper than this (an unrolled loop) is not indented any further
FORMAT_VERSION = 1


@dataclass
class Display:
    """A line of a plan with its details and what it reads.

    `name`: what other lines call it (`@1`, `#1`, `loop1`, `t1`); a second line of the same name
    stands for the first one ("as above"). `reads`: names of lines that it reads and that do not
    stand below it. `is_loop`: what is below it runs in each iteration. `workers`: of a plan that
    runs on some, who sends to whom and who has what, as plain data for pictures. Lines of a
    physical plan say which operator of which stage they show, or which loop, by its index.
    """

    title: str
    details: list[tuple[str, str]] = field(default_factory=list)
    children: list[Display] = field(default_factory=list)
    location: str | None = None
    figures: dict[str, float | str] = field(default_factory=dict)  # see figures.py
    name: str | None = None
    reads: list[str] = field(default_factory=list)
    is_loop: bool = False
    workers: dict[str, Any] | None = None
    of_stage: tuple[int, int] | None = None
    of_loop: int | None = None

    def to_text(self) -> str:
        """Indented lines no wider than WIDTH."""
        lines: list[str] = []
        stack = [(self, 0)]
        while stack:
            node, depth = stack.pop()
            _write(node, min(depth, _DEEPEST), lines)
            stack.extend((child, depth + 1) for child in reversed(node.children))
        return "\n".join(lines)

    def lines(self) -> Iterator[Display]:
        """This line and all below it, as they are printed."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; empty parts are left out."""
        whole = self._own_data()
        stack = [(self, whole)]
        while stack:
            node, made = stack.pop()
            if node.children:
                made["children"] = [child._own_data() for child in node.children]
                stack.extend(zip(node.children, made["children"], strict=True))
        return whole

    def _own_data(self) -> dict[str, Any]:
        made: dict[str, Any] = {"title": self.title}
        if self.name:
            made["name"] = self.name
        if self.reads:
            made["reads"] = list(self.reads)
        if self.is_loop:
            made["is_loop"] = True
        if self.location:
            made["location"] = self.location
        if self.details:
            made["details"] = [{"label": label, "text": value} for label, value in self.details]
        if self.figures:
            made["figures"] = dict(self.figures)
        if self.workers is not None:
            made["workers"] = self.workers
        return made

    def to_json(self) -> str:
        """JSON with a format version."""
        return deep_json({"version": FORMAT_VERSION, "plan": self.to_dict()}, indent=2)


def _write(node: Display, depth: int, lines: list[str]) -> None:
    title = node.title if node.location is None else f"{node.title}  ({node.location})"
    lines.extend(_wrapped(title, "  " * depth, "  " * depth + "      "))
    details = [*node.details, *figure_lines(node.figures)]
    width = max((len(label) for label, _ in details), default=0)
    previous = None
    for label, value in details:
        shown = label if label != previous else ""
        previous = label
        indent = "  " * (depth + 1)
        lines.extend(
            _wrapped(f"{shown:<{width}}  {value}", f"{indent}· ", f"{indent}  {'':<{width}}      ")
        )


def _wrapped(line: str, first: str, rest: str) -> list[str]:
    """Lines of at most WIDTH; a part with no space to break at is cut, not overflowed."""
    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest[: WIDTH // 2],
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [first.rstrip()]


class PlanPrinter:
    """Builds the display tree of a logical plan.

    `notes(node)` may add details to a node: estimates, invariance.
    """

    def __init__(
        self, *roots: Node, notes: Callable[[Node], Iterable[tuple[str, str]]] = lambda node: ()
    ) -> None:
        self._notes = notes
        self._shown: set[Node] = set()
        self.names: dict[Node, str] = {}
        self._shared: dict[Node, str] = {}
        parents: dict[Node, int] = {}
        order = list(walk(*roots))
        for node in order:
            for child in {*_inputs(node)}:
                parents[child] = parents.get(child, 0) + 1
        loops = aggregates = tables = 0
        for node in order:
            if isinstance(node, op.Aggregate):
                aggregates += 1
                self.names[node] = f"#{aggregates}"
            elif isinstance(node, op.Loop):
                loops += 1
                self.names[node] = f"loop{loops}"
            elif parents.get(node, 0) > 1 and _inputs(node):
                tables += 1
                self._shared[node] = f"@{tables}"

    def display(self, node: Node) -> Display:
        """The display tree of a table, value or job."""
        roots: list[Display] = []
        stack: list[tuple[Node, list[Display]]] = [(node, roots)]
        while stack:
            node, siblings = stack.pop()
            made, inputs = self._line(node)
            siblings.append(made)
            headed = self._headed(node, made, inputs)
            rest = [child for child in inputs if child not in headed]
            stack.extend((child, made.children) for child in reversed(rest))
            stack.extend((child, own) for child, own in reversed(headed.items()))
        return roots[0]

    def _headed(self, node: Node, made: Display, inputs: list[Node]) -> dict[Node, list[Display]]:
        """The tables of a loop's environment, each with the list of lines under its heading."""
        headed: dict[Node, list[Display]] = {}
        if isinstance(node, (op.Loop, op.Update)) and inputs:
            word = "starts as" if isinstance(node, op.Loop) else "becomes"
            for table in dict.fromkeys(t for _, t in node.tables):
                names = " and ".join(n for n, t in node.tables if t == table)
                many = names.count(" and ") > 0 and word == "starts as"
                heading = Display(f"{names} {'start as' if many else word}")
                made.children.append(heading)
                headed[table] = heading.children
        return headed

    def _line(self, node: Node) -> tuple[Display, list[Node]]:
        """One line of the plan, and what stands below it."""
        if isinstance(node, ex.Expression):
            return Display(f"Value {self._text(node)}"), _inputs(node)
        title = self._title(node)
        if node in self._shown and (node in self.names or node in self._shared):
            words = title.split(" ")[0] if not isinstance(node, op.Loop) else title.split(":")[0]
            above = Display(f"{self._mark(node)}{words} as above", name=self._name(node))
            return above, []
        self._shown.add(node)
        made = Display(self._mark(node) + title, self._details(node), name=self._name(node))
        made.is_loop = isinstance(node, op.Loop)
        if node.location is not None and not isinstance(node, op.Job):
            made.location = str(node.location)
        made.details.extend(self._notes(node))
        return made, _inputs(node)

    def _name(self, node: Node) -> str | None:
        return self.names.get(node) or self._shared.get(node)

    def _mark(self, node: Node) -> str:
        name = None if isinstance(node, op.Loop) else self._name(node)
        return f"{name} " if name else ""

    def _text(self, expression: ex.Expression) -> str:
        return text(expression, self.names)

    def _title(self, node: Node) -> str:
        match node:
            case op.Scan(source=source):
                return f"Scan {source.title}"
            case op.Project(source=source, label=label, outputs=outputs):
                word = "Project" if not label else f"Project [{label}]"
                return f"{word} {self._outputs(outputs, source.schema.types)}"
            case op.Filter(predicate=predicate, indexed=indexed):
                once = ", positions computed once" if indexed else ""
                return f"Filter {self._text(predicate)}{once}"
            case op.Limit(count=count):
                return f"Limit {count}"
            case op.Repartition(count=count):
                return f"Repartition {count}"
            case op.Slice() | op.Sort() | op.WithRowIndex() | op.Explode() | op.MapBatches():
                return table_title(node, self.names)
            case op.Expand(records=records, source=source):
                shown = [self._outputs(r, source.schema.types) for r in records]
                return f"Expand [{' | '.join(shown)}]"
            case op.Cache(key=key) if key:
                return "Cache [cache]"
            case op.Loop():
                return self._loop_title(node)
            case op.Update():
                return "Update each iteration"
            case rel.GroupApply() | rel.Join() | rel.GroupAggregate() | op.Distinct():
                return table_title(node, self.names)
            case rel.Cumulate(columns=columns):
                return f"Cumulate {', '.join(running_text(c, self.names) for c in columns)}"
            case rel.StateTable(name=name):
                return "StateTable env" if name == "value" else f"StateTable env.{name}"
            case rel.LoopTable(loop=loop, name=name):
                own = self.names.get(loop, "loop")
                return f"LoopTable {own}" if name == "value" else f"LoopTable {own}.{name}"
            case op.MapReduceUpdate():
                return "MapReduceUpdate one pass each iteration"
            case _:
                return type(node).__name__

    def _outputs(self, outputs: tuple[op.Named, ...], kinds: Any) -> str:
        """Kept columns by name, runs of them shortened; new ones as name = algebra."""
        parts: list[str] = []
        kept: list[str] = []

        def flush() -> None:
            if len(kept) > 6:
                parts.append(f"{kept[0]}, {kept[1]}, …, {kept[-1]} ({len(kept)} columns)")
            else:
                parts.extend(kept)
            kept.clear()

        for name, e in outputs:
            if isinstance(e, ex.Column) and e.name == name:
                kept.append(name)
                continue
            flush()
            parts.append(f"{name} = {self._text(e)}")
        flush()
        return ", ".join(parts)

    def _loop_title(self, node: op.Loop) -> str:
        parts = []
        if node.condition is not None:
            parts.append(f"while {self._text(node.condition)}")
        if node.range is not None:
            parts.append(range_text(node.range, self.names))
        if node.max_iterations is not None:
            parts.append(f"at most {node.max_iterations} times")
        name = f" {node.name}" if node.name and node.name != "<lambda>" else ""
        return f"Loop {self.names.get(node, '')}{name}: {', '.join(parts)}"

    def _details(self, node: Node) -> list[tuple[str, str]]:
        details: list[tuple[str, str]] = []
        match node:
            case op.Scan(source=source):
                details.append(("columns", _columns(node.schema.fields)))
                pruned = getattr(source, "pruned_text", None)
                if pruned is not None:
                    details.append(("pruned", pruned))
            case op.Aggregate(folds=folds) | rel.GroupAggregate(folds=folds):
                details.extend(("fold", f"{f.name} = {fold_text(f, self.names)}") for f in folds)
            case op.Update(update=update, tables=tables):
                details.extend(("update", f"{n} = {self._text(e)}") for n, e in update)
                details.extend(("update", f"{n} = the table below") for n, _ in tables)
            case op.MapReduceUpdate(map=mapped, reduce=folds, update=update):
                details.extend(("map", f"{n} = {self._text(e)}") for n, e in mapped)
                details.extend(("reduce", f"{f.name} = {fold_text(f, self.names)}") for f in folds)
                details.extend(("update", f"{n} = {self._text(e)}") for n, e in update)
            case op.Loop(start=start, bindings=bindings):
                for (name, e), kind in zip(start, node.types, strict=True):
                    shown = constant_text(e.value) if isinstance(e, ex.Constant) else self._text(e)
                    details.append(("state", f"{name}: {kind} starts at {shown}"))
                for name, table in node.tables:
                    shown = _columns(table.schema.fields)
                    details.append(("state", f"{name}: table ({shown}) starts as below"))
                details.extend(("once", f"{n} = {self._text(e)}") for n, e in bindings)
        details.extend(self._opaque(node))
        return details

    def _opaque(self, node: Node) -> list[tuple[str, str]]:
        if isinstance(node, rel.GroupApply):
            f = node.function
            why = f" {f.reason}" if f.reason else ""
            return [("opaque", f"{f.name}{why} ({f.location}); called once per group")]
        if isinstance(node, op.MapBatches):
            f = node.function
            return [("opaque", f"{f.name} {f.reason} ({f.location}); called once per batch")]
        found: dict[tuple[str, str], None] = {}
        for fold in node.children:
            if isinstance(fold, OpaqueAggregate):
                f = fold.transition
                shown = f"{f.name} {f.reason} ({f.location}); called once per record"
                found["opaque", shown] = None
        for child in own_expressions(node):
            for inner in ex.within([child]):
                if isinstance(inner, ex.Opaque):
                    f = inner.function
                    shown = f"{f.name} {f.reason} ({f.location}); called once per record"
                    found["opaque", shown] = None
                elif isinstance(inner, ex.DriverCall):
                    f = inner.function
                    found["call", f"{f.name} ({f.location}); called at the driver"] = None
        return list(found)


def _columns(fields: Iterable[tuple[str, Any]]) -> str:
    parts = [f"{name}: {kind}" for name, kind in fields]
    if len(parts) > 8:
        parts = [*parts[:3], "…", parts[-1], f"({len(parts)} columns)"]
    return ", ".join(parts) if "…" not in parts else ", ".join(parts[:-1]) + f" {parts[-1]}"


def own_expressions(node: Node) -> list[ex.Expression]:
    """The expressions that a node holds itself, its folds' included."""
    found: list[ex.Expression] = []
    for child in node.children:
        if isinstance(child, ex.Expression):
            found.append(child)
        elif not isinstance(child, op.Operator):
            found.extend(c for c in child.children if isinstance(c, ex.Expression))
    return found


def _inputs(node: Node) -> list[Node]:
    """Operators that a node reads: its tables, and those behind its expressions."""
    found: dict[Node, None] = {}
    if isinstance(node, op.Job):
        return list(dict.fromkeys(node.outputs))
    if isinstance(node, ex.Expression):
        roots: list[ex.Expression] = [node]
    else:
        roots = own_expressions(node)
    for root in roots:
        for inner in reversed(ex.within([root])):
            if isinstance(inner, ex.Subquery):
                found[inner.source] = None
            elif isinstance(inner, ex.LoopOutput):
                found[inner.loop] = None
    if not isinstance(node, ex.Expression):
        found.update(dict.fromkeys(c for c in node.children if isinstance(c, op.Operator)))
    return list(found)
