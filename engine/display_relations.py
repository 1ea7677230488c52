"""What the stages show that relate records: keys, what is held, what is found once."""

from __future__ import annotations

from scalops.algebra import expressions as ex
from scalops.algebra.folds import Fold, OpaqueAggregate, Transition
from scalops.algebra.printing import fold_text, text
from scalops.algebra.schema import Schema
from scalops.engine import physical_plan as pp
from scalops.engine import physical_relations as pr

Details = list[tuple[str, str]]


def relation_details(stage: pp.Stage) -> tuple[str, Details]:
    """Title, without the stage's number, and details of a stage."""
    sink = stage.sink
    match sink:
        case pr.GroupRows(number=number, keys=keys, folds=folds):
            shown = ", ".join(keys) or "nothing: all records are one group"
            details = [("fold", f"{f.name} = {fold_text(f)}") for f in folds]
            return f"GroupRows to t{number} by {shown}", [*details, ("numeric", _grouping(sink))]
        case pr.ApplyGroups(number=number, tables=tables, function=function, keys=keys):
            handed = ", ".join(f"t{t.number}" for t in tables)
            title = f"ApplyGroups {function.name} to t{number}"
            return title, [("tables", f"{handed}, by {', '.join(keys)}")]
        case pr.BuildIndex(number=number):
            return f"BuildIndex t{number}", _index(sink)
        case pr.MeetIndexed(number=number):
            return f"MeetIndexed to t{number}", _meeting(sink)
        case pr.HoldState(number=number, computed=computed, settled=settled):
            details = [("columns", str(stage.source.schema))]
            if settled:
                details.append(("stays", f"{', '.join(settled)}, compared with the state's"))
            if computed:
                details.append(("finite", ", ".join(computed)))
            return f"HoldState to t{number}", details
        case pr.HoldColumns(number=number):
            held = "in whole columns, for positions to point into"
            return f"HoldColumns to t{number}", [
                ("columns", _shortened(stage.source.schema)),
                ("held", held),
            ]
        case pr.IndexFilter(number=number, table=table):
            return f"IndexFilter to t{number}: records of t{table}", [
                ("once", "their positions, while the columns that the predicate reads are the same")
            ]
        case pr.IndexJoin():
            return _indexed_join(sink)
        case pr.IndexGroup():
            return _indexed_group(stage, sink)
    return type(sink).__name__, []


def _shortened(schema: Schema) -> str:
    names = [f"{n}: {k}" for n, k in schema]
    return ", ".join(names if len(names) <= 8 else [*names[:7], f"… ({len(names)} columns)"])


def _indexed_join(sink: pr.IndexJoin) -> tuple[str, Details]:
    pairs = zip(sink.left_keys, sink.right_keys, strict=True)
    keys = ", ".join(a if a == b else f"{a} = {b}" for a, b in pairs)
    title = f"IndexJoin to t{sink.number}: {sink.kind} join of t{sink.left} and t{sink.right}"
    details = [
        ("keys", f"{keys}{', nulls are equal' if sink.nulls_equal else ''}"),
        ("once", "which records meet, as positions, while the keys are the same"),
    ]
    if sink.kind not in ("semi", "anti"):
        read = "columns of both, gathered at these positions as they are read"
        details.append(("iteration", read))
    return title, details


def _indexed_group(stage: pp.Stage, sink: pr.IndexGroup) -> tuple[str, Details]:
    computed = dict(stage.source.outputs) if isinstance(stage.source, pp.Compute) else {}
    shown = [text(computed[k]) if k in computed else k for k in sink.keys]
    details = [("once", "groups, and the records of each, while the keys are the same")]
    for fold in sink.folds:
        argument = _argument(fold, computed)
        if fold.kind in ("sum", "mean") and _is_gathered(argument):
            assert argument is not None
            details.append(
                (
                    "iteration",
                    f"{fold.name} = {fold.kind}({text(argument)}): one gather and segment sum, as"
                    " a product with a sparse matrix that stays",
                )
            )
        else:
            inner = ", ".join(
                text(computed.get(a.name, a)) if isinstance(a, ex.Column) else text(a)
                for a in fold.arguments
            )
            details.append(
                ("iteration", f"{fold.name} = {fold.kind}({inner}), over the groups found before")
            )
    return f"IndexGroup to t{sink.number} by {', '.join(shown)}", details


def _argument(fold: Fold, computed: dict[str, ex.Expression]) -> ex.Expression | None:
    (first, *others) = fold.arguments or (None,)
    if others or not isinstance(first, ex.Column):
        return None
    return computed.get(first.name, first)


def _is_gathered(e: ex.Expression | None) -> bool:
    """Whether it is a column, or one times another: what a product with a matrix can add up."""
    if isinstance(e, ex.Call) and e.function.name == "multiply":
        return any(isinstance(a, ex.Column) for a in e.arguments)
    return isinstance(e, ex.Column)


def _grouping(sink: pr.GroupRows) -> str:
    if any(isinstance(f, (OpaqueAggregate, Transition)) for f in sink.folds):
        return "all records are held, each group folded in table order"
    return (
        "decided by the first records: where their groups are few, blocks are folded by group and"
        " leaves merged in a binary tree; where they are many, each group in table order"
    )


def _index(sink: pr.BuildIndex) -> Details:
    """What a BuildIndex stage shows."""
    keys = ", ".join(sink.keys)
    details = [("keys", f"{keys}{', nulls are equal' if sink.nulls_equal else ''}")] if keys else []
    details.append(("columns", ", ".join(sink.kept) or "none"))
    if sink.parts == 1:
        how = "broadcast: the index of one side is shared by all partitions"
    else:
        how = f"partitioned by hash of {keys} into {sink.parts} parts, built on all threads"
    details.append(("join", how))
    return details


def _meeting(sink: pr.MeetIndexed) -> Details:
    """What a MeetIndexed stage shows."""
    pairs = zip(sink.left_keys, sink.keys, strict=True)
    keys = ", ".join(a if a == b else f"{a} = {b}" for a, b in pairs)
    return [
        (sink.kind, f"join with t{sink.left} on {keys}"),
        ("join", "few records are looked up in the index of the side that stays, more are indexed"),
    ]


def probe_title(table: pr.Probe) -> str:
    """What a table that probes an index is called."""
    if table.kind == "cross":
        return f"Probe t{table.number}: cross join"
    return f"Probe t{table.number}: {table.kind} join on {', '.join(table.keys)}"
