"""What a physical plan's joins show: keys, what is held, how the index is built."""

from __future__ import annotations

from scalops.engine import physical_relations as pr


def index_details(sink: pr.BuildIndex) -> list[tuple[str, str]]:
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


def meeting_details(sink: pr.MeetIndexed) -> list[tuple[str, str]]:
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
