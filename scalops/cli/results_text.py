"""Results for a person to read: scalars in full, arrays and tables in short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.cli.results_json import loop_seconds, named_fields, records
from scalops.loop import LoopResult

_ROWS = 10
_CELL_CHARACTERS = 30
_LINE_CHARACTERS = 100


def to_text(result: Any) -> str:
    """The result, field by field."""
    return "\n".join(_lines("", result))


def _lines(name: str, value: Any) -> Iterator[str]:
    """The lines of a value; below its title all are indented when it has a name."""
    label = f"{name}: " if name else ""
    margin = "  " if name else ""
    if isinstance(value, LoopResult):
        end = "converged" if value.converged else "not converged"
        iterations = _count(value.iterations, "iteration")
        yield f"{label}{iterations}, {end}, {_seconds(loop_seconds(value))}"
        unnamed = named_fields(value.env) is None and not isinstance(value.env, tuple)
        yield from (margin + line for line in _lines("value" if unnamed else "", value.env))
        return
    fields = named_fields(value)
    if fields is None and isinstance(value, (list, tuple)):
        fields = {f"[{i}]": item for i, item in enumerate(value)}
    if fields is not None:
        if name:
            yield f"{name}:"
        for field_name, field in fields.items():
            yield from (margin + line for line in _lines(field_name, field))
    elif isinstance(value, pa.Table):
        yield f"{label}{_count(value.num_rows, 'row')}"
        yield from (f"  {line}" for line in _table_lines(value))
    elif isinstance(value, np.ndarray) and value.ndim:
        kind = f"{value.dtype}{list(value.shape)}"
        lines = _array(value).splitlines()
        if len(lines) == 1:
            yield f"{label}{kind} {lines[0]}"
        else:
            yield f"{label}{kind}"
            yield from (f"  {line}" for line in lines)
    else:
        yield f"{label}{value!s}"  # str: f"{float32}" would show digits it has not


def _array(value: Any) -> str:
    return np.array2string(value, threshold=12, edgeitems=3, max_line_width=_LINE_CHARACTERS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def _table_lines(table: pa.Table) -> Iterator[str]:
    rows = records(table.slice(0, _ROWS))
    columns = [[name, *(_cell(row[name]) for row in rows)] for name in table.column_names]
    widths = [max(map(len, column)) for column in columns]
    fitting = _fitting(widths)
    for cells in zip(*columns[:fitting], strict=True):
        yield "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=False)).rstrip()
    if table.num_rows > _ROWS:
        yield f"... {_count(table.num_rows - _ROWS, 'more row')}"
    if fitting < len(columns):
        hidden = table.column_names[fitting:]
        shown = ", ".join(hidden[:5]) + (", ..." if len(hidden) > 5 else "")
        yield f"... {_count(len(hidden), 'more column')}: {shown}"


def _fitting(widths: list[int]) -> int:
    """How many columns a line holds; at least one."""
    ends = np.cumsum([width + 2 for width in widths]) - 2
    return max(int(np.searchsorted(ends, _LINE_CHARACTERS, side="right")), 1)


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    text = " ".join(str(value).split())
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 3] + "..."
