"""The examples of a Markdown text, run and compared with what the text says they give.

The Python blocks of a text share one namespace and run in order. What is compared:

- a line `expression  # -> text`, or `# -> text` on the lines below it: the value as `shown`,
  or the error as `Class: message`;
- a ```text block right after a Python block: what the block printed.

A block that cannot run has `<!-- not run: reason -->` on the line above it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

FILE = "example.py"  # what the user's lines are called in messages; numbered within the block
_DIGEST = re.compile(r"\b[0-9a-f]{32}\b")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `start` and `stop` bound its text, `above` is the line before the fence."""

    language: str
    text: str
    start: int
    stop: int
    above: str
    follows: bool  # nothing but empty lines since the block before it


@dataclass(frozen=True)
class Outcome:
    """What running a text gave: the text as it should be, and what differs in its Python lines."""

    text: str
    differences: list[str]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text, in order."""
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        between = text[end : match.start()]
        above = between.rstrip("\n").rpartition("\n")[2]
        follows = bool(found) and not between.strip()
        found.append(Block(match[1], match[2], match.start(2), match.end(2), above, follows))
        end = match.end()
    return found


def run(text: str, name: str) -> Outcome:
    """Run the examples; printed output takes the place of the ```text blocks."""
    namespace: dict[str, Any] = {"__name__": "example"}
    found: list[str] = []
    parts: list[str] = []
    end = 0
    printed = None
    for block in blocks(text):
        if block.language == "python" and not block.above.startswith("<!-- not run:"):
            where = f"{name}:{text.count(chr(10), 0, block.start)}"
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                found.extend(f"{where}+{d}" for d in _differences(block.text, namespace))
            printed = _plain(output.getvalue())
        elif block.language == "text" and block.follows and printed is not None:
            parts += [text[end : block.start], printed + "\n"]
            end = block.stop
            printed = None
        else:
            printed = None
    return Outcome("".join([*parts, text[end:]]), found)


def _differences(source: str, namespace: dict[str, Any]) -> Iterator[str]:
    code, results = taken_apart(source)
    for statement in ast.parse(code, FILE).body:
        assert statement.end_lineno is not None
        expected = results.get(statement.end_lineno)
        try:
            found = _value(statement, namespace)
        except Exception as error:
            if expected is None:
                raise
            found = f"{type(error).__name__}: {error}"
        if expected is not None and found != expected:
            yield f"{statement.lineno} gives\n{found}\nand the text says\n{expected}"


def taken_apart(source: str) -> tuple[str, dict[int, str]]:
    """The code without the lines of results, and the results by line of the code."""
    code: list[str] = []
    results: dict[int, str] = {}
    below = False
    for line in source.splitlines():
        own, arrow, text = line.partition("# -> ")
        if below and line.startswith("#    "):
            results[len(code)] += " " + line[5:]
            continue
        below = bool(arrow) and not own
        if not below:
            code.append(own.rstrip() if arrow else line)
        if arrow:
            results[len(code)] = text
    return "\n".join(code), results


def _value(statement: ast.stmt, namespace: dict[str, Any]) -> str:
    if isinstance(statement, ast.Expr):
        value = eval(compile(ast.Expression(statement.value), FILE, "eval"), namespace)
        return shown(value)
    exec(compile(ast.Module([statement], []), FILE, "exec"), namespace)
    return "nothing"


def shown(value: Any) -> str:
    """A result as the documentation writes it: tables as their columns, numbers plainly."""
    return value if isinstance(value, str) else repr(_simple(value))


def _simple(value: Any) -> Any:
    if isinstance(value, pa.Table):
        return value.to_pydict()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _simple(item) for name, item in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map(_simple, value))
    return [_simple(item) for item in value] if isinstance(value, list) else value


def _plain(text: str) -> str:
    """Without what names the version or the run, and without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in _DIGEST.sub("(32 digits)", text).splitlines())
