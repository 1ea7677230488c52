"""Lines of what `scalops whatif` prints, and figures as it shows them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from scalops.algebra.figures import rows_text, seconds_text

if TYPE_CHECKING:
    from scalops.optimizer.costs.integer_plan import Point

COLUMNS = 80
KEPT = "\N{NO-BREAK SPACE}"  # no line ends there
Row: TypeAlias = tuple[str, ...]
_LETTERS = (24, 16, 12, 8, 6, 4)
_TIMES = ("map", "load", "aggregate", "broadcast", "level", "deadline")


def value_text(name: str, value: float) -> str:
    """A value of a symbol, deadline or budget."""
    if name in _TIMES:
        return seconds_text(value)
    if math.isinf(value):
        return "all"
    if name == "price":
        return f"{value:.4g}/h"
    return _count(value)


def _count(value: float) -> str:
    """A number of records or iterations: four digits where it is large.

    >>> _count(1e8), _count(48034883.7), _count(12345.0), _count(2.5)
    ('1e8', '4.803e7', '12_345', '2.5')
    """
    if value >= 1e6:
        return _large(value)
    return rows_text(value) if value >= 1000 else f"{value:.4g}"


def amount_text(value: float) -> str:
    """Money or machine-seconds, four digits."""
    if value >= 1e6:
        return _large(value)
    return f"{value:,.0f}".replace(",", "_") if value >= 9999.5 else f"{value:.4g}"


def machine_seconds_text(value: float) -> str:
    """With the unit, as in a sentence."""
    shown = amount_text(value)
    return f"{shown} machine-second{'' if shown == '1' else 's'}"


def _large(value: float) -> str:
    """Four digits and a power of ten.

    >>> _large(1e8), _large(48034883.7)
    ('1e8', '4.803e7')
    """
    digits, _, exponent = f"{value:.3e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def capital(said: str) -> str:
    """With a capital letter in front."""
    return said[:1].upper() + said[1:]


def wrapped(said: str) -> Iterator[str]:
    """Sentences as lines of at most 80 columns."""
    for line in textwrap.wrap(said, COLUMNS, break_on_hyphens=False):
        yield line.replace(KEPT, " ")


def aligned(rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Cells in columns, to the left or to the right; as far apart as there is room for."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    shown = [i for i, width in enumerate(widths) if width > 0]
    room = COLUMNS - sum(widths)
    gap = " " * max(1, min(2, room // max(1, len(shown) - 1)))
    for row in rows:
        cells = (f"{row[i]:{sides[i]}{widths[i]}}" for i in shown)
        yield gap.join(cells).rstrip()


def fits(rows: Sequence[Sequence[str]]) -> bool:
    """Whether cells in columns, a space apart, are at most 80 columns wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(widths) + sum(w > 0 for w in widths) - 1 <= COLUMNS


def percent_text(part: float) -> str:
    """A part as per cent, with two digits.

    >>> percent_text(0.00459), percent_text(0.0472), percent_text(1.234)
    ('0.46 %', '4.7 %', '123 %')
    """
    shown = 100 * part
    if abs(shown) < 0.005:
        return "0 %" if part == 0 else "less than 0.01 %"
    return f"{shown:.0f} %" if abs(shown) >= 9.95 else f"{shown:.2g} %"


def machines_text(point: Point) -> str:
    """How many machines, and of which type where there are several."""
    many = "1 machine" if point.machines == 1 else f"{point.machines} machines"
    return many if point.machine_type is None else f"{many} of {point.machine_type!r}"


def tree_text(point: Point) -> str:
    """The tree's fan-ins, the leaves' first."""
    return "·".join(map(str, point.fan_ins)) or "-"


def brief_text(machines: int | None, machine_type: str | None, letters: int) -> str:
    """How many machines, and the first letters of their type's name."""
    if machines is None:
        return "none"
    return str(machines) if machine_type is None else f"{machines} {machine_type[:letters]}"


def as_wide_as_fits(made: Callable[[int], list[Row]]) -> list[Row]:
    """Rows with as many letters of the names in them as there is room for."""
    found = made(_LETTERS[0])
    for letters in _LETTERS[1:]:
        if fits(found):
            break
        found = made(letters)
    return found
