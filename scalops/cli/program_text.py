"""What `scalops calibrate PROGRAM` prints: the symbols of each loop, with their spreads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from scalops.cli.calibrate_command import percent, quantity

if TYPE_CHECKING:
    from scalops.program_calibration import CalibratedLoop, ProgramCalibration

# By field of `Symbols`: the letter of the literature, the unit, what it is.
_SYMBOLS = {
    "records": ("R", "", "records"),
    "map": ("P", "s", "to map a record, all threads of a machine"),
    "load": ("D", "s", "to load a record that is not cached"),
    "cache": ("M", "", "records that a machine's cache holds"),
    "aggregate": ("A", "s", "to pass on and add a partial result"),
    "broadcast": ("B", "s", "to pass the environment on once"),
    "level": ("L", "s", "of each level of the tree, beside"),
    "iterations": ("K", "", "iterations"),
}


def lines(found: ProgramCalibration) -> Iterator[str]:
    """The loops as tables of at most 80 columns, and what they rest on."""
    for loop in found.loops:
        yield f"loop {loop.name or loop.index + 1}"
        yield "       value   spread  known by   what"
        for name, (letter, unit, what) in _SYMBOLS.items():
            value = getattr(loop.found.symbols, name)
            spread = _spread(loop, name)
            shown = "" if spread is None else percent(spread)
            text = f"{letter}  {_value(value, unit):>9}  {shown:>7}  {loop.known[name]:<9}  {what}"
            yield text + (f", {found.rates.table}" if name == "records" else "")
        yield from _notes(loop)
        yield ""
    rates, own = found.rates, found.setting
    threads = f"{own.threads} thread{'' if own.threads == 1 else 's'}"
    where = f"a worker of {own.workers}" if own.workers else "this process"
    yield f"A machine is {where}, on {threads}. {rates.runs} short runs, {rates.seconds:.1f} s."
    if not own.workers:
        yield "Short runs on workers tell more of L: --workers 2, or --connect."
    if found.busy:
        yield from wrap(f"{found.busy}; calibrate again when it is idle".capitalize() + ".", 80)


def _notes(loop: CalibratedLoop) -> Iterator[str]:
    from scalops.program_calibration import notes

    for note in notes(loop.found.notes, loop.known):
        yield from wrap(note, 80)


def _spread(loop: CalibratedLoop, name: str) -> float | None:
    """None of what nobody has measured."""
    return None if loop.known[name] == "assumed" else loop.found.spreads.get(name)


def _value(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "all"
    if unit:
        return "0" if value == 0 else quantity(value, unit)
    return f"{value:,.0f}" if value < 1e6 else f"{value:.4g}"


def document(found: ProgramCalibration) -> dict[str, Any]:
    """The same as data; a value of None is infinite, `spread` is relative to the value."""
    from scalops.program_calibration import notes

    return {
        "format": 1,
        "table": found.rates.table,
        "runs": found.rates.runs,
        "seconds": found.rates.seconds,
        "threads": found.setting.threads,
        "workers": found.setting.workers,
        "busy": found.busy,
        "loops": [
            {
                "index": loop.index,
                "name": loop.name,
                "symbols": _symbols(loop),
                "notes": list(notes(loop.found.notes, loop.known)),
            }
            for loop in found.loops
        ],
    }


def _symbols(loop: CalibratedLoop) -> dict[str, Any]:
    made = {}
    for name, (letter, unit, _) in _SYMBOLS.items():
        value = getattr(loop.found.symbols, name)
        made[name] = {
            "letter": letter,
            "value": value if math.isfinite(value) else None,
            "unit": unit,
            "spread": _spread(loop, name),
            "provenance": loop.known[name],
        }
    return made
