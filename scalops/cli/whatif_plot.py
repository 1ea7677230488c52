"""Small plots of block characters: they need no colour, and no more than 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ACROSS = "▏▎▍▌▋▊▉█"
ROWS, COLUMNS = 9, 64
_LABEL = 9
_MOST_RATIO = 30.0  # of the largest to the least: above, heights are logarithms


def over_machines(
    points: Sequence[tuple[int, float]], marks: Mapping[int, str], label: Sequence[str]
) -> Iterator[str]:
    """Columns over machine counts, on a logarithmic scale; `marks` are letters below counts.

    `points`: count and value, by count. `label`: texts of the values at the top, middle and bottom
    row, as `scale` gives them.
    """
    low, high = points[0][0], points[-1][0]
    columns = _columns(points)
    bottom, top = _bounds([v for _, v in points])
    heights = [_height(value, bottom, top) * ROWS * 8 for value in columns]
    by_row = dict(zip((ROWS - 1, ROWS // 2, 0), label, strict=True))
    wide = max(_LABEL, *map(len, label))
    for row in range(ROWS - 1, -1, -1):
        cells = "".join(_EIGHTHS[max(0, min(8, round(h) - row * 8))] for h in heights)
        yield f"{by_row.get(row, ''):>{wide}} |{cells}".rstrip()
    yield " " * wide + " +" + "-" * COLUMNS
    yield " " * (wide + 2) + _placed({n: str(n) for n in _ticks(low, high)}, low, high)
    yield " " * (wide + 2) + _placed(marks, low, high)


def scale(values: Sequence[float]) -> tuple[float, float, float]:
    """The values of the top, the middle and the bottom row's upper edges."""
    bottom, top = _bounds(values)
    rows = (ROWS, ROWS // 2 + 1, 1)
    if is_logarithmic(values):
        first, second, third = (bottom * (top / bottom) ** (r / ROWS) for r in rows)
    else:
        first, second, third = (bottom + (top - bottom) * r / ROWS for r in rows)
    return first, second, third


def bar(value: float, most: float, columns: int) -> str:
    """A horizontal bar of at most so many columns."""
    if not (most > 0 and math.isfinite(value)):
        return ""
    eighths = max(1, round(value / most * columns * 8))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_ACROSS[rest - 1] if rest else "")


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether heights are logarithms: of values that are far apart."""
    return min(values) > 0 and max(values) / min(values) > _MOST_RATIO


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Of the bottom and the top edge; logarithmic heights begin below the least value."""
    if is_logarithmic(values):
        least, most = min(values), max(values)
        return least / (most / least) ** (1 / (2 * ROWS)), most
    return 0.0, max(values) or 1.0


def _height(value: float, bottom: float, top: float) -> float:
    """As a part of the plot's height."""
    if bottom > 0:
        return math.log(value / bottom) / math.log(top / bottom)
    return value / top


def _columns(points: Sequence[tuple[int, float]]) -> list[float]:
    """The value of the count that is nearest to each column; of the least one, where several are
    in a column, so that a minimum is seen."""
    low, high = points[0][0], points[-1][0]
    own: dict[int, float] = {}
    for count, value in points:
        column = _column(count, low, high)
        own[column] = min(value, own.get(column, math.inf))
    known = sorted(own)
    return [own[min(known, key=lambda k: abs(k - column))] for column in range(COLUMNS)]


def _column(count: float, low: int, high: int) -> int:
    if high == low:
        return 0
    return round(math.log(count / low) / math.log(high / low) * (COLUMNS - 1))


def _ticks(low: int, high: int) -> list[int]:
    """1, 2, 5, 10, …"""
    found = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return sorted({low, high, *(n for n in found if low <= n <= high)})


def _placed(texts: Mapping[int, str], low: int, high: int) -> str:
    """Texts in the middle below their counts; those that would touch another are left out, but for
    the first and the last."""
    line = [" "] * (COLUMNS + 6)
    for count in sorted(texts, key=lambda n: (n not in (low, high), n)):
        text = texts[count]
        start = max(0, _column(count, low, high) - (len(text) - 1) // 2)
        around = line[max(0, start - 1) : start + len(text) + 1]
        if all(c == " " for c in around):
            line[start : start + len(text)] = text
    return "".join(line).rstrip()
