"""What `scalops whatif` prints: at most 80 columns, no colour needed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scalops.algebra.figures import rows_text, seconds_text
from scalops.cli import whatif_plot as plot
from scalops.cli.calibrate_command import percent
from scalops.optimizer.costs import closed_form
from scalops.optimizer.costs.flips import SPAN, TOLERANCE, Change, Flip
from scalops.optimizer.costs.whatif import alternatives, kink_of, shown_machines, within

if TYPE_CHECKING:
    from scalops.optimizer.costs.integer_plan import Point
    from scalops.optimizer.costs.symbols import Symbols
    from scalops.whatif import Constant, WhatIf

COLUMNS = 80
_LEAST_PLOTTED = 5  # machine counts
_TIMES = ("map", "load", "aggregate", "broadcast", "level", "deadline")


def text(found: WhatIf) -> str:
    """All of it as lines."""
    parts = [
        _symbols(found),
        _recommended(found),
        _table(found),
        _plotted(found),
        _closed(found),
        _types(found),
        _alternatives(found),
        _flips(found),
        _sweep(found),
    ]
    made = (list(part) for part in parts)
    return "\n\n".join("\n".join(lines) for lines in made if lines)


# What is given.


def _symbols(found: WhatIf) -> Iterator[str]:
    rows = [_symbol(c, found.question.catalog is not None) for c in found.constants]
    yield from _aligned([("", "value", "spread", "known by", "what"), *rows], "<>><<")
    if found.question.catalog is not None:
        own = found.question.reference
        name = found.question.catalog.reference if own is None else own.name
        yield ""
        yield from _wrapped(
            f"They hold for {name!r}; on the other types of the catalog they are scaled by cores,"
            " memory, disk and network (estimated)."
        )
    program = found.program
    if program is None:
        return
    threads = f"{program.threads} thread{'' if program.threads == 1 else 's'}"
    others = f" Other loops: {', '.join(program.other_loops)}." if program.other_loops else ""
    yield ""
    yield from _wrapped(
        f"Loop {program.loop}: {program.runs} short runs, {program.seconds:.1f} s, on parts of"
        f" {program.table} of {rows_text(program.records)} records. A machine is {threads} of this"
        f" one.{others}"
    )


def _symbol(constant: Constant, has_catalog: bool) -> tuple[str, ...]:
    value = constant.value
    if value is None:
        shown = "by type" if has_catalog else "none"
    elif constant.name == "cache" and math.isinf(value):
        shown = "all"
    else:
        shown = value_text(constant.name, value)
    spread = percent(constant.spread) if constant.spread and value else ""
    known = "given" if shown == "by type" else constant.provenance
    return constant.letter, shown, spread, known, constant.about


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
        digits, _, exponent = f"{value:.3e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return rows_text(value) if value >= 1000 else f"{value:.4g}"


# What is best.


def _recommended(found: WhatIf) -> Iterator[str]:
    question, answer = found.question, found.answer
    point = answer.nearest
    if answer.choice is None:
        yield from _wrapped(f"{_capital(answer.reason)}.")
        yield from _wrapped(f"{_capital(answer.hint)}.") if answer.hint else ()
        yield from _wrapped(f"Nearest: {_machines(point)}, {_said(found, point)}.")
        return
    yield from _wrapped(f"Use {_machines(point)}: the least {question.minimised}{_limits(found)}.")
    yield from _wrapped(f"{_capital(_said(found, point))}.")
    if answer.runner_up is not None:
        more = _ratio(question.cost_of(answer.runner_up), question.cost_of(point))
        yield from _wrapped(f"Next best: {_machines(answer.runner_up)}, {more}.")
    for what, other in (("Fastest", answer.fastest), ("Cheapest", answer.cheapest)):
        if other is not point:
            yield from _wrapped(f"{what}: {_machines(other)}, {_said(found, other)}.")
    if answer.at_bound:
        yield from _wrapped(
            f"{max(question.machines)} is the most that was asked for; with more it may be better:"
            f" --machines 1..{4 * max(question.machines)}."
        )


def _limits(found: WhatIf) -> str:
    question = found.question
    shown = []
    if question.deadline is not None:
        shown.append(f"the deadline of {seconds_text(question.deadline)}")
    if question.budget is not None:
        shown.append(f"the budget of {question.budget:g}")
    return f" within {' and '.join(shown)}" if shown else ""


def _said(found: WhatIf, point: Point) -> str:
    """What a machine count takes."""
    shown = [f"{seconds_text(point.seconds)} an iteration"]
    if found.question.symbols.iterations > 1:
        shown.append(f"{seconds_text(point.total_seconds)} in all")
    shown.append(f"{_amount(point.machine_seconds)} machine-seconds")
    if point.money is not None:
        shown.append(f"money {_amount(point.money)}")
    if point.fan_ins:
        shown.append(f"tree {_tree(point)}")
    regime = "all cached" if point.regime == "cached" else "spilling"
    return f"{', '.join(shown)}; most of it {point.dominant}, {regime}"


def _machines(point: Point) -> str:
    many = "1 machine" if point.machines == 1 else f"{point.machines} machines"
    return many if point.machine_type is None else f"{many} of {point.machine_type!r}"


def _tree(point: Point) -> str:
    return "·".join(map(str, point.fan_ins)) or "-"


def _ratio(other: float, best: float) -> str:
    return f"{percent_text(other / best - 1)} more" if best > 0 else "the same"


def percent_text(part: float) -> str:
    """A part as per cent, with two digits.

    >>> percent_text(0.00459), percent_text(0.0472), percent_text(1.234)
    ('0.46 %', '4.7 %', '123 %')
    """
    shown = 100 * part
    if abs(shown) < 0.005:
        return "0 %"
    return f"{shown:.0f} %" if abs(shown) >= 9.95 else f"{shown:.2g} %"


# All machine counts.


def _table(found: WhatIf) -> Iterator[str]:
    answer = found.answer
    points = {p.machines: p for p in answer.of_type(answer.nearest.machine_type)}
    shown = [points[n] for n in shown_machines(answer)]
    marks = _marks(found)
    has_money = answer.nearest.money is not None
    has_total = found.question.symbols.iterations > 1
    head = ["", "N", "T(N)", "closed"]
    head += ["in all"] * has_total + ["machine-s"] + ["money"] * has_money
    rows = [(*head, "most of it", "regime")]
    for p in shown:
        cells = [marks.get(p.machines, ""), str(p.machines)]
        cells += [seconds_text(p.seconds), seconds_text(p.closed_seconds)]
        cells += [seconds_text(p.total_seconds)] * has_total + [_amount(p.machine_seconds)]
        cells += [_amount(p.money)] if p.money is not None else []
        rows.append((*cells, p.dominant, p.regime))
    yield from _aligned(rows, "<" + ">" * (len(rows[0]) - 3) + "<<")
    legend = {">": "chosen", "f": "fastest", "c": "cheapest", "k": "R/M: all cached from here on"}
    used = "".join(marks.get(p.machines, "") for p in shown)
    said = [f"{letter} {what}" for letter, what in legend.items() if letter in used]
    yield from _wrapped("; ".join([*said, "T(N): a steady iteration; closed: by the closed form"]))


def _marks(found: WhatIf) -> dict[int, str]:
    """Letters for machine counts of the choice's type."""
    answer, made = found.answer, dict[int, str]()
    name = answer.nearest.machine_type
    kink = kink_of(found.question.by_type()[name])
    counts = sorted(p.machines for p in answer.of_type(name))
    first = next((n for n in counts if n >= kink), None) if kink >= counts[0] else None
    marked = [
        (">", None if answer.choice is None else answer.choice),
        ("f", answer.fastest),
        ("c", answer.cheapest),
    ]
    for letter, point in marked:
        if point is not None and point.machine_type == name:
            made[point.machines] = made.get(point.machines, "") + letter
    if first is not None:
        made[first] = made.get(first, "") + "k"
    return made


def _plotted(found: WhatIf) -> Iterator[str]:
    question, answer = found.question, found.answer
    points = answer.of_type(answer.nearest.machine_type)
    if len(points) < _LEAST_PLOTTED:
        return
    # Where nothing is in time, time is what matters.
    is_time = question.minimised == "time" or not within(
        answer.nearest.total_seconds, question.deadline
    )
    values = [(p.machines, p.total_seconds if is_time else p.cost) for p in points]
    what = "time" if is_time else "money" if answer.nearest.money is not None else "machine-seconds"
    which = "an iteration" if question.symbols.iterations == 1 else "all iterations"
    label = seconds_text if is_time else _amount
    rows = ", on a logarithmic scale" if plot.is_logarithmic([v for _, v in values]) else ""
    yield f"{what} of {which} over machines{rows}"
    at = plot.scale([v for _, v in values])
    yield from plot.over_machines(values, _marks(found), [label(v) for v in at])


# Why.


def _closed(found: WhatIf) -> Iterator[str]:
    answer, question = found.answer, found.question
    name = answer.nearest.machine_type
    own = next(c for c in answer.closed if c.machine_type == name)
    symbols = question.by_type()[name]
    points = answer.of_type(name)
    fastest = min(points, key=lambda p: (p.seconds, p.machines))
    cheapest = min(points, key=lambda p: (p.machines * p.seconds, p.machines))
    rows = [("an iteration", "N", "closed form", "N", "whole machines", "gap")]
    seconds = "" if math.isinf(own.fastest) else f"{_decimals(own.seconds, 3)} s"
    counts = question.machines
    gap = _gap(fastest.seconds, own.seconds) if min(counts) <= own.fastest <= max(counts) else ""
    rows.append(
        ("fastest", _real(own.fastest), seconds, str(fastest.machines),
         f"{_decimals(fastest.seconds, 3)} s", gap)
    )  # fmt: skip
    whole = cheapest.machines * cheapest.seconds
    rows.append(
        ("cheapest", _real(own.cheapest), f"{_stripped(own.machine_seconds)} machine-s",
         str(cheapest.machines), f"{_stripped(whole)} machine-s", _gap(whole, own.machine_seconds))
    )  # fmt: skip
    yield from _aligned(rows, "<>>>>>")
    yield from _wrapped(_derived(symbols))


def _derived(symbols: Symbols) -> str:
    """Where the closed form's fastest comes from."""
    if closed_form.growth(symbols) == 0:
        return "Nothing grows with the machines (A = B = L = 0): the more, the faster."
    at = closed_form.candidates(symbols)
    wider = closed_form.best_fan_in(symbols)
    fan_in = f"e; with L {_real(wider)} is the best" if symbols.level > 0 else "e"
    return (
        f"R/M = {_real(at.kink)}: as many cache everything. N_b = {_real(at.cached)}: the fastest"
        f" without loads. N_a = {_real(at.spilling)}: the fastest with full caches. The middle one"
        f" of the three is taken, 1 at least. Fan-in {fan_in}."
    )


def _real(value: float) -> str:
    """A real machine count: two decimals, unless it is whole."""
    if math.isinf(value):
        return "any"
    return f"{value:.0f}" if abs(value - round(value)) < 5e-4 else f"{value:.2f}"


def _decimals(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value >= 0.1 or value == 0 else f"{value:.4g}"


def _stripped(value: float) -> str:
    shown = _decimals(value, 2)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown


def _gap(value: float, closed: float) -> str:
    return percent_text(value / closed - 1) if closed > 0 else ""


def _types(found: WhatIf) -> Iterator[str]:
    """The best of each machine type."""
    if found.question.catalog is None:
        return
    answer = found.answer
    has_money = answer.nearest.money is not None
    head = ("", "type", "N", "T(N)", "in all", "machine-s", "money", "most of it", "regime")
    rows = [head if has_money else tuple(h for h in head if h != "money")]
    for p in answer.best_by_type:
        chosen = answer.choice is not None and p.machine_type == answer.choice.machine_type
        cells = [">" if chosen else "", str(p.machine_type)[:16], str(p.machines)]
        cells += [seconds_text(p.seconds), seconds_text(p.total_seconds)]
        cells += [_amount(p.machine_seconds)] + ([_amount(p.money)] if p.money is not None else [])
        rows.append((*cells, p.dominant, p.regime))
    yield "each type of machine at its best"
    yield from _aligned(rows, "<<" + ">" * (len(rows[0]) - 4) + "<<")


def _alternatives(found: WhatIf) -> Iterator[str]:
    point = found.answer.nearest
    if point.machines == 1 or point.parts.aggregate == 0:
        return
    ways = alternatives(found.question, point)
    tree, binary, flat, ring = (seconds_text(a.seconds) for a in ways)
    yield from _wrapped(
        f"Aggregation on {point.machines} machines: tree {_tree(point)} {tree}; binary tree"
        f" {binary}; flat, all to one, {flat}; ring {ring} if all of A is bytes (not built)."
    )


def _flips(found: WhatIf) -> Iterator[str]:
    """By symbol, how far it may move."""
    answer = found.answer
    if len(answer.points) == 1:
        return
    if answer.choice is None:
        yield "What one constant alone would have to be, for a machine count to be allowed:"
    else:
        yield from _wrapped(
            f"{_capital(_machines(answer.choice))}: the decision holds, as long as each constant is"
            f" in these bounds. Beyond, it takes {TOLERANCE:.0%} more than another, or is not"
            " allowed."
        )
    rows: list[tuple[str, ...]] = [
        ("", "below", "factor", "then", "now", "above", "factor", "then")
    ]
    moving = [f for f in found.flips if f.below or f.above]
    rows += [_flip_row(found, f) for f in moving]
    if moving:
        yield from _aligned(rows, "<>>>>>>>")
    used = {c.why for f in moving for c in (f.below, f.above) if c is not None}
    said = [f"{w[0]}: the {w} is missed" for w in ("deadline", "budget") if w in used]
    yield from _wrapped("; ".join(said)) if said else ()
    still = [_letter(found, f.symbol) for f in found.flips if f not in moving]
    if still:
        verb = "does" if len(still) == 1 else "do"
        yield from _wrapped(
            f"{', '.join(still)} {verb} not change it, by whatever factor up to {SPAN:g}."
        )
    yield from _unsure(found)


def _unsure(found: WhatIf) -> Iterator[str]:
    """Whether what was measured is known well enough for the decision."""
    spreads = {c.name: c.spread for c in found.constants if c.spread}
    if not spreads or found.answer.choice is None:
        return
    near = [f for f in found.flips if _reaches(f, spreads.get(f.symbol, 0.0))]
    said = "Each measured constant may be off by its spread, and the decision holds."
    if near:
        names = ", ".join(_letter(found, f.symbol) for f in near)
        said = f"Not sure: a flip is within the spread of {names}."
    yield from _wrapped(said)


def _reaches(flip: Flip, spread: float) -> bool:
    """Whether a constant that is off by its spread passes a flip."""
    factors = [c.factor for c in (flip.below, flip.above) if c is not None and c.factor is not None]
    return any(1 - spread <= factor <= 1 + spread for factor in factors)


def _flip_row(found: WhatIf, flip: Flip) -> tuple[str, ...]:
    name = flip.symbol
    below, above = _change(name, flip.below), _change(name, flip.above)
    return (_letter(found, name), *below, value_text(name, flip.value), *above)


def _change(name: str, change: Change | None) -> tuple[str, str, str]:
    if change is None:
        return "", "", ""
    factor = "" if change.factor is None else f"x{_three(change.factor)}"
    then = "none" if change.machines is None else str(change.machines)
    if change.machine_type is not None:
        then += f" {change.machine_type[:8]}"
    if change.why in ("deadline", "budget"):
        then += f" {change.why[0]}"
    return value_text(name, change.value), factor, then


def _three(value: float) -> str:
    """Three digits, never a power of ten."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _letter(found: WhatIf, name: str) -> str:
    return next(c.letter for c in found.constants if c.name == name)


def _sweep(found: WhatIf) -> Iterator[str]:
    """What is best by the values of one constant."""
    if found.swept is None:
        return
    name, points = found.swept
    question = found.question
    is_time = question.minimised == "time"
    has_money = found.answer.nearest.money is not None
    head = (name, "chosen", "T(N)", "in all", "money" if has_money else "machine-s")
    rows: list[tuple[str, ...]] = [(*head, "fastest", "cheapest", "least " + question.minimised)]
    costs = [question.cost_of(p.choice) for p in points if p.choice is not None]
    for p in points:
        own = p.choice
        cells = [value_text(name, p.value)]
        if own is None:
            cells += ["none", "", "", ""]
        else:
            cells += [_brief(own), seconds_text(own.seconds), seconds_text(own.total_seconds)]
            cells += [_amount(own.cost)]
        drawn = "" if own is None else plot.bar(question.cost_of(own), max(costs), 12)
        rows.append((*cells, _brief(p.fastest), _brief(p.cheapest), drawn))
    yield f"by {name}" + ("" if is_time else ", least cost")
    yield from _aligned(rows, ">>>>>>><")


def _brief(point: Point) -> str:
    name = point.machine_type
    return str(point.machines) if name is None else f"{point.machines} {name[:8]}"


# Lines.


def _amount(value: float) -> str:
    """Money or machine-seconds, four digits."""
    if value >= 1e6:
        return f"{value:.3e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}".replace(",", "_") if value >= 9999.5 else f"{value:.4g}"


def _capital(said: str) -> str:
    return said[:1].upper() + said[1:]


def _wrapped(said: str) -> Iterator[str]:
    yield from textwrap.wrap(said, COLUMNS, break_long_words=False, break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> Iterator[str]:
    """Cells in columns, to the left or to the right; as far apart as there is room for."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    shown = [i for i, width in enumerate(widths) if width > 0]
    room = COLUMNS - sum(widths)
    gap = " " * max(1, min(2, room // max(1, len(shown) - 1)))
    for row in rows:
        cells = (f"{row[i]:{sides[i]}{widths[i]}}" for i in shown)
        yield gap.join(cells).rstrip()
