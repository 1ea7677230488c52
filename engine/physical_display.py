"""The physical plan for readers: stages, the driver's program, numeric decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from scalops.algebra import expressions as ex
from scalops.algebra.explain import Display
from scalops.algebra.figures import bytes_text
from scalops.algebra.printing import fold_text, range_text, running_text, text
from scalops.algebra.tree import Node, find
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr
from scalops.engine.blocks import BLOCK_BYTES, block_rows
from scalops.engine.display_relations import probe_title, relation_details
from scalops.engine.display_sparse import sparse_details
from scalops.engine.physical_running import Accumulate, SummarizeRuns
from scalops.engine.reduction import LEAF_FACTOR, leaf_bytes, leaf_count
from scalops.engine.stage_operators import operators_of

Details = list[tuple[str, str]]


class Notes(Protocol):
    """What is to be said of a plan's parts beyond what is in the plan."""

    def plan(self) -> Details: ...
    def stage(self, stage: pp.Stage) -> Details: ...
    def loop(self, loop: pp.Iterate) -> Details: ...


class _Nothing:
    def plan(self) -> Details:
        return []

    def stage(self, stage: pp.Stage) -> Details:
        return []

    def loop(self, loop: pp.Iterate) -> Details:
        return []


def display(plan: pp.PhysicalPlan, notes: Notes | None = None) -> Display:
    """The program in the order in which it runs, each stage where it is run."""
    notes = notes or _Nothing()
    root = Display("PhysicalPlan", [("fingerprint", plan.fingerprint)])
    root.details.append(
        (
            "numeric",
            f"blocks of at most {bytes_text(BLOCK_BYTES)}, leaves of at least {LEAF_FACTOR} times"
            " their partial, binary tree over leaves; the same bits on any number of threads",
        )
    )
    root.details += notes.plan()
    root.children = _program(plan, plan.program, notes)
    for output in plan.outputs:
        if output.kind == "value":
            root.details.append(("output", _slot(plan, output.number)))
        elif output.kind == "loop":
            root.details.append(("output", f"the environment of loop {output.number + 1}"))
        else:
            root.details.append(("output", f"the records of stage {output.number}"))
    return root


def _slot(plan: pp.PhysicalPlan, number: int) -> str:
    name, kind = plan.slots[number]
    return f"{name}: {kind}"


def _program(
    plan: pp.PhysicalPlan, instructions: Sequence[pp.Instruction], notes: Notes
) -> list[Display]:
    return [_instruction(plan, i, notes) for i in instructions]


def _instruction(plan: pp.PhysicalPlan, node: pp.Instruction, notes: Notes) -> Display:
    match node:
        case pp.RunStage(stage=number):
            stage = plan.stages[number]
            made = _stage(plan, stage)
            made.details += notes.stage(stage)
            return made
        case pp.Evaluate(assignments=assignments):
            made = Display("Evaluate at the driver")
            made.details = [("set", f"{plan.slots[s][0]} = {text(e)}") for s, e in assignments]
            return made
        case pp.Iterate():
            return _iterate(plan, node, notes)
        case pp.IterateTogether(loops=loops):
            return _together(plan, loops, node.stacks, notes)
    raise TypeError(type(node).__name__)


def _iterate(plan: pp.PhysicalPlan, node: pp.Iterate, notes: Notes) -> Display:
    how = "while the condition holds" if node.range is None else range_text(node.range)
    made = Display(f"Iterate loop {node.index + 1}: {how}, compiled once")
    made.is_loop, made.of_loop = True, node.index
    made.reads = list(dict.fromkeys(f"t{t.start}" for t in node.tables))
    made.details = [
        ("state", f"{name}: {kind}") for name, kind in zip(node.fields, node.types, strict=True)
    ]
    for t in node.tables:
        shown = f"{t.name}: t{t.state}, at first t{t.start}, then t{t.next}"
        made.details.append(("state", shown))
    if node.condition is not None:
        made.details.append(("while", text(node.condition)))
    if node.max_iterations is not None:
        made.details.append(("at most", f"{node.max_iterations} times"))
    made.details += notes.loop(node)
    made.children = _program(plan, (*node.test, *node.body), notes)
    return made


def _together(
    plan: pp.PhysicalPlan,
    loops: Sequence[pp.Iterate],
    stacks: Sequence[Sequence[int]],
    notes: Notes,
) -> Display:
    """Loops in lock-step, what they read once for all of them, and what they fold as one."""
    numbers = [str(loop.index + 1) for loop in loops]
    named = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    made = Display(f"Iterate loops {named} together: in lock-step, one pass for all")
    bases: dict[pp.PhysicalTable, list[str]] = {}
    for loop in loops:
        own = [plan.stages[i.stage] for i in find((loop,), pp.RunStage)]
        folds = [s for s in own if isinstance(s.sink, pp.TreeAggregate)]
        for table in dict.fromkeys(pp.base(s.source) for s in folds):
            bases.setdefault(table, []).append(str(loop.index + 1))
    for table, readers in bases.items():
        if len(readers) > 1:
            made.details.append(("shared", f"{_table(table).title}, by loops {', '.join(readers)}"))
    for stages in stacks:
        if any(type(plan.stages[s].sink) is not pp.TreeAggregate for s in stages):
            continue  # compiled, each for itself
        listed = f"{', '.join(map(str, stages[:-1]))} and {stages[-1]}"
        shown = f"{len(stages)} of one form as one product: stages {listed}"
        made.details.append(("stacked", shown))
    made.children = [_iterate(plan, loop, notes) for loop in loops]
    return made


def _stage(plan: pp.PhysicalPlan, stage: pp.Stage) -> Display:
    sink = stage.sink
    match sink:
        case pp.TreeAggregate():
            made = Display(f"Stage {stage.number}: TreeAggregate")
            made.details = [("map", f"{n} = {text(e)}") for n, e in sink.map]
            made.details += [
                ("fold", f"{plan.slots[slot][0]} = {fold_text(f)}")
                for f, slot in zip(sink.folds, sink.slots, strict=True)
            ]
            made.details.append(("numeric", _reduction(stage, sink)))
            made.details += sparse_details(sink.folds)
            made.details += [("numeric", why) for n, why in plan.compiling if n == stage.number]
            made.details += [("folds on", why) for n, why in plan.folding if n == stage.number]
        case pp.CacheTable(number=number, key=key):
            held = "kept by the session" if key else "computed once"
            made = Display(f"Stage {stage.number}: CacheTable t{number}, {held}")
            made.details = [
                ("columns", str(stage.source.schema)),
                ("numeric", _blocks(stage.source)),
            ]
        case pp.Exchange(number=number, required=required):
            made = Display(f"Stage {stage.number}: Exchange to t{number}")
            made.details = [("layout", _layout(required))]
        case pp.CountPrefix(number=number, count=count):
            made = Display(f"Stage {stage.number}: CountPrefix p{number} of the first {count}")
        case pp.CountRows(number=number):
            made = Display(f"Stage {stage.number}: CountRows n{number} of each partition")
        case pp.SortRows(number=number, keys=keys, descending=down, kept=kept):
            made = Display(f"Stage {stage.number}: SortRows to t{number}")
            pairs = zip(keys, down, strict=True)
            made.details = [
                ("keys", ", ".join(k + (" descending" if d else "") for k, d in pairs)),
                ("columns", ", ".join(kept)),
            ]
        case SummarizeRuns(number=number, columns=columns):
            made = Display(f"Stage {stage.number}: SummarizeRuns to c{number}")
            made.details = [("column", running_text(c)) for c in columns]
        case pp.DistinctRows(number=number, columns=columns):
            by = f" by {', '.join(columns)}" if columns else ""
            made = Display(f"Stage {stage.number}: DistinctRows to t{number}{by}")
        case _:
            title, details = relation_details(stage)
            made = Display(f"Stage {stage.number}: {title}", details)
    made.name = _left_behind(sink)
    made.reads = [f"t{number}" for number in sink.other_tables]
    made.children = [_table(stage.source)]
    numbers = {node: i for i, node in enumerate(operators_of(stage))}
    made.of_stage = stage.number, len(numbers) - 1
    _number(made.children[0], stage.source, stage.number, numbers)
    return made


def _number(
    made: Display, table: pp.PhysicalTable, stage: int, numbers: Mapping[Node, int]
) -> None:
    """Note which operator of its stage each line of a table shows."""
    made.of_stage = stage, numbers[table]
    sources = [n for n in table.children if isinstance(n, pp.PhysicalTable)]
    for child, source in zip(made.children, sources, strict=True):
        _number(child, source, stage, numbers)


def _left_behind(sink: pp.Sink) -> str | None:
    """What others call what a stage leaves behind."""
    match sink:
        case pp.CountPrefix(number=number):
            return f"p{number}"
        case pp.CountRows(number=number):
            return f"n{number}"
        case SummarizeRuns(number=number):
            return f"c{number}"
        case pp.CacheTable(number=number) | pp.StoreSink(number=number):
            return f"t{number}"
    return None


def _read_besides(table: pp.PhysicalTable) -> str | None:
    """The name of what an earlier stage left behind and this table reads."""
    match table:
        case pp.TakePrefix(number=number):
            return f"p{number}"
        case pp.TakeRange(number=number) | pp.NumberRows(number=number):
            return f"n{number}"
        case Accumulate(number=number):
            return f"c{number}"
        case pp.StoredTable(number=number) | pr.Probe(number=number):
            return f"t{number}"
    return None


def _blocks(table: pp.PhysicalTable) -> str:
    """Numeric decisions about a table's blocks and partitions."""
    parts = [f"blocks of {block_rows(table.schema)} rows"]
    scan = _scan(table)
    if scan is not None:
        count = len(scan.source.partitions())
        parts.insert(0, f"{count} partition{'' if count == 1 else 's'}")
    return ", ".join(parts)


def _scan(table: Any) -> pp.TableScan | None:
    """What a table reads, if it reads all of one source."""
    while not isinstance(table, pp.TableScan):
        table = getattr(table, "source", None)
        if table is None or isinstance(table, (pp.TakeRange, pp.Gate)):
            return None
    return table


def _reduction(stage: pp.Stage, sink: pp.TreeAggregate) -> str:
    partial = sum(f.type.bytes for f in sink.folds)
    scan = _scan(stage.source)
    if scan is None:
        part = bool(find((stage.source,), pp.TakeRange))
        follow = "partitions read" if part else "stored table"
        return f"partials of {bytes_text(partial)}; leaves follow from the {follow}"
    counted = leaf_bytes(sink.folds)
    leaves = leaf_count(len(scan.source.partitions()), scan.source.bytes, counted)
    word = "leaf" if leaves == 1 else "leaves"
    return f"{_blocks(stage.source)}, {leaves} {word}, partials of {bytes_text(partial)}"


def _layout(required: pp.Properties) -> str:
    keys = f" of {', '.join(required.keys)}" if required.keys else ""
    if required.partitions is None:
        return "as many partitions as its input"
    return f"{required.partitions} partitions by {required.layout}{keys}"


def _table(table: pp.PhysicalTable) -> Display:
    made = _titled(table)
    besides = _read_besides(table)
    if besides is not None:
        made.reads = [besides]
    return made


def _titled(table: pp.PhysicalTable) -> Display:
    match table:
        case pp.TableScan(source=source, columns=columns):
            shown = ", ".join(columns) or "no columns"
            if len(columns) > 8:
                shown = f"{', '.join(columns[:3])}, …, {columns[-1]} ({len(columns)} columns)"
            pruned = getattr(source, "pruned_text", None)
            details = [] if pruned is None else [("pruned", pruned)]
            return Display(f"TableScan {source.title}: {shown}", details=details)
        case pp.Compute(outputs=outputs, map=mapped, source=source):
            made = [
                n if isinstance(e, ex.Column) and e.name == n else f"{n} = {text(e)}"
                for n, e in outputs
            ]
            if len(made) > 8:
                made = [*made[:3], f"… ({len(made)} columns)"]
            own = [("map", f"{n} = {text(e)}") for n, e in mapped]
            return Display(f"Compute {', '.join(made)}", details=own, children=[_table(source)])
        case pp.Select(predicate=predicate, source=source):
            return Display(f"Select {text(predicate)}", children=[_table(source)])
        case pp.TakePrefix(number=number, source=source):
            return Display(f"TakePrefix p{number}", children=[_table(source)])
        case pp.TakeRange(number=number, start=start, length=length, source=source):
            many = "all" if length is None else text(length)
            shown = f"TakeRange {many} from {text(start)}, counted in n{number}"
            return Display(shown, children=[_table(source)])
        case pp.Gate(condition=condition, source=source):
            return Display(f"Gate {text(condition)}", children=[_table(source)])
        case pp.NumberRows(name=name, number=number, source=source):
            shown = f"NumberRows {name}, counted in n{number}"
            return Display(shown, children=[_table(source)])
        case pr.Probe(source=source):
            return Display(probe_title(table), children=[_table(source)])
        case Accumulate(columns=columns, number=number, source=source):
            shown = ", ".join(running_text(c) for c in columns)
            return Display(f"Accumulate {shown}, from c{number}", children=[_table(source)])
        case pp.Concatenate(sources=sources):
            return Display("Concatenate", children=[_table(s) for s in sources])
        case pp.Unnest(names=names, index=index, source=source):
            position = "" if index is None else f", position as {index}"
            return Display(f"Unnest {', '.join(names)}{position}", children=[_table(source)])
        case pp.Interleave(records=records, source=source):
            shown = " | ".join(", ".join(f"{n} = {text(e)}" for n, e in r) for r in records)
            return Display(f"Interleave {shown}", children=[_table(source)])
        case pp.CallBatches(function=function, source=source):
            return Display(f"CallBatches {function.name}", children=[_table(source)])
        case pp.StoredTable(number=number):
            kept = "cached" if table.delivered.cached else _layout(table.delivered)
            return Display(f"StoredTable t{number} ({kept})")
    raise TypeError(type(table).__name__)
