"""JSON of plain data as deep as it may be: a plan of a thousand operators is nested as deep."""

from __future__ import annotations

import json
import math
from typing import Any

_DEEPEST = 48  # what is nested deeper is not indented any further


def deep_json(value: Any, *, indent: int | None = None) -> str:
    """As `json.dumps(value, indent=indent)`, without its limit on nesting.

    Without `indent` no space is written at all. What JSON has no number for is written as text:
    "NaN", "Infinity", "-Infinity".
    """
    parts: list[str] = []
    colon = ":" if indent is None else ": "
    stack: list[tuple[bool, Any, int]] = [(False, value, 0)]  # (is it text already, what, depth)
    while stack:
        is_text, item, depth = stack.pop()
        if is_text:
            parts.append(item)
        elif isinstance(item, (dict, list, tuple)) and item:
            inner = _line(indent, depth + 1)
            ahead, after = ("{", "}") if isinstance(item, dict) else ("[", "]")
            found = [(True, ahead, depth)]
            entries = item.items() if isinstance(item, dict) else ((None, each) for each in item)
            for i, (key, each) in enumerate(entries):
                label = "" if key is None else json.dumps(key) + colon
                found.append((True, ("," if i else "") + inner + label, depth))
                found.append((False, each, depth + 1))
            found.append((True, _line(indent, depth) + after, depth))
            stack.extend(reversed(found))
        else:
            is_number = not isinstance(item, float) or math.isfinite(item)
            parts.append(json.dumps(item) if is_number else f'"{json.dumps(item)}"')
    return "".join(parts)


def _line(indent: int | None, depth: int) -> str:
    return "" if indent is None else "\n" + " " * (indent * min(depth, _DEEPEST))
